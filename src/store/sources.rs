//! Failed sign-ins by source, to detect one guess at each of many accounts, which no account's own counter shows. Only failures
//! count: all users of an office may sign in from one address.

use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, Set};

use super::entity::{source_block, source_failure};
use super::single::only;
use super::sweep::delete_batch;
use super::text::instant;
use super::{Autocommit, WriteTx};
use crate::domain::caller::Source;
use crate::domain::diagnosis::SourceBlock;
use crate::domain::id::EventId;
use crate::domain::time::{MAX_CLOCK_ERROR, Timestamp};
use crate::error::Result;

/// When a source is blocked. Zero disables a limit.
#[derive(Debug, Clone, Copy)]
pub struct SourceRules {
    /// Failures within `failures_window` that block the source.
    pub failures: u32,
    /// The window of `failures`.
    pub failures_window: Duration,
    /// Distinct names with failures within `accounts_window` that block the source.
    pub accounts: u32,
    /// The window of `accounts`.
    pub accounts_window: Duration,
    /// How long a block lasts.
    pub block: Duration,
}

impl SourceRules {
    /// Returns whether any limit is enabled.
    pub fn are_on(&self) -> bool {
        self.failures != 0 || self.accounts != 0
    }
}

/// Returns until when a source is blocked, or `None` if it is not.
pub async fn source_blocked(c: &impl ConnectionTrait, source: Source, now: Timestamp) -> Result<Option<Timestamp>> {
    let row: Option<source_block::Model> = only(c, source_block::Entity::find_by_id(source.to_string())).await?;
    Ok(row.map(|row| instant(row.blocked_until)).filter(|until| *until > now))
}

/// Returns the block of a source, with the failures that caused it. None is recorded after the one that blocks it.
pub async fn source_block(c: &impl ConnectionTrait, source: Source, now: Timestamp) -> Result<Option<SourceBlock>> {
    let Some(until) = source_blocked(c, source, now).await? else { return Ok(None) };
    let counted: Option<(i64, i64, Option<i64>)> = source_failure::Entity::find()
        .filter(source_failure::Column::Source.eq(source.to_string()))
        .select_only()
        .expr(Expr::cust("COUNT(*)"))
        .expr(Expr::cust("COUNT(DISTINCT account)"))
        .expr(Expr::cust("MAX(at)"))
        .into_tuple()
        .one(c)
        .await?;
    let (failures, names, last) = counted.unwrap_or_default();
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Some(SourceBlock { since: last.map(instant), until, failures: number(failures), names: number(names) }))
}

/// What a failure means for its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// The source may go on.
    Open,
    /// This failure blocks the source.
    BlockedNow {
        /// When the block ends.
        until: Timestamp,
    },
    /// The source was blocked before. The failure is not recorded.
    BlockedBefore {
        /// When the block ends.
        until: Timestamp,
    },
}

/// Records a failure, and blocks the source if a limit is reached. `id` is random.
pub async fn source_failed(
    tx: &WriteTx,
    id: EventId,
    source: Source,
    account: &str,
    rules: &SourceRules,
    now: Timestamp,
) -> Result<SourceState> {
    let until = source_lock(tx, source).await?;
    if until > now {
        return Ok(SourceState::BlockedBefore { until });
    }
    let row = source_failure::ActiveModel {
        id: Set(id.to_string()),
        source: Set(source.to_string()),
        account: Set(account.to_owned()),
        at: Set(now.as_micros()),
    };
    source_failure::Entity::insert(row).exec_without_returning(tx).await?;
    tx.counts_failure();
    if !exceeds_limit(tx, source, rules, now).await? {
        return Ok(SourceState::Open);
    }
    let until = now.saturating_add(rules.block);
    let block = source_block::ActiveModel { source: Set(source.to_string()), blocked_until: Set(until.as_micros()) };
    let replace =
        OnConflict::column(source_block::Column::Source).update_column(source_block::Column::BlockedUntil).to_owned();
    source_block::Entity::insert(block).on_conflict(replace).exec_without_returning(tx).await?;
    Ok(SourceState::BlockedNow { until })
}

/// Locks a source until the transaction ends, and returns until when it is blocked. So failures of one source are counted one
/// after another, and none is recorded after the one that blocks it.
async fn source_lock(tx: &WriteTx, source: Source) -> Result<Timestamp> {
    let row = source_block::ActiveModel { source: Set(source.to_string()), blocked_until: Set(0) };
    let stored = Expr::col((source_block::Entity, source_block::Column::BlockedUntil));
    let keep =
        OnConflict::column(source_block::Column::Source).value(source_block::Column::BlockedUntil, stored).to_owned();
    let row = source_block::Entity::insert(row).on_conflict(keep).exec_with_returning(tx).await?;
    Ok(instant(row.blocked_until))
}

async fn exceeds_limit(c: &impl ConnectionTrait, source: Source, rules: &SourceRules, now: Timestamp) -> Result<bool> {
    let since = |window| {
        source_failure::Entity::find()
            .filter(source_failure::Column::Source.eq(source.to_string()))
            .filter(source_failure::Column::At.gt(now.saturating_sub(window).as_micros()))
    };
    if rules.failures != 0 && since(rules.failures_window).count(c).await? >= u64::from(rules.failures) {
        return Ok(true);
    }
    if rules.accounts == 0 {
        return Ok(false);
    }
    let accounts: Option<i64> = since(rules.accounts_window)
        .select_only()
        .expr(Expr::cust("COUNT(DISTINCT account)"))
        .into_tuple()
        .one(c)
        .await?;
    Ok(accounts.unwrap_or(0) >= i64::from(rules.accounts))
}

/// Deletes a batch of the failures that are older than every window. Returns whether there may be more.
pub async fn source_failures_sweep(tx: &Autocommit, rules: &SourceRules, now: Timestamp) -> Result<bool> {
    let window = rules.failures_window.max(rules.accounts_window);
    let is_old = source_failure::Column::At.lte(now.saturating_sub(window).as_micros());
    delete_batch::<source_failure::Entity>(tx, is_old).await
}

/// Deletes a batch of the blocks that have expired, or that end later than any rule permits. Returns whether there may be more.
pub async fn source_blocks_sweep(tx: &Autocommit, rules: &SourceRules, now: Timestamp) -> Result<bool> {
    let latest = now.saturating_add(rules.block).saturating_add(MAX_CLOCK_ERROR).as_micros();
    let is_over = source_block::Column::BlockedUntil.lte(now.as_micros());
    let is_beyond_rules = source_block::Column::BlockedUntil.gt(latest);
    delete_batch::<source_block::Entity>(tx, is_over.or(is_beyond_rules)).await
}
