//! Changing a password by its user, as a step of a sign-in or while signed in.

use crate::app::App;
use crate::app::sign_in::Progress;
use crate::app::writer::Change;
use crate::crypto::Priority;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::credentials::{Credentials, UserWithCredentials};
use crate::domain::password::{AcceptedPassword, PasswordFault, PlainPassword, RuleBroken};
use crate::domain::password_hash::PasswordHash;
use crate::domain::reason::Reason;
use crate::domain::secret::{Digest32, TicketSecret};
use crate::domain::ticket::{Ticket, TicketPurpose};
use crate::domain::user::{Password, PasswordKind, User};
use crate::domain::violation::Violations;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::{ticket_end_all, ticket_find, ticket_lock_row};
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
    /// Dry run: check everything and change nothing.
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
        self.check_source(caller).await?;
        let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
        let Some((digest, ticket, account)) = self.live_ticket(command.ticket.as_ref()).await? else {
            self.secret_failed(caller, Reason::TicketInvalid).await?;
            return Err(dead());
        };
        let new_password = self.accept("new_password", command.new_password)?;
        self.check_differs(&new_password, &account).await?;
        if command.validate_only {
            return Ok((None, 0));
        }
        let hash = self.hash(Priority::SignIn, new_password).await?;

        let (ticket, account, hash) = (&ticket, &account, &hash);
        self.write(caller, None, |mut writer| async move {
            let before = writer.unchanged_since(account).await?.ok_or_else(dead)?;
            let found = ticket_lock_row(&writer.tx, &digest, TicketPurpose::PasswordChange, writer.now).await?;
            found.ok_or_else(dead)?;
            let change = writer.change();
            let (after, sessions) = change_password(&change, &before, hash, Which::All).await?;
            let (_, throttle_ended) = change.clear_throttle(&before).await?;
            let (tokens, signed_in) = self.open_session(&change, caller, &after, &ticket.wish).await?;
            let events = changed_event(&after, sessions).and(throttle_ended).and(signed_in);
            change.commit(events, (Some(Progress::Tokens(tokens)), sessions)).await
        })
        .await
    }

    async fn live_ticket(
        &self,
        secret: Option<&TicketSecret>,
    ) -> Result<Option<(Digest32, Ticket, UserWithCredentials)>> {
        let Some(secret) = secret else { return Ok(None) };
        let (reader, now, digest) = (self.store.reader(), self.now(), secret.digest());
        let Some(ticket) = ticket_find(reader, &digest, TicketPurpose::PasswordChange, now).await? else {
            return Ok(None);
        };
        let account = user_with_credentials(reader, ticket.user_id).await?;
        let account = account.filter(|account| account.user.lock(now).is_none());
        Ok(account.map(|account| (digest, ticket, account)))
    }

    /// Changes the caller's own password, and ends all other sessions and tickets. Returns the number of sessions that were
    /// ended. A wrong current password counts as a failed sign-in.
    pub async fn change_password(&self, caller: &Caller, command: ChangePassword) -> Result<u32> {
        let Principal::User { id, session_id, .. } = &caller.principal else {
            return Err(Denied::UserRequired.into());
        };
        self.check_source(caller).await?;
        let new_password = self.accept("new_password", command.new_password)?;
        let account = user_with_credentials(self.store.reader(), *id).await?;
        let account = account.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
        let user = &account.user;
        let attempt = self.reserve_in_session(user).await?;
        let attempt = &attempt;
        let proved = self.prove(Priority::SignIn, command.current.as_ref(), Some(&account)).await;
        if !self.or_release(attempt, proved).await? {
            self.attempt_failed(caller, attempt, Some(user), Target::of(user), Reason::PasswordWrong).await?;
            return Err(Unauthenticated::Rejected.into());
        }
        let hash = self.prepare_change(command.current.as_ref(), new_password, command.validate_only).await;
        let Some(hash) = self.or_release(attempt, hash).await? else {
            return self.release(attempt).await.map(|()| 0);
        };
        let (account, hash) = (&account, &hash);
        let changed = self.write(caller, None, |mut writer| async move {
            let before = writer.unchanged_since(account).await?;
            let before = before.ok_or(Error::Unauthenticated(Unauthenticated::Rejected))?;
            let change = writer.change();
            let throttle_ended = attempt.succeeded(&change, &before).await?;
            let (after, sessions) = change_password(&change, &before, hash, Which::AllBut(*session_id)).await?;
            change.commit(changed_event(&after, sessions).and(throttle_ended), sessions).await
        });
        // The password was right, so this attempt must not delay the next one.
        self.or_release(attempt, changed.await).await
    }

    /// Checks that the new password differs from the current one, and hashes it. Returns `None` for a dry run.
    async fn prepare_change(
        &self,
        current: Option<&PlainPassword>,
        new_password: AcceptedPassword,
        validate_only: bool,
    ) -> Result<Option<PasswordHash>> {
        if current.is_some_and(|current| current.expose() == new_password.as_plain().expose()) {
            return Err(reused("new_password"));
        }
        if validate_only {
            return Ok(None);
        }
        self.hash(Priority::SignIn, new_password).await.map(Some)
    }

    /// Fails if the new password is the old one. Hyphens and case of a generated password make no difference.
    async fn check_differs(&self, new_password: &AcceptedPassword, account: &UserWithCredentials) -> Result<()> {
        let same = self.prove(Priority::SignIn, Some(new_password.as_plain()), Some(account)).await?;
        if same { Err(reused("new_password")) } else { Ok(()) }
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
    after.password = Some(Password { method, kind, changed_at: change.now, expires_at: None });
    after.change_required = false;
    after.stored_throttle = None;
    let credentials = Credentials { password: Some(hash.clone()) };
    user_save(&change.tx, before, &mut after, Some(&credentials), change.now).await?;
    let sessions = session_end(&change.tx, before.id, end, change.now).await?;
    ticket_end_all(&change.tx, before.id).await?;
    Ok((after, sessions))
}

fn reused(field: &str) -> Error {
    let mut violations = Violations::new();
    violations.push_error(field, &RuleBroken::Reused);
    Error::PasswordRejected(violations)
}

fn changed_event(user: &User, sessions: u32) -> Event {
    Event::new(EventType::PasswordChanged, Target::of(user)).detail("sessionsRevoked", sessions)
}
