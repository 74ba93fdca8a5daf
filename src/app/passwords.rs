//! Passwords: reset by an operator, demanded, waived, changed.

use std::time::Duration;

use super::sign_in::{Progress, signed_in_event};
use super::users::{Idempotency, key_use};
use super::writer::Writer;
use super::{App, Settings};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::idempotency::Remembered;
use crate::domain::lockout::LockCause;
use crate::domain::password::{PasswordFault, PlainPassword, RuleBroken};
use crate::domain::profile::Note;
use crate::domain::reason::Reason;
use crate::domain::secret::{Digest32, TicketSecret};
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::ticket::{Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, Etag, PasswordKind, StoredPassword, User, UserKind, UserRef};
use crate::domain::violation::Violations;
use crate::error::{Error, Result, Unauthenticated, Unmet};
use crate::metrics::Lane;
use crate::store::idempotency::idempotency_insert;
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::{ticket_end_all, ticket_find, ticket_lock_row};
use crate::store::users::{user_by_id, user_save};

/// How long a password works that an operator chose: it is known to somebody else, like a temporary one, and has to
/// last over a weekend.
const CHOSEN_PASSWORD_TTL: Duration = Duration::from_hours(72);

/// How a password is reset.
#[derive(Debug)]
pub enum ResetMethod {
    /// The server generates one.
    Temporary {
        /// How long it works.
        ttl: Option<Duration>,
    },
    /// The caller chose one.
    Set {
        /// It.
        password: PlainPassword,
    },
}

/// Give a user a way to a new password.
#[derive(Debug)]
pub struct ResetPassword {
    /// Whom.
    pub user: UserRef,
    /// How.
    pub method: ResetMethod,
    /// Lift a lock as well, whatever its cause.
    pub unlock: bool,
    /// Why, in words.
    pub note: Option<Note>,
    /// If given, must match.
    pub etag: Option<Etag>,
    /// What makes a retry safe.
    pub idempotency: Option<Idempotency>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

/// What a reset did.
#[derive(Debug)]
pub struct PasswordReset {
    /// The account as it is now.
    pub user: User,
    /// Shown once.
    pub temporary_password: Option<TemporaryPassword>,
    /// When the password stops working.
    pub expires_at: Option<Timestamp>,
    /// What else happened.
    pub effects: Effects,
    /// This repeats an earlier call: nothing was done again.
    pub replayed: bool,
}

/// Make the next sign-in change the password.
#[derive(Debug)]
pub struct RequirePasswordChange {
    /// Whom.
    pub user: UserRef,
    /// Also end the sessions, so that the next sign-in is soon.
    pub revoke_sessions: bool,
    /// Why, in words.
    pub note: Option<Note>,
    /// If given, must match.
    pub etag: Option<Etag>,
}

/// Take that back.
#[derive(Debug)]
pub struct WaivePasswordChange {
    /// Whom.
    pub user: UserRef,
    /// Why, in words.
    pub note: Option<Note>,
    /// If given, must match.
    pub etag: Option<Etag>,
}

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
    /// Resets a password: the old one, sessions, tickets and a wait after wrong passwords end at once, and a lock for
    /// failed sign-ins is lifted. Any other lock is an error, unless `unlock` is set.
    pub async fn reset_password(&self, caller: &Caller, command: ResetPassword) -> Result<PasswordReset> {
        if let ResetMethod::Set { password } = &command.method {
            self.judge_password("set_password.password", password)?;
        }
        let body = command.idempotency.as_ref().map(|retry| self.body_digest(retry));
        if let Some(answer) = self.replayed_reset(caller, &command, body.as_ref()).await? {
            return Ok(answer);
        }
        // Rights and state are looked at before the costly hash, and again in the transaction.
        self.check_reset(caller, &command).await?;
        let now = self.now();
        let (password, temporary_password) = self.reset_to(&command.method, now).await?;
        let expires_at = password.expires_at;

        let (command, password, body) = (&command, &password, body.as_ref());
        let done = self.write(caller, Some(&command.user), |writer| async move {
            let before = resettable(&writer, command).await?;
            let (after, effects, wait_ended) = self.write_reset(&writer, &before, password).await?;
            if command.validate_only {
                return Ok(Some((after, effects)));
            }
            if let (Some(retry), Some(body)) = (&command.idempotency, body) {
                let expires_at = expires_at.map(Timestamp::as_micros);
                let answer = Remembered { user_id: after.id.to_string(), expires_at, effects };
                if !idempotency_insert(&*writer.tx, &key_use(caller, retry, body), &answer, writer.now).await? {
                    return Ok(None);
                }
            }
            writer.commit(reset_event(&after, command, &effects), wait_ended).await?;
            Ok(Some((after, effects)))
        });
        if let Some((user, effects)) = done.await? {
            let temporary_password = temporary_password.filter(|_| !command.validate_only);
            if !command.validate_only {
                self.metrics.password_reset();
            }
            return Ok(PasswordReset { user, temporary_password, expires_at, effects, replayed: false });
        }
        // Another call with the same key was quicker: its answer is this one's.
        let answer = self.replayed_reset(caller, command, body).await?;
        answer.ok_or_else(|| Error::internal("an idempotency key was lost"))
    }

