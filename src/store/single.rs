//! Reads by a unique key.

use sea_orm::{ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryTrait, Select};

/// Reads the one row that a unique key selects. `Select::one` would add a bound `LIMIT`, and a statement with one is
/// planned anew by `SQLite` each time it runs: as costly as the read itself.
pub(super) async fn only<M: FromQueryResult>(
    c: &impl ConnectionTrait,
    select: Select<impl EntityTrait>,
) -> Result<Option<M>, DbErr> {
    let row = c.query_one(&select.into_query()).await?;
    row.map(|row| M::from_query_result(&row, "")).transpose()
}
