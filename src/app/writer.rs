//! The unit of work: a transaction that its caller may begin, and that ends with an audit event.

use std::future::Future;
use std::time::Duration;

use super::App;
use crate::domain::audit::{Actor, Event, EventType, RecordedEvent, Target};
use crate::domain::caller::{Caller, Demand, Denied, Principal, check_rank};
use crate::domain::id::{EventId, UserId};
use crate::domain::reason::Reason;
use crate::domain::role::{Scope, ScopeSet};
use crate::domain::time::Timestamp;
use crate::domain::user::{Etag, User, UserRef};
use crate::error::{Error, Result, Unauthenticated, Unmet};
use crate::store::api_tokens::api_token_with_user;
use crate::store::sessions::session_with_user;
use crate::store::users::{
    administrators_lock, user_by_ref, user_count_able_administrators, user_id_by_ref, user_keep, user_lock_row,
    user_version,
};
use crate::store::{Ending, WriteTx, audit::event_insert, is_lost_race};

/// How often a transaction that lost a race is tried again whole. Seen: contended rows settle within three.
const TRIES: u32 = 8;

/// A transaction of an authorised caller. Dropping it rolls back.
pub(super) struct Writer<'a> {
    pub(super) tx: WriteTx,
    /// The instant of everything in it: of two changes of an account, the later is dated later, since the one waits for
    /// the other's row and looks at the clock when it has it.
    pub(super) now: Timestamp,
    pub(super) app: &'a App,
    caller: &'a Caller,
    /// Whom the call is about. None: nobody in particular.
    named: Option<Named>,
    /// What the caller may do, by the row read in this transaction.
    scopes: ScopeSet,
}

/// An account as a call names it.
struct Named {
    /// The field that names it.
    field: &'static str,
    /// Who had that name when the transaction began.
    id: Option<UserId>,
}

/// Why a transaction needs no event: it changes nothing that an auditor would ask for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unaudited {
    /// Tokens of a session that goes on.
    Refresh,
    /// The same password under a stronger hash.
    Rehash,
    /// Waits of names that nobody has are over.
    WaitsOfNobody,
}

impl App {
    /// Begins a transaction for `caller`, and judges the rule of the method again on the caller's row: whoever was
    /// locked, signed out or lost the role a moment ago is refused.
    async fn writer<'a>(&'a self, caller: &'a Caller, target: Option<&UserRef>) -> Result<Writer<'a>> {
        failpoint!(caller.call, "begin");
        let tx = self.store.begin_write().await?;
        let named = match target {
            Some(user) => Some(Named { field: user.field(), id: user_id_by_ref(&*tx, user).await? }),
            None => None,
        };
        let mut writer = Writer { tx, now: self.now(), app: self, caller, named, scopes: caller.scopes };
        writer.check_actor().await?;
        Ok(writer)
    }

    /// Does `work` for somebody who is told what came of it.
    pub(super) async fn write<'a, T, Fut>(
        &'a self,
        caller: &'a Caller,
        target: Option<&UserRef>,
        work: impl Fn(Writer<'a>) -> Fut,
    ) -> Result<T>
    where
        Fut: Future<Output = Result<T>>,
    {
        match self.transact(caller, target, work).await {
            Ok((done, ending)) if ending.is_durable() => Ok(done),
            answer => self.once_durable(answer.map(|(done, _)| done)).await,
        }
    }

    /// Looks ahead whether `work`, which changes nothing, could be done.
    pub(super) async fn look_ahead<'a, Fut>(
        &'a self,
        caller: &'a Caller,
        target: Option<&UserRef>,
        work: impl Fn(Writer<'a>) -> Fut,
    ) -> Result<()>
    where
        Fut: Future<Output = Result<()>>,
    {
        match self.transact(caller, target, work).await {
            Ok(_) => Ok(()),
            Err(error) => self.once_durable(Err(error)).await,
        }
    }

    /// An answer that changed nothing rests on what others have changed, maybe a moment ago: an account that is locked
    /// already, a name that is taken, a session that is over. Whoever is told so counts on it.
    pub(super) async fn once_durable<T>(&self, answer: Result<T>) -> Result<T> {
        if !matches!(answer, Err(Error::Unavailable(_))) {
            self.store.flush().await?;
        }
        answer
    }

