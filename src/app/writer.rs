//! The unit of work: a transaction that only an authorised caller can begin, and that commits a change only together with
//! its audit events.
//!
//! ```text
//! App::write(caller, target, |writer| …)
//!     Writer   reads and locks rows, checks scopes
//!       ├─ checked(), unchanged(value) ──────────────────────────────────────────┐
//!       └─ change() ─▶ Change   holds the WriteTx that writing functions need    ├─▶ Done<T>
//!                        └─ commit(events, value), commit_unaudited, roll_back ──┘
//! ```
//!
//! The closure must return a [`Done`], and only these five functions make one. So it does not compile if a change is written
//! but not committed, or committed without an event.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::App;
use super::access::check_recent_sign_in;
use crate::domain::audit::{Actor, Event, EventType, Events, RecordedEvent, Target};
use crate::domain::caller::{Caller, Demand, Denied, Principal, check_rank};
use crate::domain::delivery::Requester;
use crate::domain::id::{EventId, UserId};
use crate::domain::reason::Reason;
use crate::domain::role::{Scope, ScopeSet};
use crate::domain::time::Timestamp;
use crate::domain::user::{Etag, User, UserRef};
use crate::error::{Error, Resource, Result, Unauthenticated, Unmet};
use crate::store::api_tokens::api_token_with_user;
use crate::store::audit::event_insert;
use crate::store::sessions::session_with_user;
use crate::store::users::{
    administrators_lock, user_by_ref, user_count_able_administrators, user_id_by_ref, user_lock_row,
    user_lock_row_or_decoy, user_share_lock, user_write_lock,
};
use crate::store::{Connection, Transaction, WriteTx, is_lost_race};

/// How many times a transaction is tried that keeps losing races. Contended rows were seen to settle within three tries.
const TRIES: u32 = 8;

/// The transaction of an authorised caller, while it only reads and locks.
pub(super) type Writer<'a> = Unit<'a, Transaction>;

/// The transaction of an authorised caller, while it writes.
pub(super) type Change<'a> = Unit<'a, WriteTx>;

/// A transaction of an authorised caller. Dropping it rolls back.
pub(super) struct Unit<'a, Tx> {
    pub(super) tx: Tx,
    /// The time that dates everything in the transaction. It is read again after a row is locked: of two changes to an
    /// account, the one that waited for the other is dated later.
    pub(super) now: Timestamp,
    pub(super) app: &'a App,
    caller: &'a Caller,
    /// The account that the call names, if it names one.
    target: Option<NamedAccount>,
    /// The caller's scopes, according to the rows that were read in this transaction.
    scopes: ScopeSet,
    /// The caller's display name.
    actor_name: Option<String>,
    /// Whether a message was posted, so that a worker is told when the transaction has committed.
    has_posted: AtomicBool,
}

/// The account that a call names.
struct NamedAccount {
    /// The field of the request that names it.
    field: &'static str,
    /// The account that had the name when the transaction began.
    id: Option<UserId>,
}

/// Why a change needs no audit event. No auditor would ask about these.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unaudited {
    /// A session got new tokens.
    Refresh,
    /// The same password got a stronger hash.
    Rehash,
    /// Throttles of unknown usernames have expired.
    UnknownUsernames,
    /// Events were counted, and are recorded with their count.
    Counted,
    /// A stranger asked for a link. The request is recorded when it is resolved.
    Requested,
    /// A message was leased or has another state, which the delivery itself records.
    Delivery,
    /// A user was told that the password will expire or the account be locked, which the delivery records.
    Warning,
    /// A user began to set up an authenticator. Nothing has changed yet.
    Enrollment,
}

/// Why a change is rolled back although nothing failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum RolledBack {
    /// The call was a dry run.
    DryRun,
    /// Another call with the same idempotency key committed first.
    LostIdempotencyRace,
    /// There was nothing to change, or the account has changed since it was read.
    NotApplied,
    /// A job found nothing to do. No caller gets an answer, so nothing needs to be durable.
    NothingDue,
}

/// The answer of a transaction that has ended. Only [`App::durable`] can take the answer out.
#[must_use]
pub(super) struct Done<T> {
    value: T,
    /// Whether everything that the answer depends on is known to be durable.
    is_durable: bool,
}

impl<T> Done<T> {
    pub(super) fn map<U>(self, to: impl FnOnce(T) -> U) -> Done<U> {
        Done { value: to(self.value), is_durable: self.is_durable }
    }
}

