//! Locking and unlocking accounts. Operators' locks are decided here, automatic ones in
//! `App::attempt_failed`. No lock weakens another: `Lock::over`.

use std::time::Duration;

use crate::app::App;
use crate::app::passwords::end_password;
use crate::app::second_factor::remove_second_factor;
use crate::app::writer::{Change, RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::lockout::{Lock, LockCause};
use crate::domain::profile::Note;
use crate::domain::second_factor::SecondFactor;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, Etag, User, UserRef};
use crate::error::Result;
use crate::store::api_tokens::api_token_revoke_all;
use crate::store::deliveries::{Cancelled, delivery_cancel};
use crate::store::familiar::place_forget_all;
use crate::store::second_factors::totp_forget_wrong_codes;
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

/// When a lock expires.
#[derive(Debug, Clone, Copy)]
pub enum LockEnd {
    /// After this duration.
    After(Duration),
    /// At this time.
    At(Timestamp),
}

/// A command to lock an account.
#[derive(Debug)]
pub struct LockUser {
    /// The account.
    pub user: UserRef,
    /// Why the account is locked. [`LockCause::Compromise`] ends its credentials, too.
    pub cause: LockCause,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// When the lock expires. `None` means never.
    pub end: Option<LockEnd>,
    /// Whether the second factor is removed too. Goes with [`LockCause::Compromise`] only.
    pub remove_second_factors: bool,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
}

/// A command to unlock an account.
#[derive(Debug)]
pub struct UnlockUser {
    /// The account.
    pub user: UserRef,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
}

impl App {
    /// Locks an account, and ends all its sessions and tickets. Nothing is issued to the account once this has returned: every
    /// call that issues something first locks the same row and reads it again. Fails if this would lock the last
    /// administrator. Also returns the lock that was in force before.
    ///
    /// [`LockCause::Compromise`] ends everything that someone else may have got hold of, in the same transaction.
    pub async fn lock_user(&self, caller: &Caller, command: LockUser) -> Result<(User, Option<Lock>, Effects)> {
        let command = &command;
        let locked = self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            writer.keep_an_administrator(&before).await?;
            let change = writer.change();
            let earlier = before.lock(change.now).cloned();
            let lock = Lock {
                cause: command.cause,
                note: lock_note(command, earlier.as_ref()),
                locked_at: change.now,
                expires_at: command.end.map(|end| end.at(change.now)),
                actor_id: caller.principal.id(),
                actor_name: caller.principal.name().to_owned(),
            };
            let (after, effects) = match command.cause {
                LockCause::Compromise => contain_account(&change, &before, lock, command.remove_second_factors).await?,
                _ => lock_account(&change, &before, lock).await?,
            };
            let event = locked_event(&after, command.note.as_ref(), &effects);
            let event = if command.cause == LockCause::Compromise { contained(event, &effects) } else { event };
            change.commit(event, (after, earlier, effects)).await
        });
        let locked = locked.await?;
        self.metrics.user_locked(command.cause);
        Ok(locked)
    }

    /// Lifts a lock, and clears failed sign-ins and wrong codes with their waits. Password and second factor stay as they are. Also
    /// returns the lock.
    pub async fn unlock_user(&self, caller: &Caller, command: UnlockUser) -> Result<(User, Option<Lock>, Effects)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            // The caller's own account is not locked, so this could only clear a throttle. With that, the holder of a stolen
            // session could guess the password without limit.
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            writer.may_lift_lock(&before)?;
            let change = writer.change();
            let lifted = before.lock(change.now).cloned();
            let lock_lifted = lifted.is_some();
            let (cleared, throttle_ended) = change.clear_throttle(&before).await?;
            let had_wrong_codes = before.second_factor.is_some_and(|factor| factor.failures > 0);
            let codes_waited = before.second_factor.is_some_and(|factor| factor.refused_until(change.now).is_some());
            if had_wrong_codes {
                totp_forget_wrong_codes(&change.tx, before.id).await?;
            }
            let had_failures = cleared.had_failures || cleared.was_waiting || had_wrong_codes;
            let begins_anew = before.stored_lock.is_some() || before.is_inactive(change.now);
            if !begins_anew && !had_failures {
                return Ok(change.roll_back(RolledBack::NotApplied, (before, None, Effects::default())));
            }
            let throttle_cleared = cleared.was_waiting || codes_waited;
            let mut after = before.clone();
            after.stored_throttle = None;
            after.second_factor = before.second_factor.map(SecondFactor::without_wrong_codes);
            if begins_anew {
                after.stored_lock = None;
                after.active_from = Some(change.now);
                user_save(&change.tx, &before, &mut after, None, change.now).await?;
            }
            let effects = Effects { throttle_cleared, lock_lifted, ..Effects::default() };
            let event = Event::new(EventType::UserUnlocked, Target::of(&after))
                .note(command.note.as_ref())
                .detail("lockLifted", lock_lifted)
                .detail("throttleCleared", throttle_cleared);
            change.commit(event.and(throttle_ended), (after, lifted, effects)).await
        })
        .await
    }
}

