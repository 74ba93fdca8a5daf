//! The policy of signing in: which users need a second factor, and from when on.

use super::role::Role;
use super::time::Timestamp;
use super::user::{Etag, User, UserKind};

/// The policy, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInPolicy {
    /// Whether everybody needs a second factor.
    pub second_factor_required: bool,
    /// The roles whose members need one.
    pub second_factor_roles: Vec<Role>,
    /// From when on. `None`: at once.
    pub second_factor_from: Option<Timestamp>,
    /// Incremented by each change.
    pub version: i64,
}

impl SignInPolicy {
    /// The current etag.
    pub fn etag(&self) -> Etag {
        Etag(self.version)
    }

    /// From when on a person with these roles needs a second factor. `None` if never.
    pub fn required_from(&self, roles: &[Role]) -> Option<Timestamp> {
        let applies = self.second_factor_required || roles.iter().any(|role| self.second_factor_roles.contains(role));
        applies.then(|| self.second_factor_from.unwrap_or(Timestamp::from_micros(0)))
    }
}

impl User {
    /// Returns whether the policy asks the user for a second factor at `now`.
    pub fn needs_second_factor(&self, now: Timestamp) -> bool {
        self.second_factor_from().is_some_and(|from| from <= now)
    }

    /// From when on the policy asks the user for a second factor. `None` if never.
    pub fn second_factor_from(&self) -> Option<Timestamp> {
        self.policy.second_factor_from.filter(|_| self.kind == UserKind::Person)
    }

    /// Returns whether the policy asks the user for a second factor, now or later, and there is none.
    pub fn is_second_factor_missing(&self) -> bool {
        self.second_factor_from().is_some() && self.second_factor.is_none()
    }
}
