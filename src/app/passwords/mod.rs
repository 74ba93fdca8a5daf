//! Passwords: reset by an operator, demanded, waived, changed.

mod change;
mod demand;
mod reset;

use std::time::Duration;

pub use self::change::{ChangePassword, CompletePasswordChange};
pub use self::demand::{RequirePasswordChange, WaivePasswordChange};
pub use self::reset::{PasswordReset, ResetMethod, ResetPassword};
use super::{App, Settings};
use crate::domain::password::PlainPassword;
use crate::domain::time::Timestamp;
use crate::domain::violation::Violations;
use crate::error::{Error, Result};

/// How long a password works that an operator chose: it is known to somebody else, like a temporary one, and has to
/// last over a weekend.
const CHOSEN_PASSWORD_TTL: Duration = Duration::from_hours(72);

impl App {
    /// Judges a new password by the rules: every one that it breaks is named.
    pub(super) fn judge_password(&self, field: &str, password: &PlainPassword) -> Result<()> {
        let mut violations = Violations::new();
        for broken in self.settings.password_rules.judge(password) {
            violations.push_error(field, &broken);
        }
        violations.finish().map_err(Error::PasswordRejected)
    }
}

/// When a generated password stops working.
pub(super) fn temporary_password_expiry(settings: &Settings, ttl: Option<Duration>, now: Timestamp) -> Timestamp {
    now.saturating_add(ttl.unwrap_or(settings.temporary_password_ttl))
}

/// When a password that an operator chose stops working.
pub(super) fn chosen_password_expiry(now: Timestamp) -> Timestamp {
    now.saturating_add(CHOSEN_PASSWORD_TTL)
}
