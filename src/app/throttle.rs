//! Limits on failed sign-ins, by account, by name and by source. Failures are counted in the database, so that replicas share
//! the limits. Known and unknown names are treated alike.
//!
//! Strangers cannot keep an owner out: attempts from familiar places have budgets of their own, and only their failures lock.

use std::net::IpAddr;
use std::time::Duration;

use super::App;
use super::counted::NETWORK;
use super::turns::{Admitted, TURN_DEADLINE};
use super::users::{lock_account, locked_event};
use super::writer::{Change, Done, Unaudited};
use crate::crypto::HashPermit;
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::budget::Budget;
use crate::domain::caller::{Caller, Principal, Source};
use crate::domain::diagnosis::SourceBlock;
use crate::domain::id::EventId;
use crate::domain::lockout::{Lock, LockCause, ThrottleRules};
use crate::domain::reason::Reason;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Limit, Outage, Result};
use crate::store::WriteTx;
use crate::store::budgets::budget_take;
use crate::store::sources::{SourceState, source_block, source_blocked, source_failed};
use crate::store::throttle::{
    Account, Budgets, Cleared, Failed, Name, Reservation, throttle_accept_unfamiliar, throttle_clear, throttle_failed,
    throttle_refuse_unfamiliar, throttle_release, throttle_reserve, throttle_succeeded,
};

/// How often a waiting attempt asks the database. A hash takes some 15 ms.
const BUSY_POLL: Duration = Duration::from_millis(10);

/// The window of the budgets of rows: that in which failures block a source by default.
pub(super) const BUDGET_WINDOW: Duration = Duration::from_mins(5);

/// An attempt to prove a password, while it is under way.
pub(super) struct Attempt {
    budgets: Budgets,
    /// The rules in force when the attempt began. It keeps them, whatever the policy says meanwhile.
    rules: ThrottleRules,
    /// Whether failures are counted at all.
    counted: bool,
    /// Whether the budget of the account is spent, so that the password must not be verified.
    is_spent: bool,
    /// When the throttle of the account ends, if its budget is spent.
    account_until: Option<Timestamp>,
    admitted: Admitted,
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