    async fn check_reset(&self, caller: &Caller, command: &ResetPassword) -> Result<()> {
        self.write(caller, Some(&command.user), |writer| async move { resettable(&writer, command).await.map(|_| ()) })
            .await
    }

    async fn reset_to(
        &self,
        method: &ResetMethod,
        now: Timestamp,
    ) -> Result<(StoredPassword, Option<TemporaryPassword>)> {
        match method {
            ResetMethod::Temporary { ttl } => {
                let generated = self.generate_password();
                let hash = self.hasher.hash(Lane::Operator, generated.to_plain()).await?;
                let expires_at = Some(temporary_password_expiry(&self.settings, *ttl, now));
                let kind = PasswordKind::Generated;
                Ok((StoredPassword { hash, kind, changed_at: now, expires_at }, Some(generated)))
            }
            ResetMethod::Set { password } => {
                let hash = self.hasher.hash(Lane::Operator, password.copy()).await?;
                let expires_at = Some(chosen_password_expiry(now));
                Ok((StoredPassword { hash, kind: PasswordKind::Chosen, changed_at: now, expires_at }, None))
            }
        }
    }

    async fn write_reset(
        &self,
        writer: &Writer<'_>,
        before: &User,
        password: &StoredPassword,
    ) -> Result<(User, Effects, Option<Event>)> {
        let mut after = before.clone();
        after.password = Some(password.clone());
        after.change_demanded = false;
        after.stored_lock = None;
        after.stored_throttle = None;
        user_save(&*writer.tx, before, &mut after, writer.now).await?;
        let sessions = session_end(&*writer.tx, before.id, Which::All, writer.now).await?;
        ticket_end_all(&*writer.tx, before.id).await?;
        let (throttle_cleared, wait_ended) = writer.clear_throttle(before).await?;
        let effects = Effects {
            password_ended: before.password.is_some(),
            throttle_cleared,
            lock_lifted: before.lock(writer.now).is_some(),
            ..self.effects_of_ending(sessions, writer.now)
        };
        Ok((after, effects, wait_ended))
    }

    async fn replayed_reset(
        &self,
        caller: &Caller,
        command: &ResetPassword,
        body: Option<&Digest32>,
    ) -> Result<Option<PasswordReset>> {
        let (Some(retry), Some(body)) = (&command.idempotency, body) else { return Ok(None) };
        let Some((user, answer)) = self.replayed(caller, retry, body).await? else { return Ok(None) };
        Ok(Some(PasswordReset {
            user,
            temporary_password: None,
            expires_at: answer.expires_at.map(Timestamp::from_micros),
            effects: answer.effects,
            replayed: true,
        }))
    }

    /// Demands a change at the next sign-in. The old password still proves who the user is.
    pub async fn require_password_change(
        &self,
        caller: &Caller,
        command: RequirePasswordChange,
    ) -> Result<(User, Effects)> {
        let command = &command;
        self.write(caller, Some(&command.user), |writer| async move {
            let before = writer.target(&command.user).await?;
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            match (before.kind, &before.password) {
                (UserKind::Service, _) => return Err(Unmet::UserIsService.into()),
                (UserKind::Person, None) => return Err(Unmet::UserPending.into()),
                (UserKind::Person, Some(_)) => {}
            }
            let mut after = before.clone();
            if !before.change_demanded {
                after.change_demanded = true;
                user_save(&*writer.tx, &before, &mut after, writer.now).await?;
            }
            let sessions = if command.revoke_sessions {
                session_end(&*writer.tx, before.id, Which::All, writer.now).await?
            } else {
                0
            };
            let event = Event::new(EventType::PasswordChangeRequired, Target::user(after.id, after.username.as_str()))
                .note(command.note.as_ref())
                .detail("sessionsRevoked", sessions);
            let effects = self.effects_of_ending(sessions, writer.now);
            writer.commit(event, []).await?;
            Ok((after, effects))
        })
        .await
    }

