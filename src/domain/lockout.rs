//! Locks, and throttles after wrong passwords. A lock lasts until it is removed or expires. A throttle passes by
//! itself, and further attempts do not extend it (OWASP Authentication Cheat Sheet: lockout must not let an attacker
//! lock others out).

use std::ops::RangeInclusive;
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

use super::role::Scope;
use super::time::Timestamp;

/// Why an account is locked. Ordered: the strongest cause is the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum LockCause {
    /// Someone else may know the credentials, which ended with the lock.
    Compromise,
    /// The user is on leave, or has left.
    Deactivated,
    /// Locked by an operator.
    Operator,
    /// Not used for longer than the policy allows.
    Inactivity,
    /// Too many consecutive wrong passwords, as configured.
    FailedSignIns,
}

impl LockCause {
    /// Returns whether only the server locks for this cause.
    pub fn is_automatic(self) -> bool {
        matches!(self, LockCause::Inactivity | LockCause::FailedSignIns)
    }

    /// All causes, the strongest first.
    pub const ALL: &[LockCause] = LockCause::VARIANTS;

    /// The name in the contract.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The scope that lifting such a lock needs besides `users.lock`.
    pub fn scope_to_lift(self) -> Option<Scope> {
        match self {
            LockCause::Compromise | LockCause::Deactivated => Some(Scope::UsersWrite),
            LockCause::Operator | LockCause::Inactivity | LockCause::FailedSignIns => None,
        }
    }
}

/// A lock on an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Why the account is locked.
    pub cause: LockCause,
    /// The operator's note.
    pub note: String,
    /// When the lock was set.
    pub locked_at: Timestamp,
    /// When the lock expires. `None` means never.
    pub expires_at: Option<Timestamp>,
    /// Id of the principal that set it. Empty for an automatic lock.
    pub actor_id: String,
    /// Name of that principal at the time.
    pub actor_name: String,
}

impl Lock {
    /// A lock that the server sets.
    pub fn automatic(cause: LockCause, expires_at: Option<Timestamp>, now: Timestamp) -> Lock {
        let none = String::new;
        Lock { cause, note: none(), locked_at: now, expires_at, actor_id: none(), actor_name: none() }
    }

    /// Returns whether the lock is in force at `now`. Expiry needs no sweep: readers compare the time.
    pub fn stands(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }

    /// Merges this lock with the one in force. A new lock never weakens an existing one: the stronger cause and the
    /// later expiry win. Actor, time and note come from the lock with the stronger cause.
    #[must_use]
    pub fn over(self, standing: Option<&Lock>) -> Lock {
        let Some(standing) = standing else { return self };
        let expires_at = match (self.expires_at, standing.expires_at) {
            (Some(new), Some(old)) => Some(new.max(old)),
            _ => None,
        };
        let stronger = if self.cause <= standing.cause { self } else { standing.clone() };
        Lock { expires_at, ..stronger }
    }
}

/// A throttle after wrong passwords, over all budgets of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Number of consecutive wrong passwords.
    pub failures: u32,
    /// When the next attempt is accepted from every place. `None`: unfamiliar places are refused until a sign-in from a
    /// familiar one, a reset or an unlock.
    pub until: Option<Timestamp>,
    /// Until when familiar places are throttled too.
    pub familiar_until: Option<Timestamp>,
}

/// The throttle of one budget of an account: of the account itself or of one of its names, in one kind of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetThrottle {
    /// Whether it throttles familiar places. If not, it throttles the others.
    pub is_familiar: bool,
    /// Number of consecutive wrong passwords.
    pub failures: u32,
    /// When the next attempt is accepted. `None` means never.
    pub until: Option<Timestamp>,
}

