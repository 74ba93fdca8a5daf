//! Reading and changing the policy of signing in.

use super::App;
use super::writer::{RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Principal};
use crate::domain::profile::Note;
use crate::domain::role::Role;
use crate::domain::sign_in_policy::SignInPolicy;
use crate::domain::time::Timestamp;
use crate::domain::user::Etag;
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
    if !after.second_factor_required && after.second_factor_roles.is_empty() {
        // The time of a policy that is over must not delay the next one.
        after.second_factor_from = None;
    }
    after
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
    match policy.second_factor_from {
        Some(from) => format!("second factor: {whom}, from {from}"),
        None => format!("second factor: {whom}"),
    }
}
