//! Changing a password, by its user: as a step of signing in, or signed in.

use crate::app::App;
use crate::app::sign_in::{Progress, signed_in_event};
use crate::app::writer::Writer;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::password::{PasswordFault, PlainPassword, RuleBroken};
use crate::domain::reason::Reason;
use crate::domain::secret::{Digest32, TicketSecret};
use crate::domain::ticket::{Ticket, TicketPurpose};
use crate::domain::user::{PasswordKind, StoredPassword, User};
use crate::domain::violation::Violations;
use crate::error::{Error, Result, Unauthenticated};
use crate::metrics::Lane;
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::{ticket_end_all, ticket_find, ticket_lock_row};
use crate::store::users::{user_by_id, user_save};

/// Answer a password-change step.
#[derive(Debug)]
pub struct CompletePasswordChange {
    /// None: what was sent cannot be a ticket.
    pub ticket: Option<TicketSecret>,
    /// The password to be.
    pub new_password: Result<PlainPassword, PasswordFault>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

/// Change one's own password.
#[derive(Debug)]
pub struct ChangePassword {
    /// None: what was sent cannot be a password, and is wrong.
    pub current: Option<PlainPassword>,
    /// The password to be.
    pub new_password: Result<PlainPassword, PasswordFault>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

impl App {
    /// Answers a password-change step with a new password, and signs in. A rejected password burns nothing.
    pub async fn complete_password_change(
        &self,
        caller: &Caller,
        command: CompletePasswordChange,
    ) -> Result<(Option<Progress>, u32)> {
        self.check_source(caller).await?;
        let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
        let Some((digest, ticket, user)) = self.live_ticket(command.ticket.as_ref()).await? else {
            self.secret_failed(caller, Reason::TicketInvalid).await?;
            return Err(dead());
        };
        let new_password = self.judge_new_password(command.new_password)?;
        self.check_differs(&new_password, &user).await?;
        if command.validate_only {
            return Ok((None, 0));
        }
        let hash = self.hasher.hash(Lane::SignIn, new_password).await?;

        let (ticket, user, hash) = (&ticket, &user, &hash);
        self.write(caller, None, |mut writer| async move {
            let before = writer.unchanged(user).await?.ok_or_else(dead)?;
            let found = ticket_lock_row(&*writer.tx, &digest, TicketPurpose::PasswordChange, writer.now).await?;
            found.ok_or_else(dead)?;
            let (after, sessions) = change_password(&writer, &before, hash.clone(), Which::All).await?;
            let (_, wait_ended) = writer.clear_throttle(&before).await?;
            let (session, mut events) = self.open_session(&writer, caller, &after, &ticket.wish).await?;
            let tokens = self.tokens(&session, &after, &ticket.wish, writer.now)?;
            events.extend(wait_ended);
            events.push(signed_in_event(&after).about(session.id));
            writer.commit(changed_event(&after, sessions), events).await?;
            Ok((Some(Progress::Tokens(tokens)), sessions))
        })
        .await
    }

    async fn live_ticket(&self, secret: Option<&TicketSecret>) -> Result<Option<(Digest32, Ticket, User)>> {
        let Some(secret) = secret else { return Ok(None) };
        let (reader, now, digest) = (self.store.reader(), self.now(), secret.digest());
        let Some(ticket) = ticket_find(reader, &digest, TicketPurpose::PasswordChange, now).await? else {
            return Ok(None);
        };
        let user = user_by_id(reader, ticket.user_id).await?.filter(|user| user.lock(now).is_none());
        Ok(user.map(|user| (digest, ticket, user)))
    }

