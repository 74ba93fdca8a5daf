//! The outbox: messages to users, each with its state. A message is inserted in the transaction of what it announces; workers
//! lease those that are due.
//!
//! A lease needs no column for its end: while a message is sent, `next_attempt_at` is when the lease ends. So a message whose
//! worker crashed is simply due again. A clock that is set must not end a lease early, or the message would be sent twice: the
//! lease ends by the clocks of this machine and of the database, whichever is behind, and a worker names what it is sending.

use std::collections::HashSet;

use sea_orm::sea_query::{CaseStatement, Condition, Expr, ExprTrait, LockBehavior, LockType, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
};
use strum::VariantArray as _;

use super::entity::delivery::{self, Column};
use super::page::newest_first;
use super::single::{record, records};
use super::sweep::delete_batch;
use super::text::{Decoder, count, micros, readable};
use super::{Autocommit, WriteTx};
use crate::domain::delivery::{
    CONTENTS_VERSION, Delivery, DeliveryFilter, DeliveryKind, DeliveryState, LEASE, LetterKind, Next, Tried,
};
use crate::domain::id::{DeliveryId, LinkId, UserId};
use crate::domain::link::LinkPurpose;
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

/// A message to be stored.
pub struct NewDelivery<'a> {
    /// The message.
    pub delivery: &'a Delivery,
    /// The key of its address: messages to one address are sent one after the other.
    pub address_key: &'a str,
    /// The principal that asked for it, for limits.
    pub requested_by: &'a str,
    /// Its sealed contents.
    pub contents: Vec<u8>,
}

/// A leased message.
pub struct Leased {
    /// The message.
    pub delivery: Delivery,
    /// Its sealed contents.
    pub contents: Vec<u8>,
    /// The lease.
    pub lease: [u8; 16],
    /// Whether its last attempt timed out.
    pub is_slow: bool,
    /// Whether the relay may have accepted an earlier attempt.
    was_unknown: bool,
}

/// What is written down after an attempt.
#[derive(PartialEq)]
pub struct Mark<'a> {
    /// What follows.
    pub next: Next,
    /// The relay, or `file`.
    pub relay: &'a str,
    /// Whether the attempt timed out.
    pub is_slow: bool,
}

/// Stores a message.
pub async fn delivery_insert(tx: &WriteTx, new: NewDelivery<'_>) -> Result<()> {
    let delivery = new.delivery;
    let row = delivery::ActiveModel {
        id: Set(delivery.id.to_string()),
        user_id: Set(delivery.user_id.to_string()),
        letter: Set(letter_number(delivery.letter)),
        address: Set(delivery.address.clone()),
        address_key: Set(new.address_key.to_owned()),
        locale: Set(delivery.locale.clone()),
        state: Set(state_number(delivery.state)),
        attempts: Set(0),
        last_error: Set(String::new()),
        relay: Set(String::new()),
        created_at: Set(delivery.created_at.as_micros()),
        updated_at: Set(delivery.updated_at.as_micros()),
        next_attempt_at: Set(micros(delivery.next_attempt_at)),
        expires_at: Set(micros(delivery.expires_at)),
        link_id: Set(delivery.link_id.map(|id| id.to_string())),
        resend_of: Set(delivery.resend_of.map(|id| id.to_string())),
        requested_by: Set(new.requested_by.to_owned()),
        contents_version: Set(CONTENTS_VERSION),
        contents: Set(Some(new.contents)),
        lease: Set(None),
        is_slow: Set(false),
        was_unknown: Set(false),
        is_cancelled: Set(false),
    };
    delivery::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.delivery_insert");
    Ok(())
}

/// Reads one message.
pub async fn delivery_by_id(c: &impl ConnectionTrait, id: DeliveryId) -> Result<Option<Delivery>> {
    record::<delivery::Model>(c, Resource::Delivery, delivery::Entity::find_by_id(id.to_string()))
        .await?
        .as_ref()
        .map(decode)
        .transpose()
}