impl App {
    /// Runs `work` in a transaction for `caller`, and returns its answer once everything that the answer depends on is
    /// durable. A transaction that lost a race with another is run again from its start. A denied call, and one
    /// that would leave no administrator, is recorded in a transaction of its own, with `target` as the account concerned.
    pub(super) async fn write<'a, T, Fut>(
        &'a self,
        caller: &'a Caller,
        target: Option<&UserRef>,
        work: impl Fn(Writer<'a>) -> Fut,
    ) -> Result<T>
    where
        Fut: Future<Output = Result<Done<T>>>,
    {
        let mut tries = 1;
        loop {
            let result = match self.writer(caller, target).await {
                Ok(writer) => work(writer).await,
                Err(error) => Err(error),
            };
            match result {
                Err(error) if tries < TRIES && is_lost_race(&error) => tries += 1,
                Err(error) => {
                    self.audit_refusal(caller, target, &error).await?;
                    return self.durable(Err(error)).await;
                }
                done => return self.durable(done).await,
            }
        }
    }

    /// Waits until everything that an answer depends on is durable, and returns the answer. Even a call that changed nothing
    /// may depend on what another call committed a moment ago: that an account is already locked, that a name is taken, that
    /// a session has ended.
    pub(super) async fn durable<T>(&self, answer: Result<Done<T>>) -> Result<T> {
        match answer {
            Ok(Done { value, is_durable: true }) => return Ok(value),
            Err(error @ Error::Unavailable(_)) => return Err(error),
            _ => self.store.flush().await?,
        }
        answer.map(|done| done.value)
    }

    /// Does the same as [`App::durable`] for an answer that was read outside a transaction.
    pub(super) async fn durable_read<T>(&self, value: T) -> Result<T> {
        self.durable(Ok(Done { value, is_durable: false })).await
    }

    /// Begins a transaction for `caller`, and applies the rule of the method again to the caller's row: a caller who was
    /// locked, was signed out or lost the role a moment ago is refused.
    async fn writer<'a>(&'a self, caller: &'a Caller, target: Option<&UserRef>) -> Result<Writer<'a>> {
        failpoint!(caller.call, "begin");
        let tx = self.store.begin().await?;
        let target = match target {
            Some(user) => Some(NamedAccount { field: user.field(), id: user_id_by_ref(&tx, user).await? }),
            None => None,
        };
        let has_posted = AtomicBool::new(false);
        let (now, scopes) = (self.now(), caller.scopes);
        let mut writer = Unit { tx, now, app: self, caller, target, scopes, actor_name: None, has_posted };
        writer.check_actor().await?;
        Ok(writer)
    }

    /// Records that a known caller was refused, once a minute for each kind of refusal, and counts the others. Calls without a
    /// known caller, missing resources and invalid fields are not recorded.
    pub(super) async fn audit_refusal(&self, caller: &Caller, target: Option<&UserRef>, error: &Error) -> Result<()> {
        let event = match error {
            Error::Denied(denied) => Event::denied(self.refused_target(target).await?, denied.reason()),
            // The outcome is FAILED and not DENIED: the caller has the scope, but no other administrator would be left.
            Error::Precondition(Unmet::LastAdministrator) => {
                let target = self.refused_target(target).await?;
                Event::failed(EventType::AccessDenied, target, Reason::LastAdministrator)
            }
            _ => return Ok(()),
        };
        let event = match error {
            Error::Denied(Denied::ScopeMissing(scope)) => event.detail("scope", scope),
            Error::Denied(Denied::TargetOutranksCaller { missing }) => event.detail("missingScopes", missing.to_text()),
            _ => event,
        };
        let kind = event.refusal_kind(&caller.principal, &caller.call.method);
        let recorded = self.recorded(caller, self.now(), event);
        let tx = self.store.begin().await?.writable();
        self.count_event(&tx, &kind, recorded).await?;
        tx.commit().await
    }

    async fn refused_target(&self, target: Option<&UserRef>) -> Result<Target> {
        let Some(user) = target else { return Ok(Target::default()) };
        match user_by_ref(self.store.reader(), user).await {
            Ok(Some(user)) => Ok(Target::of(&user)),
            Ok(None) => Ok(Target::default()),
            // Only the id of a corrupt record is known.
            Err(Error::Corrupt { id, .. }) => Ok(Target { user_id: id, ..Target::default() }),
            Err(error) => Err(error),
        }
    }

    pub(super) fn recorded(&self, caller: &Caller, at: Timestamp, event: Event) -> RecordedEvent {
        RecordedEvent {
            id: EventId::from_bytes(self.environment.bytes()),
            at,
            kind: event.kind,
            outcome: event.outcome,
            reason: event.reason,
            actor: Actor::of(&caller.principal, &caller.call),
            target: event.target,
            subject_id: event.subject_id,
            changed_fields: event.changed_fields.into_iter().map(str::to_owned).collect(),
            note: event.note,
            details: event.details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            method: caller.call.method.clone(),
            request_id: caller.call.request_id.clone(),
            client_request_id: caller.call.client_request_id.clone(),
        }
    }
}

