//! The types that determine what a connection may do: read and lock, write in a transaction, or write a single statement.
//!
//! | type | accepted by | ends |
//! | --- | --- | --- |
//! | [`Transaction`] | reads and row locks | rolled back when dropped |
//! | [`WriteTx`] | every function that writes | [`WriteTx::commit`], or rolled back when dropped |
//! | [`Autocommit`] | single statements that are a transaction of their own | with the statement |

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    Statement,
};
use sea_orm_migration::async_trait::async_trait;

use super::bounded::{self, Bounded};
use super::commits::Commits;
use super::error::commit_error;
use crate::error::Result;

/// A transaction that reads and locks rows. Dropping it rolls back.
pub struct Transaction {
    connection: Bounded<DatabaseTransaction>,
    commits: Arc<Commits>,
    /// Whether a statement has failed, or was abandoned before its result arrived. SQLite may then have rolled back by itself
    /// (full disk, I/O error, interrupt), and would commit each later statement separately. So no further statement is sent.
    has_failed: AtomicBool,
}

impl Transaction {
    pub(super) fn new(connection: Bounded<DatabaseTransaction>, commits: Arc<Commits>) -> Transaction {
        Transaction { connection, commits, has_failed: AtomicBool::new(false) }
    }

    /// Permits writing. What was read and locked so far stays locked.
    pub fn writable(self) -> WriteTx {
        WriteTx { tx: self, counts_failure: AtomicBool::new(false) }
    }

    /// Sends one statement, unless an earlier one has failed.
    async fn send<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        if self.has_failed.swap(true, Ordering::AcqRel) {
            return Err(has_failed());
        }
        let done = work.await?;
        self.has_failed.store(false, Ordering::Release);
        Ok(done)
    }
}

fn has_failed() -> DbErr {
    DbErr::Exec(RuntimeErr::Internal("an earlier statement of the transaction has failed".to_owned()))
}

/// A transaction that writes. Dropping it rolls back.
pub struct WriteTx {
    tx: Transaction,
    counts_failure: AtomicBool,
}

impl WriteTx {
    /// Marks that the transaction counts a failure against a source, which may block the source.
    pub(super) fn counts_failure(&self) {
        self.counts_failure.store(true, Ordering::Relaxed);
    }

    /// Makes the change visible, and then durable. [`Outage::Unconfirmed`] means that the change may or may not have been
    /// made. Once the commit is sent, cached rows are no longer valid, whatever its result.
    ///
    /// [`Outage::Unconfirmed`]: crate::error::Outage::Unconfirmed
    pub async fn commit(self) -> Result<()> {
        let Transaction { connection: Bounded { inner, deadline, backend }, commits, has_failed } = self.tx;
        if has_failed.into_inner() {
            return Err(self::has_failed().into());
        }
        let counted = commits.begin(self.counts_failure.into_inner());
        let committed = bounded::run(deadline, &backend, inner.commit()).await;
        drop(counted);
        committed.map_err(commit_error)?;
        backend.watched.committed();
        backend.flush().await
    }
}

/// Executes single statements, each a transaction of its own. On the embedded database a power cut may undo one until a
/// later transaction is durable, so no answer may depend on it. The few functions that accept it are listed in
/// `tests/it/layering.rs`.
pub struct Autocommit {
    connection: Bounded<DatabaseConnection>,
    commits: Arc<Commits>,
}

impl Autocommit {
    pub(super) fn new(connection: Bounded<DatabaseConnection>, commits: Arc<Commits>) -> Autocommit {
        Autocommit { connection, commits }
    }

    /// Invalidates cached rows, after a statement that has changed a user, a session or a token.
    pub(super) fn invalidate_cached_rows(&self) {
        drop(self.commits.begin(false));
    }
}

/// Implements `ConnectionTrait` by delegation. `$send` wraps the future of each statement.
macro_rules! connection {
    ($type:ty, |$this:ident| $inner:expr, |$work:ident| $send:expr) => {
        #[async_trait]
        impl ConnectionTrait for $type {
            fn get_database_backend(&self) -> DbBackend {
                let $this = self;
                $inner.get_database_backend()
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                let $this = self;
                let $work = $inner.execute_raw(statement);
                $send.await
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                let $this = self;
                let $work = $inner.execute_unprepared(sql);
                $send.await
            }

            async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
                let $this = self;
                let $work = $inner.query_one_raw(statement);
                $send.await
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                let $this = self;
                let $work = $inner.query_all_raw(statement);
                $send.await
            }
        }
    };
}

