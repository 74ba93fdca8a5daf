//! Reading and changing the policy of signing in.

use std::time::Duration;

use super::App;
use super::throttle_rules::check_contradictions;
use super::writer::{RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Principal};
use crate::domain::password::PasswordRules;
use crate::domain::password_age::MaxAge;
use crate::domain::profile::Note;
use crate::domain::role::Role;
use crate::domain::sign_in_policy::{
    Inactivity, PasswordMaxAge, PasswordRulesSet, PolicyPreset, SignInPolicy, ThrottleRulesSet, Warnings,
};
use crate::domain::time::{Timestamp, in_words, written};
use crate::domain::user::{Etag, User};
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Resource, Result, Unmet};
use crate::store::sign_in_policy::{policy_lock_row, policy_read, policy_save};
use crate::store::users::user_by_id;

/// A command to change the policy. What is `None` stays as it is.
#[derive(Debug)]
pub struct UpdateSignInPolicy {
    /// The values to set before the others.
    pub preset: Option<PolicyPreset>,
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
    /// When passwords expire.
    pub password_max_age: MaxAgeChange,
    /// When accounts are locked that are not used.
    pub inactivity: InactivityChange,
    /// Whether sign-ins look the password up in the list of leaked ones.
    pub checks_breached: Option<bool>,
    /// Whether sign-ins judge passwords that are older than the rules.
    pub judges_existing: Option<bool>,
    /// When wrong passwords throttle and lock.
    pub throttle: ThrottleRulesSet,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// A change of when passwords expire. What is `None` stays as it is.
#[derive(Debug, Default)]
pub struct MaxAgeChange {
    /// The age at which passwords expire. Zero: never.
    pub age: Option<Duration>,
    /// The time over which passwords expire that exist now.
    pub rollout: Option<Duration>,
    /// How long before users are told.
    pub warnings: Option<Warnings>,
}

impl MaxAgeChange {
    /// Changes what a preset may have set. The roll-out begins anew if the age is set or lowered, or if its waves would move:
    /// passwords that are too old then expire in waves.
    fn applied_to(&self, preset: &PasswordMaxAge, before: &PasswordMaxAge, now: Timestamp) -> PasswordMaxAge {
        let age = self.age.unwrap_or(preset.age);
        let rollout = self.rollout.unwrap_or(preset.rollout);
        let warnings = self.warnings.clone().unwrap_or_else(|| preset.warnings.clone());
        let is_other = rollout != before.rollout || warnings.longest() != before.warnings.longest();
        let begins_anew = is_stricter(age, before.age) || (is_other && before.is_rolled_out_after(now));
        PasswordMaxAge { age, set_at: if begins_anew { now } else { before.set_at }, rollout, warnings }
    }
}

/// A change of when accounts are locked that are not used. What is `None` stays as it is.
#[derive(Debug, Default)]
pub struct InactivityChange {
    /// The time without a sign-in after which an account is locked. Zero: never.
    pub max: Option<Duration>,
    /// How long before users are told.
    pub warnings: Option<Warnings>,
}

impl InactivityChange {
    /// Changes what a preset may have set. Users have the time of the first warning again if the maximum is set or lowered.
    fn applied_to(&self, preset: &Inactivity, before: &Inactivity, now: Timestamp) -> Inactivity {
        let max = self.max.unwrap_or(preset.max);
        Inactivity {
            max,
            set_at: if is_stricter(max, before.max) { now } else { before.set_at },
            warnings: self.warnings.clone().unwrap_or_else(|| preset.warnings.clone()),
        }
    }
}

/// Returns whether a maximum is set, or is lower than before. Zero: there is none.
fn is_stricter(max: Duration, before: Duration) -> bool {
    !max.is_zero() && (before.is_zero() || max < before)
}

impl App {
    /// Reads the policy.
    pub async fn sign_in_policy(&self) -> Result<SignInPolicy> {
        policy_read(self.store.reader()).await
    }

    /// What the policy asks for that NIST SP 800-63B-4, 3.1.1.2, forbids, because it makes passwords worse.
    pub async fn asked_against_nist(&self) -> Result<Vec<&'static str>> {
        let policy = self.sign_in_policy().await?;
        let composition = self.rules_of(policy.password_rules).require_letter_and_digit;
        let renewal = policy.password_max_age.in_force().is_some();
        let asked = [
            composition.then_some("a letter and a digit in each password"),
            renewal.then_some("a new password after a time"),
        ];
        Ok(asked.into_iter().flatten().collect())
    }

    /// Reads the maximum age of passwords. `None` if they do not expire.
    pub(super) async fn password_max_age(&self) -> Result<Option<MaxAge>> {
        Ok(self.sign_in_policy().await?.password_max_age.in_force())
    }

