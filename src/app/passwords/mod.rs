//! Passwords: an operator resets them, requires a change or waives it; the user changes them.

mod by_link;
mod change;
mod end;
mod judge;
mod require_change;
mod reset;
mod send_link;

pub use self::by_link::CompletePasswordReset;
pub use self::change::{ChangePassword, CompletePasswordChange};
pub(super) use self::end::end_password;
pub(super) use self::judge::Review;
pub use self::judge::{CheckPasswordStrength, Judged};
pub use self::require_change::{RequirePasswordChange, WaivePasswordChange};
pub use self::reset::{Handover, PasswordReset, ResetMethod, ResetPassword};
