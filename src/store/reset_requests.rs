//! Requests for a link that wait to be resolved: one row for each login, whether or not it names an account.

use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};

use super::entity::reset_request::{self, Column};
use super::sweep::delete_batch;
use super::text::instant;
use super::{Autocommit, WriteTx};
use crate::domain::time::Timestamp;
use crate::error::Result;

/// A request, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// Keyed digest of the login.
    pub login: String,
    /// The sealed request.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Stores a request, in place of one for the same login. Returns `false` if `most` requests wait.
pub async fn reset_request_save(tx: &WriteTx, request: &StoredRequest, most: u64) -> Result<bool> {
    let values = [
        request.login.as_str().into(),
        request.sealed.clone().into(),
        request.created_at.as_micros().into(),
        i64::try_from(most).unwrap_or(i64::MAX).into(),
    ];
    let statement = Statement::from_sql_and_values(tx.get_database_backend(), SAVE, values);
    let saved = tx.query_one_raw(statement).await?.is_some();
    failpoint!("store.reset_request_save");
    Ok(saved)
}

/// A later request takes the place of an earlier one in the queue.
const SAVE: &str = "INSERT INTO reset_request (login, sealed, created_at)
SELECT $1, $2, $3 WHERE (SELECT count(*) FROM (SELECT 1 FROM reset_request LIMIT $4) AS waiting) < $4
ON CONFLICT (login) DO UPDATE SET sealed = excluded.sealed
RETURNING login";

/// Lists the requests that wait longest.
pub async fn reset_request_list(c: &impl ConnectionTrait, limit: u64) -> Result<Vec<StoredRequest>> {
    let select = reset_request::Entity::find().order_by_asc(Column::CreatedAt).order_by_asc(Column::Login);
    let rows: Vec<reset_request::Model> = select.limit(limit).all(c).await?;
    let read = |row: reset_request::Model| {
        let created_at = instant(row.created_at);
        StoredRequest { login: row.login, sealed: row.sealed, created_at }
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Deletes a request. Returns `false` if another replica was faster.
pub async fn reset_request_delete(tx: &WriteTx, request: &StoredRequest) -> Result<bool> {
    let deleted = reset_request::Entity::delete_many()
        .filter(Column::Login.eq(request.login.as_str()))
        .filter(Column::CreatedAt.eq(request.created_at.as_micros()))
        .exec(tx)
        .await?;
    failpoint!("store.reset_request_delete");
    Ok(deleted.rows_affected == 1)
}

/// Deletes a batch of requests from before `before`, or from a time after `latest`: a clock was wrong. Returns whether there may
/// be more.
pub async fn reset_requests_sweep(tx: &Autocommit, before: Timestamp, latest: Timestamp) -> Result<bool> {
    let is_old = Column::CreatedAt.lte(before.as_micros());
    delete_batch::<reset_request::Entity>(tx, is_old.or(Column::CreatedAt.gt(latest.as_micros()))).await
}

#[cfg(test)]
mod tests {
    use sea_orm::PaginatorTrait as _;

    use super::super::{Location, Store};
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn request(number: i64) -> StoredRequest {
        let created_at = Timestamp::from_micros(number);
        StoredRequest { login: format!("{number:032x}"), sealed: vec![1; 1052], created_at }
    }

    #[tokio::test]
    async fn no_more_requests_wait_than_may_and_one_for_each_login() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let tx = store.begin().await?.writable();
        let mut saved = 0;
        for number in (0..200).chain(0..200) {
            saved += u64::from(reset_request_save(&tx, &request(number), 50).await?);
        }
        assert_eq!(saved, 50);
        assert_eq!(reset_request::Entity::find().count(&tx).await?, 50);

        let oldest = reset_request_list(&tx, 2).await?;
        assert_eq!(oldest, [request(0), request(1)]);
        assert!(reset_request_delete(&tx, &request(0)).await?);
        assert!(!reset_request_delete(&tx, &request(0)).await?, "resolved once");
        let (newer, again) = (StoredRequest { sealed: vec![2], ..request(1) }, request(200));
        assert!(reset_request_save(&tx, &newer, 50).await?);
        assert!(reset_request_save(&tx, &again, 50).await?);
        assert_eq!(reset_request_list(&tx, 1).await?, [newer]);
        tx.commit().await?;

        let (before, latest) = (Timestamp::from_micros(20), Timestamp::from_micros(100));
        assert!(!reset_requests_sweep(store.autocommit()?, before, latest).await?);
        assert_eq!(reset_request::Entity::find().count(store.reader()).await?, 29);
        Ok(())
    }
}
