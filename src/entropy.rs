//! Where randomness comes from.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Gives random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);
}

/// The random generator of the crypto library, seeded by the operating system.
#[derive(Debug, Default)]
pub struct SystemEntropy(SystemRandom);

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        if self.0.fill(bytes).is_err() {
            // Nothing that an identity service does is safe without randomness.
            std::process::abort();
        }
    }
}
