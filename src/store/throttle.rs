//! Consecutive wrong passwords, counted in the database for all replicas (ADR 0008).
//!
//! An attempt is reserved before its hash and settled afterwards. While failures and attempts in progress are together below
//! the threshold, attempts run in parallel, otherwise one at a time: fifty right passwords at once all succeed, and five
//! hundred wrong ones cost at most as many verifications as the threshold allows. A reservation that is lost to a crash expires
//! after a while, and counts as a wrong password: its password may have been verified.

use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, SqlErr, Statement};

use super::entity::throttle;
use super::sweep::delete_batch;
use super::text::instant;
use super::{Autocommit, WriteTx};
use crate::domain::id::UserId;
use crate::domain::lockout::ThrottleRules;
use crate::domain::time::{MAX_CLOCK_ERROR, Timestamp};
use crate::error::Result;

/// A count, capped so that a value from a faulty disk cannot overflow.
macro_rules! capped {
    ($column:literal) => {
        concat!("CASE WHEN ", $column, " < 1000000 THEN ", $column, " ELSE 1000000 END")
    };
}

/// How long a reservation is valid that is never settled. Longer than any hash waits and takes.
const LEASE: Duration = Duration::from_secs(30);

/// The account whose attempts are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A user. Username and email address share one budget.
    Known(UserId),
    /// A bucket of unknown names. The number of buckets is configured, so that guessing random names cannot fill the disk.
    Unknown(u32),
}

impl Account {
    /// Returns the id of the row, which is also the key by which sources count distinct accounts.
    pub fn key(&self) -> String {
        match self {
            Account::Known(id) => format!("u:{id}"),
            Account::Unknown(bucket) => format!("n:{bucket}"),
        }
    }

    fn user_id(&self) -> Option<String> {
        match self {
            Account::Known(id) => Some(id.to_string()),
            Account::Unknown(_) => None,
        }
    }
}

/// The result of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// The attempt is reserved.
    Taken,
    /// The account is throttled.
    Waits {
        /// When the throttle ends.
        until: Timestamp,
    },
    /// Other attempts are in progress. Try again shortly.
    Busy,
    /// The user was just deleted.
    Gone,
}

/// Reserves an attempt, in one statement.
pub async fn throttle_reserve(
    tx: &Autocommit,
    account: &Account,
    rules: &ThrottleRules,
    now: Timestamp,
) -> Result<Reservation> {
    let values = [
        account.key().into(),
        account.user_id().into(),
        now.saturating_add(LEASE).as_micros().into(),
        now.saturating_sub(rules.failure_memory).as_micros().into(),
        now.as_micros().into(),
        i64::from(rules.guesses_at_once()).into(),
    ];
    let statement = Statement::from_sql_and_values(tx.get_database_backend(), RESERVE, values);
    match tx.query_one_raw(statement).await {
        Ok(Some(_)) => {
            failpoint!("store.throttle_reserve");
            return Ok(Reservation::Taken);
        }
        Ok(None) => {}
        Err(error) if matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))) => {
            return Ok(Reservation::Gone);
        }
        Err(error) => return Err(error.into()),
    }
    let row = throttle::Entity::find_by_id(account.key()).one(tx).await?;
    Ok(match row.and_then(|row| row.waits_until).map(instant) {
        Some(until) if until > now => Reservation::Waits { until },
        _ => Reservation::Busy,
    })
}

