//! Tells users by mail that their password will reach the maximum age: at the times that the policy names, once each, however
//! many replicas do so.

use std::time::Duration;

use super::super::App;
use super::super::maintenance::job;
use super::super::writer::{RolledBack, Unaudited};
use crate::domain::delivery::LetterKind;
use crate::domain::id::UserId;
use crate::domain::sign_in_policy::PasswordMaxAge;
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserKind};
use crate::error::{Error, Result};
use crate::store::deliveries::delivery_is_full;
use crate::store::password_warnings::{Warning, password_warning_save, password_warnings_due};
use crate::store::sign_in_policy::policy_read;
use crate::store::users::user_lock_row;

/// Messages that may wait when a warning is posted. Warnings can be many, and must not hold up the mail of operators.
const MAX_MESSAGES_WAITING: u64 = 500;

/// Warnings that are posted before the length of the outbox is looked at again, and before other calls have a turn.
const BATCH: u64 = 50;

/// The pause after a batch.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

impl App {
    /// Posts the warnings that are due, until none is left or the outbox is long: what is left then waits for the next time.
    pub async fn warn_of_expiry(&self) -> Result<()> {
        let policy = self.sign_in_policy().await?.password_max_age;
        let Some(max_age) = policy.in_force() else { return Ok(()) };
        if !self.sends_mail() || !self.settings.mail.notices.contains(&LetterKind::PasswordExpiring) {
            return Ok(());
        }
        // The last warning comes first: a user who is told of it needs no earlier one.
        for before in policy.warnings.before().iter().rev() {
            let mut last = None;
            loop {
                let reader = self.store.reader();
                if self.work.is_closed() || delivery_is_full(reader, MAX_MESSAGES_WAITING).await? {
                    return Ok(());
                }
                let due = password_warnings_due(reader, max_age, *before, last.as_ref(), BATCH, self.now()).await?;
                for user in &due {
                    // A row whose id cannot be read is left out, like others that cannot be read.
                    if let Ok(id) = user.id.parse() {
                        self.warn(id).await?;
                    }
                }
                if (due.len() as u64) < BATCH {
                    break;
                }
                last = due.into_iter().next_back();
                tokio::time::sleep(BETWEEN_BATCHES).await;
            }
        }
        Ok(())
    }

    /// Posts the warning that is due to a user, unless another replica did. A record that cannot be read is left out.
    async fn warn(&self, id: UserId) -> Result<()> {
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
