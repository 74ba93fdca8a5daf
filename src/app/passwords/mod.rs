//! Passwords: an operator resets them, requires a change or waives it; the user changes them.

mod change;
mod require_change;
mod reset;

pub use self::change::{ChangePassword, CompletePasswordChange};
pub use self::require_change::{RequirePasswordChange, WaivePasswordChange};
pub use self::reset::{PasswordReset, ResetPassword};