    /// Returns the blocks of the sources of these addresses.
    pub(super) async fn blocks_of(&self, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, SourceBlock)>> {
        let (mut blocks, mut seen, now) = (Vec::new(), Vec::new(), self.now());
        if !self.settings.sources.are_on() {
            return Ok(blocks);
        }
        for address in addresses {
            let source = Source::of(*address);
            if seen.contains(&source) {
                continue;
            }
            seen.push(source);
            let block = source_block(self.store.reader(), source, now).await?;
            blocks.extend(block.map(|block| (*address, block)));
        }
        Ok(blocks)
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

    /// Returns whether failures of this account are counted.
    pub(super) fn is_counted(&self, account: &Account) -> bool {
        self.is_counted_by(&self.throttle.rules(), account)
    }

    fn is_counted_by(&self, rules: &ThrottleRules, account: &Account) -> bool {
        let is_counted_name = matches!(account, Account::Known(_)) || self.settings.unknown_names != 0;
        rules.are_on() && is_counted_name
    }

    /// Reserves an attempt, and waits while others on other replicas are under way. Fails if the name is throttled, or if the
    /// others take too long. If only the account is throttled, the attempt goes on, but [`Attempt::may_prove`] is false.
    pub(super) async fn reserve(&self, mut budgets: Budgets, admitted: Admitted) -> Result<Attempt> {
        let rules = self.throttle.rules();
        let counted = self.is_counted_by(&rules, &budgets.account);
        if !counted {
            return Ok(Attempt { budgets, rules, counted, is_spent: false, account_until: None, admitted });
        }
        loop {
            let now = self.now();
            let (is_spent, account_until) =
                match throttle_reserve(self.store.autocommit()?, &budgets, &rules, now).await? {
                    Reservation::Taken => (false, None),
                    Reservation::Spent { until } => {
                        self.metrics.throttled();
                        (true, until)
                    }
                    Reservation::Waits { until } => {
                        self.metrics.throttled();
                        return Err(Error::Exhausted { limit: Limit::Account, retry_after: until.duration_since(now) });
                    }
                    Reservation::Busy if admitted.began.elapsed() >= TURN_DEADLINE => {
                        let retry_after = self.environment.retry_soon();
                        return Err(Error::Exhausted { limit: Limit::Hashing, retry_after });
                    }
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
            return Ok(Attempt { budgets, rules, counted, is_spent, account_until, admitted });
        }
    }

    /// Fails if the budget of the account is spent. For an attempt in a session, whose user knows all names of the account, so
    /// a throttle of the account shows.
    pub(super) async fn check_unspent(&self, attempt: &Attempt) -> Result<()> {
        if attempt.may_prove() {
            return Ok(());
        }
        self.release(attempt).await?;
        let wait = attempt.account_until.map_or(attempt.rules.max, |until| until.duration_since(self.now()));
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
        let (target, rules) = (&target, &attempt.rules);
        self.metrics.sign_in_rejected();
        let failed = self.write(caller, None, |mut writer| async move {
            // The user's row comes first, because every call takes locks in this order.
            let user = writer.locked_or_decoy(user.map(|user| user.id)).await?;
            let change = writer.change();
            let mut events = vec![Event::failed(EventType::SignInFailed, target.clone(), reason)];
            let mut locked = None;
            if let Some(failed) = attempt.settle_failed(&change).await? {
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
                    let lock = Lock::automatic(LockCause::FailedSignIns, end, change.now);
                    let (after, effects) = lock_account(&change, &user, lock).await?;
                    locked = Some(locked_event(&after, None, &effects));
                }
            }
            let failure = Failure { name: &attempt.budgets.name_key(), events, locked };
            self.commit_failure(change, caller, failure).await
        });
        let committed = failed.await?;
        if committed.is_locked {
            self.metrics.user_locked(LockCause::FailedSignIns);
        }
        committed.answer()
    }

    /// Counts an invalid ticket, a refused try of a valid one or a forged token against its source, and records it in the audit
    /// log. `user` is the account of a valid ticket.
    pub(super) async fn secret_failed(&self, caller: &Caller, user: Option<&User>, reason: Reason) -> Result<()> {
        let account = user.map_or(Account::Unknown(0), |user| Account::Known(user.id));
        let (name, target) = (&account.key(), &user.map(Target::of).unwrap_or_default());
        let failed = self.write(caller, None, |writer| async move {
            let events = vec![Event::failed(EventType::SignInFailed, target.clone(), reason)];
            let failure = Failure { name, events, locked: None };
            self.commit_failure(writer.change(), caller, failure).await
        });
        failed.await?.answer()
    }

    /// Counts a failure against its source and commits it: with its events if the budgets of the source permit, otherwise
    /// counted with others. Which of the two does not depend on the account.
    pub(super) async fn commit_failure(
        &self,
        change: Change<'_>,
        caller: &Caller,
        failure: Failure<'_>,
    ) -> Result<Done<Committed>> {
        let Failure { name, mut events, locked } = failure;
        let state = self.count_source(&change.tx, caller, name, change.now).await?;
        let blocked = match state {
            SourceState::BlockedBefore { until } => Some(until.duration_since(change.now)),
            SourceState::Open | SourceState::BlockedNow { .. } => None,
        };
        if let (SourceState::BlockedNow { until }, Some(failed)) = (state, events.first_mut()) {
            *failed = failed.clone().detail("addressBlockedUntil", until);
        }
        let committed = Committed { is_locked: locked.is_some(), blocked };
        let spent = match (blocked, caller.call.source()) {
            (Some(_), Some(source)) => Some(source.to_string()),
            _ => self.spent_budget(&change.tx, caller, change.now).await?,
        };
        if let (Some(whose), Some(failed)) = (spent, events.first()) {
            let kind = format!("failures {whose} {}", caller.call.method);
            let failed = self.recorded(caller, change.now, failed.clone().detail(NETWORK, whose));
            self.count_event(&change.tx, &kind, failed).await?;
            events.clear();
        }
        match Events::of(events.into_iter().chain(locked).collect()) {
            Some(events) => change.commit(events, committed).await,
            None => change.commit_unaudited(Unaudited::Counted, committed).await,
        }
    }

    /// Counts a failure against its source.
    async fn count_source(&self, tx: &WriteTx, caller: &Caller, name: &str, now: Timestamp) -> Result<SourceState> {
        let Some(source) = self.limited_source(caller) else { return Ok(SourceState::Open) };
        if budget_take(tx, Budget::of_failure(source), BUDGET_WINDOW, now).await?.is_some() {
            return Ok(SourceState::Open);
        }
        let id = EventId::from_bytes(self.environment.bytes());
        source_failed(tx, id, source, name, &self.settings.sources, now).await
    }

    /// Takes an event from the budgets of an unauthenticated caller. Returns whose the widest is that is spent.
    async fn spent_budget(&self, tx: &WriteTx, caller: &Caller, now: Timestamp) -> Result<Option<String>> {
        let Some(source) = caller.call.source().filter(|_| caller.principal == Principal::Anonymous) else {
            return Ok(None);
        };
        let budgets = Budget::of_event(source, self.settings.sources.failures);
        Ok(budget_take(tx, budgets, BUDGET_WINDOW, now).await?.map(|budget| budget.whose().to_owned()))
    }
}

/// A failed attempt to prove a password or another secret.
pub(super) struct Failure<'a> {
    /// The key by which its source counts distinct names.
    pub(super) name: &'a str,
    /// What an auditor learns of it. The first event is the failure itself.
    pub(super) events: Vec<Event>,
    /// The event of the lock that follows from it, which is always recorded.
    pub(super) locked: Option<Event>,
}

/// A failure that was committed.
pub(super) struct Committed {
    is_locked: bool,
    /// How long the source is blocked, if another failure blocked it meanwhile.
    blocked: Option<Duration>,
}

impl Committed {
    /// Of many guesses in parallel, those that finish after the block learn nothing.
    pub(super) fn answer(self) -> Result<()> {
        match self.blocked {
            Some(retry_after) => Err(Error::Exhausted { limit: Limit::Source, retry_after }),
            None => Ok(()),
        }
    }
}

impl Attempt {
    /// The permit to hash.
    pub(super) fn permit(&self) -> &HashPermit {
        &self.admitted.permit
    }

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
        if self.budgets.is_familiar
            && user.stored_throttle.is_some()
            && throttle_accept_unfamiliar(&change.tx, user.id, &self.rules).await?
        {
            events.push(throttle_ended(Target::of(user)));
        }
        Ok(events)
    }

    /// Settles an attempt with a wrong password. Returns what it means for the account, or `None` if it does not count there.
    async fn settle_failed(&self, change: &Change<'_>) -> Result<Option<Failed>> {
        if !self.counted {
            return Ok(None);
        }
        throttle_failed(&change.tx, &self.budgets, self.is_spent, &self.rules, change.now).await
    }
}

impl Change<'_> {
    /// Returns whether the server may lock the account by itself: not that of the last administrator.
    pub(super) async fn may_lock(&self, user: &User) -> Result<bool> {
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
