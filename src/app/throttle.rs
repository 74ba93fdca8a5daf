//! Limits on proving a password: by account and by source. Both are counted in the database, so that replicas share
//! one budget, and both tell a known name from an unknown one by nothing.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::turns::Turn;
use super::writer::Writer;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Source};
use crate::domain::id::{EventId, UserId};
use crate::domain::lockout::{Lock, LockCause};
use crate::domain::reason::Reason;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Limit, Outage, Result};
use crate::metrics::SignInOutcome;
use crate::store::sources::{source_blocked, source_failed};
use crate::store::throttle::{
    Account, Cleared, Reservation, throttle_clear, throttle_failed, throttle_release, throttle_reserve,
    throttle_succeeded,
};

/// How long an attempt waits while others at the same account are under way: as long as a hash may have to wait.
const TURN_DEADLINE: Duration = Duration::from_secs(3);
/// How often it asks. A hash takes some 15 ms.
const TURN_POLL: Duration = Duration::from_millis(10);

/// An attempt at an account that is under way.
pub(super) struct Attempt {
    account: Account,
    /// Whether failures are counted at all.
    counted: bool,
    /// Let the next one go on when this one has ended: at this account, and at all.
    _turn: Option<Turn>,
    _admitted: OwnedSemaphorePermit,
}

impl App {
    /// Refuses a source that has failed too often. The local socket has none.
    pub(super) async fn check_source(&self, caller: &Caller) -> Result<()> {
        let Some(source) = self.limited_source(caller) else { return Ok(()) };
        let now = self.now();
        let read = async { source_blocked(self.store.reader(), source, now).await.map(Some) };
        let block = self.recall.blocks.get(self.store.failures_generation(), source, read).await?;
        match block.as_deref() {
            Some(Some(until)) if *until > now => {
                Err(Error::Exhausted { limit: Limit::Source, retry_after: until.duration_since(now) })
            }
            _ => Ok(()),
        }
    }

    fn limited_source(&self, caller: &Caller) -> Option<Source> {
        caller.call.source().filter(|_| self.settings.sources.are_on())
    }

