//! What the server takes from the outside world, so that tests can give it something else.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::domain::time::Timestamp;
use crate::entropy::{Entropy, SystemEntropy};

/// Time and randomness.
#[derive(Clone)]
pub struct Effects {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Gives random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl Effects {
    /// Those of the machine.
    pub fn system() -> Effects {
        Effects { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy::default()) }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// When to try again what was refused for want of room: one to three seconds, so that those who were refused
    /// together do not come back together.
    pub fn retry_soon(&self) -> Duration {
        let [random] = self.bytes::<1>();
        Duration::from_millis(1000 + u64::from(random) * 2000 / 255)
    }
}
