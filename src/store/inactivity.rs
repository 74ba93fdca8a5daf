//! Accounts that are not used.

use std::time::Duration;

use sea_orm::sea_query::{Condition, Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::entity::user;
use super::users::{At, LAST_USED, idle, locked};
use crate::domain::inactivity::MaxInactivity;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// An account that was not used, and its place in the list of them.
#[derive(Debug, Clone)]
pub struct Idle {
    /// The id, as stored.
    pub id: String,
    last_used: i64,
}

/// The accounts that are not locked and were last used at `since` or earlier.
fn not_locked(since: Timestamp, now: Timestamp) -> Select<user::Entity> {
    user::Entity::find()
        // The condition of the index, word for word.
        .filter(Expr::cust(r#"("user".lock_cause IS NULL OR "user".lock_expires_at IS NOT NULL)"#))
        .filter(locked(At { now, too_old: None }).not())
        .filter(idle(since))
}

/// Returns up to `limit` accounts after `last` that are inactive at `now` and not locked, those that were not used for the
/// longest time first.
pub async fn inactive(
    c: &impl ConnectionTrait,
    max: MaxInactivity,
    last: Option<&Idle>,
    limit: u64,
    now: Timestamp,
) -> Result<Vec<Idle>> {
    let Some(since) = max.idle_since(now) else { return Ok(Vec::new()) };
    let place = Expr::tuple([Expr::cust(LAST_USED), Expr::col((user::Entity, user::Column::Id))]);
    let after = last.map(|last| place.gt(Expr::tuple([Expr::val(last.last_used), Expr::val(last.id.as_str())])));
    let idle: Vec<(String, i64)> = not_locked(since, now)
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
    Ok(idle.into_iter().map(|(id, last_used)| Idle { id, last_used }).collect())
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
