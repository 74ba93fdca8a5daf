//! The steps of a sign-in, which one function decides.

use super::second_factor::Proofs;
use super::time::Timestamp;
use super::user::{ChangeCause, User};

/// The next step of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Prove the second factor.
    SecondFactor,
    /// Choose a new password.
    PasswordChange(ChangeCause),
    /// Set up a second factor, which the policy asks for.
    Enrollment,
    /// No step is left: the user is signed in.
    Done,
}

impl User {
    /// The next step of a sign-in in which this has been proved. Every way to a session asks this function.
    pub fn next_step(&self, proofs: Proofs, now: Timestamp) -> Step {
        if self.owes_second_factor(proofs) {
            Step::SecondFactor
        } else if let Some(cause) = self.change_cause(now) {
            Step::PasswordChange(cause)
        } else if self.second_factor.is_none() && self.needs_second_factor(now) {
            Step::Enrollment
        } else {
            Step::Done
        }
    }

    /// Returns whether the user has a second factor that was not proved.
    pub fn owes_second_factor(&self, proofs: Proofs) -> bool {
        self.second_factor.is_some() && proofs.second_factor.is_none()
    }
}
