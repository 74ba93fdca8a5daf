//! Budgets of rows: how many rows may be written in a window of time, by all replicas together.

use std::time::Duration;

use sea_orm::sea_query::{ExprTrait, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, Statement};

use super::entity::row_budget;
use super::sweep::delete_batch;
use super::{Autocommit, WriteTx};
use crate::domain::budget::Budget;
use crate::domain::time::{MAX_CLOCK_ERROR, Timestamp};
use crate::error::Result;

/// Takes one row from each of these budgets, or returns the widest that is spent. They are given from the narrowest to the
/// widest, which is also the order in which every transaction locks them.
///
/// A spent budget is only read: neither a row for a narrower budget nor a lock is made, however many calls exceed it.
pub async fn budget_take(
    tx: &WriteTx,
    budgets: Vec<Budget>,
    window: Duration,
    now: Timestamp,
) -> Result<Option<Budget>> {
    let names = budgets.iter().map(|budget| budget.name.as_str());
    let open = row_budget::Entity::find()
        .filter(row_budget::Column::Name.is_in(names))
        .filter(is_open(window, now))
        .all(tx)
        .await?;
    let is_spent =
        |budget: &Budget| open.iter().any(|row| row.name == budget.name && row.taken >= i64::from(budget.rows));
    if let Some(spent) = budgets.iter().rfind(|budget| is_spent(budget)) {
        return Ok(Some(spent.clone()));
    }
    for budget in budgets {
        let values = [
            budget.name.as_str().into(),
            now.as_micros().into(),
            now.saturating_sub(window).as_micros().into(),
            now.saturating_add(MAX_CLOCK_ERROR).as_micros().into(),
            i64::from(budget.rows).into(),
        ];
        let statement = Statement::from_sql_and_values(tx.get_database_backend(), TAKE, values);
        if tx.query_one_raw(statement).await?.is_none() {
            // Another call took the last row a moment ago. What the narrower budgets lost is no harm.
            return Ok(Some(budget));
        }
    }
    Ok(None)
}

/// Takes a row if the budget is not spent, and begins a new window if the old one is over.
const TAKE: &str = "INSERT INTO row_budget (name, began_at, taken) VALUES ($1, $2, 1)
ON CONFLICT (name) DO UPDATE SET
    taken = CASE WHEN row_budget.began_at > $3 AND row_budget.began_at <= $4 THEN row_budget.taken + 1 ELSE 1 END,
    began_at = CASE WHEN row_budget.began_at > $3 AND row_budget.began_at <= $4 THEN row_budget.began_at ELSE $2 END
WHERE row_budget.taken < $5 OR row_budget.began_at <= $3 OR row_budget.began_at > $4
RETURNING name";

/// A window that began in the future goes on: replicas whose clocks differ must not give each other new budgets.
fn is_open(window: Duration, now: Timestamp) -> SimpleExpr {
    let began = row_budget::Column::BeganAt;
    let latest = now.saturating_add(MAX_CLOCK_ERROR).as_micros();
    began.gt(now.saturating_sub(window).as_micros()).and(began.lte(latest))
}

/// Deletes a batch of budgets whose window is over: those with names that begin with the word `of_what`, or all others. Returns
/// whether there may be more.
pub async fn budgets_sweep(tx: &Autocommit, of_what: Which<'_>, window: Duration, now: Timestamp) -> Result<bool> {
    // An exclamation mark follows the space.
    let named = |word: &str| {
        let name = row_budget::Column::Name;
        name.gte(format!("{word} ")).and(name.lt(format!("{word}!")))
    };
    let which = match of_what {
        Which::Of(word) => named(word),
        Which::AllBut(word) => named(word).not(),
    };
    delete_batch::<row_budget::Entity>(tx, is_open(window, now).not().and(which)).await
}

/// Which budgets are deleted: by the first word of their names.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Those of this word.
    Of(&'a str),
    /// All but those.
    AllBut(&'a str),
}
