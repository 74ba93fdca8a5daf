//! Passwords: reset by an operator, change required and waived, changed by the user.

mod change;
mod demand;
mod reset;

pub use self::change::{ChangePassword, CompletePasswordChange};
pub use self::demand::{RequirePasswordChange, WaivePasswordChange};
pub use self::reset::{PasswordReset, ResetPassword};
