//! The maximum inactivity: accounts of people who have not signed in for that long are locked.
//!
//! No account is locked before the first warning had its time since the policy was set, so that users are warned.

use std::time::Duration;

use super::time::Timestamp;

/// A maximum inactivity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxInactivity {
    /// The time without a sign-in after which an account is locked.
    pub time: Duration,
    /// When this time was set, or a longer one lowered to it.
    pub set_at: Timestamp,
    /// The time from then until the first lock: that of the first warning.
    pub lead: Duration,
}

impl MaxInactivity {
    /// When an account is locked that was last used at an instant.
    pub fn locks_at(&self, active_at: Timestamp) -> Timestamp {
        active_at.saturating_add(self.time).max(self.begins_at())
    }

    /// When the first accounts are locked.
    pub fn begins_at(&self) -> Timestamp {
        self.set_at.saturating_add(self.lead)
    }

    /// Accounts last used then or earlier are inactive at `now`. `None` if none is yet. The store has an SQL predicate on it; a
    /// test compares the two.
    pub fn idle_since(&self, now: Timestamp) -> Option<Timestamp> {
        (now >= self.begins_at()).then(|| now.saturating_sub(self.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn at(day: u32) -> Timestamp {
        Timestamp::from_micros(0).saturating_add(DAY * day)
    }

    #[test]
    fn no_account_is_locked_before_the_first_warning_had_its_time() {
        let policy = MaxInactivity { time: DAY * 180, set_at: at(1000), lead: DAY * 30 };
        assert_eq!(policy.locks_at(at(10)), at(1030));
        assert_eq!(policy.locks_at(at(850)), at(1030), "the time is over, the first warning is not");
        assert_eq!(policy.locks_at(at(851)), at(1031));
        assert_eq!(policy.locks_at(at(2000)), at(2180));
        assert_eq!(MaxInactivity { lead: Duration::ZERO, ..policy }.locks_at(at(10)), at(1000), "without warnings");
    }

    #[test]
    fn the_predicate_agrees_with_the_instant_to_the_microsecond() {
        for lead in [0, 1, 30] {
            let policy = MaxInactivity { time: DAY * 180, set_at: at(1000), lead: DAY * lead };
            for active_at in [0, 819, 820, 821, 850, 999, 1000, 2000].map(at) {
                for micros in [-1_000_000_000, -1, 0, 1, 1_000_000_000] {
                    let now = Timestamp::from_micros(policy.locks_at(active_at).as_micros() + micros);
                    let is_inactive = policy.idle_since(now).is_some_and(|since| active_at <= since);
                    assert_eq!(is_inactive, micros >= 0, "{active_at}, {micros} µs");
                }
            }
        }
    }
}