    /// Changes the policy. No session ends: the next refresh ends one whose user now needs a second factor and has not proved one.
    /// Fails if the caller would need one and has none. Also returns whether anything changes.
    pub async fn update_sign_in_policy(
        &self,
        caller: &Caller,
        command: UpdateSignInPolicy,
    ) -> Result<(SignInPolicy, bool)> {
        let command = &command;
        let policy = self.write(caller, None, |writer| async move {
            let before = policy_lock_row(&writer.tx).await?;
            if command.etag.is_some_and(|etag| etag != before.etag()) {
                return Err(Error::Stale { resource: Resource::Policy, current: before.etag() });
            }
            let after = changed(&before, command, writer.now);
            if after == before {
                return Ok(writer.unchanged((before, false)));
            }
            let author = author(&writer, caller).await?;
            self.check_policy(&before, &after, author.as_ref(), writer.now)?;
            check_author(author.as_ref(), caller, &after)?;
            let change = writer.change();
            let after = SignInPolicy { version: before.version.saturating_add(1), ..after };
            policy_save(&change.tx, &after).await?;
            if command.validate_only {
                let after = SignInPolicy { version: before.version, ..after };
                return Ok(change.roll_back(RolledBack::DryRun, (after, true)));
            }
            let event = Event::new(EventType::PolicyUpdated, Target::default())
                .note(command.note.as_ref())
                .detail("before", told(&before))
                .detail("after", told(&after));
            change.commit(event, (after, true)).await
        });
        let outcome = policy.await?;
        if let Err(error) = self.follow_throttle_rules().await {
            tracing::warn!(
                reason = error.reason().as_str(),
                "the rules of throttle and lockout follow within a second"
            );
        }
        Ok(outcome)
    }

    /// Fails if rules of the policy and of the configuration contradict each other. The error names every contradiction. Those of
    /// leaked passwords, throttle and lockout that were there before must not prevent other changes.
    fn check_policy(
        &self,
        before: &SignInPolicy,
        after: &SignInPolicy,
        author: Option<&User>,
        now: Timestamp,
    ) -> Result<()> {
        let mut faults = Violations::new();
        check_from(after, &mut faults);
        check_rules(self.rules_of(after.password_rules), &mut faults);
        check_leaked(self.leaked_rules(before), self.leaked_rules(after), &mut faults);
        check_ages(after, &mut faults);
        if after.inactivity != before.inactivity {
            check_inactivity(after, author, now, &mut faults);
        }
        if after.throttle != before.throttle {
            check_contradictions(self.throttle_rules_of(after.throttle), &mut faults);
        }
        faults.finish().map_err(Error::InvalidInput)
    }

    fn leaked_rules(&self, policy: &SignInPolicy) -> LeakedRules {
        let rejects_new = self.rules_of(policy.password_rules).reject_breached;
        LeakedRules { rejects_new, checks_at_sign_in: policy.checks_breached }
    }
}

/// What the policy does about leaked passwords.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LeakedRules {
    rejects_new: bool,
    checks_at_sign_in: bool,
}

fn changed(before: &SignInPolicy, command: &UpdateSignInPolicy, now: Timestamp) -> SignInPolicy {
    let mut after = before.clone();
    if let Some(preset) = command.preset {
        preset.apply(&mut after);
    }
    if let Some(required) = command.second_factor_required {
        after.second_factor_required = required;
    }
    if let Some(roles) = &command.second_factor_roles {
        after.second_factor_roles.clone_from(roles);
    }
    if let Some(from) = command.second_factor_from {
        after.second_factor_from = Some(from).filter(|from| *from > now);
    }
    after.password_rules = after.password_rules.changed_by(command.password_rules);
    after.password_history = command.password_history.unwrap_or(after.password_history);
    after.password_min_age = command.password_min_age.unwrap_or(after.password_min_age);
    after.password_max_age =
        command.password_max_age.applied_to(&after.password_max_age, &before.password_max_age, now);
    after.inactivity = command.inactivity.applied_to(&after.inactivity, &before.inactivity, now);
    after.checks_breached = command.checks_breached.unwrap_or(after.checks_breached);
    let judges_existing = command.judges_existing.unwrap_or(before.judges_existing_since.is_some());
    let since = before.judges_existing_since.filter(|_| after.password_rules == before.password_rules);
    after.judges_existing_since = judges_existing.then(|| since.unwrap_or(now));
    after.throttle = after.throttle.changed_by(command.throttle);
    if command.second_factor_from.is_none() && !after.asks_for_second_factor() {
        // The time of a policy that is over must not delay the next one.
        after.second_factor_from = None;
    }
    after
}

/// Adds a violation if the second factor has a time, but is asked of no user.
fn check_from(policy: &SignInPolicy, faults: &mut Violations) {
    if policy.second_factor_from.is_some() && !policy.asks_for_second_factor() {
        let fault = "no user is asked for a second factor: set second_factor_required or second_factor_roles, too";
        faults.push("policy.second_factor_required_from_time", Fault::Conflict, fault);
    }
}

/// Adds a violation if no password could keep the rules.
fn check_rules(rules: PasswordRules, faults: &mut Violations) {
    if rules.min_length > rules.max_length {
        let fault = format!("is more than max_length, which is {}", rules.max_length);
        faults.push("policy.password_rules.min_length", Fault::Conflict, fault);
    }
}

