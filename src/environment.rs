//! The server's access to time and randomness, which tests can replace.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::domain::time::Timestamp;
use crate::entropy::{Entropy, SystemEntropy};

/// Time and randomness.
#[derive(Clone)]
pub struct Environment {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Gives random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl Environment {
    /// Uses the clock and random generator of the machine.
    pub fn system() -> Environment {
        Environment { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy::default()) }
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// Delay before a call refused for lack of capacity may be retried: one to three seconds, randomised so that
    /// refused clients do not all return at once.
    pub fn retry_soon(&self) -> Duration {
        let [random] = self.bytes::<1>();
        Duration::from_millis(1000 + u64::from(random) * 2000 / 255)
    }
}