impl<'a> Writer<'a> {
    async fn check_actor(&mut self) -> Result<()> {
        let (granted, id) = match &self.caller.principal {
            Principal::Anonymous | Principal::Local { .. } => return Ok(()),
            Principal::User { granted, id, .. } => (*granted, *id),
            Principal::ApiToken { granted, user_id, .. } => (*granted, *user_id),
        };
        self.lock_actor(id).await?;
        let actor = self.live_actor().await?;
        let Some(actor) = actor.filter(|actor| actor.lock(self.now).is_none()) else {
            return Err(Unauthenticated::SessionRevoked.into());
        };
        self.scopes = granted.intersection(actor.scopes());
        self.actor_name = actor.display_name.map(|name| name.as_str().to_owned());
        if let Demand::Scope(scope) = self.caller.rule.demand {
            self.need(scope)?;
        }
        self.caller.field_scopes.iter().try_for_each(|scope| self.need(*scope))?;
        check_recent_sign_in(self.caller, self.now, None)
    }

    /// Locks the caller's row until the transaction ends.
    ///
    /// - If the call acts on others, the lock is shared with other calls by the same caller: a program may make many calls at
    ///   once with one token, and each of them waits for the disk.
    /// - If the call acts on the caller's own account, it is about to change this row. Its lock is exclusive from the start,
    ///   because two calls that upgrade a shared lock would deadlock.
    ///
    /// Rows are locked in the order of their ids, so that two callers who act on each other do not deadlock.
    async fn lock_actor(&self, actor: UserId) -> Result<()> {
        let target = self.target.as_ref().and_then(|target| target.id);
        if let Some(target) = target.filter(|target| *target < actor) {
            user_write_lock(&self.tx, target).await?;
        }
        match self.caller.rule.demand {
            Demand::Scope(_) if target != Some(actor) => user_share_lock(&self.tx, actor).await,
            _ => user_write_lock(&self.tx, actor).await,
        }
    }

    /// Returns the caller's account if the session or API token is still live. It may have ended while the call waited for
    /// a row lock or a hash.
    async fn live_actor(&mut self) -> Result<Option<User>> {
        match &self.caller.principal {
            Principal::Anonymous | Principal::Local { .. } => Ok(None),
            Principal::User { session_id, .. } => {
                let found = session_with_user(&self.tx, *session_id).await?;
                self.now = self.app.now();
                Ok(found.filter(|(session, _)| session.is_live(self.now)).map(|(_, user)| user))
            }
            Principal::ApiToken { id, .. } => {
                let found = api_token_with_user(&self.tx, *id).await?;
                self.now = self.app.now();
                Ok(found.filter(|(token, _, _)| token.is_live(self.now)).map(|(_, _, user)| user))
            }
        }
    }

    /// Allows writing from here on.
    pub(super) fn change(self) -> Change<'a> {
        let Unit { tx, now, app, caller, target, scopes, actor_name, has_posted } = self;
        Unit { tx: tx.writable(), now, app, caller, target, scopes, actor_name, has_posted }
    }

    /// Ends a transaction that changed nothing, with the answer for the caller.
    pub(super) fn unchanged<T>(self, value: T) -> Done<T> {
        drop(self.tx);
        Done { value, is_durable: false }
    }

    /// Ends a transaction that only checked whether a later one can succeed. The caller gets no answer yet, so nothing needs
    /// to be durable.
    pub(super) fn checked<T>(self, value: T) -> Done<T> {
        drop(self.tx);
        Done { value, is_durable: true }
    }

    /// Locks and reads the account that the call names. Fails if there is none, if it has a scope that the caller lacks, or
    /// if the call needs a recent sign-in for it.
    pub(super) async fn target(&mut self) -> Result<User> {
        let id = self.target_id()?;
        let Some(target) = self.locked(id).await? else { return Err(Error::no_user(self.named()?.field)) };
        // The caller's own account may have scopes that were not given to the caller's token.
        if self.caller.principal.user_id() == Some(id) {
            check_recent_sign_in(self.caller, self.now, Some(target.scopes()))?;
        } else {
            self.outranks(target.scopes())?;
        }
        Ok(target)
    }

    /// Fails if the account has changed since the caller read the version `etag`.
    pub(super) fn check_etag(target: &User, etag: Option<Etag>) -> Result<()> {
        match etag {
            Some(etag) if etag != target.etag() => {
                Err(Error::Stale { resource: Resource::User, current: target.etag() })
            }
            _ => Ok(()),
        }
    }

    /// Locks and reads an account.
    pub(super) async fn locked(&mut self, id: UserId) -> Result<Option<User>> {
        let user = user_lock_row(&self.tx, id).await?;
        self.now = self.app.now();
        Ok(user)
    }

    /// Does the same for an account at which a sign-in failed. Takes as long if there is none.
    pub(super) async fn locked_or_decoy(&mut self, id: Option<UserId>) -> Result<Option<User>> {
        let user = user_lock_row_or_decoy(&self.tx, id).await?;
        self.now = self.app.now();
        Ok(user)
    }
}