/// Reads and locks one message.
pub async fn delivery_lock_row(c: &impl ConnectionTrait, id: DeliveryId) -> Result<Option<Delivery>> {
    let mut select = delivery::Entity::find_by_id(id.to_string());
    QueryTrait::query(&mut select).lock(LockType::Update);
    record::<delivery::Model>(c, Resource::Delivery, select).await?.as_ref().map(decode).transpose()
}

/// Lists messages, newest first, of one user or of all.
pub async fn delivery_list(
    c: &impl ConnectionTrait,
    filter: &DeliveryFilter,
    user: Option<UserId>,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<Delivery>> {
    let mut all = Condition::all().add_option(user.map(|user| Column::UserId.eq(user.to_string())));
    if !filter.kinds.is_empty() {
        let letters = LetterKind::VARIANTS.iter().filter(|letter| filter.kinds.contains(&letter.kind()));
        all = all.add(Column::Letter.is_in(letters.map(|letter| letter_number(*letter))));
    }
    if !filter.states.is_empty() {
        all = all.add(Column::State.is_in(filter.states.iter().map(|state| state_number(*state))));
    }
    let select = newest_first(delivery::Entity::find().filter(all), (Column::CreatedAt, Column::Id), after, size);
    let rows: Vec<delivery::Model> = records(c, Resource::Delivery, select).await?;
    let page = Page::cut(rows, size, |row| Cursor::Time(row.created_at, row.id.clone()));
    Ok(Page { next: page.next, rows: readable(page.rows.iter().map(decode))? })
}

/// Counts the messages with a link or a password that a user got, or that a principal asked for, since `since`, up to `most`.
/// Also returns when the oldest of them was made.
pub async fn delivery_count_requested(
    c: &impl ConnectionTrait,
    whose: &Requested<'_>,
    since: Timestamp,
    most: u64,
) -> Result<Vec<Timestamp>> {
    let secret = LetterKind::VARIANTS.iter().filter(|letter| letter.kind() != DeliveryKind::Notice);
    let of = match whose {
        // What strangers ask for has limits of its own.
        Requested::For(user) => Column::UserId.eq(user.to_string()).and(Column::RequestedBy.ne("")),
        Requested::By(principal) => Column::RequestedBy.eq(*principal),
    };
    let times: Vec<i64> = delivery::Entity::find()
        .select_only()
        .column(Column::CreatedAt)
        .filter(of)
        .filter(Column::CreatedAt.gt(since.as_micros()))
        .filter(Column::Letter.is_in(secret.map(|letter| letter_number(*letter))))
        .order_by_desc(Column::CreatedAt)
        .limit(most)
        .into_tuple()
        .all(c)
        .await?;
    Ok(times.into_iter().map(Timestamp::from_micros).collect())
}

/// When the links were made that a user got because a stranger asked for them, since `since`: newest first, up to `most`. Also
/// counts those to the same address when another account had it.
pub async fn delivery_self_service(
    c: &impl ConnectionTrait,
    user: UserId,
    address_key: &str,
    since: Timestamp,
    most: usize,
) -> Result<Vec<Timestamp>> {
    let mut found: HashSet<(i64, String)> = HashSet::new();
    for of in [Column::UserId.eq(user.to_string()), Column::AddressKey.eq(address_key)] {
        let newest: Vec<(i64, String)> = delivery::Entity::find()
            .select_only()
            .columns([Column::CreatedAt, Column::Id])
            .filter(of)
            // The condition of the partial index, word for word.
            .filter(Expr::cust("requested_by = ''"))
            .filter(Column::Letter.is_in([LetterKind::Invite, LetterKind::PasswordReset].map(letter_number)))
            .filter(Column::CreatedAt.gt(since.as_micros()))
            .order_by_desc(Column::CreatedAt)
            .limit(most as u64)
            .into_tuple()
            .all(c)
            .await?;
        found.extend(newest);
    }
    let mut times: Vec<Timestamp> = found.into_iter().map(|(at, _)| Timestamp::from_micros(at)).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    times.truncate(most);
    Ok(times)
}

/// Returns whether an invitation was sent to this address of a user.
pub async fn delivery_has_invited(c: &impl ConnectionTrait, user: UserId, address_key: &str) -> Result<bool> {
    let select = delivery::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::UserId.eq(user.to_string()))
        .filter(Column::AddressKey.eq(address_key))
        .filter(Column::Letter.eq(letter_number(LetterKind::Invite)))
        .limit(1);
    Ok(select.into_tuple::<String>().one(c).await?.is_some())
}

