//! Limits on failed sign-ins, by account, by name and by source. Failures are counted in the database, so that replicas share
//! the limits. Known and unknown names are treated alike.
//!
//! Strangers cannot keep an owner out: attempts from familiar places have budgets of their own, and only their failures lock.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::account_queue::Slot;
use super::users::{lock_account, locked_event};
use super::writer::Change;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Source};
use crate::domain::id::{EventId, UserId};
use crate::domain::lockout::{Lock, LockCause, ThrottleRules};
use crate::domain::reason::Reason;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Limit, Outage, Result};
use crate::store::WriteTx;
use crate::store::sources::{source_blocked, source_failed};
use crate::store::throttle::{
    Account, Budgets, Cleared, Failed, Name, Reservation, throttle_accept_unfamiliar, throttle_clear, throttle_failed,
    throttle_refuse_unfamiliar, throttle_release, throttle_reserve, throttle_succeeded,
};

/// How long an attempt waits while others at the same account are under way. A hash may have to wait as long.
const QUEUE_DEADLINE: Duration = Duration::from_secs(3);
/// How often a waiting attempt asks the database. A hash takes some 15 ms.
const BUSY_POLL: Duration = Duration::from_millis(10);

/// An attempt to prove a password, while it is under way.
pub(super) struct Attempt {
    budgets: Budgets,
    /// Whether failures are counted at all.
    counted: bool,
    /// Whether the budget of the account is spent, so that the password must not be verified.
    is_spent: bool,
    /// When the throttle of the account ends, if its budget is spent.
    account_until: Option<Timestamp>,
    /// The slot in the account's queue and the permit to hash. Dropping them lets other attempts go on.
    _slot: Option<Slot>,
    _admitted: OwnedSemaphorePermit,
}

