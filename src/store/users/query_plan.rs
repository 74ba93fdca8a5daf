//! How `SQLite` runs a query, for tests.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryTrait as _, Select};
use tempfile::TempDir;

use crate::store::entity::user;
use crate::store::{Location, Store};

/// An empty database, and the folder that holds it.
pub(super) async fn empty_store() -> Result<(TempDir, Store), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
    store.migrate().await?.commit().await?;
    Ok((dir, store))
}

/// The steps by which a query is run.
pub(super) async fn plan(store: &Store, select: Select<user::Entity>) -> Result<Vec<String>, DbErr> {
    let mut statement = select.build(DbBackend::Sqlite);
    statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
    let rows = store.reader().query_all_raw(statement).await?;
    rows.iter().map(|row| row.try_get("", "detail")).collect()
}
