//! Ending a password without setting another.

use crate::app::writer::Change;
use crate::domain::user::User;
use crate::error::Result;
use crate::store::users::user_end_password;

/// Ends the password and the device tokens of an account that is about to be saved.
pub(in crate::app) async fn end_password(change: &Change<'_>, user: &mut User) -> Result<()> {
    user.end_device_tokens(change.now);
    user.change_required = false;
    if user.password.take().is_some() {
        user.password_ended_at = Some(change.now);
        user_end_password(&change.tx, user, change.now).await?;
    }
    Ok(())
}
