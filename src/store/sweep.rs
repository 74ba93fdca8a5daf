//! Deleting rows that are no longer needed, few at a time: a statement that deletes a hundred thousand rows would keep out all
//! other writers for seconds.

use sea_orm::sea_query::{Expr, ExprTrait, IntoCondition, Query};
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, Iterable, PrimaryKeyToColumn};

use super::Autocommit;
use crate::error::Result;

/// Rows in one statement. They take SQLite some 10 ms.
const BATCH: u64 = 1_000;

/// Deletes a batch of the rows that `condition` selects. Returns whether there may be more.
pub(super) async fn delete_batch<E: EntityTrait>(
    tx: &Autocommit,
    condition: impl IntoCondition + Clone,
) -> Result<bool> {
    let columns = || E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
    let mut batch = Query::select();
    batch.columns(columns()).from(E::default()).cond_where(condition.clone()).limit(BATCH);
    let mut delete = Query::delete();
    delete.from_table(E::default()).and_where(Expr::tuple(columns().map(Expr::col)).in_subquery(batch));
    if tx.get_database_backend() == DbBackend::Postgres {
        // Another call may have changed a row since it was selected. SQLite would read all rows that the condition selects.
        delete.cond_where(condition);
    }
    Ok(tx.execute(&delete).await?.rows_affected() >= BATCH)
}

#[cfg(test)]
mod tests {
    use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, Set};

    use super::super::entity::{idempotency_key, source_failure};
    use super::super::{Location, Store};
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    async fn store(dir: &tempfile::TempDir) -> Result<Store, Box<dyn std::error::Error>> {
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        Ok(store)
    }

    fn failure(number: i64) -> source_failure::ActiveModel {
        source_failure::ActiveModel {
            id: Set(format!("{number:05}")),
            source: Set("192.0.2.1".to_owned()),
            account: Set("n:0".to_owned()),
            at: Set(number),
        }
    }

    #[tokio::test]
    async fn a_statement_deletes_a_thousand_rows_and_says_whether_there_may_be_more() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = store(&dir).await?;
        source_failure::Entity::insert_many((0..2_300).map(failure))
            .exec_without_returning(store.autocommit()?)
            .await?;
        let old = source_failure::Column::At.lt(2_200);
        let mut left = Vec::new();
        loop {
            let more = delete_batch::<source_failure::Entity>(store.autocommit()?, old.clone()).await?;
            left.push((more, source_failure::Entity::find().count(store.reader()).await?));
            if !more {
                break;
            }
        }
        assert_eq!(left, [(true, 1_300), (true, 300), (false, 100)]);
        Ok(())
    }

    #[tokio::test]
    async fn rows_with_a_key_of_several_columns_are_deleted_too() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = store(&dir).await?;
        let key = |name: &str, expires_at| idempotency_key::ActiveModel {
            principal: Set("root".to_owned()),
            method: Set("LockUser".to_owned()),
            idempotency_key: Set(name.to_owned()),
            body_digest: Set(Vec::new()),
            answer: Set("{}".to_owned()),
            expires_at: Set(expires_at),
        };
        let keys = [key("old", 1), key("new", 9)];
        idempotency_key::Entity::insert_many(keys).exec_without_returning(store.autocommit()?).await?;
        let expired = idempotency_key::Column::ExpiresAt.lte(5);
        assert!(!delete_batch::<idempotency_key::Entity>(store.autocommit()?, expired).await?);
        let left = idempotency_key::Entity::find().all(store.reader()).await?;
        assert_eq!(left.into_iter().map(|row| row.idempotency_key).collect::<Vec<_>>(), ["new"]);
        Ok(())
    }
}
