//! Consecutive wrong passwords, counted in the database for all replicas (ADR 0008, ADR 0032).
//!
//! An attempt is reserved before its hash and settled afterwards. While failures and attempts in progress are together below
//! the threshold, attempts run in parallel, otherwise one at a time: fifty right passwords at once all succeed, and five
//! hundred wrong ones cost at most as many verifications as the threshold allows. A reservation that is lost to a crash expires
//! after a while, and counts as a wrong password: its password may have been verified.
//!
//! An attempt has two budgets: that of the name that was typed, and that of the account. Attempts from familiar places have two
//! others. A transaction that locks several rows takes them in the order of their ids.

use std::time::Duration;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, SqlErr, Statement,
};

use super::entity::throttle;
use super::sweep::delete_batch;
use super::text::instant;
use super::{Autocommit, WriteTx, is_lost_race};
use crate::domain::id::UserId;
use crate::domain::lockout::{BudgetThrottle, ThrottleRules};
use crate::domain::time::{MAX_CLOCK_ERROR, Timestamp};
use crate::error::Result;

/// A count, capped so that a value from a faulty disk cannot overflow.
macro_rules! capped {
    ($column:literal) => {
        concat!("CASE WHEN ", $column, " < 1000000 THEN ", $column, " ELSE 1000000 END")
    };
}

/// Whether the row of this name admits an attempt: it is not throttled, and has room or no attempt in progress.
macro_rules! is_free {
    ($row:literal) => {
        concat!(
            "((",
            $row,
            ".waits_until IS NULL OR ",
            $row,
            ".waits_until <= $7) AND (",
            $row,
            ".pending = 0 OR ",
            $row,
            ".lease_expires_at <= $7 OR CASE WHEN ",
            $row,
            ".pending < 1000000 THEN ",
            $row,
            ".pending ELSE 1000000 END + CASE WHEN ",
            $row,
            ".last_failure_at > $6 THEN CASE WHEN ",
            $row,
            ".failures < 1000000 THEN ",
            $row,
            ".failures ELSE 1000000 END ELSE 0 END < $8))"
        )
    };
}

/// How long a reservation is valid that is never settled. Longer than any hash waits and takes.
const LEASE: Duration = Duration::from_secs(30);

/// The end of a throttle that has none. Later than any instant that the API can express.
pub(super) const FOR_GOOD: i64 = i64::MAX;

/// The account whose attempts are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A user.
    Known(UserId),
    /// A bucket of unknown names. The number of buckets is configured, so that guessing random names cannot fill the disk.
    Unknown(u32),
}

impl Account {
    /// Returns the key of the account, by which sources count failures that have no name.
    pub fn key(&self) -> String {
        match self {
            Account::Known(id) => format!("u:{id}"),
            Account::Unknown(bucket) => format!("n:{bucket}"),
        }
    }
}

/// Which name of an account was typed. Each has a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The username.
    Username,
    /// The email address.
    Email,
}

/// The two budgets of an attempt: of the account, and of the name that was typed. Only the latter shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// The account.
    pub account: Account,
    /// The name.
    pub name: Name,
    /// Whether the attempt comes from a familiar place, which has budgets of its own.
    pub is_familiar: bool,
}

impl Budgets {
    /// Returns the id of the row of the account. That of an unknown name has no effect: it makes the work the same.
    pub fn account_id(&self) -> String {
        match (&self.account, self.is_familiar) {
            (Account::Known(id), false) => format!("u:{id}"),
            (Account::Known(id), true) => format!("f:{id}"),
            (Account::Unknown(bucket), _) => format!("d:{bucket}"),
        }
    }

    /// Returns the id of the row of the name. It sorts after that of the account.
    fn name_id(&self) -> String {
        let name = match self.name {
            Name::Username => "username",
            Name::Email => "email",
        };
        match (&self.account, self.is_familiar) {
            (Account::Known(id), false) => format!("un:{id}:{name}"),
            (Account::Known(id), true) => format!("fn:{id}:{name}"),
            (Account::Unknown(bucket), _) => format!("n:{bucket}"),
        }
    }

    /// Returns the key by which sources count distinct names. The two names of an account count like any other two: the block
    /// of a source must not tell that they are one account.
    pub fn name_key(&self) -> String {
        Budgets { is_familiar: false, ..self.clone() }.name_id()
    }

    fn user_id(&self) -> Option<String> {
        match self.account {
            Account::Known(id) => Some(id.to_string()),
            Account::Unknown(_) => None,
        }
    }
}

/// Returns whether a row is the budget of an account, not of a name. The audit log records the throttles of accounts.
fn is_of_account(id: &str) -> bool {
    id.starts_with("u:") || id.starts_with("f:")
}

