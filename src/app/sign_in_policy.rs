//! Reading and changing the policy of signing in.

use std::time::Duration;

use super::App;
use super::writer::{RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Principal};
use crate::domain::password::PasswordRules;
use crate::domain::profile::Note;
use crate::domain::role::Role;
use crate::domain::sign_in_policy::{PasswordRulesSet, SignInPolicy};
use crate::domain::time::Timestamp;
use crate::domain::user::Etag;
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Result, Unmet};
use crate::store::ListReader;
use crate::store::sign_in_policy::{policy_lock_row, policy_read, policy_save};
use crate::store::users::{UsersWithoutFactor, user_by_id, users_without_factor};

/// A command to change the policy. What is `None` stays as it is.
#[derive(Debug)]
pub struct UpdateSignInPolicy {
    /// Whether everybody needs a second factor.
    pub second_factor_required: Option<bool>,
    /// The roles whose members need one.
    pub second_factor_roles: Option<Vec<Role>>,
    /// From when on. A time that has passed means at once.
    pub second_factor_from: Option<Timestamp>,
    /// The rules for new passwords.
    pub password_rules: PasswordRulesSet,
    /// How many old passwords are refused.
    pub password_history: Option<u32>,
    /// How soon after a change the user may make the next one.
    pub password_min_age: Option<Duration>,
    /// Whether sign-ins look the password up in the list of leaked ones.
    pub checks_breached: Option<bool>,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// What the policy means for the users there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyImpact {
    /// People to whom it applies and who have no second factor.
    pub second_factors_missing: u64,
    /// Live API tokens of these people, which go on.
    pub api_tokens: u64,
}

impl App {
    /// Reads the policy.
    pub async fn sign_in_policy(&self) -> Result<SignInPolicy> {
        policy_read(self.store.reader()).await
    }

    /// Counts for whom the policy means something.
    pub async fn policy_impact(&self, caller: &Caller, policy: &SignInPolicy) -> Result<PolicyImpact> {
        let now = self.now();
        let UsersWithoutFactor { users, api_tokens } =
            self.list(caller, &[], async |reader: &ListReader| users_without_factor(reader, policy, now).await).await?;
        Ok(PolicyImpact { second_factors_missing: users, api_tokens })
    }

    /// Changes the policy. No session ends: the next refresh ends one whose user now needs a second factor and has not proved one.
    /// Fails if the caller would need one and has none.
    pub async fn update_sign_in_policy(&self, caller: &Caller, command: UpdateSignInPolicy) -> Result<SignInPolicy> {
        let command = &command;
        self.write(caller, None, |writer| async move {
            let before = policy_lock_row(&writer.tx).await?;
            if command.etag.is_some_and(|etag| etag != before.etag()) {
                return Err(Error::Stale { current: before.etag() });
            }
            let after = changed(&before, command, writer.now);
            if after == before {
                return Ok(writer.unchanged(before));
            }
            check_rules(after.password_rules.over(self.settings.password_rules))?;
            check_author(&writer, caller, &after).await?;
            let change = writer.change();
            let after = SignInPolicy { version: before.version.saturating_add(1), ..after };
            policy_save(&change.tx, &after).await?;
            if command.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, SignInPolicy { version: before.version, ..after }));
            }
            let event = Event::new(EventType::PolicyUpdated, Target::default())
                .note(command.note.as_ref())
                .detail("before", told(&before))
                .detail("after", told(&after));
            change.commit(event, after).await
        })
        .await
    }
}

fn changed(before: &SignInPolicy, command: &UpdateSignInPolicy, now: Timestamp) -> SignInPolicy {
    let mut after = before.clone();
    if let Some(required) = command.second_factor_required {
        after.second_factor_required = required;
    }
    if let Some(roles) = &command.second_factor_roles {
        after.second_factor_roles.clone_from(roles);
    }
    if let Some(from) = command.second_factor_from {
        after.second_factor_from = Some(from).filter(|from| *from > now);
    }
    after.password_rules = before.password_rules.changed_by(command.password_rules);
    after.password_history = command.password_history.unwrap_or(before.password_history);
    after.password_min_age = command.password_min_age.unwrap_or(before.password_min_age);
    after.checks_breached = command.checks_breached.unwrap_or(before.checks_breached);
    if !after.second_factor_required && after.second_factor_roles.is_empty() {
        // The time of a policy that is over must not delay the next one.
        after.second_factor_from = None;
    }
    after
}

/// Fails if no password could keep the rules.
fn check_rules(rules: PasswordRules) -> Result<()> {
    if rules.min_length <= rules.max_length {
        return Ok(());
    }
    let fault = format!("is more than max_length, which is {}", rules.max_length);
    Err(Error::InvalidInput(Violations::of("policy.password_rules.min_length", Fault::Conflict, fault)))
}

/// Fails if the policy asks the caller for a second factor that they do not have: whoever asks it of others sets one up first.
async fn check_author(writer: &Writer<'_>, caller: &Caller, policy: &SignInPolicy) -> Result<()> {
    let Principal::User { id, .. } = &caller.principal else { return Ok(()) };
    let author = user_by_id(&writer.tx, *id).await?;
    let lacks =
        author.is_some_and(|author| author.second_factor.is_none() && policy.required_from(&author.roles).is_some());
    if lacks { Err(Unmet::SecondFactorMissing.into()) } else { Ok(()) }
}

/// The policy in words for the audit log.
fn told(policy: &SignInPolicy) -> String {
    let roles: Vec<&str> = policy.second_factor_roles.iter().map(|role| role.as_str()).collect();
    let whom = match (policy.second_factor_required, roles.is_empty()) {
        (true, _) => "all".to_owned(),
        (false, true) => "none".to_owned(),
        (false, false) => roles.join(" "),
    };
    let factor = match policy.second_factor_from {
        Some(from) => format!("second factor: {whom}, from {from}"),
        None => format!("second factor: {whom}"),
    };
    let password = policy.password_rules;
    let passwords = [
        password.min_length.map(|length| format!("min length: {length}")),
        password.max_length.map(|length| format!("max length: {length}")),
        password.min_score.map(|score| format!("min score: {score}")),
        password.reject_breached.map(|is_on| format!("reject breached: {is_on}")),
        password.reject_user_info.map(|is_on| format!("reject user info: {is_on}")),
        password.require_letter_and_digit.map(|is_on| format!("letter and digit: {is_on}")),
        policy.checks_breached.then(|| "breached at sign-in: true".to_owned()),
        (policy.password_history > 0).then(|| format!("history: {}", policy.password_history)),
        (!policy.password_min_age.is_zero())
            .then(|| format!("min age: {}", humantime::format_duration(policy.password_min_age))),
    ];
    [Some(factor)].into_iter().chain(passwords).flatten().collect::<Vec<_>>().join("; ")
}
