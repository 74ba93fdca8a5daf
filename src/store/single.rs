//! Reads of one row by a unique key, or of many rows. A row with a column of the wrong type, which only the embedded database
//! permits, is reported as a corrupt record.

use sea_orm::{ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryResult, QueryTrait, Select};

use crate::domain::user::Etag;
use crate::error::{Error, Resource, Result};

/// Reads the one row that a unique key selects. `Select::one` would add a bound `LIMIT`, and `SQLite` plans a statement with
/// one anew each time it runs, which costs as much as the read itself.
pub(super) async fn only<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    select: Select<impl EntityTrait>,
) -> Result<Option<M>, DbErr> {
    let row = c.query_one(&select.into_query()).await?;
    row.map(|row| M::from_query_result(&row, "")).transpose()
}

/// Reads as [`only`] does, and reports a row of the wrong type as a corrupt record.
pub(super) async fn record<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    resource: Resource,
    select: Select<impl EntityTrait>,
) -> Result<Option<M>> {
    let row = c.query_one(&select.into_query()).await?;
    row.map(|row| model(resource, &row, "")).transpose()
}

/// Reads all rows. A row of the wrong type fails the whole read, and the error names it: without its columns it has no position
/// in the order.
pub(super) async fn records<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    resource: Resource,
    select: Select<impl EntityTrait>,
) -> Result<Vec<M>> {
    let rows = c.query_all(&select.into_query()).await?;
    rows.iter().map(|row| model(resource, row, "")).collect()
}

/// Decodes the columns of one resource from a row. Their names begin with `prefix`.
pub(super) fn model<M: FromQueryResult>(resource: Resource, row: &QueryResult, prefix: &str) -> Result<M> {
    M::from_query_result(row, prefix).map_err(|error| match row.try_get::<String>(prefix, "id") {
        Ok(id) => Error::Corrupt { resource, id, etag: row.try_get(prefix, "version").ok().map(Etag) },
        Err(_) => error.into(),
    })
}
