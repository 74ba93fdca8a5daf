//! The queue: workers lease the messages that are due, and mark what became of them.
//!
//! A lease needs no column for its end: while a message is sent, `next_attempt_at` is when the lease ends. So a message whose
//! worker crashed is simply due again. A clock that is set must not end a lease early, or the message would be sent twice: the
//! lease ends by the clocks of this machine and of the database, whichever is behind, and a worker names what it is sending.

use std::collections::HashSet;

use sea_orm::sea_query::{CaseStatement, Condition, Expr, ExprTrait, Func, LockBehavior, LockType, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
};
use strum::VariantArray as _;

use super::row::{decode, letter_from, state_from, state_number};
use crate::domain::delivery::{CONTENTS_VERSION, Delivery, DeliveryKind, DeliveryState, LEASE, Next, Tried};
use crate::domain::id::DeliveryId;
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};
use crate::store::WriteTx;
use crate::store::entity::delivery::{self, Column};
use crate::store::single::records;
use crate::store::text::{micros, readable};

/// A leased message.
pub struct Leased {
    /// The message.
    pub delivery: Delivery,
    /// Its sealed contents.
    pub contents: Vec<u8>,
    /// The lease.
    pub lease: [u8; 16],
    /// Whether its last attempt was slow.
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
    /// Whether the attempt was slow.
    pub is_slow: bool,
    /// Whether the attempt failed because of the relay or the folder.
    pub relay_failed: bool,
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
    /// How many of them may be such whose last attempt was slow.
    pub slow: usize,
    /// Those that it is sending.
    pub sending: &'a [DeliveryId],
}

/// Takes the messages that are due at `now`, longest due first. Leases as many as there is room for, at most one for each
/// address. Ends those whose link or password has expired, or that were cancelled while a worker crashed. Looks at no more
/// messages than it may need, so its time does not depend on how many wait, except for slow ones while there is no room for them.
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
    if slow == 0 {
        // They may be more than the rows that are looked at, and would hide the others.
        due = due.filter(Column::IsSlow.eq(false));
    }
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
    // Not the column itself, so that SQLite uses the small index of leased messages, not that of all that wait.
    let ends_at = Expr::expr(Func::coalesce([Expr::col(Column::NextAttemptAt), Expr::value(0_i64)]));
    let is_leased = ends_at.gt(with_database_clock(backend, "LEAST", now));
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
        .col_expr(Column::RelayFailed, Expr::value(mark.relay_failed))
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
    /// When the oldest of those was made that wait for us or for the relay, not for their recipient: it was not tried yet, or the
    /// relay failed.
    pub oldest_held_up: Option<Timestamp>,
    /// When a relay last took a message.
    pub last_accepted: Option<Timestamp>,
    /// When an attempt last failed because of the relay or the folder, and what it met.
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
    let oldest = async |waiting: Select<delivery::Entity>| -> Result<Option<Timestamp>> {
        let oldest = waiting.select_only().column_as(Column::CreatedAt.min(), "oldest");
        let oldest: Option<Option<i64>> = oldest.into_tuple().one(c).await?;
        Ok(oldest.flatten().map(Timestamp::from_micros))
    };
    queue.oldest = oldest(due()).await?;
    let is_held_up = Condition::any().add(Column::Attempts.eq(0)).add(relay_failed());
    queue.oldest_held_up = oldest(due().filter(is_held_up)).await?;
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
        .filter(relay_failed())
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .limit(1);
    let failed: Option<delivery::Model> = failed.one(c).await?;
    queue.last_failure = failed.map(|row| (Timestamp::from_micros(row.updated_at), row.last_error));
    Ok(queue)
}

/// Those that the relay failed. Not compared with a parameter, so that SQLite uses their index.
fn relay_failed() -> Expr {
    Expr::col(Column::RelayFailed)
}

/// How many messages in a row must fail before no mail goes out.
const FAILURES_IN_A_ROW: u64 = 3;

/// How many of the newest messages are looked at: beside a long queue, the last attempts may be far from the newest message.
const LOOKED_AT: u64 = 1000;

/// Returns what the newest attempts met, if the relay failed the last [`FAILURES_IN_A_ROW`] messages that were tried, and they
/// wait for another try. Looks at the newest [`LOOKED_AT`] messages only.
pub async fn delivery_failure(c: &impl ConnectionTrait) -> Result<Option<String>> {
    let oldest = delivery::Entity::find()
        .select_only()
        .column(Column::CreatedAt)
        .order_by_desc(Column::CreatedAt)
        .offset(LOOKED_AT - 1)
        .limit(1);
    let since: Option<i64> = oldest.into_tuple().one(c).await?;
    let newest: Vec<(i16, bool, String)> = delivery::Entity::find()
        .select_only()
        .column(Column::State)
        .column(Column::RelayFailed)
        .column(Column::LastError)
        .filter(Condition::all().add_option(since.map(|since| Column::CreatedAt.gte(since))))
        .filter(Column::Attempts.gt(0))
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .limit(FAILURES_IN_A_ROW)
        .into_tuple()
        .all(c)
        .await?;
    let retrying = state_number(DeliveryState::Retrying);
    let waits = |(state, relay_failed, _): &(i16, bool, String)| *state == retrying && *relay_failed;
    let fails = newest.len() as u64 == FAILURES_IN_A_ROW && newest.iter().all(waits);
    Ok(newest.into_iter().next().filter(|_| fails).map(|(_, _, error)| error))
}
