//! Locks, and waits after wrong passwords. Two things: a lock stays until it is lifted or its end comes, a wait
//! passes by itself and is never prolonged by trying (OWASP Authentication Cheat Sheet: a lockout must not become a
//! way to lock others out).

use std::time::Duration;

use super::time::Timestamp;

/// Why an account is locked, the strongest cause first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum LockCause {
    /// By an operator.
    Operator,
    /// As many wrong passwords in a row as the configuration allows.
    FailedSignIns,
}

impl LockCause {
    /// As the contract has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            LockCause::Operator => "OPERATOR",
            LockCause::FailedSignIns => "FAILED_SIGN_INS",
        }
    }
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Why.
    pub cause: LockCause,
    /// What the operator wrote.
    pub note: String,
    /// When.
    pub locked_at: Timestamp,
    /// When it ends by itself. None means never.
    pub expires_at: Option<Timestamp>,
    /// Id of the principal, empty for an automatic lock.
    pub actor_id: String,
    /// Its name at the time.
    pub actor_name: String,
}

impl Lock {
    /// Whether it stands at `now`. A lock whose time is over is over, whoever looks; nothing sweeps it away first.
    pub fn stands(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }

    /// This lock on top of one that stands: no lock weakens an earlier one, so the stronger cause and the later end
    /// win. Who, when and why follow the cause.
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

/// A wait after wrong passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Wrong passwords in a row.
    pub failures: u32,
    /// When the next attempt is looked at.
    pub until: Timestamp,
}

/// When wrong passwords make an account wait, and lock it. Zero turns a number off.
#[derive(Debug, Clone, Copy)]
pub struct ThrottleRules {
    /// Wrong passwords in a row before sign-ins wait.
    pub threshold: u32,
    /// The first wait; each further wrong password doubles it.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Wrong passwords in a row that lock the account. NIST SP 800-63B-4, 3.2.2: at most 100.
    pub lockout_threshold: u32,
    /// How long such a lock lasts. Zero: until a reset or an operator ends it.
    pub lockout_duration: Duration,
    /// Wrong passwords are forgotten this long after the last.
    pub failure_memory: Duration,
}

impl ThrottleRules {
    /// Whether wrong passwords have any consequence.
    pub fn are_on(&self) -> bool {
        self.threshold != 0 || self.lockout_threshold != 0
    }

    /// How many passwords may be tried before the first consequence.
    pub fn guesses_at_once(&self) -> u32 {
        if self.threshold == 0 { self.lockout_threshold } else { self.threshold }
    }

    /// How long sign-ins wait after this many wrong passwords in a row.
    pub fn wait_after(&self, failures: u32) -> Option<Duration> {
        if self.threshold == 0 || failures < self.threshold {
            return None;
        }
        let doublings = (failures - self.threshold).min(31);
        Some(self.initial.saturating_mul(1 << doublings).min(self.max))
    }

    /// Whether this many wrong passwords in a row lock the account.
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
    fn a_later_lock_never_weakens_an_earlier_one() {
        let standing = lock(LockCause::Operator, None);
        let merged = lock(LockCause::FailedSignIns, Some(5)).over(Some(&standing));
        assert_eq!((merged.cause, merged.expires_at), (LockCause::Operator, None));

        let standing = lock(LockCause::FailedSignIns, Some(9));
        let merged = lock(LockCause::Operator, Some(5)).over(Some(&standing));
        assert_eq!((merged.cause, merged.expires_at), (LockCause::Operator, Some(Timestamp::from_micros(9))));
    }
}