    /// Changes the caller's own password, given the current one, and ends the other sessions.
    pub async fn change_password(&self, caller: &Caller, command: ChangePassword) -> Result<u32> {
        let Principal::User { id, session_id, .. } = &caller.principal else {
            return Err(Denied::UserRequired.into());
        };
        self.check_source(caller).await?;
        let new_password = self.judge_new_password(command.new_password)?;
        let user = user_by_id(self.store.reader(), *id).await?;
        let user = user.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
        let attempt = self.reserve(self.account_of(Some(&user), user.username.as_str())).await?;
        let attempt = &attempt;
        match self.prove(Lane::SignIn, command.current.as_ref(), Some(&user)).await {
            Ok(true) => {}
            Ok(false) => {
                let target = Target::user(user.id, user.username.as_str());
                self.attempt_failed(caller, attempt, Some(&user), target, Reason::PasswordWrong).await?;
                return Err(Unauthenticated::Rejected.into());
            }
            Err(error) => return Err(self.release_after(attempt, error).await),
        }
        let prepared = self.prepare_change(command.current.as_ref(), new_password, command.validate_only).await;
        let hash = match prepared {
            Ok(Some(hash)) => hash,
            Ok(None) => return self.release(attempt).await.map(|()| 0),
            Err(error) => return Err(self.release_after(attempt, error).await),
        };
        let (user, hash) = (&user, &hash);
        let changed = self.write(caller, None, |mut writer| async move {
            let before = writer.unchanged(user).await?.ok_or(Error::Unauthenticated(Unauthenticated::Rejected))?;
            let wait_over = attempt.succeeded(&writer.tx, &before).await?;
            let (after, sessions) = change_password(&writer, &before, hash.clone(), Which::AllBut(*session_id)).await?;
            writer.commit(changed_event(&after, sessions), wait_over).await?;
            Ok(sessions)
        });
        match changed.await {
            Ok(sessions) => Ok(sessions),
            // The password was right: the attempt must not stand in the way of the next one.
            Err(error) => Err(self.release_after(attempt, error).await),
        }
    }

    /// Checks that the new password is another one, and hashes it. None: only checking was asked for.
    async fn prepare_change(
        &self,
        current: Option<&PlainPassword>,
        new_password: PlainPassword,
        validate_only: bool,
    ) -> Result<Option<String>> {
        if current.is_some_and(|current| current.expose() == new_password.expose()) {
            return Err(reused("new_password"));
        }
        if validate_only {
            return Ok(None);
        }
        self.hasher.hash(Lane::SignIn, new_password).await.map(Some)
    }

    fn judge_new_password(&self, parsed: Result<PlainPassword, PasswordFault>) -> Result<PlainPassword> {
        let mut violations = Violations::new();
        match parsed {
            Ok(password) => {
                self.judge_password("new_password", &password)?;
                return Ok(password);
            }
            Err(PasswordFault::NotText) => violations.push_error("new_password", &RuleBroken::NotText),
            Err(fault) => {
                violations.push_error("new_password", &fault);
                return Err(Error::InvalidInput(violations));
            }
        }
        Err(Error::PasswordRejected(violations))
    }

    /// A new password differs from the old one, however it is typed.
    async fn check_differs(&self, new_password: &PlainPassword, user: &User) -> Result<()> {
        let same = self.prove(Lane::SignIn, Some(new_password), Some(user)).await?;
        if same { Err(reused("new_password")) } else { Ok(()) }
    }
}

/// Writes a password that its user chose, and ends what rested on the old one. Answers how many sessions that were.
async fn change_password(writer: &Writer<'_>, before: &User, hash: String, end: Which<'_>) -> Result<(User, u32)> {
    let mut after = before.clone();
    after.password =
        Some(StoredPassword { hash, kind: PasswordKind::Lasting, changed_at: writer.now, expires_at: None });
    after.change_demanded = false;
    after.stored_throttle = None;
    user_save(&*writer.tx, before, &mut after, writer.now).await?;
    let sessions = session_end(&*writer.tx, before.id, end, writer.now).await?;
    ticket_end_all(&writer.tx, before.id).await?;
    Ok((after, sessions))
}

fn reused(field: &str) -> Error {
    let mut violations = Violations::new();
    violations.push_error(field, &RuleBroken::Reused);
    Error::PasswordRejected(violations)
}

fn changed_event(user: &User, sessions: u32) -> Event {
    Event::new(EventType::PasswordChanged, Target::user(user.id, user.username.as_str()))
        .detail("sessionsRevoked", sessions)
}
