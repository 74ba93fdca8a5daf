//! Tells users by mail of an end before it comes: at the times that the policy names, once each, however many replicas do so.

use std::time::Duration;

use super::App;
use crate::domain::delivery::LetterKind;
use crate::domain::inactivity::MaxInactivity;
use crate::domain::password_age::MaxAge;
use crate::domain::sign_in_policy::Warnings;
use crate::error::Result;
use crate::store::Due;
use crate::store::deliveries::delivery_is_full;
use crate::store::inactivity::inactivity_warnings_due;
use crate::store::password_warnings::password_warnings_due;

/// Messages that may wait when a warning is posted. Warnings can be many, and must not hold up the mail of operators.
const MAX_MESSAGES_WAITING: u64 = 500;

/// Warnings that are posted before the length of the outbox is looked at again.
const BATCH: u64 = 250;

/// The pause after a batch.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

/// An end that users are told of.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// Passwords reach the maximum age.
    Password(MaxAge),
    /// Accounts that are not used are locked.
    Account(MaxInactivity),
}

impl End {
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

    /// Posts the warnings of an end that are due, until none is left or the outbox is long: what is left then waits for the next
    /// time.
    pub(super) async fn post_warnings(&self, end: End, warnings: &Warnings) -> Result<()> {
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
                        match end {
                            End::Password(_) => self.warn_of_password(id).await?,
                            End::Account(_) => self.warn_of_lock(id).await?,
                        }
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
}
