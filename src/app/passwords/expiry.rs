//! Tells users by mail that their password will reach the maximum age.

use super::super::App;
use super::super::maintenance::job;
use super::super::warnings::End;
use super::super::writer::{RolledBack, Unaudited};
use crate::domain::delivery::LetterKind;
use crate::domain::id::UserId;
use crate::domain::sign_in_policy::PasswordMaxAge;
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserKind};
use crate::error::{Error, Result};
use crate::store::password_warnings::{Warning, password_warning_save};
use crate::store::sign_in_policy::policy_read;
use crate::store::users::user_lock_row;

impl App {
    /// Posts the warnings that are due.
    pub async fn warn_of_expiry(&self) -> Result<()> {
        let policy = self.sign_in_policy().await?.password_max_age;
        let Some(max_age) = policy.in_force() else { return Ok(()) };
        self.post_warnings(End::Password(max_age), &policy.warnings).await
    }

    /// Posts the warning that is due to a user, unless another replica did. A record that cannot be read is left out.
    pub(in crate::app) async fn warn_of_password(&self, id: UserId) -> Result<()> {
        let caller = job("job/warn-of-expiry");
        let warned = self.write(&caller, None, |writer| async move {
            let Some(user) = user_lock_row(&writer.tx, id).await? else { return Ok(writer.unchanged(())) };
            let change = writer.change();
            let policy = policy_read(&change.tx).await?.password_max_age;
            let Some(warning) = warning_due(&user, &policy, change.now) else {
                return Ok(change.roll_back(RolledBack::NothingDue, ()));
            };
            if !password_warning_save(&change.tx, id, warning).await? {
                return Ok(change.roll_back(RolledBack::NothingDue, ()));
            }
            change.notify(&user, LetterKind::PasswordExpiring).await?;
            change.commit_unaudited(Unaudited::Warning, ()).await
        });
        match warned.await {
            Err(Error::Corrupt { .. }) => Ok(()),
            warned => warned,
        }
    }
}

/// The warning that is due to a user at `now`. `None` if the account is locked, is not a person's or has no address, or if the
/// end of the password is far away or has passed.
fn warning_due(user: &User, policy: &PasswordMaxAge, now: Timestamp) -> Option<Warning> {
    let is_told = user.kind == UserKind::Person && user.email.is_some() && user.lock(now).is_none();
    let ends_at = user.password_expires_at().filter(|at| is_told && *at > now)?;
    let before = policy.warnings.due(ends_at.duration_since(now))?;
    Some(Warning { changed_at: user.password.as_ref()?.changed_at, max_age: policy.in_force()?, before })
}
