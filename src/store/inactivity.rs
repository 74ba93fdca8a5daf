//! Accounts that are not used, and whose users were told that they will be locked.

use std::time::Duration;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select, Set,
};

use super::WriteTx;
use super::due::Due;
use super::entity::inactivity_warning::{self, Column};
use super::entity::user;
use super::users::{At, LAST_USED, idle, locked};
use crate::domain::id::UserId;
use crate::domain::inactivity::MaxInactivity;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// A warning: of an account that was last used at an instant, under a maximum inactivity, some time before the lock.
#[derive(Debug, Clone, Copy)]
pub struct Warning {
    /// When the account was last used.
    pub active_at: Timestamp,
    /// The maximum inactivity.
    pub max: MaxInactivity,
    /// How long before the lock.
    pub before: Duration,
}

/// The accounts that are not locked and were last used at `since` or earlier.
fn not_locked(since: Timestamp, now: Timestamp) -> Select<user::Entity> {
    user::Entity::find().filter(locked(At { now, too_old: None }).not()).filter(idle(since))
}

/// Returns up to `limit` accounts after `last` that are inactive at `now` and not locked, those that were not used for the
/// longest time first.
pub async fn inactive(
    c: &impl ConnectionTrait,
    max: MaxInactivity,
    last: Option<&Due>,
    limit: u64,
    now: Timestamp,
) -> Result<Vec<Due>> {
    let Some(since) = max.idle_since(now) else { return Ok(Vec::new()) };
    page(c, not_locked(since, now), last, limit).await
}

/// Returns up to `limit` people after `last` whose account will be locked within this time, and who were not told so yet. Those
/// without an address are left out.
pub async fn inactivity_warnings_due(
    c: &impl ConnectionTrait,
    max: MaxInactivity,
    before: Duration,
    last: Option<&Due>,
    limit: u64,
    now: Timestamp,
) -> Result<Vec<Due>> {
    let Some(since) = max.idle_since(now.saturating_add(before)) else { return Ok(Vec::new()) };
    let of_user = Expr::col((inactivity_warning::Entity, Column::UserId)).equals((user::Entity, user::Column::Id));
    let mut told = Query::select();
    told.expr(Expr::val(1))
        .from(inactivity_warning::Entity)
        .and_where(of_user)
        // Not used since.
        .and_where(Expr::cust(LAST_USED).lte(active_at()))
        .and_where(Expr::cust(r#"COALESCE("user".active_from, 0)"#).lte(active_at()))
        .and_where(Column::MaxInactivity.eq(micros(max.time)))
        .and_where(Column::MaxInactivitySetAt.eq(max.set_at.as_micros()))
        .and_where(Column::BeforeEnd.lte(micros(before)));
    let due = not_locked(since, now).filter(user::Column::Email.is_not_null()).filter(Expr::exists(told).not());
    let due = match max.idle_since(now) {
        Some(since) => due.filter(idle(since).not()),
        None => due,
    };
    page(c, due, last, limit).await
}

fn active_at() -> Expr {
    Expr::col((inactivity_warning::Entity, Column::ActiveAt))
}

/// Reads those that were not used for the longest time first.
async fn page(
    c: &impl ConnectionTrait,
    select: Select<user::Entity>,
    last: Option<&Due>,
    limit: u64,
) -> Result<Vec<Due>> {
    let place = Expr::tuple([Expr::cust(LAST_USED), Expr::col((user::Entity, user::Column::Id))]);
    let after = last.map(|last| place.gt(Expr::tuple([Expr::val(last.at), Expr::val(last.id.as_str())])));
    let due: Vec<(String, i64)> = select
        .select_only()
        .column(user::Column::Id)
        .expr_as(Expr::cust(LAST_USED), "last_used")
        .filter(Condition::all().add_option(after))
        .order_by_asc(Expr::cust(LAST_USED))
        .order_by_asc(user::Column::Id)
        .limit(limit)
        .into_tuple()
        .all(c)
        .await?;
    Ok(due.into_iter().map(Due::from).collect())
}

/// Records a warning. Returns `false` if the user was told so before, or later than this.
pub async fn inactivity_warning_save(tx: &WriteTx, user: UserId, warning: Warning) -> Result<bool> {
    let Warning { active_at, max, before } = warning;
    let row = inactivity_warning::ActiveModel {
        user_id: Set(user.to_string()),
        active_at: Set(active_at.as_micros()),
        max_inactivity: Set(micros(max.time)),
        max_inactivity_set_at: Set(max.set_at.as_micros()),
        before_end: Set(micros(before)),
    };
    let stored = |column: Column| Expr::col((inactivity_warning::Entity, column));
    let is_told = stored(Column::ActiveAt)
        .gte(active_at.as_micros())
        .and(stored(Column::MaxInactivity).eq(micros(max.time)))
        .and(stored(Column::MaxInactivitySetAt).eq(max.set_at.as_micros()))
        .and(stored(Column::BeforeEnd).lte(micros(before)));
    let replace = OnConflict::column(Column::UserId)
        .update_columns([Column::ActiveAt, Column::MaxInactivity, Column::MaxInactivitySetAt, Column::BeforeEnd])
        .action_and_where(is_told.not())
        .to_owned();
    let saved = inactivity_warning::Entity::insert(row).on_conflict(replace).exec_without_returning(tx).await?;
    failpoint!("store.inactivity_warning_save");
    Ok(saved > 0)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Counts the accounts that are inactive at an instant and not locked.
pub async fn inactive_count(c: &impl ConnectionTrait, max: MaxInactivity, at: Timestamp) -> Result<u64> {
    match max.idle_since(at) {
        Some(since) => Ok(not_locked(since, at).count(c).await?),
        None => Ok(0),
    }
}

/// Counts the accounts with a password.
pub async fn used_count(c: &impl ConnectionTrait) -> Result<u64> {
    Ok(user::Entity::find().filter(user::Column::PasswordHash.is_not_null()).count(c).await?)
}

/// Counts the accounts that were locked for inactivity within a time before `now`, and still are.
pub async fn locked_lately(c: &impl ConnectionTrait, within: Duration, now: Timestamp) -> Result<u64> {
    let lately = user::Entity::find()
        .filter(Expr::cust(r#""user".lock_cause = 4"#))
        .filter(user::Column::LockedAt.gt(now.saturating_sub(within).as_micros()));
    Ok(lately.count(c).await?)
}