impl<Tx: Connection> Unit<'_, Tx> {
    /// Fails if the caller lacks this scope.
    pub(super) fn need(&self, scope: Scope) -> Result<()> {
        if self.scopes.contains(scope) { Ok(()) } else { Err(Denied::ScopeMissing(scope).into()) }
    }

    /// Fails if the caller lacks one of these scopes, which another account has or is about to get, or if the call needs a
    /// recent sign-in for an account with scopes.
    pub(super) fn outranks(&self, scopes: ScopeSet) -> Result<()> {
        check_rank(self.scopes, scopes)?;
        check_recent_sign_in(self.caller, self.now, Some(scopes))
    }

    fn named(&self) -> Result<&NamedAccount> {
        self.target.as_ref().ok_or_else(|| Error::internal("the call names no account"))
    }

    /// The id of the account that the call names, even if its record is corrupt.
    pub(super) fn target_id(&self) -> Result<UserId> {
        let named = self.named()?;
        named.id.ok_or_else(|| Error::no_user(named.field))
    }

    /// Fails if `target` is the caller's own account. The token may be stolen, and must not reset or lock its owner.
    pub(super) fn not_oneself(&self, target: UserId) -> Result<()> {
        if self.caller.principal.user_id() == Some(target) { Err(Denied::SelfActionForbidden.into()) } else { Ok(()) }
    }

    /// Fails if no account would be left that can administer users once `target` is locked, demoted or deleted. The local
    /// operator is exempt, because even the only administrator must be lockable if that account is compromised.
    pub(super) async fn keep_an_administrator(&self, target: &User) -> Result<()> {
        if self.caller.principal.is_local() || !target.is_able_administrator(self.now) {
            return Ok(());
        }
        if self.is_last_administrator(target).await? { Err(Unmet::LastAdministrator.into()) } else { Ok(()) }
    }

    /// Returns whether `target` is the only account that can administer users. First takes a lock that is common to all calls
    /// that may remove an administrator, so that two administrators cannot remove each other at the same time.
    pub(super) async fn is_last_administrator(&self, target: &User) -> Result<bool> {
        administrators_lock(&self.tx).await?;
        Ok(user_count_able_administrators(&self.tx, target, self.now).await? == 0)
    }
}

impl Change<'_> {
    /// Commits the change together with its audit events.
    pub(super) async fn commit<T>(self, events: impl Into<Events>, value: T) -> Result<Done<T>> {
        // Each event is dated a microsecond after the one before it, so that the audit log lists them in this order.
        let moments = (0..).map(|micros| self.now.saturating_add(Duration::from_micros(micros)));
        let events = events.into().into_iter().zip(moments);
        let events = events.map(|(event, at)| self.app.recorded(self.caller, at, event));
        failpoint!(self.caller.call, "audit");
        event_insert(&self.tx, events).await?;
        self.end(value).await
    }

    /// Commits a change that needs no audit event.
    pub(super) async fn commit_unaudited<T>(self, _why: Unaudited, value: T) -> Result<Done<T>> {
        self.end(value).await
    }

    /// Notes that a message was posted.
    pub(super) fn posted(&self) {
        self.has_posted.store(true, Ordering::Relaxed);
    }

    /// The principal that a message is counted against.
    pub(super) fn principal_id(&self) -> String {
        self.caller.principal.id()
    }

    /// The caller as a user is told of it.
    pub(super) fn requester(&self) -> Requester {
        match self.caller.principal {
            Principal::Anonymous => {
                Requester::Owner { source: self.caller.call.client_address.map(|address| address.to_string()) }
            }
            _ => Requester::Operator { name: self.actor_name.clone() },
        }
    }

    /// Rolls back everything that was written.
    pub(super) fn roll_back<T>(self, why: RolledBack, value: T) -> Done<T> {
        drop(self.tx);
        Done { value, is_durable: matches!(why, RolledBack::NothingDue) }
    }

    async fn end<T>(self, value: T) -> Result<Done<T>> {
        failpoint!(self.caller.call, "commit");
        let has_posted = self.has_posted.into_inner();
        self.tx.commit().await?;
        if has_posted {
            self.app.posted.notify_one();
        }
        failpoint!(self.caller.call, "committed");
        Ok(Done { value, is_durable: true })
    }
}