/// Returns whether at least `most` messages wait.
pub async fn delivery_is_full(c: &impl ConnectionTrait, most: u64) -> Result<bool> {
    let last = delivery::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::NextAttemptAt.is_not_null())
        .offset(most.saturating_sub(1))
        .limit(1);
    Ok(last.into_tuple::<String>().one(c).await?.is_some())
}

/// Whose messages are counted.
pub enum Requested<'a> {
    /// Those to a user.
    For(UserId),
    /// Those that a principal asked for.
    By(&'a str),
}

/// Returns whether a message is due at `now`.
pub async fn delivery_is_due(c: &impl ConnectionTrait, now: Timestamp) -> Result<bool> {
    let due = due(c.get_database_backend(), now);
    let select = delivery::Entity::find().select_only().column(Column::Id).filter(due).limit(1);
    Ok(select.into_tuple::<String>().one(c).await?.is_some())
}

fn due(backend: DbBackend, now: Timestamp) -> Condition {
    let has_ended = Expr::col(Column::NextAttemptAt).lte(with_database_clock(backend, "LEAST", now));
    Condition::all()
        .add(Column::NextAttemptAt.lte(now.as_micros()))
        .add(Column::ContentsVersion.lte(CONTENTS_VERSION))
        .add(Condition::any().add(Column::Lease.is_null()).add(has_ended))
}

/// The least or the greatest of `now` and the database's time, if it has a clock of its own.
fn with_database_clock(backend: DbBackend, which: &'static str, now: Timestamp) -> Expr {
    if backend == DbBackend::Sqlite {
        return Expr::value(now.as_micros());
    }
    // The time of the statement is read once, that of the clock for each row.
    let sql =
        format!("{which}(CAST($1 AS BIGINT), CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT))");
    Expr::cust_with_values(sql, [now.as_micros()])
}

/// What a worker took from the outbox.
#[derive(Default)]
pub struct Claimed {
    /// The leased messages.
    pub leased: Vec<Leased>,
    /// The kind and the last state of those that were too late to be sent.
    pub ended: Vec<(DeliveryKind, DeliveryState)>,
}

/// How many messages a worker can lease, and which it has.
pub struct Room<'a> {
    /// How many more it can send.
    pub free: usize,
    /// How many of them may be such whose last attempt timed out.
    pub slow: usize,
    /// Those that it is sending.
    pub sending: &'a [DeliveryId],
}

/// Takes the messages that are due at `now`, longest due first. Leases as many as there is room for, at most one for each
/// address. Ends those whose link or password has expired, or that were cancelled while a worker crashed. Looks at no more
/// messages than it may need, so its time does not depend on how many wait.
pub async fn delivery_claim(tx: &WriteTx, now: Timestamp, room: &Room<'_>, lease: [u8; 16]) -> Result<Claimed> {
    let Room { free: limit, slow, sending } = *room;
    let mut claimed = Claimed::default();
    if limit == 0 {
        return Ok(claimed);
    }
    let backend = tx.get_database_backend();
    let mut due = delivery::Entity::find()
        .filter(due(backend, now))
        .filter(Column::Id.is_not_in(ids(sending)))
        .filter(Column::AddressKey.not_in_subquery(addresses_in_use(backend, now, sending)))
        .order_by_asc(Column::NextAttemptAt)
        // Several may have one address, be slow, or be too late.
        .limit(4 * limit as u64);
    QueryTrait::query(&mut due).lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    let rows: Vec<delivery::Model> = records(tx, Resource::Delivery, due).await?;
    let is_late = |row: &delivery::Model| row.is_cancelled || row.expires_at.is_some_and(|at| at <= now.as_micros());
    let (late, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_late);
    for row in late {
        claimed.ended.extend(end_late(tx, &row, now).await?);
    }
    let (mut addresses, mut slow_left, mut begun) = (HashSet::new(), slow, Vec::new());
    for row in rows {
        if begun.len() == limit {
            break;
        }
        if (row.is_slow && slow_left == 0) || !addresses.insert(row.address_key.clone()) {
            continue;
        }
        slow_left -= usize::from(row.is_slow);
        begun.push(row);
    }
    begin_attempts(tx, &begun, lease, now).await?;
    for row in begun {
        claimed.leased.extend(lease_of(row, lease)?);
    }
    Ok(claimed)
}