pub(super) use connection;

connection!(Transaction, |this| this.connection, |work| this.send(work));
connection!(WriteTx, |this| this.tx, |work| work);
connection!(Autocommit, |this| this.connection, |work| work);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use sea_orm::Value;

    use super::super::{Location, Store};
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn sql(text: &str, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(DbBackend::Sqlite, text, values)
    }

    async fn counters(dir: &tempfile::TempDir) -> Result<Store, Box<dyn std::error::Error>> {
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.autocommit()?.execute_unprepared("CREATE TABLE counter (name TEXT UNIQUE, n INTEGER)").await?;
        Ok(store)
    }

    async fn total(c: &impl ConnectionTrait) -> Result<Option<i64>, DbErr> {
        let row = c.query_one_raw(sql("SELECT sum(n) FROM counter", [])).await?;
        row.map(|row| row.try_get_by_index(0)).transpose().map(Option::flatten)
    }

    const ADD: &str = "INSERT INTO counter VALUES (?, ?)";

    #[tokio::test]
    async fn a_dropped_transaction_changes_nothing_and_a_committed_one_does() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;
        let tx = store.begin().await?.writable();
        tx.execute_raw(sql(ADD, ["a".into(), 1.into()])).await?;
        assert_eq!(total(&tx).await?, Some(1));
        drop(tx);

        let tx = store.begin().await?.writable();
        assert_eq!(total(&tx).await?, None, "rolled back");
        tx.execute_raw(sql(ADD, ["c".into(), 4.into()])).await?;
        tx.commit().await?;
        assert_eq!(total(store.reader()).await?, Some(4));
        Ok(())
    }

    #[tokio::test]
    async fn a_transaction_with_a_statement_that_is_refused_changes_nothing() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;
        let tx = store.begin().await?.writable();
        tx.execute_raw(sql(ADD, ["a".into(), 1.into()])).await?;
        assert!(tx.execute_raw(sql(ADD, ["a".into(), 2.into()])).await.is_err());
        assert!(tx.commit().await.is_err());

        let tx = store.begin().await?.writable();
        assert!(tx.query_one_raw(sql("SELECT n FROM nothing", [])).await.is_err());
        assert!(
            tx.execute_raw(sql(ADD, ["a".into(), 4.into()])).await.is_err(),
            "it would be a transaction of its own"
        );
        assert!(tx.commit().await.is_err());

        // The connection remains usable.
        let tx = store.begin().await?.writable();
        assert_eq!(total(&tx).await?, None);
        Ok(tx.commit().await?)
    }

    #[tokio::test]
    async fn a_transaction_that_sqlite_rolled_back_by_itself_takes_no_more_statements() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;
        let tx = store.begin().await?.writable();
        tx.execute_raw(sql(ADD, ["a".into(), 1.into()])).await?;
        // As on a full disk: the statement fails, and the whole transaction is rolled back.
        assert!(
            tx.execute_raw(sql("INSERT OR ROLLBACK INTO counter VALUES (?, ?)", ["a".into(), 2.into()])).await.is_err()
        );
        assert!(tx.execute_raw(sql(ADD, ["b".into(), 4.into()])).await.is_err());
        assert!(tx.commit().await.is_err());
        assert_eq!(total(store.reader()).await?, None);
        // The next transaction has a connection that is not in a transaction.
        let tx = store.begin().await?.writable();
        tx.execute_raw(sql(ADD, ["c".into(), 8.into()])).await?;
        tx.commit().await?;
        assert_eq!(total(store.reader()).await?, Some(8));
        Ok(())
    }

    #[tokio::test]
    async fn a_statement_that_was_abandoned_ends_its_transaction() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;
        let tx = store.begin().await?.writable();
        tx.execute_raw(sql(ADD, ["a".into(), 1.into()])).await?;
        // Polled once and dropped: its result never arrives.
        assert!(tx.tx.send(std::future::pending::<Result<(), DbErr>>()).now_or_never().is_none());
        assert!(tx.execute_raw(sql(ADD, ["b".into(), 2.into()])).await.is_err());
        assert!(tx.commit().await.is_err());
        assert_eq!(total(store.reader()).await?, None);
        Ok(())
    }
}