/// The note of the new lock. A lock that repeats the one in force and says no reason keeps that one's.
fn lock_note(command: &LockUser, standing: Option<&Lock>) -> String {
    match &command.note {
        Some(note) => note.as_str().to_owned(),
        None => standing.filter(|lock| lock.cause == command.cause).map(|lock| lock.note.clone()).unwrap_or_default(),
    }
}

impl LockEnd {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            LockEnd::After(duration) => now.saturating_add(duration),
            LockEnd::At(at) => at,
        }
    }
}

impl Writer<'_> {
    /// Fails if the caller may not lift the lock in force on an account, if there is one.
    pub(in crate::app) fn may_lift_lock(&self, user: &User) -> Result<()> {
        let needed = user.lock(self.now).and_then(|lock| lock.cause.scope_to_lift());
        needed.map_or(Ok(()), |scope| self.need(scope))
    }
}

/// Stores a lock on top of an existing one, and ends sessions, tickets and links.
pub(in crate::app) async fn lock_account(change: &Change<'_>, before: &User, lock: Lock) -> Result<(User, Effects)> {
    save_locked(change, before, before.clone(), lock).await
}

/// Does the same, and ends the password, the API tokens and the device tokens. Familiar places are forgotten, because one of
/// them may be the intruder's.
async fn contain_account(
    change: &Change<'_>,
    before: &User,
    lock: Lock,
    remove_second_factors: bool,
) -> Result<(User, Effects)> {
    let mut contained = before.clone();
    let second_factors_removed = remove_second_factors && before.second_factor.is_some();
    if second_factors_removed {
        remove_second_factor(change, &mut contained).await?;
    }
    end_password(change, &mut contained).await?;
    let (after, effects) = save_locked(change, before, contained, lock).await?;
    place_forget_all(&change.tx, before.id).await?;
    // A repeated containment is no news to the user.
    if before.lock(change.now).is_none_or(|standing| standing.cause != LockCause::Compromise) {
        change.notify(&after, LetterKind::Compromised).await?;
    }
    let effects = Effects {
        password_ended: before.password.is_some(),
        api_tokens_revoked: api_token_revoke_all(&change.tx, before.id, change.now).await?,
        // Only a sign-in makes any.
        devices_forgotten: before.last_sign_in_at.is_some(),
        second_factors_removed,
        ..effects
    };
    Ok((after, effects))
}

async fn save_locked(change: &Change<'_>, before: &User, mut after: User, lock: Lock) -> Result<(User, Effects)> {
    // Strangers could end links otherwise.
    let ends_links = lock.cause != LockCause::FailedSignIns;
    after.stored_lock = Some(lock.over(before.lock(change.now)));
    user_save(&change.tx, before, &mut after, None, change.now).await?;
    let sessions = session_end(&change.tx, before.id, Which::All, change.now).await?;
    let tickets_revoked = ticket_end_all(&change.tx, before.id, change.now).await?;
    if after.stored_lock.as_ref().is_some_and(|lock| lock.cause == LockCause::Deactivated) {
        delivery_cancel(&change.tx, Cancelled::AllOf(before.id), change.now).await?;
    }
    let mut links_revoked = 0;
    if ends_links {
        links_revoked = change.end_links(before, None).await?;
        after.stored_link = None;
    }
    let effects = Effects { links_revoked, tickets_revoked, ..change.app.effects_of_ending(sessions, change.now) };
    Ok((after, effects))
}

/// Adds to the event of a lock what else ended with it.
fn contained(event: Event, effects: &Effects) -> Event {
    event
        .detail("passwordEnded", effects.password_ended)
        .detail("apiTokensRevoked", effects.api_tokens_revoked)
        .detail("ticketsRevoked", effects.tickets_revoked)
        .detail("linksRevoked", effects.links_revoked)
        .detail("devicesForgotten", effects.devices_forgotten)
        .detail("secondFactorsRemoved", effects.second_factors_removed)
}

/// The audit event of a lock.
pub(in crate::app) fn locked_event(after: &User, note: Option<&Note>, effects: &Effects) -> Event {
    let event = Event::new(EventType::UserLocked, Target::of(after)).note(note);
    let event = event.detail("sessionsRevoked", effects.sessions_revoked);
    match &after.stored_lock {
        Some(Lock { cause, expires_at: Some(at), .. }) => {
            event.detail("lockCause", cause.as_str()).detail("expireTime", at)
        }
        Some(Lock { cause, expires_at: None, .. }) => event.detail("lockCause", cause.as_str()),
        None => event,
    }
}