/// Failures expire after a while. Reservations that were never settled count as failures: their passwords may have been
/// verified.
const RESERVE: &str = concat!(
    "INSERT INTO throttle (id, user_id, failures, pending, lease_expires_at) VALUES ($1, $2, 0, 1, $3)
ON CONFLICT (id) DO UPDATE SET
    failures = CASE WHEN throttle.last_failure_at > $4 THEN ",
    capped!("throttle.failures"),
    " ELSE 0 END
        + CASE WHEN throttle.lease_expires_at <= $5 THEN ",
    capped!("throttle.pending"),
    " ELSE 0 END,
    last_failure_at = CASE WHEN throttle.lease_expires_at <= $5 AND throttle.pending > 0 THEN $5
        ELSE throttle.last_failure_at END,
    pending = CASE WHEN throttle.lease_expires_at > $5 THEN ",
    capped!("throttle.pending"),
    " ELSE 0 END + 1,
    lease_expires_at = $3
WHERE (throttle.waits_until IS NULL OR throttle.waits_until <= $5)
    AND (throttle.pending = 0 OR throttle.lease_expires_at <= $5
        OR ",
    capped!("throttle.pending"),
    " + CASE WHEN throttle.last_failure_at > $4 THEN ",
    capped!("throttle.failures"),
    " ELSE 0 END < $6)
RETURNING id"
);

/// Settles an attempt with the right password, and resets the failures. Returns whether that ended a throttle whose end is not
/// in the audit log yet.
pub async fn throttle_succeeded(tx: &WriteTx, account: &Account) -> Result<bool> {
    let settle = || {
        decrement_pending(account)
            .col_expr(throttle::Column::Failures, Expr::value(0))
            .col_expr(throttle::Column::LastFailureAt, Expr::value(Option::<i64>::None))
    };
    // Nearly always the account is not throttled, and this is all.
    let settled = settle().filter(throttle::Column::WaitsUntil.is_null()).exec(tx).await?;
    failpoint!("store.throttle_succeeded");
    if settled.rows_affected > 0 {
        return Ok(false);
    }
    let of_account = throttle::Column::Id.eq(account.key());
    let wait_ended = end_throttles(tx, of_account.and(throttle::Column::WaitsUntil.is_not_null())).await?;
    settle().exec(tx).await?;
    Ok(wait_ended)
}

/// Ends throttles, and returns whether there was one. If two transactions end the same throttle, only one of them gets `true`.
async fn end_throttles(tx: &WriteTx, which: SimpleExpr) -> Result<bool> {
    let ended = throttle::Entity::update_many()
        .col_expr(throttle::Column::WaitsUntil, Expr::value(Option::<i64>::None))
        .filter(which)
        .exec(tx)
        .await?;
    Ok(ended.rows_affected > 0)
}

/// The result of a wrong password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Consecutive wrong passwords.
    pub failures: u32,
    /// Until when the account is throttled. `None` if it is not.
    pub until: Option<Timestamp>,
    /// Whether an earlier throttle has expired whose end is not in the audit log yet.
    pub wait_over: bool,
}

/// Settles an attempt with a wrong password, and starts the throttle that follows from it.
pub async fn throttle_failed(tx: &WriteTx, account: &Account, rules: &ThrottleRules, now: Timestamp) -> Result<Failed> {
    let of_account = throttle::Column::Id.eq(account.key());
    let wait_over = end_throttles(tx, of_account.and(throttle::Column::WaitsUntil.lte(now.as_micros()))).await?;
    let rows = decrement_pending(account)
        .col_expr(throttle::Column::Failures, Expr::cust(concat!(capped!("failures"), " + 1")))
        .col_expr(throttle::Column::LastFailureAt, Expr::value(now.as_micros()))
        .exec_with_returning(tx)
        .await?;
    failpoint!("store.throttle_failed");
    // The row does not exist if its user was deleted in the meantime.
    let failures = rows.first().map_or(0, |row| u32::try_from(row.failures).unwrap_or(0));
    let until = rules.wait_after(failures).map(|wait| now.saturating_add(wait));
    if let Some(until) = until {
        throttle::Entity::update_many()
            .col_expr(throttle::Column::WaitsUntil, Expr::value(until.as_micros()))
            .filter(throttle::Column::Id.eq(account.key()))
            .exec(tx)
            .await?;
    }
    Ok(Failed { failures, until, wait_over })
}

/// Releases a reservation whose password was not verified.
pub async fn throttle_release(tx: &Autocommit, account: &Account) -> Result<()> {
    decrement_pending(account).exec(tx).await?;
    Ok(())
}