/// The result of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// The attempt is reserved.
    Taken,
    /// The attempt is reserved in the budget of the name, but that of the account is spent: the password must not be verified.
    Spent {
        /// When the throttle of the account ends. `None` means never.
        until: Option<Timestamp>,
    },
    /// The name is throttled.
    Waits {
        /// When the throttle ends.
        until: Timestamp,
    },
    /// Other attempts are in progress. Try again shortly.
    Busy,
    /// The user was just deleted.
    Gone,
}

/// Reserves an attempt in both budgets, in one statement.
pub async fn throttle_reserve(
    tx: &Autocommit,
    budgets: &Budgets,
    rules: &ThrottleRules,
    now: Timestamp,
) -> Result<Reservation> {
    let (account_id, name_id) = (budgets.account_id(), budgets.name_id());
    let values = [
        account_id.as_str().into(),
        name_id.as_str().into(),
        // The version before reads the throttle of a user by this column.
        budgets.user_id().filter(|_| !budgets.is_familiar).into(),
        budgets.user_id().into(),
        now.saturating_add(LEASE).as_micros().into(),
        now.saturating_sub(rules.failure_memory).as_micros().into(),
        now.as_micros().into(),
        i64::from(rules.guesses_at_once()).into(),
    ];
    let statement = Statement::from_sql_and_values(tx.get_database_backend(), RESERVE, values);
    let reserved = match tx.query_all_raw(statement).await {
        Ok(rows) => rows,
        Err(error) if matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))) => {
            return Ok(Reservation::Gone);
        }
        Err(error) => {
            let error = error.into();
            return if is_lost_race(&error) { Ok(Reservation::Busy) } else { Err(error) };
        }
    };
    failpoint!("store.throttle_reserve");
    let reserved: Vec<String> = reserved.iter().map(|row| row.try_get("", "id")).collect::<Result<_, _>>()?;
    let (has_account, has_name) = (reserved.contains(&account_id), reserved.contains(&name_id));
    if has_account && has_name {
        return Ok(Reservation::Taken);
    }
    if has_account {
        // PostgreSQL only: another attempt took the last room under the name at the same moment.
        decrement_pending(&account_id).exec(tx).await?;
    }
    let missing = if has_name { &account_id } else { &name_id };
    let row = throttle::Entity::find_by_id(missing).one(tx).await?;
    let waits_until = row.and_then(|row| row.waits_until).filter(|until| *until > now.as_micros());
    match waits_until {
        Some(until) if has_name => {
            Ok(Reservation::Spent { until: (until != FOR_GOOD).then(|| Timestamp::from_micros(until)) })
        }
        Some(until) => Ok(Reservation::Waits { until: instant(until) }),
        None => {
            if has_name {
                decrement_pending(&name_id).exec(tx).await?;
            }
            Ok(Reservation::Busy)
        }
    }
}