    /// The budget that attempts at this login count against: the user's, however it was named, or that of a bucket of
    /// unknown names. `login` is folded as a known one would be.
    pub(super) fn account_of(&self, user: Option<&User>, login: &str) -> Account {
        if let Some(user) = user {
            return Account::Known(user.id);
        }
        let digest = self.keys.current().digest("login", login.as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        Account::Unknown(u32::from_be_bytes([a, b, c, d]) % self.settings.unknown_names.max(1))
    }

    /// Reserves an attempt, or waits for its turn: fifty right passwords at once all get in.
    pub(super) async fn reserve(&self, mut account: Account) -> Result<Attempt> {
        let rules = &self.settings.throttle;
        let is_counted_name = matches!(account, Account::Known(_)) || self.settings.unknown_names != 0;
        let counted = rules.are_on() && is_counted_name;
        if !counted {
            return Ok(Attempt { account, counted, _turn: None, _admitted: self.hasher.admit()? });
        }
        let began = Instant::now();
        let busy = || Error::Exhausted { limit: Limit::Hashing, retry_after: self.effects.retry_soon() };
        let turn = self.turns.take(account.key(), TURN_DEADLINE).await.ok_or_else(busy)?;
        let admitted = self.hasher.admit()?;
        loop {
            let now = self.now();
            match throttle_reserve(self.store.autocommit(), &account, rules, now).await? {
                Reservation::Taken => {
                    return Ok(Attempt { account, counted, _turn: Some(turn), _admitted: admitted });
                }
                Reservation::Waits { until } => {
                    self.metrics.throttled();
                    return Err(Error::Exhausted { limit: Limit::Account, retry_after: until.duration_since(now) });
                }
                Reservation::Busy if began.elapsed() >= TURN_DEADLINE => return Err(busy()),
                Reservation::Busy => tokio::time::sleep(TURN_POLL).await,
                // From now on the name is one that nobody has.
                Reservation::Gone => account = self.account_of(None, &account.key()),
            }
        }
    }

    /// Gives an attempt back whose password was not looked at.
    pub(super) async fn release(&self, attempt: &Attempt) -> Result<()> {
        if attempt.counted { throttle_release(self.store.autocommit(), &attempt.account).await } else { Ok(()) }
    }

    /// The same after `error`, which is what the caller is told, whatever comes of giving back. What may have been settled
    /// is not given back: it would be somebody else's.
    pub(super) async fn release_after(&self, attempt: &Attempt, error: Error) -> Error {
        if matches!(error, Error::Unavailable(Outage::Unconfirmed(_))) {
            return error;
        }
        if let Err(second) = self.release(attempt).await {
            tracing::warn!(reason = second.reason().as_str(), "an attempt was not given back, and lapses");
        }
        error
    }

    /// Counts a wrong password against account and source, begins the wait or the lock that follows, and records why
    /// it was refused. The caller is told nothing of it.
    pub(super) async fn attempt_failed(
        &self,
        caller: &Caller,
        attempt: &Attempt,
        user: Option<&User>,
        target: Target,
        reason: Reason,
    ) -> Result<()> {
        let (target, rules) = (&target, &self.settings.throttle);
        self.metrics.signed_in(SignInOutcome::Rejected);
        let failed = self.write(caller, None, |mut writer| async move {
            // The user's row before anything else: everybody takes locks in this order. One that nobody has is looked
            // for too, so that an unknown name costs the same round trips.
            let user = writer.locked(user.map_or(UserId::from_bytes([0; 16]), |user| user.id)).await?;
            let (mut events, mut is_locked) = (Vec::new(), false);
            if attempt.counted {
                let failed = throttle_failed(&*writer.tx, &attempt.account, rules, writer.now).await?;
                // The audit log is told of users' waits only: those of unknown names are nobody's.
                events.extend((failed.wait_over && user.is_some()).then(|| wait_ended(target.clone())));
                if let Some(until) = failed.until {
                    let event = Event::new(EventType::ThrottleBegan, target.clone());
                    events.push(event.detail("failures", failed.failures).detail("untilTime", until));
                }
                if let Some(user) = user.filter(|user| user.lock(writer.now).is_none())
                    && rules.locks_after(failed.failures)
                    && !(user.is_able_administrator(writer.now) && writer.is_last_administrator(&user).await?)
                {
                    let lock = automatic_lock(rules.lockout_duration, writer.now);
                    let (after, sessions) = super::users::lock_account(&writer, &user, lock).await?;
                    events.push(super::users::locked_event(&after, None, sessions));
                    is_locked = true;
                }
            }
            self.count_source(&writer.tx, caller, &attempt.account, writer.now).await?;
            let refused = Event::failed(EventType::SignInFailed, target.clone(), reason);
            writer.commit(refused, events).await?;
            Ok(is_locked)
        });
        if failed.await? {
            self.metrics.user_locked(LockCause::FailedSignIns);
        }
        Ok(())
    }

    /// Counts a dead ticket or a forged token against its source.
    pub(super) async fn secret_failed(&self, caller: &Caller, reason: Reason) -> Result<()> {
        self.write(caller, None, |writer| async move {
            self.count_source(&writer.tx, caller, &Account::Unknown(0), writer.now).await?;
            writer.commit(Event::failed(EventType::SignInFailed, Target::default(), reason), []).await
        })
        .await
    }

    async fn count_source(
        &self,
        tx: &crate::store::WriteTx,
        caller: &Caller,
        account: &Account,
        now: Timestamp,
    ) -> Result<()> {
        let Some(source) = self.limited_source(caller) else { return Ok(()) };
        let id = EventId::from_bytes(self.effects.bytes());
        tx.counts_failure();
        source_failed(&**tx, id, source, &account.key(), &self.settings.sources, now).await
    }
}

impl Attempt {
    /// Settles an attempt that proved the password. Answers the event that is owed to the audit log, if one is.
    pub(super) async fn succeeded(&self, tx: &crate::store::WriteTx, user: &User) -> Result<Option<Event>> {
        let ended = self.counted && throttle_succeeded(&**tx, &self.account).await?;
        Ok(ended.then(|| wait_ended(Target::user(user.id, user.username.as_str()))))
    }
}

impl Writer<'_> {
    /// Forgets the failed sign-ins of a user. Answers what that did, and the event that is owed to the audit log, if one
    /// is.
    pub(super) async fn clear_throttle(&self, user: &User) -> Result<(Cleared, Option<Event>)> {
        let cleared = throttle_clear(&*self.tx, user.id, self.now).await?;
        let ended = cleared.wait_ended.then(|| wait_ended(Target::user(user.id, user.username.as_str())));
        Ok((cleared, ended))
    }
}

/// A wait is over.
pub(super) fn wait_ended(target: Target) -> Event {
    Event::new(EventType::ThrottleEnded, target)
}

fn automatic_lock(duration: Duration, now: Timestamp) -> Lock {
    Lock {
        cause: LockCause::FailedSignIns,
        note: String::new(),
        locked_at: now,
        expires_at: (!duration.is_zero()).then(|| now.saturating_add(duration)),
        actor_id: String::new(),
        actor_name: String::new(),
    }
}
