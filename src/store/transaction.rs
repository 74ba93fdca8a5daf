//! Transactions that may write.
//!
//! A connection of SQLite is a thread: each statement is a message to it and one back, and waking the two costs more than
//! most statements do. So what a transaction of the embedded database sends without needing a result waits for the next
//! statement that has one, and goes with it in one message: `BEGIN` with the first read, the last writes with `COMMIT`.
//! Why: `docs/adr/0026-a-transaction-in-few-messages.md`.

use futures_util::TryStreamExt;
use sea_orm::sea_query::Values;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::query::Query;
use sea_orm::sqlx::sqlite::{SqliteConnection, SqliteQueryResult};
use sea_orm::sqlx::{self, AssertSqlSafe, Executor, Sqlite};
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement, Value,
};
use sea_orm_migration::async_trait::async_trait;
use sea_query_sqlx::SqlxValues;
use tokio::sync::Mutex;

/// A transaction. Dropping it rolls back.
#[derive(Debug)]
pub enum Transaction {
    /// Each statement is sent by itself.
    Plain(DatabaseTransaction),
    /// Of the embedded database.
    Gathering(Box<Gathering>),
}

impl Transaction {
    /// Commits. After an error nobody may know whether it was.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        match self {
            Transaction::Plain(transaction) => transaction.commit().await,
            Transaction::Gathering(transaction) => transaction.commit().await,
        }
    }

    /// Executes a statement whose result nobody needs. What is wrong with it may come back as the error of a later one.
    pub(super) async fn execute_later(&self, statement: Statement) -> Result<(), DbErr> {
        match self {
            Transaction::Plain(transaction) => transaction.execute_raw(statement).await.map(|_| ()),
            Transaction::Gathering(transaction) => transaction.gather(statement).await,
        }
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Transaction::Plain(transaction) => transaction.get_database_backend(),
            Transaction::Gathering(_) => DbBackend::Sqlite,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match self {
            Transaction::Plain(transaction) => transaction.execute_raw(statement).await,
            Transaction::Gathering(transaction) => transaction.execute(statement).await,
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.execute_raw(Statement::from_string(self.get_database_backend(), sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Transaction::Plain(transaction) => transaction.query_one_raw(statement).await,
            Transaction::Gathering(transaction) => transaction.query_one(statement).await,
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Transaction::Plain(transaction) => transaction.query_all_raw(statement).await,
            Transaction::Gathering(transaction) => transaction.query_all(statement).await,
        }
    }
}

/// A transaction of the embedded database, which has its only writer from the start.
#[derive(Debug)]
pub struct Gathering(Mutex<Writing>);

#[derive(Debug)]
struct Writing {
    /// None when it has ended.
    connection: Option<PoolConnection<Sqlite>>,
    /// What goes with the next message.
    gathered: Message,
    /// Whether the database may know of the transaction.
    is_begun: bool,
    /// Whether a message has failed, or nobody has waited for its answer. SQLite may have rolled back by itself, and would
    /// take what comes next for transactions of their own.
    is_lost: bool,
}

impl Gathering {
    /// Takes the only writer of the pool. Nobody else in this process writes from here on; the database, and what other
    /// programs do with it, is asked by the first statement: IMMEDIATE, since a deferred transaction that turns out to
    /// write is told BUSY at once, whatever the timeout.
    pub(super) async fn begin(writers: &DatabaseConnection) -> Result<Gathering, DbErr> {
        let connection = writers.get_sqlite_connection_pool().acquire().await.map_err(|error| match error {
            sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
            sqlx::Error::PoolClosed => DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed),
            other => DbErr::Conn(RuntimeErr::SqlxError(other.into())),
        })?;
        let mut gathered = Message::default();
        gathered.add(Statement::from_string(DbBackend::Sqlite, "BEGIN IMMEDIATE"));
        Ok(Gathering(Mutex::new(Writing { connection: Some(connection), gathered, is_begun: false, is_lost: false })))
    }

    async fn gather(&self, statement: Statement) -> Result<(), DbErr> {
        let mut writing = self.0.lock().await;
        writing.make_room_for(&statement).await?;
        writing.gathered.add(statement);
        Ok(())
    }

    async fn execute(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.0.lock().await.execute(statement).await
    }

    async fn query_one(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut writing = self.0.lock().await;
        let (connection, message) = writing.message(statement).await?;
        let row = message.into_query().fetch_optional(connection).await.map_err(query_failed)?;
        writing.is_lost = false;
        Ok(row.map(QueryResult::from))
    }

    async fn query_all(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut writing = self.0.lock().await;
        let (connection, message) = writing.message(statement).await?;
        let rows = message.into_query().fetch_all(connection).await.map_err(query_failed)?;
        writing.is_lost = false;
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    async fn commit(self) -> Result<(), DbErr> {
        let mut writing = self.0.lock().await;
        writing.execute(Statement::from_string(DbBackend::Sqlite, "COMMIT")).await?;
        writing.is_begun = false;
        Ok(())
    }
}

impl Writing {
    async fn execute(&mut self, statement: Statement) -> Result<ExecResult, DbErr> {
        let (connection, message) = self.message(statement).await?;
        let result = last_result(connection, message).await.map_err(execute_failed)?;
        self.is_lost = false;
        Ok(result.into())
    }

    /// What was gathered so far and `statement`, to be sent.
    async fn message(&mut self, statement: Statement) -> Result<(&mut SqliteConnection, Message), DbErr> {
        self.make_room_for(&statement).await?;
        self.gathered.add(statement);
        self.all_gathered()
    }

    /// Sends what was gathered, if `statement` cannot go with it.
    async fn make_room_for(&mut self, statement: &Statement) -> Result<(), DbErr> {
        if self.gathered.has_room_for(statement) {
            return Ok(());
        }
        let (connection, message) = self.all_gathered()?;
        message.into_query().execute(connection).await.map_err(execute_failed)?;
        self.is_lost = false;
        Ok(())
    }

    /// What was gathered, to be sent. Until its answer was read the transaction is lost.
    fn all_gathered(&mut self) -> Result<(&mut SqliteConnection, Message), DbErr> {
        let message = std::mem::take(&mut self.gathered);
        let was_lost = std::mem::replace(&mut self.is_lost, true);
        match &mut self.connection {
            Some(connection) if !was_lost => {
                self.is_begun = true;
                Ok((connection, message))
            }
            _ => Err(DbErr::Exec(RuntimeErr::Internal("the transaction has failed before".to_owned()))),
        }
    }
}

/// Executes a message. Each of its statements has a result: the last one's is the one that was asked for.
async fn last_result(connection: &mut SqliteConnection, message: Message) -> Result<SqliteQueryResult, sqlx::Error> {
    let statements = message.statements;
    let mut answer = connection.fetch_many(message.into_query());
    let mut results = Vec::with_capacity(statements);
    while let Some(part) = answer.try_next().await? {
        results.extend(part.left());
    }
    // With fewer the driver's thread has ended before it came to that.
    if results.len() < statements {
        Err(sqlx::Error::WorkerCrashed)
    } else {
        results.pop().ok_or(sqlx::Error::WorkerCrashed)
    }
}

/// Rolls back what was begun and not committed, before anybody else gets the connection.
impl Drop for Writing {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take().filter(|_| self.is_begun) else { return };
        // Without a runtime the process is about to end, and takes the transaction with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = connection.execute("ROLLBACK").await
                && !is_no_transaction(&error)
            {
                connection.close_on_drop();
            }
        });
    }
}

