//! The maximum age of passwords, and how a new one is rolled out.
//!
//! A password expires when it reaches the maximum age. Those that existed when the age was set do not expire sooner than their
//! wave comes: waves begin after the first warning had its time, and are spread by the id of the user, which is random. So
//! users are warned, and not all of them come to the helpdesk on one day.

use std::time::Duration;

use super::id::UserId;
use super::time::Timestamp;
use super::waves::{Wave, Waves};

/// A maximum age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// The age at which a password expires.
    pub age: Duration,
    /// When this age was set, or a higher one lowered to it.
    pub set_at: Timestamp,
    /// The time from then until the first wave: that of the first warning.
    pub lead: Duration,
    /// The time from the first wave to the last.
    pub rollout: Duration,
}

/// Which passwords are too old at some instant. The store has the same as an SQL predicate; a test compares the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// Passwords changed then or earlier have reached the maximum age.
    pub changed_by: Timestamp,
    /// Passwords changed earlier than this expire in waves.
    pub set_at: Timestamp,
    /// The waves that have come.
    pub wave: Wave,
}

impl MaxAge {
    /// When a password expires that a user changed at an instant.
    pub fn expires_at(&self, user: UserId, changed_at: Timestamp) -> Timestamp {
        let expires_at = changed_at.saturating_add(self.age);
        if changed_at >= self.set_at { expires_at } else { expires_at.max(self.waves().of(user)) }
    }

    /// The passwords that are too old at `now`.
    pub fn too_old(&self, now: Timestamp) -> TooOld {
        TooOld { changed_by: now.saturating_sub(self.age), set_at: self.set_at, wave: self.waves().at(now) }
    }

    fn waves(&self) -> Waves {
        Waves { begin: self.set_at.saturating_add(self.lead), length: self.rollout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn at(day: u32) -> Timestamp {
        Timestamp::from_micros(0).saturating_add(DAY * day)
    }

    fn user(share: u32) -> UserId {
        let [a, b, c, d] = share.to_be_bytes();
        UserId::from_bytes([a, b, c, d, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])
    }

    fn is_too_old(too_old: TooOld, user: UserId, changed_at: Timestamp) -> bool {
        let has_come = match too_old.wave {
            Wave::None => false,
            Wave::Below(id) => user < id,
            Wave::All => true,
        };
        changed_at <= too_old.changed_by && (changed_at >= too_old.set_at || has_come)
    }

    #[test]
    fn sec_058_old_passwords_expire_in_waves_after_the_first_warning() {
        let max_age = MaxAge { age: DAY * 90, set_at: at(1000), lead: DAY * 14, rollout: DAY * 30 };
        assert_eq!(max_age.expires_at(user(0), at(10)), at(1014));
        assert_eq!(max_age.expires_at(user(1 << 31), at(10)), at(1029), "in the middle of the roll-out");
        assert!(max_age.expires_at(user(u32::MAX), at(10)) <= at(1044));
        assert_eq!(max_age.expires_at(user(0), at(990)), at(1080), "not older than the age");
        assert_eq!(max_age.expires_at(user(u32::MAX), at(1000)), at(1090), "set under the policy");
    }

    #[test]
    fn the_predicate_agrees_with_the_instant_to_the_microsecond() {
        for (lead, rollout) in [(0, 0), (14, 30), (3, 1), (0, 365)] {
            let max_age = MaxAge { age: DAY * 90, set_at: at(1000), lead: DAY * lead, rollout: DAY * rollout };
            for share in [0, 1, 2, 77_777, 1 << 31, u32::MAX - 1, u32::MAX] {
                for changed in [0, 905, 909, 911, 924, 999, 1000, 1001] {
                    let expires_at = max_age.expires_at(user(share), at(changed));
                    for micros in [-1_000_000_000, -1, 0, 1, 1_000_000_000] {
                        let now = Timestamp::from_micros(expires_at.as_micros() + micros);
                        let too_old = is_too_old(max_age.too_old(now), user(share), at(changed));
                        assert_eq!(too_old, micros >= 0, "share {share}, changed on day {changed}, {micros} µs");
                    }
                }
            }
        }
    }
}