impl Throttle {
    /// The throttle over these budgets. Returns `None` if there are none.
    pub fn over<'a>(budgets: impl Iterator<Item = &'a BudgetThrottle> + Clone) -> Option<Throttle> {
        let failures = budgets.clone().map(|budget| budget.failures).max()?;
        let has_end = budgets.clone().all(|budget| budget.until.is_some());
        let until = budgets.clone().filter_map(|budget| budget.until).max().filter(|_| has_end);
        let familiar_until = budgets.filter(|budget| budget.is_familiar).filter_map(|budget| budget.until).max();
        Some(Throttle { failures, until, familiar_until })
    }

    /// Returns whether sign-ins are throttled from familiar places too.
    pub fn includes_familiar(&self, now: Timestamp) -> bool {
        self.familiar_until.is_some_and(|until| until > now)
    }
}

/// When wrong passwords throttle and lock an account. A threshold of zero disables it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleRules {
    /// Number of consecutive wrong passwords before sign-ins are throttled.
    pub threshold: u32,
    /// The first delay; each further wrong password doubles it.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// Number of consecutive wrong passwords that lock the account, from familiar places, or after which other places are
    /// refused. NIST SP 800-63B-4, 3.2.2: at most 100.
    pub lockout_threshold: u32,
    /// Duration of such a lock or refusal. Zero: until a reset or an operator removes it.
    pub lockout_duration: Duration,
    /// Wrong passwords are forgotten after this time without another.
    pub failure_memory: Duration,
}

/// Two numbers of [`ThrottleRules`] that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradiction {
    /// The first delay is longer than the longest.
    InitialAboveMax,
    /// Failures are forgotten during the delay that they cause.
    MemoryBelowMax,
    /// The account is locked before any delay.
    LockoutBeforeThrottle,
}

impl ThrottleRules {
    /// Values of both thresholds. NIST SP 800-63B-4, 3.2.2: at most 100.
    pub const THRESHOLD: RangeInclusive<u32> = 0..=100;
    /// Values of [`ThrottleRules::initial`].
    pub const INITIAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
    /// Values of [`ThrottleRules::max`].
    pub const MAX: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
    /// Values of [`ThrottleRules::lockout_duration`].
    pub const LOCKOUT_DURATION: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(365 * 24);
    /// Values of [`ThrottleRules::failure_memory`].
    pub const FAILURE_MEMORY: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(365 * 24);

    /// Returns all contradictions.
    pub fn contradictions(&self) -> Vec<Contradiction> {
        let all = [
            (self.initial > self.max, Contradiction::InitialAboveMax),
            (self.failure_memory < self.max, Contradiction::MemoryBelowMax),
            (
                self.lockout_threshold > 0 && self.lockout_threshold <= self.threshold,
                Contradiction::LockoutBeforeThrottle,
            ),
        ];
        all.into_iter().filter(|(contradicts, _)| *contradicts).map(|(_, contradiction)| contradiction).collect()
    }

    /// Returns whether wrong passwords have any consequence.
    pub fn are_on(&self) -> bool {
        self.threshold != 0 || self.lockout_threshold != 0
    }

    /// Number of passwords that can be tried before the first consequence.
    pub fn guesses_at_once(&self) -> u32 {
        if self.threshold == 0 { self.lockout_threshold } else { self.threshold }
    }

    /// Delay after this many consecutive wrong passwords.
    pub fn wait_after(&self, failures: u32) -> Option<Duration> {
        if self.threshold == 0 || failures < self.threshold {
            return None;
        }
        let doublings = (failures - self.threshold).min(31);
        Some(self.initial.saturating_mul(1 << doublings).min(self.max))
    }