    /// Takes back an operator's demand. A password that somebody else knows has to be changed all the same.
    pub async fn waive_password_change(&self, caller: &Caller, command: WaivePasswordChange) -> Result<(User, bool)> {
        let command = &command;
        self.write(caller, Some(&command.user), |writer| async move {
            let before = writer.target(&command.user).await?;
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            if !before.change_demanded {
                return Ok((before, false));
            }
            let mut after = before.clone();
            after.change_demanded = false;
            user_save(&*writer.tx, &before, &mut after, writer.now).await?;
            let event = Event::new(EventType::PasswordChangeWaived, Target::user(after.id, after.username.as_str()))
                .note(command.note.as_ref());
            writer.commit(event, []).await?;
            Ok((after, true))
        })
        .await
    }

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
        self.write(caller, None, |writer| async move {
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
            Err(error) => {
                self.release(attempt).await?;
                return Err(error);
            }
        }
        let prepared = self.prepare_change(command.current.as_ref(), new_password, command.validate_only).await;
        let hash = match prepared {
            Ok(Some(hash)) => hash,
            stopped => {
                self.release(attempt).await?;
                return stopped.map(|_| 0);
            }
        };
        let (user, hash) = (&user, &hash);
        self.write(caller, None, |writer| async move {
            let before = writer.unchanged(user).await?.ok_or(Error::Unauthenticated(Unauthenticated::Rejected))?;
            let wait_over = attempt.succeeded(&writer.tx, &before).await?;
            let (after, sessions) = change_password(&writer, &before, hash.clone(), Which::AllBut(*session_id)).await?;
            writer.commit(changed_event(&after, sessions), wait_over).await?;
            Ok(sessions)
        })
        .await
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

    /// Judges a new password by the rules: every one that it breaks is named.
    pub(super) fn judge_password(&self, field: &str, password: &PlainPassword) -> Result<()> {
        let mut violations = Violations::new();
        for broken in self.settings.password_rules.judge(password) {
            violations.push_error(field, &broken);
        }
        violations.finish().map_err(Error::PasswordRejected)
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

/// Reads whom a reset is about, and checks everything that can be in its way.
async fn resettable(writer: &Writer<'_>, command: &ResetPassword) -> Result<User> {
    let user = writer.target(&command.user).await?;
    writer.not_oneself(user.id)?;
    Writer::check_etag(&user, command.etag)?;
    if user.kind == UserKind::Service {
        return Err(Unmet::UserIsService.into());
    }
    match user.lock(writer.now) {
        Some(lock) if lock.cause != LockCause::FailedSignIns && !command.unlock => {
            Err(Unmet::UserLocked(lock.cause).into())
        }
        _ => Ok(user),
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
    ticket_end_all(&*writer.tx, before.id).await?;
    Ok((after, sessions))
}

/// When a generated password stops working.
pub(super) fn temporary_password_expiry(settings: &Settings, ttl: Option<Duration>, now: Timestamp) -> Timestamp {
    now.saturating_add(ttl.unwrap_or(settings.temporary_password_ttl))
}

/// When a password that an operator chose stops working.
pub(super) fn chosen_password_expiry(now: Timestamp) -> Timestamp {
    now.saturating_add(CHOSEN_PASSWORD_TTL)
}

fn reused(field: &str) -> Error {
    let mut violations = Violations::new();
    violations.push_error(field, &RuleBroken::Reused);
    Error::PasswordRejected(violations)
}

fn reset_event(user: &User, command: &ResetPassword, effects: &Effects) -> Event {
    let method = match command.method {
        ResetMethod::Temporary { .. } => "TEMPORARY_PASSWORD",
        ResetMethod::Set { .. } => "SET_PASSWORD",
    };
    Event::new(EventType::PasswordResetByOperator, Target::user(user.id, user.username.as_str()))
        .note(command.note.as_ref())
        .detail("method", method)
        .detail("sessionsRevoked", effects.sessions_revoked)
        .detail("throttleCleared", effects.throttle_cleared)
        .detail("lockLifted", effects.lock_lifted)
}

fn changed_event(user: &User, sessions: u32) -> Event {
    Event::new(EventType::PasswordChanged, Target::user(user.id, user.username.as_str()))
        .detail("sessionsRevoked", sessions)
}
