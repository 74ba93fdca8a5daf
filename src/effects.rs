//! What the server takes from the outside world, so that tests can give it something else.

use std::sync::Arc;

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
}
