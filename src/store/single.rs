//! Reads of rows: one by a unique key, or many. A row whose columns are of another type than they should be, which only
//! the embedded database allows, is a broken record like any other.

use sea_orm::{ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryResult, QueryTrait, Select};

use crate::domain::user::Etag;
use crate::error::{Error, Resource, Result};

/// Reads the one row that a unique key selects. `Select::one` would add a bound `LIMIT`, and a statement with one is
/// planned anew by `SQLite` each time it runs: as costly as the read itself.
pub(super) async fn only<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    select: Select<impl EntityTrait>,
) -> Result<Option<M>, DbErr> {
    let row = c.query_one(&select.into_query()).await?;
    row.map(|row| M::from_query_result(&row, "")).transpose()
}

/// As [`only`], for something that callers know by its id.
pub(super) async fn record<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    resource: Resource,
    select: Select<impl EntityTrait>,
) -> Result<Option<M>> {
    let row = c.query_one(&select.into_query()).await?;
    row.map(|row| model(resource, &row, "")).transpose()
}

/// All rows. One of a wrong type fails them all and is named: without its columns it has no place in the order.
pub(super) async fn records<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    resource: Resource,
    select: Select<impl EntityTrait>,
) -> Result<Vec<M>> {
    let rows = c.query_all(&select.into_query()).await?;
    rows.iter().map(|row| model(resource, row, "")).collect()
}

/// What a row says of one resource, whose columns have `prefix` before their names.
pub(super) fn model<M: FromQueryResult>(resource: Resource, row: &QueryResult, prefix: &str) -> Result<M> {
    M::from_query_result(row, prefix).map_err(|error| match row.try_get::<String>(prefix, "id") {
        Ok(id) => Error::Corrupt { resource, id, etag: row.try_get(prefix, "version").ok().map(Etag) },
        Err(_) => error.into(),
    })
}