/// Failures expire after a while. Reservations that were never settled count as failures: their passwords may have been
/// verified. Nothing is reserved for the account if nothing can be reserved for the name.
const RESERVE: &str = concat!(
    "INSERT INTO throttle (id, user_id, account_id, failures, pending, lease_expires_at)
SELECT budget.id, budget.user_id, $4, 0, 1, $5
FROM (SELECT 1 AS turn, $1 AS id, $3 AS user_id UNION ALL SELECT 2 AS turn, $2 AS id, NULL AS user_id) AS budget
WHERE budget.turn = 2 OR NOT EXISTS (SELECT 1 FROM throttle AS typed WHERE typed.id = $2 AND NOT ",
    is_free!("typed"),
    ")
ORDER BY budget.turn
ON CONFLICT (id) DO UPDATE SET
    account_id = excluded.account_id,
    failures = CASE WHEN throttle.last_failure_at > $6 THEN ",
    capped!("throttle.failures"),
    " ELSE 0 END
        + CASE WHEN throttle.lease_expires_at <= $7 THEN ",
    capped!("throttle.pending"),
    " ELSE 0 END,
    last_failure_at = CASE WHEN throttle.lease_expires_at <= $7 AND throttle.pending > 0 THEN $7
        ELSE throttle.last_failure_at END,
    pending = CASE WHEN throttle.lease_expires_at > $7 THEN ",
    capped!("throttle.pending"),
    " ELSE 0 END + 1,
    lease_expires_at = $5
WHERE ",
    is_free!("throttle"),
    "
RETURNING id"
);

/// Settles an attempt with the right password, and resets its failures. Returns whether that ended a throttle of the account
/// whose end is not in the audit log yet.
pub async fn throttle_succeeded(tx: &WriteTx, budgets: &Budgets) -> Result<bool> {
    let ended = succeeded(tx, &budgets.account_id()).await?;
    succeeded(tx, &budgets.name_id()).await?;
    failpoint!("store.throttle_succeeded");
    Ok(ended)
}

async fn succeeded(tx: &WriteTx, id: &str) -> Result<bool> {
    let settle = || {
        decrement_pending(id)
            .col_expr(throttle::Column::Failures, Expr::value(0))
            .col_expr(throttle::Column::LastFailureAt, Expr::value(Option::<i64>::None))
    };
    // Nearly always there is no throttle, and this is all.
    let settled = settle().filter(throttle::Column::WaitsUntil.is_null()).exec(tx).await?;
    if settled.rows_affected > 0 {
        return Ok(false);
    }
    let wait_ended =
        end_throttles(tx, throttle::Column::Id.eq(id).and(throttle::Column::WaitsUntil.is_not_null())).await?;
    settle().exec(tx).await?;
    Ok(wait_ended)
}

/// Accepts sign-ins from unfamiliar places again, if they were refused. Returns whether they were. A refusal without an end may
/// stem from a lower threshold than that of today.
pub async fn throttle_accept_unfamiliar(tx: &WriteTx, user: UserId, rules: &ThrottleRules) -> Result<bool> {
    let has_no_end = throttle::Column::WaitsUntil.eq(FOR_GOOD);
    let is_refused = match rules.lockout_threshold {
        0 => has_no_end,
        threshold => has_no_end.or(throttle::Column::Failures.gte(threshold)),
    };
    let budgets = Budgets { account: Account::Known(user), name: Name::Username, is_familiar: false };
    let accepted = throttle::Entity::update_many()
        .col_expr(throttle::Column::WaitsUntil, Expr::value(Option::<i64>::None))
        .col_expr(throttle::Column::Failures, Expr::value(0))
        .col_expr(throttle::Column::LastFailureAt, Expr::value(Option::<i64>::None))
        .filter(throttle::Column::Id.eq(budgets.account_id()))
        .filter(throttle::Column::WaitsUntil.is_not_null())
        .filter(is_refused)
        .exec(tx)
        .await?;
    Ok(accepted.rows_affected > 0)
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

/// Settles an attempt with a wrong password, and starts the throttles that follow from it. Returns what that means for the
/// account, or `None` if its budget was spent before.
pub async fn throttle_failed(
    tx: &WriteTx,
    budgets: &Budgets,
    is_spent: bool,
    rules: &ThrottleRules,
    now: Timestamp,
) -> Result<Option<Failed>> {
    let of_account = if is_spent { None } else { Some(failed(tx, &budgets.account_id(), rules, now).await?) };
    failed(tx, &budgets.name_id(), rules, now).await?;
    failpoint!("store.throttle_failed");
    Ok(of_account)
}

async fn failed(tx: &WriteTx, id: &str, rules: &ThrottleRules, now: Timestamp) -> Result<Failed> {
    let of_row = throttle::Column::Id.eq(id);
    let wait_over = end_throttles(tx, of_row.and(throttle::Column::WaitsUntil.lte(now.as_micros()))).await?;
    let rows = decrement_pending(id)
        .col_expr(throttle::Column::Failures, Expr::cust(concat!(capped!("failures"), " + 1")))
        .col_expr(throttle::Column::LastFailureAt, Expr::value(now.as_micros()))
        .exec_with_returning(tx)
        .await?;
    // The row does not exist if its user was deleted in the meantime.
    let failures = rows.first().map_or(0, |row| u32::try_from(row.failures).unwrap_or(0));
    let until = rules.wait_after(failures).map(|wait| now.saturating_add(wait));
    if let Some(until) = until {
        throttle_until(tx, id, until.as_micros()).await?;
    }
    Ok(Failed { failures, until, wait_over })
}

/// Refuses an account's sign-ins from unfamiliar places, until `end` or without an end.
pub async fn throttle_refuse_unfamiliar(tx: &WriteTx, budgets: &Budgets, end: Option<Timestamp>) -> Result<()> {
    throttle_until(tx, &budgets.account_id(), end.map_or(FOR_GOOD, Timestamp::as_micros)).await
}

async fn throttle_until(tx: &WriteTx, id: &str, until: i64) -> Result<()> {
    throttle::Entity::update_many()
        .col_expr(throttle::Column::WaitsUntil, Expr::value(until))
        .filter(throttle::Column::Id.eq(id))
        .exec(tx)
        .await?;
    Ok(())
}

/// Releases a reservation whose password was not verified.
pub async fn throttle_release(tx: &Autocommit, budgets: &Budgets, is_spent: bool) -> Result<()> {
    if !is_spent {
        decrement_pending(&budgets.account_id()).exec(tx).await?;
    }
    decrement_pending(&budgets.name_id()).exec(tx).await?;
    Ok(())
}

fn decrement_pending(id: &str) -> sea_orm::UpdateMany<throttle::Entity> {
    throttle::Entity::update_many()
        .col_expr(throttle::Column::Pending, Expr::cust("CASE WHEN pending > 0 THEN pending - 1 ELSE 0 END"))
        .filter(throttle::Column::Id.eq(id))
}

/// Reads the throttles of all budgets of a user that are in force.
pub async fn throttle_list(c: &impl ConnectionTrait, user: UserId, now: Timestamp) -> Result<Vec<BudgetThrottle>> {
    let select = throttle::Entity::find()
        .filter(throttle::Column::AccountId.eq(user.to_string()))
        .filter(throttle::Column::WaitsUntil.gt(now.as_micros()));
    let of_budget = |row: throttle::Model| BudgetThrottle {
        is_familiar: row.id.starts_with('f'),
        failures: u32::try_from(row.failures).unwrap_or(0),
        until: row.waits_until.filter(|until| *until != FOR_GOOD).map(instant),
    };
    Ok(select.all(c).await?.into_iter().map(of_budget).collect())
}

/// The result of resetting the failures of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// Whether the user was throttled.
    pub was_waiting: bool,
    /// Whether there were failures.
    pub had_failures: bool,
    /// Whether a throttle of the account has ended, now or before, whose end is not in the audit log yet.
    pub wait_ended: bool,
}

/// Resets the failures of a user, in all budgets.
pub async fn throttle_clear(tx: &WriteTx, user: UserId, now: Timestamp) -> Result<Cleared> {
    let of_user = || {
        // A replica of the version before writes no account.
        let of_account = throttle::Column::AccountId.eq(user.to_string());
        Condition::any().add(of_account).add(throttle::Column::UserId.eq(user.to_string()))
    };
    let mut select = throttle::Entity::find().filter(of_user()).order_by_asc(throttle::Column::Id);
    QueryTrait::query(&mut select).lock(LockType::Update);
    let rows = select.all(tx).await?;
    let is_waiting = |row: &throttle::Model| row.waits_until.is_some_and(|until| until > now.as_micros());
    let cleared = Cleared {
        was_waiting: rows.iter().any(is_waiting),
        had_failures: rows.iter().any(|row| row.failures > 0),
        wait_ended: rows.iter().any(|row| is_of_account(&row.id) && row.waits_until.is_some()),
    };
    throttle::Entity::update_many()
        .col_expr(throttle::Column::WaitsUntil, Expr::value(Option::<i64>::None))
        .col_expr(throttle::Column::Failures, Expr::value(0))
        .col_expr(throttle::Column::LastFailureAt, Expr::value(Option::<i64>::None))
        .filter(of_user())
        .filter(throttle::Column::Failures.gt(0).or(throttle::Column::WaitsUntil.is_not_null()))
        .exec(tx)
        .await?;
    failpoint!("store.throttle_clear");
    Ok(cleared)
}

/// Ends a batch of throttles that have expired, or that end later than any rule permits: all of them, if failures are not
/// counted any more. Returns the users whose throttles ended, with `None` for a name or a user that cannot be read.
pub async fn throttle_end_waits(tx: &WriteTx, rules: &ThrottleRules, now: Timestamp) -> Result<Vec<Option<UserId>>> {
    /// Rows in one transaction. Few enough not to delay sign-ins.
    const BATCH: u64 = 200;
    let is_over = || {
        let latest = now.saturating_add(rules.longest_wait()).saturating_add(MAX_CLOCK_ERROR).as_micros();
        let latest = if rules.are_on() { latest } else { 0 };
        let is_beyond_rules = throttle::Column::WaitsUntil.gt(latest);
        let is_beyond_rules = if rules.can_refuse_for_good() {
            is_beyond_rules.and(throttle::Column::WaitsUntil.ne(FOR_GOOD))
        } else {
            is_beyond_rules
        };
        throttle::Column::WaitsUntil.lte(now.as_micros()).or(is_beyond_rules)
    };
    let mut over: Vec<(String, Option<String>)> = throttle::Entity::find()
        .select_only()
        .column(throttle::Column::Id)
        .column(throttle::Column::AccountId)
        .filter(is_over())
        .order_by_asc(throttle::Column::WaitsUntil)
        .limit(BATCH)
        .into_tuple()
        .all(tx)
        .await?;
    // Sorted, because rows are locked in the order of their ids.
    over.sort();
    let mut ended = Vec::new();
    for (id, account_id) in over {
        let account_id = account_id.filter(|_| is_of_account(&id));
        let guarded = throttle::Entity::update_many()
            .col_expr(throttle::Column::WaitsUntil, Expr::value(Option::<i64>::None))
            .filter(throttle::Column::Id.eq(id))
            .filter(is_over())
            .exec(tx)
            .await?;
        if guarded.rows_affected == 1 {
            ended.push(account_id.and_then(|id| id.parse().ok()));
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
