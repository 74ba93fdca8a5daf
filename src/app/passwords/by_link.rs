//! Choosing a password with a link.

use crate::app::App;
use crate::app::second_factor::{Checked, Coded};
use crate::app::writer::Change;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::credentials::Credentials;
use crate::domain::delivery::LetterKind;
use crate::domain::link::Link;
use crate::domain::password::{PasswordFault, PlainPassword};
use crate::domain::password_hash::PasswordHash;
use crate::domain::second_factor::SecondFactorCode;
use crate::domain::secret::LinkSecret;
use crate::domain::user::{Password, PasswordKind, User};
use crate::error::{Error, Result, Unauthenticated};
use crate::store::familiar::place_forget_all;
use crate::store::links::link_consume;
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

/// A command to choose a password with a link.
#[derive(Debug)]
pub struct CompletePasswordReset {
    /// The secret of the link. `None` if what was sent cannot be one.
    pub link: Option<LinkSecret>,
    /// The new password.
    pub new_password: Result<PlainPassword, PasswordFault>,
    /// A code of the second factor.
    pub code: Option<SecondFactorCode>,
    /// Dry run: check everything but the code, which works once, and change nothing.
    pub validate_only: bool,
}

impl App {
    /// Sets a new password with a link, and uses the link up. Ends all other links, sessions, tickets and device tokens, and
    /// lifts a throttle and a lock for failed sign-ins. Makes no session. Returns the number of sessions that were ended. A
    /// rejected password or code leaves the link as it is.
    ///
    /// Fails with [`Unauthenticated::LinkInvalid`] if the link does not work.
    pub async fn complete_password_reset(&self, caller: &Caller, command: CompletePasswordReset) -> Result<u32> {
        let CompletePasswordReset { link, new_password, code, validate_only } = command;
        let code = code.as_ref();
        let entry = self.enter(caller).await?;
        let proof = &self.prove_link(entry, link.as_ref(), new_password, code).await?;
        if validate_only {
            return Ok(0);
        }
        let dead = || Error::Unauthenticated(Unauthenticated::LinkInvalid);
        let done = self.write(caller, None, |mut writer| async move {
            let before = writer.locked(proof.link.user_id).await?.ok_or_else(dead)?;
            let change = writer.change();
            if !before.can_use(&proof.link, change.now) {
                return Err(dead());
            }
            let more = match change.demand_code(&before, code).await? {
                Checked::Right { events, .. } => events,
                Checked::Wrong(event) => return self.code_failed(change, caller, &before, event).await,
            };
            if !link_consume(&change.tx, proof.link.id, change.now).await? {
                return Err(dead());
            }
            let (after, sessions) = set_password(&change, &before, &proof.link, &proof.hash).await?;
            let (_, throttle_ended) = change.clear_throttle(&before).await?;
            self.remember_place(&change, caller, &after).await?;
            change.notify(&after, LetterKind::PasswordChanged).await?;
            let event = Event::new(EventType::PasswordResetCompleted, Target::of(&after))
                .detail("purpose", proof.link.purpose.as_str())
                .detail("sessionsRevoked", sessions)
                .detail("lockLifted", before.lock(change.now).is_some());
            change.commit(event.and(throttle_ended).and(more), Coded::Done(sessions)).await
        });
        done.await?.answer()
    }
}

/// Stores the password, and ends what the old one gave access to. Returns the account and the number of sessions.
async fn set_password(change: &Change<'_>, before: &User, link: &Link, hash: &PasswordHash) -> Result<(User, u32)> {
    let mut after = before.clone();
    let (method, kind) = (hash.method(), PasswordKind::Lasting);
    after.password = Some(Password::new(method, kind, change.now, None));
    if before.password.is_none() {
        after.active_from = Some(change.now);
    }
    after.change_required = false;
    after.stored_lock = None;
    after.stored_throttle = None;
    after.end_device_tokens(change.now);
    if link.address.is_some() {
        // Only the owner of the mailbox has a link that was mailed.
        after.email_verified_at = Some(change.now);
    }
    let credentials = Credentials { password: Some(hash.clone()) };
    user_save(&change.tx, before, &mut after, Some(&credentials), change.now).await?;
    let sessions = session_end(&change.tx, before.id, Which::All, change.now).await?;
    ticket_end_all(&change.tx, before.id, change.now).await?;
    // One of them may be an intruder's.
    place_forget_all(&change.tx, before.id).await?;
    change.end_links(&after, None).await?;
    Ok((after, sessions))
}