    /// When a lock or a refusal that begins at `now` ends by itself. `None` means never.
    pub fn lockout_end(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.lockout_duration.is_zero()).then(|| now.saturating_add(self.lockout_duration))
    }

    /// Returns whether unfamiliar places can be refused without an end.
    pub fn can_refuse_for_good(&self) -> bool {
        self.lockout_threshold != 0 && self.lockout_duration.is_zero()
    }

    /// The longest throttle that has an end.
    pub fn longest_wait(&self) -> Duration {
        match (self.are_on(), self.lockout_threshold) {
            (false, _) => Duration::ZERO,
            (true, 0) => self.max,
            (true, _) => self.max.max(self.lockout_duration),
        }
    }

    /// Returns whether this many consecutive wrong passwords lock the account, or refuse unfamiliar places.
    pub fn locks_after(&self, failures: u32) -> bool {
        self.lockout_threshold != 0 && failures >= self.lockout_threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ThrottleRules = ThrottleRules {
        threshold: 5,
        initial: Duration::from_secs(5),
        max: Duration::from_hours(1),
        lockout_threshold: 100,
        lockout_duration: Duration::ZERO,
        failure_memory: Duration::from_hours(24),
    };

    fn lock(cause: LockCause, end: Option<i64>) -> Lock {
        Lock {
            cause,
            note: String::new(),
            locked_at: Timestamp::from_micros(0),
            expires_at: end.map(Timestamp::from_micros),
            actor_id: String::new(),
            actor_name: String::new(),
        }
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let waits: Vec<_> = (4..9).map(|failures| RULES.wait_after(failures).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [None, Some(5), Some(10), Some(20), Some(40)]);
        assert_eq!(RULES.wait_after(u32::MAX), Some(Duration::from_hours(1)));
        assert_eq!(ThrottleRules { threshold: 0, ..RULES }.wait_after(50), None);
    }

    #[test]
    fn numbers_that_contradict_each_other_are_all_found() {
        assert_eq!(RULES.contradictions(), []);
        let equal = ThrottleRules { initial: RULES.max, failure_memory: RULES.max, lockout_threshold: 6, ..RULES };
        assert_eq!(equal.contradictions(), []);
        let off = ThrottleRules { threshold: 0, lockout_threshold: 0, ..RULES };
        assert_eq!(off.contradictions(), [], "a limit that is off contradicts nothing");
        assert_eq!(ThrottleRules { lockout_threshold: 0, ..RULES }.contradictions(), []);
        assert_eq!(ThrottleRules { threshold: 0, lockout_threshold: 1, ..RULES }.contradictions(), []);
        let all = ThrottleRules {
            initial: Duration::from_secs(2),
            max: Duration::from_secs(1),
            failure_memory: Duration::ZERO,
            lockout_threshold: 5,
            ..RULES
        };
        assert_eq!(
            all.contradictions(),
            [Contradiction::InitialAboveMax, Contradiction::MemoryBelowMax, Contradiction::LockoutBeforeThrottle]
        );
    }

    #[test]
    fn a_later_lock_never_weakens_an_earlier_one() {
        let standing = lock(LockCause::Operator, None);
        let merged = lock(LockCause::FailedSignIns, Some(5)).over(Some(&standing));
        assert_eq!((merged.cause, merged.expires_at), (LockCause::Operator, None));

        let standing = lock(LockCause::FailedSignIns, Some(9));
        let merged = lock(LockCause::Operator, Some(5)).over(Some(&standing));
        assert_eq!((merged.cause, merged.expires_at), (LockCause::Operator, Some(Timestamp::from_micros(9))));
    }

    #[test]
    fn of_any_two_locks_the_stronger_cause_and_the_later_end_stand() {
        let ends = [None, Some(5), Some(9)];
        let locks = || LockCause::ALL.iter().flat_map(|cause| ends.map(|end| lock(*cause, end)));
        for (earlier, later) in locks().flat_map(|earlier| locks().map(move |later| (earlier.clone(), later))) {
            let strength = |cause: LockCause| LockCause::ALL.iter().position(|is| *is == cause);
            let merged = later.clone().over(Some(&earlier));
            assert_eq!(strength(merged.cause), strength(earlier.cause).min(strength(later.cause)));
            for now in [4, 5, 8, 9].map(Timestamp::from_micros) {
                assert_eq!(merged.stands(now), earlier.stands(now) || later.stands(now), "{earlier:?} {later:?}");
            }
        }
    }
}
