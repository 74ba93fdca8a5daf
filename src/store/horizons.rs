//! Deleting old events, by class. No other function deletes or changes an event.

use sea_orm::sea_query::{Condition, Expr, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, Set};

use super::Autocommit;
use super::entity::{audit_event, event_horizon};
use super::sweep::delete_batch;
use super::text::{instant, micros};
use crate::domain::horizon::{Horizon, KeptClass};
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Lists what is known of the deletion of each class. A class is missing until the first sweep.
pub async fn horizon_list(c: &impl ConnectionTrait) -> Result<Vec<Horizon>> {
    let rows = event_horizon::Entity::find().all(c).await?;
    Ok(rows.iter().filter_map(decode).collect())
}

/// Remembers how far events of a class are deleted. Called before they are, so that no list seems complete that is not.
pub async fn horizon_save(tx: &Autocommit, horizon: &Horizon) -> Result<()> {
    use event_horizon::Column;
    let row = event_horizon::ActiveModel {
        class: Set(number(horizon.class)),
        swept_until: Set(horizon.swept_until.as_micros()),
        waits_until: Set(micros(horizon.waits_until)),
        complete_since: Set(micros(horizon.complete_since)),
    };
    let replace = OnConflict::column(Column::Class)
        .update_columns([Column::SweptUntil, Column::WaitsUntil, Column::CompleteSince])
        .to_owned();
    event_horizon::Entity::insert(row).on_conflict(replace).exec_without_returning(tx).await?;
    Ok(())
}

/// Returns whether a class has events from before `before`.
pub async fn event_exists_before(c: &impl ConnectionTrait, class: KeptClass, before: Timestamp) -> Result<bool> {
    let older = audit_event::Entity::find().select_only().column(audit_event::Column::Id);
    let older = older.filter(is_older(class, before)).limit(1);
    Ok(older.into_tuple::<String>().one(c).await?.is_some())
}

/// Deletes a batch of the events of a class from before `before`. Returns whether there may be more.
pub async fn events_sweep(tx: &Autocommit, class: KeptClass, before: Timestamp) -> Result<bool> {
    delete_batch::<audit_event::Entity>(tx, is_older(class, before)).await
}

fn is_older(class: KeptClass, before: Timestamp) -> Condition {
    Condition::all().add(Expr::cust(is_of(class))).add(audit_event::Column::At.lt(before.as_micros()))
}

/// The conditions of the partial indexes, word for word: with bound values SQLite would not use them. Two columns are compared
/// as one text, because SQLite prefers the index of a column that is compared on its own.
fn is_of(class: KeptClass) -> &'static str {
    match class {
        KeptClass::Operators => "class = 1",
        KeptClass::SignIns => "class = 2 AND target_user_id || actor_id <> ''",
        KeptClass::Strangers => "class = 2 AND target_user_id || actor_id = ''",
    }
}

fn number(class: KeptClass) -> i16 {
    match class {
        KeptClass::Operators => 1,
        KeptClass::SignIns => 2,
        KeptClass::Strangers => 3,
    }
}

fn decode(row: &event_horizon::Model) -> Option<Horizon> {
    let class = KeptClass::ALL.into_iter().find(|class| number(*class) == row.class)?;
    Some(Horizon {
        class,
        swept_until: instant(row.swept_until),
        waits_until: row.waits_until.map(instant),
        complete_since: row.complete_since.map(instant),
    })
}

#[cfg(test)]
mod tests {
    use sea_orm::{DbBackend, Statement};

    use super::super::{Location, Store};
    use super::*;

    #[tokio::test]
    async fn old_events_of_each_class_are_found_by_an_index_of_their_own() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        for (class, index) in KeptClass::ALL.into_iter().zip(["administration", "sign_in", "stranger"]) {
            let sql =
                format!("EXPLAIN QUERY PLAN SELECT id FROM audit_event WHERE {} AND at < 5 LIMIT 1000", is_of(class));
            let plan = store.reader().query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await?;
            let plan: Vec<String> = plan.iter().map(|step| step.try_get("", "detail")).collect::<Result<_, _>>()?;
            assert_eq!(plan, [format!("SEARCH audit_event USING INDEX audit_event_{index} (at<?)")]);
        }
        Ok(())
    }
}