/// Whether there was nothing to roll back: SQLite has done so by itself, or the commit went through whose answer nobody
/// waited for.
fn is_no_transaction(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("no transaction is active"))
}

/// Statements that are sent together.
#[derive(Debug, Default)]
struct Message {
    sql: String,
    values: Vec<Value>,
    statements: usize,
}

impl Message {
    fn add(&mut self, statement: Statement) {
        if !self.sql.is_empty() {
            self.sql.push_str("; ");
        }
        self.statements += 1;
        self.sql.push_str(&statement.sql);
        self.values.extend(statement.values.into_iter().flat_map(|values| values.0));
    }

    /// A statement that numbers its values (`$1`) has to bring all of them.
    fn has_room_for(&self, statement: &Statement) -> bool {
        self.values.is_empty() || !(self.sql.contains('$') || statement.sql.contains('$'))
    }

    /// Safe as the statements are that it was made of: what comes from callers is among their values.
    fn into_query(self) -> Query<'static, Sqlite, SqlxValues> {
        sqlx::query_with(AssertSqlSafe(self.sql), SqlxValues(Values(self.values)))
    }
}

fn query_failed(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

fn execute_failed(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

#[cfg(test)]
mod tests {
    use super::super::{Location, Store};
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn sql(text: &str, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(DbBackend::Sqlite, text, values)
    }

    async fn counters(dir: &tempfile::TempDir) -> Result<Store, Box<dyn std::error::Error>> {
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.write.execute_unprepared("CREATE TABLE counter (name TEXT UNIQUE, n INTEGER)").await?;
        Ok(store)
    }

    async fn total(c: &impl ConnectionTrait) -> Result<Option<i64>, DbErr> {
        let row = c.query_one_raw(sql("SELECT sum(n) FROM counter", [])).await?;
        row.map(|row| row.try_get_by_index(0)).transpose().map(Option::flatten)
    }

    const ADD: &str = "INSERT INTO counter VALUES (?, ?)";

    #[tokio::test]
    async fn what_waits_is_seen_by_whatever_comes_after_it_and_goes_with_the_rest() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;

        let tx = store.begin_write().await?;
        tx.inner.execute_later(sql(ADD, ["a".into(), 1.into()])).await?;
        assert_eq!(total(&*tx).await?, Some(1));
        tx.inner.execute_later(sql(ADD, ["b".into(), 2.into()])).await?;
        drop(tx);

        let tx = store.begin_write().await?;
        assert_eq!(total(&*tx).await?, None, "rolled back");
        tx.inner.execute_later(sql(ADD, ["c".into(), 4.into()])).await?;
        tx.commit().await?;
        assert_eq!(total(store.reader()).await?, Some(4));
        Ok(())
    }

    #[tokio::test]
    async fn each_statement_has_its_own_values_and_its_own_result() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;
        let tx = store.begin_write().await?;
        for n in 0..5 {
            tx.inner.execute_later(sql(ADD, [n.to_string().into(), n.into()])).await?;
        }
        let none = tx.execute_raw(sql("UPDATE counter SET n = 0 WHERE name = ?", ["9".into()])).await?;
        assert_eq!(none.rows_affected(), 0, "of this one, not of the five before it");

        tx.inner.execute_later(sql(ADD, ["x".into(), 100.into()])).await?;
        let numbered = || sql("UPDATE counter SET n = n + $2 WHERE name = $1", ["x".into(), 500.into()]);
        tx.inner.execute_later(numbered()).await?;
        assert_eq!(tx.execute_raw(sql(ADD, ["y".into(), 0.into()])).await?.rows_affected(), 1);
        assert_eq!(tx.execute_raw(numbered()).await?.rows_affected(), 1);
        assert_eq!(total(&*tx).await?, Some(1110));
        let names = tx.query_all_raw(sql("SELECT name FROM counter WHERE n > ?", [50.into()])).await?;
        assert_eq!(names.len(), 1);
        Ok(tx.commit().await?)
    }

    #[tokio::test]
    async fn a_transaction_with_a_statement_that_is_refused_changes_nothing() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = counters(&dir).await?;
        let tx = store.begin_write().await?;
        tx.inner.execute_later(sql(ADD, ["a".into(), 1.into()])).await?;
        tx.inner.execute_later(sql(ADD, ["a".into(), 2.into()])).await?;
        assert!(tx.commit().await.is_err());

        let tx = store.begin_write().await?;
        assert!(tx.query_one_raw(sql("SELECT n FROM nothing", [])).await.is_err());
        assert!(
            tx.execute_raw(sql(ADD, ["a".into(), 4.into()])).await.is_err(),
            "it would be a transaction of its own"
        );
        assert!(tx.commit().await.is_err());

        // The connection is as good as before.
        let tx = store.begin_write().await?;
        assert_eq!(total(&*tx).await?, None);
        Ok(tx.commit().await?)
    }
}
