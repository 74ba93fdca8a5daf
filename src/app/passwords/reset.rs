//! Resetting a password, by an operator.

use std::time::Duration;

use super::{chosen_password_expiry, temporary_password_expiry};
use crate::app::App;
use crate::app::users::{Idempotency, key_use};
use crate::app::writer::Writer;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::idempotency::Remembered;
use crate::domain::lockout::LockCause;
use crate::domain::password::PlainPassword;
use crate::domain::profile::Note;
use crate::domain::secret::Digest32;
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, Etag, PasswordKind, StoredPassword, User, UserKind, UserRef};
use crate::error::{Error, Result, Unmet};
use crate::metrics::Lane;
use crate::store::idempotency::idempotency_insert;
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

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
        match self.reset_once(caller, &command, body.as_ref()).await {
            Ok(Some(done)) => Ok(done),
            // Another call with the same key was quicker: its answer is this one's.
            Ok(None) => {
                let answer = self.replayed_reset(caller, &command, body.as_ref()).await?;
                answer.ok_or_else(|| Error::internal("an idempotency key was lost"))
            }
            // So it is where that call has moved the etag or the state that this one checks.
            Err(error @ (Error::Stale { .. } | Error::Precondition(_))) => {
                self.replayed_reset(caller, &command, body.as_ref()).await?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// None: another call with the same idempotency key was quicker.
    async fn reset_once(
        &self,
        caller: &Caller,
        command: &ResetPassword,
        body: Option<&Digest32>,
    ) -> Result<Option<PasswordReset>> {
        // Rights and state are looked at before the costly hash, and again in the transaction.
        self.check_reset(caller, command).await?;
        let now = self.now();
        let (password, temporary_password) = self.reset_to(&command.method, now).await?;
        let expires_at = password.expires_at;

        let password = &password;
        let done = self.write(caller, Some(&command.user), |mut writer| async move {
            let before = resettable(&mut writer, command).await?;
            let (after, effects, wait_ended) = self.write_reset(&writer, &before, password).await?;
            if command.validate_only {
                return Ok(Some((after, effects)));
            }
            if let (Some(retry), Some(body)) = (&command.idempotency, body) {
                let expires_at = expires_at.map(Timestamp::as_micros);
                let answer = Remembered { user_id: after.id, expires_at, effects };
                if !idempotency_insert(&*writer.tx, &key_use(caller, retry, body), &answer, writer.now).await? {
                    return Ok(None);
                }
            }
            writer.commit(reset_event(&after, command, &effects), wait_ended).await?;
            Ok(Some((after, effects)))
        });
        let Some((user, effects)) = done.await? else { return Ok(None) };
        let temporary_password = temporary_password.filter(|_| !command.validate_only);
        if !command.validate_only {
            self.metrics.password_reset();
        }
        Ok(Some(PasswordReset { user, temporary_password, expires_at, effects, replayed: false }))
    }

    async fn check_reset(&self, caller: &Caller, command: &ResetPassword) -> Result<()> {
        self.look_ahead(caller, Some(&command.user), |mut writer| async move {
            resettable(&mut writer, command).await.map(|_| ())
        })
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
        ticket_end_all(&writer.tx, before.id).await?;
        let (cleared, wait_ended) = writer.clear_throttle(before).await?;
        let effects = Effects {
            password_ended: before.password.is_some(),
            throttle_cleared: cleared.was_waiting,
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
}

/// Reads whom a reset is about, and checks everything that can be in its way.
async fn resettable(writer: &mut Writer<'_>, command: &ResetPassword) -> Result<User> {
    let user = writer.target().await?;
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