impl App {
    /// Fails if the source of the call is blocked after too many failures. The local socket has no source.
    pub(super) async fn check_source(&self, caller: &Caller) -> Result<()> {
        let Some(source) = self.limited_source(caller) else { return Ok(()) };
        let now = self.now();
        let read = async { source_blocked(self.store.reader(), source, now).await.map(Some) };
        let block = self.token_cache.blocks.get(self.store.failure_commits(), source, read).await?;
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

    /// Returns the budgets of an attempt to sign in: of the name, and of the account that it names or of one of those that
    /// unknown names share. `login` is folded like a known name.
    pub(super) fn budgets_of(&self, user: Option<&User>, login: &str, is_familiar: bool) -> Budgets {
        let name = match user {
            Some(user) if user.username.as_str() != login => Name::Email,
            _ => Name::Username,
        };
        let account = user.map_or_else(|| self.unknown_account(login), |user| Account::Known(user.id));
        Budgets { account, name, is_familiar }
    }

    /// Returns the budgets of a user who proves the password again in a session. A session is familiar: only the account could
    /// open it.
    pub(super) fn budgets_in_session(user: &User) -> Budgets {
        Budgets { account: Account::Known(user.id), name: Name::Username, is_familiar: true }
    }

    fn unknown_account(&self, login: &str) -> Account {
        let digest = self.keys.current().digest("login", login.as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        Account::Unknown(u32::from_be_bytes([a, b, c, d]) % self.settings.unknown_names.max(1))
    }

    /// Reserves an attempt, and waits for its turn if others are under way: of fifty right passwords at once, all are
    /// accepted. Fails if the name is throttled, or if the turn does not come in time. If only the account is throttled, the
    /// attempt goes on, but [`Attempt::may_prove`] is false.
    pub(super) async fn reserve(&self, mut budgets: Budgets) -> Result<Attempt> {
        let rules = &self.settings.throttle;
        let is_counted_name = matches!(budgets.account, Account::Known(_)) || self.settings.unknown_names != 0;
        let counted = rules.are_on() && is_counted_name;
        if !counted {
            let admitted = self.admit_to_hash()?;
            let (is_spent, account_until) = (false, None);
            return Ok(Attempt { budgets, counted, is_spent, account_until, _slot: None, _admitted: admitted });
        }
        let began = Instant::now();
        let busy = || Error::Exhausted { limit: Limit::Hashing, retry_after: self.environment.retry_soon() };
        let slot = self.account_queues.take(budgets.account_id(), QUEUE_DEADLINE).await.ok_or_else(busy)?;
        let admitted = self.admit_to_hash()?;
        loop {
            let now = self.now();
            let (is_spent, account_until) =
                match throttle_reserve(self.store.autocommit()?, &budgets, rules, now).await? {
                    Reservation::Taken => (false, None),
                    Reservation::Spent { until } => {
                        self.metrics.throttled();
                        (true, until)
                    }
                    Reservation::Waits { until } => {
                        self.metrics.throttled();
                        return Err(Error::Exhausted { limit: Limit::Account, retry_after: until.duration_since(now) });
                    }
                    Reservation::Busy if began.elapsed() >= QUEUE_DEADLINE => return Err(busy()),
                    Reservation::Busy => {
                        tokio::time::sleep(BUSY_POLL).await;
                        continue;
                    }
                    Reservation::Gone => {
                        // The user was deleted meanwhile, so the name is unknown now.
                        budgets.account = self.unknown_account(&budgets.account.key());
                        continue;
                    }
                };
            return Ok(Attempt { budgets, counted, is_spent, account_until, _slot: Some(slot), _admitted: admitted });
        }
    }

    /// Reserves an attempt in a session. Its user knows all names of the account, so a throttle of the account shows.
    pub(super) async fn reserve_in_session(&self, user: &User) -> Result<Attempt> {
        let attempt = self.reserve(App::budgets_in_session(user)).await?;
        if attempt.may_prove() {
            return Ok(attempt);
        }
        self.release(&attempt).await?;
        let wait = attempt.account_until.map_or(self.settings.throttle.max, |until| until.duration_since(self.now()));
        Err(Error::Exhausted { limit: Limit::Account, retry_after: wait })
    }

    /// Releases an attempt whose password was not verified.
    pub(super) async fn release(&self, attempt: &Attempt) -> Result<()> {
        if attempt.counted {
            throttle_release(self.store.autocommit()?, &attempt.budgets, attempt.is_spent).await
        } else {
            Ok(())
        }
    }

    /// Releases an attempt if `result` is an error, and returns `result` even if releasing fails. An attempt whose commit was
    /// not confirmed is not released: if it did commit, this would release another attempt.
    pub(super) async fn or_release<T>(&self, attempt: &Attempt, result: Result<T>) -> Result<T> {
        let error = match result {
            Err(error) if !matches!(error, Error::Unavailable(Outage::Unconfirmed(_))) => error,
            result => return result,
        };
        if let Err(second) = self.release(attempt).await {
            tracing::warn!(
                reason = second.reason().as_str(),
                "an attempt was not released; its reservation will expire"
            );
        }
        Err(error)
    }

    /// Counts a failed attempt against account and source, begins the throttle or the lock that follows from it, and records
    /// the reason in the audit log. The caller does not learn the reason.
    pub(super) async fn attempt_failed(
        &self,
        caller: &Caller,
        attempt: &Attempt,
        user: Option<&User>,
        target: Target,
        reason: Reason,
    ) -> Result<()> {
        let (target, rules) = (&target, &self.settings.throttle);
        self.metrics.sign_in_rejected();
        let failed = self.write(caller, None, |mut writer| async move {
            // The user's row comes first, because every call takes locks in this order. For an unknown name this looks up an
            // id that does not exist, so that it costs the same round trips.
            let user = writer.locked(user.map_or(UserId::from_bytes([0; 16]), |user| user.id)).await?;
            let change = writer.change();
            let (mut events, mut is_locked) = (Vec::new(), false);
            if let Some(failed) = attempt.settle_failed(&change, rules).await? {
                // The end of a throttle is recorded for users only, not for unknown names.
                events.extend((failed.wait_over && user.is_some()).then(|| throttle_ended(target.clone())));
                let lockable = match user.filter(|_| rules.locks_after(failed.failures)) {
                    Some(user) if change.may_lock(&user).await? => Some(user),
                    _ => None,
                };
                let end = rules.lockout_end(change.now);
                let mut until = failed.until.map(Some);
                if lockable.is_some() && !attempt.budgets.is_familiar {
                    let end = end.max(end.and(failed.until));
                    throttle_refuse_unfamiliar(&change.tx, &attempt.budgets, end).await?;
                    until = Some(end);
                }
                events.extend(until.map(|until| throttle_began(target.clone(), attempt, failed.failures, until)));
                let lockable = lockable.filter(|_| attempt.budgets.is_familiar);
                if let Some(user) = lockable.filter(|user| user.lock(change.now).is_none()) {
                    let lock = automatic_lock(end, change.now);
                    let (after, sessions) = lock_account(&change, &user, lock).await?;
                    events.push(locked_event(&after, None, sessions));
                    is_locked = true;
                }
            }
            self.count_source(&change.tx, caller, &attempt.budgets.account, change.now).await?;
            let refused = Event::failed(EventType::SignInFailed, target.clone(), reason);
            change.commit(refused.and(events), is_locked).await
        });
        if failed.await? {
            self.metrics.user_locked(LockCause::FailedSignIns);
        }
        Ok(())
    }

    /// Counts an invalid ticket or a forged token against its source, and records it in the audit log.
    pub(super) async fn secret_failed(&self, caller: &Caller, reason: Reason) -> Result<()> {
        self.write(caller, None, |writer| async move {
            let change = writer.change();
            self.count_source(&change.tx, caller, &Account::Unknown(0), change.now).await?;
            change.commit(Event::failed(EventType::SignInFailed, Target::default(), reason), ()).await
        })
        .await
    }

    async fn count_source(&self, tx: &WriteTx, caller: &Caller, account: &Account, now: Timestamp) -> Result<()> {
        let Some(source) = self.limited_source(caller) else { return Ok(()) };
        let id = EventId::from_bytes(self.environment.bytes());
        source_failed(tx, id, source, &account.key(), &self.settings.sources, now).await
    }
}

impl Attempt {
    /// Returns whether the password may be verified. If not, the attempt ends like one with a wrong password, after the same
    /// work.
    pub(super) fn may_prove(&self) -> bool {
        !self.is_spent
    }

    /// Settles an attempt with the right password: its budgets have no failures any more, and a familiar attempt ends the
    /// refusal of unfamiliar places. Returns the events to record for throttles that ended.
    pub(super) async fn succeeded(&self, change: &Change<'_>, user: &User) -> Result<Vec<Event>> {
        if !self.counted {
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        if throttle_succeeded(&change.tx, &self.budgets).await? {
            events.push(throttle_ended(Target::of(user)));
        }
        let rules = &change.app.settings.throttle;
        if self.budgets.is_familiar
            && user.stored_throttle.is_some()
            && throttle_accept_unfamiliar(&change.tx, user.id, rules).await?
        {
            events.push(throttle_ended(Target::of(user)));
        }
        Ok(events)
    }

    /// Settles an attempt with a wrong password. Returns what it means for the account, or `None` if it does not count there.
    async fn settle_failed(&self, change: &Change<'_>, rules: &ThrottleRules) -> Result<Option<Failed>> {
        if !self.counted {
            return Ok(None);
        }
        throttle_failed(&change.tx, &self.budgets, self.is_spent, rules, change.now).await
    }
}

impl Change<'_> {
    /// Returns whether wrong passwords may keep the user out: not the last administrator.
    async fn may_lock(&self, user: &User) -> Result<bool> {
        Ok(!user.is_able_administrator(self.now) || !self.is_last_administrator(user).await?)
    }

    /// Clears the failed sign-ins of a user. Returns what that changed, and the event to record if a throttle ended.
    pub(super) async fn clear_throttle(&self, user: &User) -> Result<(Cleared, Option<Event>)> {
        let cleared = throttle_clear(&self.tx, user.id, self.now).await?;
        let ended = cleared.wait_ended.then(|| throttle_ended(Target::of(user)));
        Ok((cleared, ended))
    }
}

/// The audit event of a throttle that has ended.
pub(super) fn throttle_ended(target: Target) -> Event {
    Event::new(EventType::ThrottleEnded, target)
}

/// The audit event of a throttle of an account that begins. Without `until` it has no end.
fn throttle_began(target: Target, attempt: &Attempt, failures: u32, until: Option<Timestamp>) -> Event {
    let places = if attempt.budgets.is_familiar { "FAMILIAR" } else { "UNFAMILIAR" };
    let event = Event::new(EventType::ThrottleBegan, target).detail("failures", failures).detail("places", places);
    match until {
        Some(until) => event.detail("untilTime", until),
        None => event,
    }
}

fn automatic_lock(expires_at: Option<Timestamp>, now: Timestamp) -> Lock {
    Lock {
        cause: LockCause::FailedSignIns,
        note: String::new(),
        locked_at: now,
        expires_at,
        actor_id: String::new(),
        actor_name: String::new(),
    }
}
