//! Tells users by mail of an end before it comes: at the times that the policy names, once each, however many replicas do so.

use std::time::Duration;

use super::App;
use super::maintenance::job;
use super::writer::{Change, RolledBack, Unaudited};
use crate::domain::delivery::LetterKind;
use crate::domain::id::UserId;
use crate::domain::inactivity::MaxInactivity;
use crate::domain::password_age::MaxAge;
use crate::domain::sign_in_policy::{Inactivity, PasswordMaxAge, Warnings};
use crate::domain::user::{User, UserKind};
use crate::error::{Error, Result};
use crate::store::Due;
use crate::store::deliveries::delivery_is_full;
use crate::store::inactivity::{self, inactivity_warning_save, inactivity_warnings_due};
use crate::store::password_warnings::{self, password_warning_save, password_warnings_due};
use crate::store::sign_in_policy::policy_read;

/// Messages that may wait when a warning is posted. Warnings can be many, and must not hold up the mail of operators.
const MAX_MESSAGES_WAITING: u64 = 500;

/// Warnings that are posted before the length of the outbox is looked at again.
const BATCH: u64 = 250;

/// The pause after a batch.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

/// An end that users are told of.
#[derive(Clone, Copy)]
enum End {
    /// Passwords reach the maximum age.
    Password(MaxAge),
    /// Accounts that are not used are locked.
    Account(MaxInactivity),
}

impl End {
    fn job(self) -> &'static str {
        match self {
            End::Password(_) => "job/warn-of-expiry",
            End::Account(_) => "job/warn-of-inactivity",
        }
    }

    fn notice(self) -> LetterKind {
        match self {
            End::Password(_) => LetterKind::PasswordExpiring,
            End::Account(_) => LetterKind::AccountInactive,
        }
    }
}

impl App {
    /// Returns whether users get notices of this kind.
    pub(super) fn sends_notice(&self, kind: LetterKind) -> bool {
        self.sends_mail() && self.settings.mail.notices.contains(&kind)
    }

    /// Tells users that their password will reach the maximum age.
    pub async fn warn_of_expiry(&self) -> Result<()> {
        let policy = self.sign_in_policy().await?.password_max_age;
        let Some(max_age) = policy.in_force() else { return Ok(()) };
        self.post_warnings(End::Password(max_age), &policy.warnings).await
    }

    /// Tells users that their account will be locked because it is not used.
    pub async fn warn_of_inactivity(&self) -> Result<()> {
        let policy = self.sign_in_policy().await?.inactivity;
        let Some(max) = policy.in_force() else { return Ok(()) };
        self.post_warnings(End::Account(max), &policy.warnings).await
    }

    /// Posts the warnings of an end that are due, until none is left or the outbox is long: what is left then waits for the next
    /// time.
    async fn post_warnings(&self, end: End, warnings: &Warnings) -> Result<()> {
        if !self.sends_notice(end.notice()) {
            return Ok(());
        }
        // The last warning comes first: a user who is told of it needs no earlier one.
        for before in warnings.before().iter().rev() {
            let mut last = None;
            loop {
                if self.work.is_closed() || delivery_is_full(self.store.reader(), MAX_MESSAGES_WAITING).await? {
                    return Ok(());
                }
                let batch = self.warnings_due(end, *before, last.as_ref()).await?;
                for user in &batch {
                    // A row whose id cannot be read is left out, like others that cannot be read.
                    if let Ok(id) = user.id.parse() {
                        self.warn(end, id).await?;
                    }
                }
                if (batch.len() as u64) < BATCH {
                    break;
                }
                last = batch.into_iter().next_back();
                tokio::time::sleep(BETWEEN_BATCHES).await;
            }
        }
        Ok(())
    }

    async fn warnings_due(&self, end: End, before: Duration, last: Option<&Due>) -> Result<Vec<Due>> {
        let (reader, now) = (self.store.reader(), self.now());
        match end {
            End::Password(max_age) => password_warnings_due(reader, max_age, before, last, BATCH, now).await,
            End::Account(max) => inactivity_warnings_due(reader, max, before, last, BATCH, now).await,
        }
    }

    /// Posts the warning that is due to a user, unless another replica did. A record that cannot be read is left out.
    async fn warn(&self, end: End, id: UserId) -> Result<()> {
        let caller = job(end.job());
        let warned = self.write(&caller, None, |mut writer| async move {
            let Some(user) = writer.locked(id).await? else { return Ok(writer.unchanged(())) };
            let change = writer.change();
            let policy = policy_read(&change.tx).await?;
            let is_due = match end {
                End::Password(_) => change.record_password_warning(&user, &policy.password_max_age).await?,
                End::Account(_) => change.record_lock_warning(&user, &policy.inactivity).await?,
            };
            if !is_due {
                return Ok(change.roll_back(RolledBack::NothingDue, ()));
            }
            change.notify(&user, end.notice()).await?;
            change.commit_unaudited(Unaudited::Warning, ()).await
        });
        match warned.await {
            Err(Error::Corrupt { .. }) => Ok(()),
            warned => warned,
        }
    }
}

impl Change<'_> {
    /// Records the warning of the end of a password, if one is due that was not recorded. None is due if the account is locked, is
    /// not a person's or has no address, or if the end is far away or has passed.
    async fn record_password_warning(&self, user: &User, policy: &PasswordMaxAge) -> Result<bool> {
        let is_told = user.kind == UserKind::Person && user.email.is_some() && user.lock(self.now).is_none();
        let ends_at = user.password_expires_at().filter(|at| is_told && *at > self.now);
        let before = ends_at.and_then(|at| policy.warnings.due(at.duration_since(self.now)));
        let (Some(before), Some(max_age), Some(password)) = (before, policy.in_force(), &user.password) else {
            return Ok(false);
        };
        let warning = password_warnings::Warning { changed_at: password.changed_at, max_age, before };
        password_warning_save(&self.tx, user.id, warning).await
    }

    /// Does the same for the lock of an account that is not used. None is due to the last administrator, who is never locked.
    async fn record_lock_warning(&self, user: &User, policy: &Inactivity) -> Result<bool> {
        let is_told = user.email.is_some() && user.lock(self.now).is_none();
        let locks_at = user.inactive_from().filter(|at| is_told && *at > self.now);
        let before = locks_at.and_then(|at| policy.warnings.due(at.duration_since(self.now)));
        let (Some(before), Some(max)) = (before, policy.in_force()) else { return Ok(false) };
        let warning = inactivity::Warning { active_at: user.active_at(), max, before };
        Ok(self.may_lock(user).await? && inactivity_warning_save(&self.tx, user.id, warning).await?)
    }
}
