//! What the policy of signing in says of one user.

use std::time::Duration;

use super::inactivity::MaxInactivity;
use super::password_age::MaxAge;
use super::time::Timestamp;
use super::waves::Waves;

/// What the policy says of one user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserPolicy {
    /// From when on the user needs a second factor. `None` if never.
    pub second_factor_from: Option<Timestamp>,
    /// How many old passwords are refused, besides the last one.
    pub password_history: u32,
    /// How soon after a change the user may make the next one.
    pub password_min_age: Duration,
    /// When passwords expire. `None` if never.
    pub password_max_age: Option<MaxAge>,
    /// When accounts are locked that are not used. `None` if never.
    pub max_inactivity: Option<MaxInactivity>,
    /// Whether sign-ins look the password up in the list of leaked ones.
    pub checks_breached: bool,
    /// The waves in which sign-ins judge passwords that are older than the rules. `None` if they do not.
    pub judge_existing: Option<Waves>,
    /// The version of the policy.
    pub version: i64,
}
