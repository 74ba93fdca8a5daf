//! The policy of signing in: which users need a second factor, and from when on, what makes a password acceptable, and what
//! wrong passwords lead to.

use std::time::Duration;

use super::inactivity::MaxInactivity;
use super::lockout::ThrottleRules;
use super::password::PasswordRules;
use super::password_age::MaxAge;
use super::role::Role;
use super::time::Timestamp;
use super::user::{Etag, User, UserKind};
use super::waves::Waves;

/// The policy, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignInPolicy {
    /// Whether everybody needs a second factor.
    pub second_factor_required: bool,
    /// The roles whose members need one.
    pub second_factor_roles: Vec<Role>,
    /// From when on. `None`: at once.
    pub second_factor_from: Option<Timestamp>,
    /// The rules for new passwords.
    pub password_rules: PasswordRulesSet,
    /// How many old passwords are refused, besides the last one. At most [`SignInPolicy::MAX_HISTORY`].
    pub password_history: u32,
    /// How soon after a change the user may make the next one. Zero: at once.
    pub password_min_age: Duration,
    /// When passwords expire. Zero: never.
    pub password_max_age: PasswordMaxAge,
    /// When accounts are locked that are not used. Zero: never.
    pub inactivity: Inactivity,
    /// Whether sign-ins look the password up in the list of leaked ones.
    pub checks_breached: bool,
    /// Since when sign-ins judge passwords that are older than the rules. `None` if they do not.
    pub judges_existing_since: Option<Timestamp>,
    /// When wrong passwords throttle and lock.
    pub throttle: ThrottleRulesSet,
    /// Incremented by each change.
    pub version: i64,
}

/// When passwords expire, and when users are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordMaxAge {
    /// The age at which passwords expire. Zero: never.
    pub age: Duration,
    /// When this age was set, or a higher one lowered to it.
    pub set_at: Timestamp,
    /// The time over which passwords expire that existed before.
    pub rollout: Duration,
    /// How long before the end users are told, the longest first.
    pub warnings: Warnings,
}

impl Default for PasswordMaxAge {
    fn default() -> PasswordMaxAge {
        let rollout = PasswordMaxAge::ROLLOUT;
        PasswordMaxAge {
            age: Duration::ZERO,
            set_at: Timestamp::from_micros(0),
            rollout,
            warnings: Warnings::default(),
        }
    }
}

impl PasswordMaxAge {
    /// The time over which the first passwords expire, unless the policy says otherwise: each day a thirtieth of them.
    pub const ROLLOUT: Duration = Duration::from_hours(30 * 24);

    /// Returns whether the last wave comes after `now`.
    pub fn is_rolled_out_after(&self, now: Timestamp) -> bool {
        self.set_at.saturating_add(self.warnings.longest()).saturating_add(self.rollout) > now
    }

    /// The maximum age in force. `None` if passwords do not expire.
    pub fn in_force(&self) -> Option<MaxAge> {
        let PasswordMaxAge { age, set_at, rollout, warnings } = self;
        let lead = warnings.longest();
        (!age.is_zero()).then_some(MaxAge { age: *age, set_at: *set_at, lead, rollout: *rollout })
    }
}

/// When accounts are locked that are not used, and when users are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inactivity {
    /// The time without a sign-in after which an account is locked. Zero: never.
    pub max: Duration,
    /// When this time was set, or a longer one lowered to it.
    pub set_at: Timestamp,
    /// How long before the lock users are told, the longest first.
    pub warnings: Warnings,
}

impl Default for Inactivity {
    fn default() -> Inactivity {
        Inactivity { max: Duration::ZERO, set_at: Timestamp::from_micros(0), warnings: Warnings::default() }
    }
}

impl Inactivity {
    /// The maximum inactivity in force. `None` if no account is locked for it.
    pub fn in_force(&self) -> Option<MaxInactivity> {
        let Inactivity { max, set_at, warnings } = self;
        (!max.is_zero()).then_some(MaxInactivity { time: *max, set_at: *set_at, lead: warnings.longest() })
    }
}

/// The times before an end at which users are told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings(Vec<Duration>);

impl Warnings {
    /// Most warnings of one end.
    pub const MAX: usize = 8;

    /// Sorts the times.
    pub fn new(mut before: Vec<Duration>) -> Warnings {
        before.sort_unstable_by(|a, b| b.cmp(a));
        before.dedup();
        Warnings(before)
    }

    /// The times, the longest first.
    pub fn before(&self) -> &[Duration] {
        &self.0
    }