/// Ends a message that is too late to be sent. One that a worker was sending may have gone out.
async fn end_late(
    tx: &WriteTx,
    row: &delivery::Model,
    now: Timestamp,
) -> Result<Option<(DeliveryKind, DeliveryState)>> {
    let is_waiting = state_from(row.state).is_some_and(DeliveryState::is_waiting);
    let state = if is_waiting { DeliveryState::Expired } else { DeliveryState::Unknown };
    delivery::Entity::update_many()
        .col_expr(Column::State, Expr::value(state_number(state)))
        .col_expr(Column::NextAttemptAt, Expr::value(None::<i64>))
        .col_expr(Column::Contents, Expr::value(None::<Vec<u8>>))
        .col_expr(Column::Lease, Expr::value(None::<Vec<u8>>))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.eq(row.id.clone()))
        .exec(tx)
        .await?;
    Ok(letter_from(row.letter).map(|letter| (letter.kind(), state)))
}

/// The addresses to which a message is being sent.
fn addresses_in_use(backend: DbBackend, now: Timestamp, sending: &[DeliveryId]) -> sea_orm::sea_query::SelectStatement {
    let is_leased = Expr::col(Column::NextAttemptAt).gt(with_database_clock(backend, "LEAST", now));
    let mut select = Query::select();
    select
        .column(Column::AddressKey)
        .from(delivery::Entity)
        .and_where(Column::Lease.is_not_null())
        .cond_where(Condition::any().add(is_leased).add(Column::Id.is_in(ids(sending))));
    select
}

fn ids(of: &[DeliveryId]) -> impl Iterator<Item = String> {
    of.iter().map(ToString::to_string)
}

async fn begin_attempts(tx: &WriteTx, rows: &[delivery::Model], lease: [u8; 16], now: Timestamp) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let lease_time = i64::try_from(LEASE.as_micros()).unwrap_or(i64::MAX);
    let end = with_database_clock(tx.get_database_backend(), "GREATEST", now).add(lease_time);
    delivery::Entity::update_many()
        .col_expr(Column::State, Expr::value(state_number(DeliveryState::Sending)))
        .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1))
        .col_expr(Column::NextAttemptAt, end)
        .col_expr(Column::Lease, Expr::value(lease.to_vec()))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.is_in(rows.iter().map(|row| row.id.clone())))
        .exec(tx)
        .await?;
    failpoint!("store.delivery_claim");
    Ok(())
}

/// A leased message; `None` if its row cannot be read, which is logged.
fn lease_of(mut row: delivery::Model, lease: [u8; 16]) -> Result<Option<Leased>> {
    row.attempts = row.attempts.saturating_add(1);
    let (contents, is_slow, was_unknown) = (row.contents.take().unwrap_or_default(), row.is_slow, row.was_unknown);
    let leased = decode(&row).map(|delivery| Leased { delivery, contents, lease, is_slow, was_unknown });
    Ok(readable([leased].into_iter())?.pop())
}

impl Leased {
    /// What decides what follows from the attempt.
    pub fn tried(&self, is_cancelled: bool) -> Tried {
        Tried {
            attempts: self.delivery.attempts,
            was_unknown: self.was_unknown,
            is_cancelled,
            created_at: self.delivery.created_at,
            expires_at: self.delivery.expires_at,
        }
    }
}

