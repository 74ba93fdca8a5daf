//! Changing a password by its user, as a step of a sign-in or while signed in.

use crate::app::App;
use crate::app::proving::Claim;
use crate::app::second_factor::{Checked, Coded};
use crate::app::sign_in::{Asked, Progress, Told};
use crate::app::writer::Change;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::credentials::Credentials;
use crate::domain::delivery::LetterKind;
use crate::domain::password::{PasswordFault, PlainPassword};
use crate::domain::password_hash::PasswordHash;
use crate::domain::second_factor::SecondFactorCode;
use crate::domain::secret::TicketSecret;
use crate::domain::user::{Password, PasswordKind, User};
use crate::error::{Error, Result, Unauthenticated, Unmet};
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::{ticket_end_all, ticket_lock_row};
use crate::store::users::{user_save, user_with_credentials};

/// A command to complete a sign-in with a new password.
#[derive(Debug)]
pub struct CompletePasswordChange {
    /// The ticket. `None` if what was sent cannot be one.
    pub ticket: Option<TicketSecret>,
    /// The new password.
    pub new_password: Result<PlainPassword, PasswordFault>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// A command to change the caller's own password.
#[derive(Debug)]
pub struct ChangePassword {
    /// The current password. `None` if what was sent cannot be a password, and is therefore wrong.
    pub current: Option<PlainPassword>,
    /// The new password.
    pub new_password: Result<PlainPassword, PasswordFault>,
    /// A code of the second factor.
    pub code: Option<SecondFactorCode>,
    /// Dry run: check everything but the code, which works once, and change nothing.
    pub validate_only: bool,
}

impl App {
    /// Sets a new password and signs the user in. Ends all other sessions and tickets. Returns the number of sessions that were
    /// ended. A rejected password leaves the ticket valid.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the ticket is invalid, or if the account was locked or reset since the
    /// ticket was issued.
    pub async fn complete_password_change(
        &self,
        caller: &Caller,
        command: CompletePasswordChange,
    ) -> Result<(Option<Progress>, u32)> {
        let CompletePasswordChange { ticket, new_password, validate_only } = command;
        let entry = self.enter(caller).await?;
        let proof = &self.prove_ticket(entry, ticket.as_ref(), new_password).await?;
        if validate_only {
            return Ok((None, 0));
        }
        let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
        self.write(caller, None, |mut writer| async move {
            let before = writer.unchanged_since(&proof.account).await?.ok_or_else(dead)?;
            let found = ticket_lock_row(&writer.tx, &proof.digest, proof.ticket.purpose, writer.now).await?;
            let proofs = found.ok_or_else(dead)?.proofs;
            if before.owes_second_factor(proofs) {
                return Err(dead());
            }
            let change = writer.change();
            let (after, sessions) = change_password(&change, &before, &proof.hash, Which::All).await?;
            let (_, throttle_ended) = change.clear_throttle(&before).await?;
            let told = Told {
                before: [changed_event(&after, sessions)].into_iter().chain(throttle_ended).collect(),
                after: Vec::new(),
            };
            let asked = Asked::of(&proof.ticket);
            let advanced = self.advance(change, caller, &after, proofs, asked, told).await?;
            Ok(advanced.map(|progress| (Some(progress), sessions)))
        })
        .await
    }

    /// Changes the caller's own password, and ends all other sessions and tickets. Returns the number of sessions that were
    /// ended. A wrong current password counts as a failed sign-in.
    pub async fn change_password(&self, caller: &Caller, command: ChangePassword) -> Result<u32> {
        let Principal::User { id, session_id, .. } = &caller.principal else {
            return Err(Denied::UserRequired.into());
        };
        let ChangePassword { current, new_password, code, validate_only } = command;
        let code = code.as_ref();
        let entry = self.enter(caller).await?;
        let account = user_with_credentials(self.store.reader(), *id).await?;
        let account = &account.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
        if let Some(until) = account.user.change_refused_until(self.now()) {
            return Err(Unmet::PasswordTooYoung(until).into());
        }
        let proof = &self.prove(entry, Claim::owner(account, current.as_ref())).await?;
        let hash = match App::check_code_sent(&account.user, code) {
            Ok(()) => self.hash_own(proof, current.as_ref(), new_password).await,
            Err(error) => Err(error),
        };
        let hash = &self.settle(proof, hash.map(Some)).await?;
        if validate_only {
            return self.release(&proof.attempt).await.map(|()| 0);
        }
        let changed = self.write(caller, None, |mut writer| async move {
            let Some(before) = writer.unchanged_since(account).await? else { return Ok(writer.unchanged(None)) };
            let change = writer.change();
            let more = match change.demand_code(&before, code).await? {
                Checked::Right { events, .. } => events,
                Checked::Wrong(event) => return Ok(self.code_failed(change, caller, &before, event).await?.map(Some)),
            };
            let throttle_ended = proof.attempt.succeeded(&change, &before).await?;
            let (after, sessions) = change_password(&change, &before, hash, Which::AllBut(*session_id)).await?;
            let events = changed_event(&after, sessions).and(throttle_ended).and(more);
            change.commit(events, Some(Coded::Done(sessions))).await
        });
        self.settle_coded(proof, changed.await).await
    }
}

/// Stores a password that its user chose, and ends tickets and sessions. Returns the account and the number of sessions.
async fn change_password(
    change: &Change<'_>,
    before: &User,
    hash: &PasswordHash,
    end: Which<'_>,
) -> Result<(User, u32)> {
    let mut after = before.clone();
    let (method, kind) = (hash.method(), PasswordKind::Lasting);
    after.password = Some(Password::new(method, kind, change.now, None));
    after.change_required = false;
    after.stored_throttle = None;
    let credentials = Credentials { password: Some(hash.clone()) };
    user_save(&change.tx, before, &mut after, Some(&credentials), change.now).await?;
    let sessions = session_end(&change.tx, before.id, end, change.now).await?;
    ticket_end_all(&change.tx, before.id, change.now).await?;
    change.end_links(before, None).await?;
    change.notify(&after, LetterKind::PasswordChanged).await?;
    Ok((after, sessions))
}

fn changed_event(user: &User, sessions: u32) -> Event {
    Event::new(EventType::PasswordChanged, Target::of(user)).detail("sessionsRevoked", sessions)
}