    /// The time of the first warning. Zero without one.
    pub fn longest(&self) -> Duration {
        self.0.first().copied().unwrap_or_default()
    }

    /// The warning that is due `left` before the end: of several, the last.
    pub fn due(&self, left: Duration) -> Option<Duration> {
        self.0.iter().rev().find(|before| left <= **before).copied()
    }
}

/// The rules for new passwords that a policy sets. What is `None` is as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PasswordRulesSet {
    /// Minimum number of code points.
    pub min_length: Option<u32>,
    /// Maximum number of code points.
    pub max_length: Option<u32>,
    /// Lowest score that is accepted.
    pub min_score: Option<u8>,
    /// Whether leaked passwords are refused.
    pub reject_breached: Option<bool>,
    /// Whether names of the user and of the organisation are refused.
    pub reject_user_info: Option<bool>,
    /// Whether a letter and a digit are needed.
    pub require_letter_and_digit: Option<bool>,
}

impl PasswordRulesSet {
    /// The rules that are in force, if these are configured.
    pub fn over(self, configured: PasswordRules) -> PasswordRules {
        PasswordRules {
            min_length: self.min_length.unwrap_or(configured.min_length),
            max_length: self.max_length.unwrap_or(configured.max_length),
            min_score: self.min_score.unwrap_or(configured.min_score),
            reject_breached: self.reject_breached.unwrap_or(configured.reject_breached),
            reject_user_info: self.reject_user_info.unwrap_or(configured.reject_user_info),
            require_letter_and_digit: self.require_letter_and_digit.unwrap_or(configured.require_letter_and_digit),
        }
    }

    /// The rules after a change: what it leaves out stays as it is.
    #[must_use]
    pub fn changed_by(self, change: PasswordRulesSet) -> PasswordRulesSet {
        PasswordRulesSet {
            min_length: change.min_length.or(self.min_length),
            max_length: change.max_length.or(self.max_length),
            min_score: change.min_score.or(self.min_score),
            reject_breached: change.reject_breached.or(self.reject_breached),
            reject_user_info: change.reject_user_info.or(self.reject_user_info),
            require_letter_and_digit: change.require_letter_and_digit.or(self.require_letter_and_digit),
        }
    }
}

/// The numbers of throttle and lockout that a policy sets. What is `None` is as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThrottleRulesSet {
    /// Number of consecutive wrong passwords before sign-ins are throttled.
    pub threshold: Option<u32>,
    /// The first delay.
    pub initial: Option<Duration>,
    /// The longest delay.
    pub max: Option<Duration>,
    /// Number of consecutive wrong passwords that lock the account, or refuse unfamiliar places.
    pub lockout_threshold: Option<u32>,
    /// Duration of such a lock or refusal.
    pub lockout_duration: Option<Duration>,
    /// How long wrong passwords are remembered.
    pub failure_memory: Option<Duration>,
}

impl ThrottleRulesSet {
    /// The rules that are in force, if these are configured.
    pub fn over(self, configured: ThrottleRules) -> ThrottleRules {
        ThrottleRules {
            threshold: self.threshold.unwrap_or(configured.threshold),
            initial: self.initial.unwrap_or(configured.initial),
            max: self.max.unwrap_or(configured.max),
            lockout_threshold: self.lockout_threshold.unwrap_or(configured.lockout_threshold),
            lockout_duration: self.lockout_duration.unwrap_or(configured.lockout_duration),
            failure_memory: self.failure_memory.unwrap_or(configured.failure_memory),
        }
    }

    /// The rules after a change: what it leaves out stays as it is.
    #[must_use]
    pub fn changed_by(self, change: ThrottleRulesSet) -> ThrottleRulesSet {
        ThrottleRulesSet {
            threshold: change.threshold.or(self.threshold),
            initial: change.initial.or(self.initial),
            max: change.max.or(self.max),
            lockout_threshold: change.lockout_threshold.or(self.lockout_threshold),
            lockout_duration: change.lockout_duration.or(self.lockout_duration),
            failure_memory: change.failure_memory.or(self.failure_memory),
        }
    }
}

/// Values for the policy that a standard recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyPreset {
    /// NIST SP 800-63B-4.
    Nist,
    /// PCI DSS 4.0.1.
    Pci,
}

impl PolicyPreset {
    /// Sets all values of the preset. What the standard says nothing of stays as it is.
    pub fn apply(self, policy: &mut SignInPolicy) {
        match self {
            PolicyPreset::Nist => apply_nist(policy),
            PolicyPreset::Pci => apply_pci(policy),
        }
    }
}