/// Returns which messages were cancelled while they were sent, or are gone. Locks their rows.
pub async fn delivery_cancelled(c: &impl ConnectionTrait, ids: &[DeliveryId]) -> Result<HashSet<DeliveryId>> {
    let mut select = delivery::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Id.is_in(ids.iter().map(ToString::to_string)))
        .filter(Column::IsCancelled.eq(false))
        .order_by_asc(Column::Id);
    QueryTrait::query(&mut select).lock(LockType::Update);
    let sent: HashSet<String> = select.into_tuple().all(c).await?.into_iter().collect();
    Ok(ids.iter().copied().filter(|id| !sent.contains(&id.to_string())).collect())
}

/// Writes down attempts after which the same follows, each with what it met in words. Returns the messages, without those whose
/// lease has ended or that are gone. The contents are wiped if no attempt follows.
pub async fn delivery_mark(
    tx: &WriteTx,
    attempts: &[(&Leased, &str)],
    mark: &Mark<'_>,
    now: Timestamp,
) -> Result<Vec<DeliveryId>> {
    let Next { state, next_attempt_at } = mark.next;
    let leased = attempts.iter().fold(Condition::any(), |any, (attempt, _)| {
        any.add(Column::Id.eq(attempt.delivery.id.to_string()).and(Column::Lease.eq(attempt.lease.to_vec())))
    });
    let words = attempts.iter().fold(CaseStatement::new(), |words, (attempt, said)| {
        words.case(Column::Id.eq(attempt.delivery.id.to_string()), *said)
    });
    let mut update = delivery::Entity::update_many()
        .col_expr(Column::State, Expr::value(state_number(state)))
        .col_expr(Column::NextAttemptAt, Expr::value(micros(next_attempt_at)))
        .col_expr(Column::Lease, Expr::value(None::<Vec<u8>>))
        .col_expr(Column::LastError, words.finally("").into())
        .col_expr(Column::Relay, Expr::value(mark.relay))
        .col_expr(Column::IsSlow, Expr::value(mark.is_slow))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(leased);
    if state == DeliveryState::Unknown {
        update = update.col_expr(Column::WasUnknown, Expr::value(true));
    }
    if next_attempt_at.is_none() {
        update = update.col_expr(Column::Contents, Expr::value(None::<Vec<u8>>));
    }
    let marked = update.exec_with_returning(tx).await?;
    failpoint!("store.delivery_mark");
    let marked: HashSet<String> = marked.into_iter().map(|row| row.id).collect();
    let ids = attempts.iter().map(|(attempt, _)| attempt.delivery.id);
    Ok(ids.filter(|id| marked.contains(&id.to_string())).collect())
}

/// Which messages are cancelled.
pub enum Cancelled<'a> {
    /// One message.
    One(DeliveryId),
    /// Those that carry these links.
    OfLinks(&'a [LinkId]),
    /// Those to a user that carry a link of this purpose.
    LinksOf(UserId, LinkPurpose),
    /// Those to a user that carry a link or a password.
    SecretsOf(UserId),
    /// All messages to a user.
    AllOf(UserId),
}

