//! Counts of events of one kind, for events that a caller can cause without end: one row for each kind, which all replicas
//! share.

use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set};

use super::WriteTx;
use super::entity::event_count;
use super::text::instant;
use crate::domain::id::EventId;
use crate::domain::time::{MAX_CLOCK_ERROR, MAX_CLOCK_SKEW, Timestamp};
use crate::error::Result;

/// How long events of one kind are counted together.
const WINDOW: Duration = Duration::from_mins(1);

/// The events of one kind within a minute, when the minute is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Id of the first event.
    pub first: String,
    /// How many others there were.
    pub others: u64,
    /// When the last of them happened.
    pub last_at: Timestamp,
}

/// Counts an event. Returns whether it is the first of its kind, and must be recorded. If the minute of the kind was over,
/// [`event_count_close`] comes first.
pub async fn event_count_add(tx: &WriteTx, kind: &str, id: EventId, now: Timestamp) -> Result<bool> {
    let first = event_count::ActiveModel {
        kind: Set(kind.to_owned()),
        event_id: Set(id.to_string()),
        began_at: Set(now.as_micros()),
        last_at: Set(now.as_micros()),
        count: Set(0),
    };
    let another = OnConflict::column(event_count::Column::Kind)
        .value(event_count::Column::Count, Expr::col((event_count::Entity, event_count::Column::Count)).add(1))
        .update_column(event_count::Column::LastAt)
        .to_owned();
    let row = event_count::Entity::insert(first).on_conflict(another).exec_with_returning(tx).await?;
    Ok(row.event_id == id.to_string())
}

/// Ends the count of a kind whose minute is over. Returns `None` if there is no such count.
pub async fn event_count_close(tx: &WriteTx, kind: &str, now: Timestamp) -> Result<Option<Counted>> {
    // Replicas whose clocks differ by minutes must not end each other's counts with every call.
    let closed = close(tx, kind, is_over(now, MAX_CLOCK_ERROR)).await?;
    Ok(closed)
}

/// Ends up to `limit` counts whose minute is over, also those that began in the future because a clock was set back.
pub async fn event_counts_close(tx: &WriteTx, limit: u64, now: Timestamp) -> Result<Vec<Counted>> {
    let over = || is_over(now, MAX_CLOCK_SKEW);
    let mut kinds = over_kinds(tx, over(), limit).await?;
    // All replicas lock rows in the same order.
    kinds.sort();
    let mut closed = Vec::new();
    for kind in kinds {
        closed.extend(close(tx, &kind, over()).await?);
    }
    Ok(closed)
}

/// Returns whether a count is over.
pub async fn event_counts_due(c: &impl ConnectionTrait, now: Timestamp) -> Result<bool> {
    Ok(!over_kinds(c, is_over(now, MAX_CLOCK_SKEW), 1).await?.is_empty())
}

async fn over_kinds(c: &impl ConnectionTrait, over: SimpleExpr, limit: u64) -> Result<Vec<String>> {
    let select = event_count::Entity::find().select_only().column(event_count::Column::Kind).filter(over);
    Ok(select.order_by_asc(event_count::Column::BeganAt).limit(limit).into_tuple().all(c).await?)
}

async fn close(tx: &WriteTx, kind: &str, over: SimpleExpr) -> Result<Option<Counted>> {
    let of_kind = event_count::Entity::delete_many().filter(event_count::Column::Kind.eq(kind)).filter(over);
    let closed = of_kind.exec_with_returning(tx).await?;
    Ok(closed.into_iter().next().map(|row| Counted {
        first: row.event_id,
        others: u64::try_from(row.count).unwrap_or(0),
        last_at: instant(row.last_at),
    }))
}

fn is_over(now: Timestamp, ahead: Duration) -> SimpleExpr {
    let began = event_count::Column::BeganAt;
    began.lte(now.saturating_sub(WINDOW).as_micros()).or(began.gt(now.saturating_add(ahead).as_micros()))
}
