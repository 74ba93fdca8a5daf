//! Resetting a password by an operator.

use std::pin::Pin;

use zeroize::Zeroizing;

use crate::app::App;
use crate::app::idempotency::{Idempotency, Replay, Retry};
use crate::app::proving::NewPassword;
use crate::app::writer::{Change, RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::credentials::{Credentials, StoredPassword};
use crate::domain::delivery::{Delivery, LetterKind};
use crate::domain::diagnosis::Finding;
use crate::domain::idempotency::Remembered;
use crate::domain::link::{LinkWay, LinkWish};
use crate::domain::lockout::{Lock, LockCause};
use crate::domain::profile::Note;
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, Etag, User, UserKind, UserRef};
use crate::error::{Result, Unmet};
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

/// A command to reset a password.
#[derive(Debug)]
pub struct ResetPassword {
    /// The account.
    pub user: UserRef,
    /// How.
    pub method: ResetMethod,
    /// Whether a link ends the old password and all sessions at once, and not only when it is used.
    pub end_access_now: bool,
    /// Whether to lift a lock too, whatever its cause.
    pub unlock: bool,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
    /// If set, makes a retry safe.
    pub idempotency: Option<Idempotency>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// How a password is reset.
#[derive(Debug)]
pub enum ResetMethod {
    /// The user chooses a password with a link.
    Link(LinkWish),
    /// The operator gives a password.
    Password(NewPassword, Handover),
}

/// How a temporary password reaches its user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handover {
    /// The operator passes it on.
    #[default]
    Return,
    /// By mail.
    Mail,
    /// Both.
    Both,
}

impl Handover {
    /// Returns whether the user gets a mail.
    pub fn is_mailed(self) -> bool {
        self != Handover::Return
    }
}

/// A [`ResetPassword`] without the method.
pub(super) struct Reset {
    pub(super) user: UserRef,
    /// The name of the method in the audit log.
    method: &'static str,
    pub(super) end_access_now: bool,
    pub(super) unlock: bool,
    note: Option<Note>,
    etag: Option<Etag>,
    pub(super) validate_only: bool,
}

/// What a reset did.
#[derive(Debug)]
pub struct PasswordReset {
    /// The account as it is now.
    pub user: User,
    /// The generated password, if there is one. It is shown only once.
    pub temporary_password: Option<TemporaryPassword>,
    /// The link, if the operator passes it on. It is shown only once.
    pub link: Option<Zeroizing<String>>,
    /// The message that was sent.
    pub delivery: Option<Delivery>,
    /// When the password or the link expires.
    pub expires_at: Option<Timestamp>,
    /// What else the reset changed.
    pub effects: Effects,
    /// The lock that was lifted.
    pub lifted_lock: Option<Lock>,
    /// What still prevents a sign-in.
    pub remaining: Vec<Finding>,
    /// Whether this repeats the answer of an earlier call; nothing was done again.
    pub replayed: bool,
}