/// Cancels messages that have not gone out. One that is being sent is marked: it becomes CANCELLED unless the relay takes it.
pub async fn delivery_cancel(tx: &WriteTx, which: Cancelled<'_>, now: Timestamp) -> Result<u32> {
    let letters = LetterKind::VARIANTS.iter().filter(|letter| letter.kind() != DeliveryKind::Notice);
    let which = || match &which {
        Cancelled::One(id) => Condition::all().add(Column::Id.eq(id.to_string())),
        Cancelled::OfLinks(links) => Condition::all().add(Column::LinkId.is_in(links.iter().map(ToString::to_string))),
        Cancelled::LinksOf(user, purpose) => Condition::all()
            .add(Column::UserId.eq(user.to_string()))
            .add(Column::Letter.eq(letter_number(LetterKind::of_link(*purpose)))),
        Cancelled::SecretsOf(user) => Condition::all()
            .add(Column::UserId.eq(user.to_string()))
            .add(Column::Letter.is_in(letters.clone().map(|letter| letter_number(*letter)))),
        Cancelled::AllOf(user) => Condition::all().add(Column::UserId.eq(user.to_string())),
    };
    let waiting = [DeliveryState::Queued, DeliveryState::Retrying].map(state_number);
    let cancelled = delivery::Entity::update_many()
        .col_expr(Column::State, Expr::value(state_number(DeliveryState::Cancelled)))
        .col_expr(Column::NextAttemptAt, Expr::value(None::<i64>))
        .col_expr(Column::Contents, Expr::value(None::<Vec<u8>>))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(which())
        .filter(Column::State.is_in(waiting))
        .exec(tx)
        .await?;
    failpoint!("store.delivery_cancel");
    // What the relay may have accepted stays UNKNOWN, and is not tried again.
    delivery::Entity::update_many()
        .col_expr(Column::NextAttemptAt, Expr::value(None::<i64>))
        .col_expr(Column::Contents, Expr::value(None::<Vec<u8>>))
        .filter(which())
        .filter(Column::State.eq(state_number(DeliveryState::Unknown)))
        .exec(tx)
        .await?;
    delivery::Entity::update_many()
        .col_expr(Column::IsCancelled, Expr::value(true))
        .filter(which())
        .filter(Column::State.eq(state_number(DeliveryState::Sending)))
        .exec(tx)
        .await?;
    Ok(count(cancelled.rows_affected))
}

/// Makes messages that were being sent due at once. Called at the start on the embedded database, which has one owner, so their
/// workers are gone.
pub async fn delivery_void_leases(tx: &WriteTx, now: Timestamp) -> Result<u64> {
    let voided = delivery::Entity::update_many()
        .col_expr(Column::NextAttemptAt, Expr::value(now.as_micros()))
        .filter(Column::State.eq(state_number(DeliveryState::Sending)))
        .filter(Column::Lease.is_not_null())
        .exec(tx)
        .await?;
    Ok(voided.rows_affected)
}

/// The queue as a whole.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// How many messages wait, of each kind.
    pub waiting: Vec<(DeliveryKind, u64)>,
    /// When the oldest of them was made.
    pub oldest: Option<Timestamp>,
    /// When a relay last took a message.
    pub last_accepted: Option<Timestamp>,
    /// When an attempt last failed, and what it met.
    pub last_failure: Option<(Timestamp, String)>,
}

/// Reads the state of the queue.
pub async fn delivery_queue(c: &impl ConnectionTrait) -> Result<Queue> {
    let mut queue = Queue::default();
    let due = || delivery::Entity::find().filter(Column::NextAttemptAt.is_not_null());
    let counts: Vec<(i16, i64)> = due()
        .select_only()
        .column(Column::Letter)
        .column_as(Column::Id.count(), "messages")
        .group_by(Column::Letter)
        .into_tuple()
        .all(c)
        .await?;
    for kind in DeliveryKind::VARIANTS {
        let of_kind =
            counts.iter().filter(|(letter, _)| letter_from(*letter).is_some_and(|letter| letter.kind() == *kind));
        let waiting: i64 = of_kind.map(|(_, messages)| *messages).sum();
        queue.waiting.push((*kind, u64::try_from(waiting).unwrap_or(0)));
    }
    let oldest: Option<Option<i64>> =
        due().select_only().column_as(Column::CreatedAt.min(), "oldest").into_tuple().one(c).await?;
    queue.oldest = oldest.flatten().map(Timestamp::from_micros);
    let newest = |state| {
        delivery::Entity::find()
            .filter(Column::State.eq(state_number(state)))
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(1)
    };
    let accepted: Option<delivery::Model> = newest(DeliveryState::Accepted).one(c).await?;
    queue.last_accepted = accepted.map(|row| Timestamp::from_micros(row.updated_at));
    let failed = delivery::Entity::find()
        .filter(Column::LastError.ne(""))
        // Those were accepted with these words.
        .filter(Column::State.ne(state_number(DeliveryState::Accepted)))
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .limit(1);
    let failed: Option<delivery::Model> = failed.one(c).await?;
    queue.last_failure = failed.map(|row| (Timestamp::from_micros(row.updated_at), row.last_error));
    Ok(queue)
}

