//! Waves in which a stricter policy reaches the users there are, so that not all of them come to the helpdesk on one day.

use std::time::Duration;

use super::id::UserId;
use super::time::Timestamp;

/// Values of the first bytes of an id, which put a user into a wave.
const SHARES: u128 = 1 << 32;

/// Waves that are spread by the id of the user, which is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waves {
    /// When the first wave comes.
    pub begin: Timestamp,
    /// The time from the first wave to the last.
    pub length: Duration,
}

/// The waves that have come at some instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wave {
    /// None of them.
    None,
    /// Those of the users with lower ids.
    Below(UserId),
    /// All of them.
    All,
}

impl Waves {
    /// When the wave of a user comes.
    pub fn of(&self, user: UserId) -> Timestamp {
        let [a, b, c, d, ..] = *user.as_bytes();
        let share = u128::from(u32::from_be_bytes([a, b, c, d]));
        let micros = self.length.as_micros().saturating_mul(share) / SHARES;
        let within = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.begin.saturating_add(within)
    }

    /// The waves that have come at `now`.
    pub fn at(&self, now: Timestamp) -> Wave {
        if now < self.begin {
            return Wave::None;
        }
        let elapsed = now.duration_since(self.begin).as_micros();
        // Shares below this have `share * length / SHARES <= elapsed`.
        let below = (elapsed.saturating_add(1).saturating_mul(SHARES)).div_ceil(self.length.as_micros().max(1));
        match u32::try_from(below) {
            Ok(below) => {
                let [a, b, c, d] = below.to_be_bytes();
                Wave::Below(UserId::from_bytes([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
            }
            Err(_) => Wave::All,
        }
    }
}