/// Adds a violation if a leaked password would be changed at the sign-in for another leaked one, again and again.
fn check_leaked(before: LeakedRules, after: LeakedRules, faults: &mut Violations) {
    if after.checks_at_sign_in && !after.rejects_new && after != before {
        let fault = "needs reject_breached: a user could choose another leaked password at each sign-in";
        faults.push("policy.check_breached_at_sign_in", Fault::Conflict, fault);
    }
}

/// Adds a violation for each time that no password could keep.
fn check_ages(policy: &SignInPolicy, faults: &mut Violations) {
    let PasswordMaxAge { age, warnings, .. } = &policy.password_max_age;
    if age.is_zero() {
        return;
    }
    let age_is = in_words(*age);
    if policy.password_min_age >= *age {
        let fault = format!("is not less than max_age, which is {age_is}: no password could be changed in time");
        faults.push("policy.min_age", Fault::Conflict, fault);
    }
    if warnings.longest() >= *age {
        let fault = format!("has a time that is not less than max_age, which is {age_is}");
        faults.push("policy.expiry_warnings.before", Fault::Conflict, fault);
    }
}

/// Adds a violation if users could be told only after their account is locked, or if the policy would lock its author, who could
/// not mend a mistake then.
fn check_inactivity(policy: &SignInPolicy, author: Option<&User>, now: Timestamp, faults: &mut Violations) {
    let Inactivity { max, warnings, .. } = &policy.inactivity;
    if !max.is_zero() && warnings.longest() >= *max {
        let fault = format!("has a time that is not less than max_inactivity, which is {}", in_words(*max));
        faults.push("policy.inactivity_warnings.before", Fault::Conflict, fault);
    }
    let author = author.filter(|author| author.password.is_some());
    if !max.is_zero() && author.is_some_and(|author| author.active_at().saturating_add(*max) <= now) {
        let fault = "would lock your own account: sign in again first, or choose a longer time";
        faults.push("policy.max_inactivity", Fault::Conflict, fault);
    }
}

async fn author(writer: &Writer<'_>, caller: &Caller) -> Result<Option<User>> {
    match caller.principal.user_id() {
        Some(id) => user_by_id(&writer.tx, id).await,
        None => Ok(None),
    }
}

/// Fails if the policy asks the caller for a second factor that they do not have: whoever asks it of others sets one up first.
fn check_author(author: Option<&User>, caller: &Caller, policy: &SignInPolicy) -> Result<()> {
    let in_session = author.filter(|_| matches!(caller.principal, Principal::User { .. }));
    let lacks = in_session
        .is_some_and(|author| author.second_factor.is_none() && policy.required_from(&author.roles).is_some());
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
        policy.judges_existing_since.map(|_| "judge existing: true".to_owned()),
        (policy.password_history > 0).then(|| format!("history: {}", policy.password_history)),
        (!policy.password_min_age.is_zero()).then(|| format!("min age: {}", in_words(policy.password_min_age))),
        told_max_age(&policy.password_max_age),
        told_inactivity(&policy.inactivity),
    ];
    let throttle = throttle_told(policy.throttle);
    [Some(factor)].into_iter().chain(passwords).chain(throttle).flatten().collect::<Vec<_>>().join("; ")
}

fn throttle_told(set: ThrottleRulesSet) -> [Option<String>; 6] {
    let lock_for = |length: Duration| match length {
        Duration::ZERO => "lock for: until unlocked".to_owned(),
        length => format!("lock for: {}", written(length)),
    };
    [
        set.threshold.map(|failures| format!("throttle after: {failures}")),
        set.initial.map(|wait| format!("first wait: {}", written(wait))),
        set.max.map(|wait| format!("longest wait: {}", written(wait))),
        set.lockout_threshold.map(|failures| format!("lock after: {failures}")),
        set.lockout_duration.map(lock_for),
        set.failure_memory.map(|memory| format!("forget after: {}", written(memory))),
    ]
}

fn told_max_age(max_age: &PasswordMaxAge) -> Option<String> {
    let PasswordMaxAge { age, rollout, warnings, .. } = max_age;
    // What is set while passwords do not expire counts as soon as they do.
    let is_set = !age.is_zero() || *rollout != PasswordMaxAge::ROLLOUT || *warnings != Warnings::default();
    let (rollout, warned) = (in_words(*rollout), told_warnings(warnings));
    is_set.then(|| format!("max age: {}, rolled out in {rollout}{warned}", told_maximum(*age)))
}

fn told_inactivity(inactivity: &Inactivity) -> Option<String> {
    let Inactivity { max, warnings, .. } = inactivity;
    let is_set = !max.is_zero() || *warnings != Warnings::default();
    is_set.then(|| format!("max inactivity: {}{}", told_maximum(*max), told_warnings(warnings)))
}

fn told_maximum(time: Duration) -> String {
    if time.is_zero() { "none".to_owned() } else { in_words(time) }
}

fn told_warnings(warnings: &Warnings) -> String {
    let warned: Vec<String> = warnings.before().iter().copied().map(in_words).collect();
    if warned.is_empty() { String::new() } else { format!(", warned {} before", warned.join(" and ")) }
}