impl App {
    /// Resets a password. A new password ends the old one, all sessions, tickets, links, device tokens and throttles at once,
    /// and lifts a lock for failed sign-ins; a link does so when it is used. Fails for service accounts, and if there is another
    /// lock and `unlock` is not set.
    pub async fn reset_password(&self, caller: &Caller, command: ResetPassword) -> Result<PasswordReset> {
        let ResetPassword { user, method, end_access_now, unlock, note, etag, idempotency, validate_only } = command;
        let name = method.name();
        let reset = Reset { user, method: name, end_access_now, unlock, note, etag, validate_only };
        let retry = idempotency.as_ref().map(|key| Retry::new(self, caller, key));
        let retry = retry.as_ref();
        let work: Pin<Box<dyn Future<Output = _> + Send + '_>> = match method {
            ResetMethod::Link(wish) => Box::pin(self.reset_by_link(caller, &reset, wish, retry)),
            ResetMethod::Password(password, handover) => {
                Box::pin(self.reset_once(caller, &reset, password, handover, retry))
            }
        };
        let reset = self.once(retry, work, |Replay { user, answer, delivery }| PasswordReset {
            user,
            temporary_password: None,
            link: None,
            delivery,
            expires_at: answer.expires_at.map(Timestamp::from_micros),
            effects: answer.effects,
            lifted_lock: None,
            remaining: Vec::new(),
            replayed: true,
        });
        let reset = reset.await?;
        let remaining = self.remaining(caller, &reset.user).await;
        Ok(PasswordReset { remaining, ..reset })
    }

    /// Does the reset. Returns `None` if another call with the same idempotency key committed first.
    async fn reset_once(
        &self,
        caller: &Caller,
        reset: &Reset,
        password: NewPassword,
        handover: Handover,
        retry: Option<&Retry<'_>>,
    ) -> Result<Option<PasswordReset>> {
        // Scopes and state are checked before the password is judged and hashed, and again in the transaction.
        let user = self.write(caller, Some(&reset.user), |mut writer| async move {
            let user = resettable(&mut writer, reset).await?;
            self.check_handover(user.email.is_some(), handover.is_mailed())?;
            Ok(writer.checked(user))
        });
        let words = self.words_of(&user.await?);
        let field = "set_password.password";
        let (password, generated) = self.hash_given(caller, field, password, words).await?;
        let temporary_password = generated.filter(|_| !reset.validate_only);
        let generated = temporary_password.as_ref();
        let expires_at = password.password.expires_at;
        let password = &password;
        let done = self.write(caller, Some(&reset.user), |mut writer| async move {
            let before = resettable(&mut writer, reset).await?;
            if handover.is_mailed() {
                self.check_handover(before.email.is_some(), true)?;
                writer.check_message_limits(&before, &caller.principal).await?;
            }
            let change = writer.change();
            let lifted = before.lock(change.now).cloned();
            let (after, effects, throttle_ended) = self.write_reset(&change, &before, password).await?;
            if reset.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, Some((after, effects, lifted, None))));
            }
            let mailed = generated.filter(|_| handover.is_mailed());
            let delivery = if let Some(password) = mailed {
                change.post_password(&after, password, expires_at).await?
            } else {
                change.notify(&after, LetterKind::PasswordResetDone).await?;
                None
            };
            let expires_at = expires_at.map(Timestamp::as_micros);
            let delivery_id = delivery.as_ref().map(|delivery| delivery.id);
            let answer = Remembered { user_id: after.id, expires_at, effects, delivery_id };
            if let Some(retry) = retry
                && !retry.remember(&change, &answer).await?
            {
                return Ok(change.roll_back(RolledBack::LostIdempotencyRace, None));
            }
            let event = reset_event(&after, reset, &effects).and(throttle_ended);
            change.commit(event, Some((after, effects, lifted, delivery))).await
        });
        let Some((user, effects, lifted_lock, delivery)) = done.await? else { return Ok(None) };
        if !reset.validate_only {
            self.metrics.password_reset();
        }
        let temporary_password = temporary_password.filter(|_| handover != Handover::Mail);
        let (link, replayed) = (None, false);
        Ok(Some(PasswordReset {
            user,
            temporary_password,
            link,
            delivery,
            expires_at,
            effects,
            lifted_lock,
            remaining: Vec::new(),
            replayed,
        }))
    }

    async fn write_reset(
        &self,
        change: &Change<'_>,
        before: &User,
        password: &StoredPassword,
    ) -> Result<(User, Effects, Option<Event>)> {
        let mut after = before.clone();
        after.password = Some(password.password.clone());
        after.password_ended_at = None;
        after.change_required = false;
        after.stored_lock = None;
        after.stored_throttle = None;
        after.active_from = Some(change.now);
        after.end_device_tokens(change.now);
        let credentials = Credentials { password: Some(password.hash.clone()) };
        user_save(&change.tx, before, &mut after, Some(&credentials), change.now).await?;
        let sessions = session_end(&change.tx, before.id, Which::All, change.now).await?;
        let tickets_revoked = ticket_end_all(&change.tx, before.id, change.now).await?;
        let links_revoked = change.end_links(before, None).await?;
        after.stored_link = None;
        let (cleared, throttle_ended) = change.clear_throttle(before).await?;
        let effects = Effects {
            password_ended: before.password.is_some(),
            throttle_cleared: cleared.was_waiting,
            lock_lifted: before.lock(change.now).is_some(),
            links_revoked,
            tickets_revoked,
            ..self.effects_of_ending(sessions, change.now)
        };
        Ok((after, effects, throttle_ended))
    }
}

impl ResetMethod {
    /// The name in the audit log.
    fn name(&self) -> &'static str {
        match self {
            ResetMethod::Link(LinkWish { way: LinkWay::Mailed, .. }) => "SEND_LINK",
            ResetMethod::Link(LinkWish { way: LinkWay::Returned, .. }) => "RETURN_LINK",
            ResetMethod::Password(NewPassword::Temporary { .. }, _) => "TEMPORARY_PASSWORD",
            ResetMethod::Password(NewPassword::Chosen { .. }, _) => "SET_PASSWORD",
        }
    }
}

/// Locks and reads the account. Fails if its password cannot be reset.
pub(super) async fn resettable(writer: &mut Writer<'_>, reset: &Reset) -> Result<User> {
    let user = writer.target().await?;
    writer.not_oneself(user.id)?;
    Writer::check_etag(&user, reset.etag)?;
    if user.kind == UserKind::Service {
        return Err(Unmet::UserIsService.into());
    }
    match user.lock(writer.now) {
        Some(lock) if lock.cause != LockCause::FailedSignIns && !reset.unlock => {
            return Err(Unmet::UserLocked(lock.cause).into());
        }
        _ => writer.may_lift_lock(&user)?,
    }
    Ok(user)
}

pub(super) fn reset_event(user: &User, reset: &Reset, effects: &Effects) -> Event {
    Event::new(EventType::PasswordResetByOperator, Target::of(user))
        .note(reset.note.as_ref())
        .detail("method", reset.method)
        .detail("accessEnded", effects.password_ended)
        .detail("sessionsRevoked", effects.sessions_revoked)
        .detail("linksRevoked", effects.links_revoked)
        .detail("throttleCleared", effects.throttle_cleared)
        .detail("lockLifted", effects.lock_lifted)
}