fn decrement_pending(account: &Account) -> sea_orm::UpdateMany<throttle::Entity> {
    throttle::Entity::update_many()
        .col_expr(throttle::Column::Pending, Expr::cust("CASE WHEN pending > 0 THEN pending - 1 ELSE 0 END"))
        .filter(throttle::Column::Id.eq(account.key()))
}

/// The result of resetting the failures of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// Whether the user was throttled.
    pub was_waiting: bool,
    /// Whether there were failures.
    pub had_failures: bool,
    /// Whether a throttle has ended, now or before, whose end is not in the audit log yet.
    pub wait_ended: bool,
}

/// Resets the failures of a user.
pub async fn throttle_clear(tx: &WriteTx, user: UserId, now: Timestamp) -> Result<Cleared> {
    let of_user = throttle::Column::UserId.eq(user.to_string());
    let was_over = end_throttles(tx, of_user.clone().and(throttle::Column::WaitsUntil.lte(now.as_micros()))).await?;
    let was_waiting = end_throttles(tx, of_user.clone().and(throttle::Column::WaitsUntil.is_not_null())).await?;
    let forgotten = throttle::Entity::update_many()
        .col_expr(throttle::Column::Failures, Expr::value(0))
        .col_expr(throttle::Column::LastFailureAt, Expr::value(Option::<i64>::None))
        .filter(of_user)
        .filter(throttle::Column::Failures.gt(0))
        .exec(tx)
        .await?;
    failpoint!("store.throttle_clear");
    let had_failures = forgotten.rows_affected > 0;
    Ok(Cleared { was_waiting, had_failures, wait_ended: was_over || was_waiting })
}

/// Ends a batch of throttles that have expired, or that end later than any rule permits: all of them, if failures are not
/// counted any more. Returns the users whose throttles ended, with `None` for an unknown name or a user that cannot be read.
pub async fn throttle_end_waits(tx: &WriteTx, rules: &ThrottleRules, now: Timestamp) -> Result<Vec<Option<UserId>>> {
    /// Rows in one transaction. Few enough not to delay sign-ins.
    const BATCH: u64 = 200;
    let is_over = || {
        let latest = now.saturating_add(rules.max).saturating_add(MAX_CLOCK_ERROR).as_micros();
        let latest = if rules.are_on() { latest } else { 0 };
        throttle::Column::WaitsUntil.lte(now.as_micros()).or(throttle::Column::WaitsUntil.gt(latest))
    };
    let over: Vec<(String, Option<String>)> = throttle::Entity::find()
        .select_only()
        .column(throttle::Column::Id)
        .column(throttle::Column::UserId)
        .filter(is_over())
        .order_by_asc(throttle::Column::WaitsUntil)
        .limit(BATCH)
        .into_tuple()
        .all(tx)
        .await?;
    let mut ended = Vec::new();
    for (id, user_id) in over {
        let guarded = throttle::Entity::update_many()
            .col_expr(throttle::Column::WaitsUntil, Expr::value(Option::<i64>::None))
            .filter(throttle::Column::Id.eq(id))
            .filter(is_over())
            .exec(tx)
            .await?;
        if guarded.rows_affected == 1 {
            ended.push(user_id.and_then(|id| id.parse().ok()));
        }
    }
    Ok(ended)
}

/// Deletes a batch of rows without a throttle, a reservation or a remembered failure. Returns whether there may be more.
pub async fn throttle_sweep(tx: &Autocommit, rules: &ThrottleRules, now: Timestamp) -> Result<bool> {
    let forgotten = now.saturating_sub(rules.failure_memory).as_micros();
    let is_unused = throttle::Column::WaitsUntil
        .is_null()
        .and(throttle::Column::LeaseExpiresAt.lte(now.as_micros()))
        .and(throttle::Column::LastFailureAt.is_null().or(throttle::Column::LastFailureAt.lte(forgotten)));
    delete_batch::<throttle::Entity>(tx, is_unused).await
}