    /// Does `work` in a transaction: again if it lost a race, and with an audit event of its own if the caller may not
    /// do it. `target` is whom such an event names. Nobody may be told of what is not durable yet: on its own this is for
    /// jobs.
    pub(super) async fn transact<'a, T, Fut>(
        &'a self,
        caller: &'a Caller,
        target: Option<&UserRef>,
        work: impl Fn(Writer<'a>) -> Fut,
    ) -> Result<(T, Ending)>
    where
        Fut: Future<Output = Result<T>>,
    {
        let mut tries = 1;
        loop {
            let result = match self.writer(caller, target).await {
                Ok(writer) => {
                    let ending = writer.tx.ending();
                    work(writer).await.map(|done| (done, ending))
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if tries < TRIES && is_lost_race(&error) => tries += 1,
                Err(error) => {
                    self.audit_refusal(caller, target, &error).await?;
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    /// Records what a known caller was refused. What strangers try, missing things and wrong fields are not recorded:
    /// a flood of them would write a row a call.
    pub(super) async fn audit_refusal(&self, caller: &Caller, target: Option<&UserRef>, error: &Error) -> Result<()> {
        if !matches!(error, Error::Denied(_) | Error::Precondition(Unmet::LastAdministrator)) {
            return Ok(());
        }
        let target = match target {
            Some(user) => match user_by_ref(self.store.reader(), user).await {
                Ok(Some(user)) => Target::user(user.id, user.username.as_str()),
                Ok(None) => Target::default(),
                // Of a record that cannot be read, the id is all that can be told.
                Err(Error::Corrupt { id, .. }) => Target { user_id: id, ..Target::default() },
                Err(error) => return Err(error),
            },
            None => Target::default(),
        };
        let mut event = match error {
            Error::Denied(denied) => Event::denied(target, denied.reason()),
            // Whoever is refused this may try it, and it failed.
            _ => Event::failed(EventType::AccessDenied, target, Reason::LastAdministrator),
        };
        if let Error::Denied(Denied::ScopeMissing(scope)) = error {
            event = event.detail("scope", scope);
        }
        if let Error::Denied(Denied::TargetOutranksCaller { missing }) = error {
            event = event.detail("missingScopes", missing.to_text());
        }
        let recorded = self.recorded(caller, self.now(), event);
        let tx = self.store.begin_write().await?;
        event_insert(&tx, [recorded]).await?;
        tx.commit().await
    }

    pub(super) fn recorded(&self, caller: &Caller, at: Timestamp, event: Event) -> RecordedEvent {
        RecordedEvent {
            id: EventId::from_bytes(self.effects.bytes()),
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
        }
    }
}

impl Writer<'_> {
    async fn check_actor(&mut self) -> Result<()> {
        let (granted, id) = match &self.caller.principal {
            Principal::Nobody | Principal::Local { .. } => return Ok(()),
            Principal::User { granted, id, .. } => (*granted, *id),
            Principal::ApiToken { granted, user_id, .. } => (*granted, *user_id),
        };
        self.lock_actor(id).await?;
        let actor = self.live_actor().await?;
        let Some(actor) = actor.filter(|actor| actor.lock(self.now).is_none()) else {
            return Err(Unauthenticated::SessionRevoked.into());
        };
        self.scopes = granted.intersection(actor.scopes());
        if let Demand::Scope(scope) = self.caller.rule.demand {
            self.need(scope)?;
        }
        self.caller.field_scopes.iter().try_for_each(|scope| self.need(*scope))
    }

    /// Keeps the caller as they are until the end. Who acts on others shares that with whoever else acts in the same
    /// name: a program with one token may make many calls at once, and each waits for the disk. Who acts on their own
    /// account is about to change it, and does not share: two that upgrade would wait for each other. Rows are locked in
    /// the order of their ids, so that two who act on each other do not wait for each other either.
    async fn lock_actor(&self, actor: UserId) -> Result<()> {
        // The embedded database has one writer: this transaction has locked everything.
        if self.app.store.is_embedded() {
            return Ok(());
        }
        let target = self.named.as_ref().and_then(|named| named.id);
        if let Some(target) = target.filter(|target| *target < actor) {
            user_version(&*self.tx, target).await?;
        }
        match self.caller.rule.demand {
            Demand::Scope(_) if target != Some(actor) => user_keep(&*self.tx, actor).await,
            _ => user_version(&*self.tx, actor).await.map(|_| ()),
        }
    }

    /// Who calls, if their session or API token still lives: it may have ended while the call waited for a row or a
    /// hash.
    async fn live_actor(&mut self) -> Result<Option<User>> {
        match &self.caller.principal {
            Principal::Nobody | Principal::Local { .. } => Ok(None),
            Principal::User { session_id, .. } => {
                let found = session_with_user(&*self.tx, *session_id).await?;
                self.now = self.app.now();
                Ok(found.filter(|(session, _)| session.is_live(self.now)).map(|(_, user)| user))
            }
            Principal::ApiToken { id, .. } => {
                let found = api_token_with_user(&*self.tx, *id).await?;
                self.now = self.app.now();
                Ok(found.filter(|(token, _, _)| token.is_live(self.now)).map(|(_, _, user)| user))
            }
        }
    }

    /// Checks a scope beyond the method's own.
    pub(super) fn need(&self, scope: Scope) -> Result<()> {
        if self.scopes.contains(scope) { Ok(()) } else { Err(Denied::ScopeMissing(scope).into()) }
    }

    /// Checks that the caller has all of these scopes, which somebody else is to have.
    pub(super) fn outranks(&self, scopes: ScopeSet) -> Result<()> {
        Ok(check_rank(self.scopes, scopes)?)
    }

    fn named(&self) -> Result<&Named> {
        self.named.as_ref().ok_or_else(|| Error::internal("a transaction about nobody asks whom it is about"))
    }

    /// The id of whom the call is about: works on a corrupt record too.
    pub(super) fn target_id(&self) -> Result<UserId> {
        let named = self.named()?;
        named.id.ok_or_else(|| Error::no_user(named.field))
    }

    /// Reads and locks whom the call is about. The caller must have all scopes that they have.
    pub(super) async fn target(&mut self) -> Result<User> {
        let id = self.target_id()?;
        let Some(target) = self.locked(id).await? else { return Err(Error::no_user(self.named()?.field)) };
        // Acting on one's own account is no matter of rank: what a token was not given, its user may still have.
        if self.caller.principal.user_id() != Some(id) {
            self.outranks(target.scopes())?;
        }
        Ok(target)
    }

    /// Reads and locks an account.
    pub(super) async fn locked(&mut self, id: UserId) -> Result<Option<User>> {
        let user = user_lock_row(&*self.tx, id).await?;
        self.now = self.app.now();
        Ok(user)
    }

    /// Refuses what operators may not do to themselves: a stolen five-minute token must not become a new password.
    pub(super) fn not_oneself(&self, target: UserId) -> Result<()> {
        if self.caller.principal.user_id() == Some(target) { Err(Denied::SelfActionForbidden.into()) } else { Ok(()) }
    }

    /// Compares what the caller has read with what there is.
    pub(super) fn check_etag(target: &User, etag: Option<Etag>) -> Result<()> {
        match etag {
            Some(etag) if etag != target.etag() => Err(Error::Stale { current: target.etag() }),
            _ => Ok(()),
        }
    }

    /// Before an administrator is locked, demoted or deleted: somebody else must be able to administer users. Whoever
    /// may remove one takes the same lock first, so that two administrators cannot remove each other at once. The
    /// local operator is exempt: the one compromised administrator must be lockable.
    pub(super) async fn keep_an_administrator(&self, target: &User) -> Result<()> {
        if self.caller.principal.is_local() || !target.is_able_administrator(self.now) {
            return Ok(());
        }
        if self.is_last_administrator(target).await? { Err(Unmet::LastAdministrator.into()) } else { Ok(()) }
    }

    /// Whether nobody else could administer users.
    pub(super) async fn is_last_administrator(&self, target: &User) -> Result<bool> {
        administrators_lock(&*self.tx).await?;
        Ok(user_count_able_administrators(&*self.tx, target.id, self.now).await? == 0)
    }

    /// Makes the change durable, together with what tells of it.
    pub(super) async fn commit(self, first: Event, more: impl IntoIterator<Item = Event>) -> Result<()> {
        // Each a microsecond after the one before, so that the log lists them in this order.
        let moments = (0..).map(|micros| self.now.saturating_add(Duration::from_micros(micros)));
        let events = std::iter::once(first).chain(more).zip(moments);
        let events = events.map(|(event, at)| self.app.recorded(self.caller, at, event));
        failpoint!(self.caller.call, "audit");
        event_insert(&self.tx, events).await?;
        self.end().await
    }

    /// Makes a change durable that no auditor asks for.
    pub(super) async fn commit_unaudited(self, _why: Unaudited) -> Result<()> {
        self.end().await
    }

    async fn end(self) -> Result<()> {
        failpoint!(self.caller.call, "commit");
        self.tx.commit().await?;
        failpoint!(self.caller.call, "committed");
        Ok(())
    }
}