/// NIST SP 800-63B-4, 3.1.1.2: 15 characters, no composition, no leaked passwords and no names; 3.2.2: at most 100 failures.
/// Passwords need not be changed without a reason.
fn apply_nist(policy: &mut SignInPolicy) {
    policy.password_rules = policy.password_rules.changed_by(PasswordRulesSet {
        min_length: Some(15),
        reject_breached: Some(true),
        reject_user_info: Some(true),
        require_letter_and_digit: Some(false),
        ..PasswordRulesSet::default()
    });
    policy.password_history = 0;
    policy.password_min_age = Duration::ZERO;
    policy.password_max_age.age = Duration::ZERO;
    policy.inactivity.max = Duration::ZERO;
    policy.throttle = GROWING_DELAY;
}

/// PCI DSS 4.0.1, 8.3.6: 12 characters with a letter and a digit; 8.3.7: not one of the last four; 8.3.9: changed after 90 days, of
/// which users are told two weeks before; 8.2.6: accounts that are not used are locked after 90 days, too; 8.3.4: ten failures lock
/// for half an hour.
fn apply_pci(policy: &mut SignInPolicy) {
    policy.password_rules = policy.password_rules.changed_by(PasswordRulesSet {
        min_length: Some(12),
        require_letter_and_digit: Some(true),
        ..PasswordRulesSet::default()
    });
    policy.password_history = 4;
    policy.password_max_age.age = Duration::from_hours(90 * 24);
    policy.password_max_age.warnings = Warnings::new(vec![Duration::from_hours(14 * 24)]);
    policy.inactivity.max = Duration::from_hours(90 * 24);
    policy.inactivity.warnings = Warnings::new(vec![Duration::from_hours(14 * 24)]);
    policy.throttle = ThrottleRulesSet {
        lockout_threshold: Some(10),
        lockout_duration: Some(Duration::from_mins(30)),
        ..GROWING_DELAY
    };
}

/// NIST SP 800-63B-4, 3.2.2: at most 100 failures, and a delay that grows with them, such as up to an hour. The server's defaults.
const GROWING_DELAY: ThrottleRulesSet = ThrottleRulesSet {
    threshold: Some(5),
    initial: Some(Duration::from_secs(5)),
    max: Some(Duration::from_hours(1)),
    lockout_threshold: Some(100),
    lockout_duration: Some(Duration::ZERO),
    failure_memory: Some(Duration::from_hours(24)),
};

impl SignInPolicy {
    /// Most old passwords that are refused. Each costs a hash whenever a user chooses a password.
    pub const MAX_HISTORY: u32 = 10;

    /// The current etag.
    pub fn etag(&self) -> Etag {
        Etag(self.version)
    }

    /// Returns whether any user needs a second factor, now or later.
    pub fn asks_for_second_factor(&self) -> bool {
        self.second_factor_required || !self.second_factor_roles.is_empty()
    }

    /// The waves in which sign-ins judge passwords that are older than the rules. `None` if they do not.
    pub fn judge_existing(&self) -> Option<Waves> {
        Some(Waves { begin: self.judges_existing_since?, length: self.password_max_age.rollout })
    }

    /// From when on a person with these roles needs a second factor. `None` if never.
    pub fn required_from(&self, roles: &[Role]) -> Option<Timestamp> {
        let applies = self.second_factor_required || roles.iter().any(|role| self.second_factor_roles.contains(role));
        applies.then(|| self.second_factor_from.unwrap_or(Timestamp::from_micros(0)))
    }
}

impl User {
    /// When the user may change the password again, if the policy makes them wait at `now`. A change that is demanded need not
    /// wait.
    pub fn change_refused_until(&self, now: Timestamp) -> Option<Timestamp> {
        let changed_at = self.password.as_ref().filter(|_| self.change_cause(now).is_none())?.changed_at;
        Some(changed_at.saturating_add(self.policy.password_min_age)).filter(|until| *until > now)
    }

    /// Returns whether the policy asks the user for a second factor at `now`.
    pub fn needs_second_factor(&self, now: Timestamp) -> bool {
        self.second_factor_from().is_some_and(|from| from <= now)
    }

    /// From when on the policy asks the user for a second factor. `None` if never.
    pub fn second_factor_from(&self) -> Option<Timestamp> {
        self.policy.second_factor_from.filter(|_| self.kind == UserKind::Person)
    }

    /// Returns whether the policy asks the user for a second factor, now or later, and there is none.
    pub fn is_second_factor_missing(&self) -> bool {
        self.second_factor_from().is_some() && self.second_factor.is_none()
    }
}