/// How many messages in a row must fail before no mail goes out.
const FAILURES_IN_A_ROW: u64 = 3;

/// Returns what the newest attempts met, if the last [`FAILURES_IN_A_ROW`] messages that were tried wait for another try.
pub async fn delivery_failure(c: &impl ConnectionTrait) -> Result<Option<String>> {
    let newest: Vec<(i16, String)> = delivery::Entity::find()
        .select_only()
        .column(Column::State)
        .column(Column::LastError)
        .filter(Column::Attempts.gt(0))
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .limit(FAILURES_IN_A_ROW)
        .into_tuple()
        .all(c)
        .await?;
    let waits = |(state, _): &(i16, String)| *state == state_number(DeliveryState::Retrying);
    let fails = newest.len() as u64 == FAILURES_IN_A_ROW && newest.iter().all(waits);
    Ok(newest.into_iter().next().filter(|_| fails).map(|(_, error)| error))
}

/// Deletes a batch of messages that were made before `before` and have their last state. Returns whether there may be more.
pub async fn deliveries_sweep(tx: &Autocommit, before: Timestamp) -> Result<bool> {
    let old = Condition::all().add(Column::CreatedAt.lte(before.as_micros())).add(Column::NextAttemptAt.is_null());
    delete_batch::<delivery::Entity>(tx, old).await
}

fn decode(row: &delivery::Model) -> Result<Delivery> {
    let decoder = Decoder { resource: Resource::Delivery, id: &row.id, version: None };
    Ok(Delivery {
        id: decoder.parse(&row.id)?,
        user_id: decoder.parse(&row.user_id)?,
        letter: decoder.some(letter_from(row.letter))?,
        address: row.address.clone(),
        locale: row.locale.clone(),
        state: decoder.some(state_from(row.state))?,
        attempts: u32::try_from(row.attempts).unwrap_or(0),
        last_words: row.last_error.clone(),
        relay: row.relay.clone(),
        created_at: decoder.instant(row.created_at)?,
        updated_at: decoder.instant(row.updated_at)?,
        next_attempt_at: decoder.instant_or_none(row.next_attempt_at)?,
        expires_at: decoder.instant_or_none(row.expires_at)?,
        link_id: row.link_id.as_deref().map(|id| decoder.parse(id)).transpose()?,
        resend_of: row.resend_of.as_deref().map(|id| decoder.parse(id)).transpose()?,
    })
}

fn letter_number(letter: LetterKind) -> i16 {
    match letter {
        LetterKind::Invite => 1,
        LetterKind::PasswordReset => 2,
        LetterKind::TemporaryPassword => 3,
        LetterKind::EmailVerification => 4,
        LetterKind::PasswordChanged => 51,
        LetterKind::PasswordResetDone => 52,
        LetterKind::Compromised => 53,
        LetterKind::AddressChanged => 54,
    }
}

fn letter_from(number: i16) -> Option<LetterKind> {
    LetterKind::VARIANTS.iter().copied().find(|letter| letter_number(*letter) == number)
}

/// Returns the number of a state in the API.
fn state_number(state: DeliveryState) -> i16 {
    match state {
        DeliveryState::Queued => 1,
        DeliveryState::Sending => 2,
        DeliveryState::Retrying => 3,
        DeliveryState::Accepted => 4,
        DeliveryState::Failed => 5,
        DeliveryState::Expired => 6,
        DeliveryState::Cancelled => 7,
        DeliveryState::Unknown => 8,
    }
}

fn state_from(number: i16) -> Option<DeliveryState> {
    DeliveryState::VARIANTS.iter().copied().find(|state| state_number(*state) == number)
}
