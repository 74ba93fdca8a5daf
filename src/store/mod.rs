//! The database: the only home of SQL, through sea-orm.
//!
//! State changes are guarded updates (`… WHERE id = ? AND generation = ?`) whose count of rows is checked; nothing is
//! read, decided in memory and written without a lock on its row. Whatever the two databases do differently is in this
//! file, `sqlite.rs` with `file.rs` and `flush.rs`, `transaction.rs`, `postgres.rs`, and `migration/`.

pub mod api_tokens;
pub mod audit;
mod bounded;
mod entity;
mod error;
mod file;
mod flush;
mod generation;
pub mod idempotency;
pub mod keys;
mod migration;
mod page;
mod postgres;
pub mod sessions;
mod single;
pub mod sources;
mod sqlite;
mod text;
pub mod throttle;
pub mod tickets;
mod transaction;
pub mod users;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, SqliteTransactionMode, Statement, StatementBuilder,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};
use secrecy::SecretString;
use tokio::time::{Instant, timeout};

pub use self::bounded::Bounded;
use self::bounded::{ANSWER_TIMEOUT, Deadline, Watch};
pub use self::error::is_lost_race;
use self::generation::Generations;
use self::transaction::{Gathering, Transaction};
use crate::domain::time::Timestamp;
use crate::error::{Error, Outage, Result};

/// Something that queries can be sent to: a pool or a transaction.
pub use sea_orm::ConnectionTrait as Connection;

/// How long a caller waits for a connection before it is told that the database is away. The driver's default of
/// 30 s is longer than any deadline of ours.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the database may take to show that it is there. With a look every 2 s, an outage is known within 5 s.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a start waits for another replica that migrates.
const MIGRATION_WAIT: Duration = Duration::from_mins(10);

/// The filter for the log of the libraries below: of migrations, what went wrong. What is wrong with connections comes
/// back as an error, and while the database is away the pool would repeat it several times a second.
pub const QUIET: &str = "sea_orm_migration=warn,sqlx=off";

/// Where the database is.
#[derive(Debug, Clone)]
pub enum Location {
    /// A file that this process owns.
    Sqlite(std::path::PathBuf),
    /// A server that several replicas share.
    Postgres(SecretString),
}

/// The connections.
pub struct Store {
    /// `SQLite`: four readers. `PostgreSQL`: the pool.
    read: Bounded<DatabaseConnection>,
    /// `SQLite`: the one writer. `PostgreSQL`: the same pool.
    write: Bounded<DatabaseConnection>,
    location: Location,
    generations: Arc<Generations>,
    /// The generation up to which the log was last moved to the file.
    in_file: AtomicU64,
}

/// A transaction that may write. Dropping it rolls back.
pub struct WriteTx {
    tx: Bounded<Transaction>,
    generations: Arc<Generations>,
    counts_failure: AtomicBool,
    ending: Ending,
}

/// How a transaction has ended, for who gave it away.
#[derive(Clone, Default)]
pub struct Ending(Arc<AtomicBool>);

impl Ending {
    /// Whether it was committed, and is durable. Else it changed nothing, or nobody knows.
    pub fn is_durable(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Deref for WriteTx {
    type Target = Bounded<Transaction>;
    fn deref(&self) -> &Bounded<Transaction> {
        &self.tx
    }
}

impl WriteTx {
    /// It counts a failure against a source, which may block it.
    pub fn counts_failure(&self) {
        self.counts_failure.store(true, Ordering::Relaxed);
    }

    /// Makes everything visible, and then durable. An error may be [`Outage::Unconfirmed`]: nobody knows whether it is.
    /// Whatever comes of it, nothing that was read before is good any more.
    pub async fn commit(self) -> Result<()> {
        let Bounded { inner, deadline, watch } = self.tx;
        let moves = self.generations.moves(self.counts_failure.into_inner());
        let committed = bounded::run(deadline, &watch, inner.commit()).await;
        drop(moves);
        committed.map_err(error::of_commit)?;
        watch.flush().await?;
        self.ending.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes something of which nothing comes back. What is wrong with it may be told by a later statement, or by the
    /// commit: for what only a broken database refuses.
    pub(in crate::store) async fn later(&self, statement: &impl StatementBuilder) -> Result<()> {
        use sea_orm::ConnectionTrait;
        let statement = self.get_database_backend().build(statement);
        Ok(self.tx.run(self.tx.inner.execute_later(statement)).await?)
    }

    /// Tells later how it has ended.
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }
}

impl Store {
    /// Connects; the embedded database is created if there is none, readable by its owner alone.
    pub async fn connect(location: &Location) -> Result<Store> {
        let (read, write, watch) = match location {
            Location::Sqlite(path) => sqlite::connect(path).await?,
            Location::Postgres(url) => postgres::connect(url).await?,
        };
        let bounded = |inner| Bounded { inner, deadline: Deadline::Each, watch: watch.clone() };
        Ok(Store {
            read: bounded(read),
            write: bounded(write),
            location: location.clone(),
            generations: Arc::default(),
            in_file: AtomicU64::new(0),
        })
    }

    /// For queries that change nothing.
    pub fn reader(&self) -> &Bounded<DatabaseConnection> {
        &self.read
    }

    /// For a single statement that is a transaction of its own, and of which nobody is told that it holds: on the embedded
    /// database a power cut may undo it, until another transaction is durable.
    pub fn autocommit(&self) -> &Bounded<DatabaseConnection> {
        &self.write
    }

    /// Begins a transaction that may write. `SQLite`: it has the only writer. `PostgreSQL`: READ COMMITTED with row locks.
    pub async fn begin_write(&self) -> Result<WriteTx> {
        if !self.is_embedded() {
            let deadline = Deadline::At(Instant::now() + ANSWER_TIMEOUT);
            return Ok(self.transaction(Transaction::Plain(self.begin().await?), deadline));
        }
        let gathering = self.write.run(Gathering::begin(&self.write.inner)).await?;
        Ok(self.transaction(Transaction::Gathering(Box::new(gathering)), Deadline::Never))
    }

    /// The same for work that no caller waits for, and that may take long.
    pub async fn begin_long_write(&self) -> Result<WriteTx> {
        Ok(self.transaction(Transaction::Plain(self.begin().await?), Deadline::Never))
    }

    async fn begin(&self) -> Result<DatabaseTransaction> {
        Ok(self.write.run(self.write.inner.begin_with_options(immediate())).await?)
    }

    fn transaction(&self, inner: Transaction, deadline: Deadline) -> WriteTx {
        let tx = Bounded { inner, deadline, watch: self.write.watch.clone() };
        let generations = Arc::clone(&self.generations);
        WriteTx { tx, generations, counts_failure: AtomicBool::new(false), ending: Ending::default() }
    }

    /// Makes durable what can be seen now. For an answer that rests on what somebody else has committed a moment ago, and
    /// that its caller counts on.
    pub async fn flush(&self) -> Result<()> {
        self.write.watch.flush().await
    }

    /// Moves what is in the log of the embedded database to its file, if there is anything new: beside the writer, which
    /// goes on meanwhile. Where it fails the writer does it later.
    pub async fn move_log(&self) {
        use sea_orm::ConnectionTrait;
        let Some(generation) = self.generation() else { return };
        if self.in_file.swap(generation, Ordering::Relaxed) == generation {
            return;
        }
        if let Err(error) = self.read.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await {
            tracing::debug!(%error, "the log of the database was not moved to its file");
        }
    }

    /// Gives the writer of the embedded database the memory to touch each page once in a transaction with many rows:
    /// with the default of 2 MiB, rows that are all over the indexes write each page many times. For programs that
    /// fill a database and end.
    pub async fn expect_bulk(&self) -> Result<()> {
        use sea_orm::ConnectionTrait;
        if self.is_embedded() {
            self.write.execute_unprepared("PRAGMA cache_size = -524288").await?;
            // And what gathers in the log is moved to the file rarely, each page of it once.
            self.write.execute_unprepared("PRAGMA wal_autocheckpoint = 65536").await?;
            // Where what a statement may have to undo is kept: otherwise a file, written page by page.
            self.write.execute_unprepared("PRAGMA temp_store = MEMORY").await?;
        }
        Ok(())
    }

    /// A number that moves with every commit of users, sessions and tokens, before it returns: what was read is still
    /// so if it has not moved since before the read. None where other processes commit too.
    pub fn generation(&self) -> Option<u64> {
        self.is_embedded().then(|| self.generations.all())
    }

    /// The same, moved by commits of [`WriteTx::counts_failure`] alone: for what only they change.
    pub fn failures_generation(&self) -> Option<u64> {
        self.is_embedded().then(|| self.generations.failures())
    }

    /// Moves the generation, after a statement that was a transaction of its own.
    pub fn moved(&self) {
        drop(self.generations.moves(false));
    }

    /// Whether the database can be worked with: an error says why not. It takes 3 s at most.
    pub async fn check(&self) -> Result<()> {
        match timeout(CHECK_TIMEOUT, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => Err(self.lost()),
        }
    }

    async fn ask(&self) -> Result<()> {
        use sea_orm::ConnectionTrait;
        // Of the embedded database, a read that does touch the file; of a server, what it says of writes.
        let sql = if self.is_embedded() { "PRAGMA schema_version" } else { "SHOW transaction_read_only" };
        let asked = self.read.query_one_raw(Statement::from_string(self.read.get_database_backend(), sql));
        match (asked.await, &self.location) {
            (answer, Location::Sqlite(_)) => Ok(answer.map(|_| ())?),
            (Ok(Some(row)), _) if row.try_get_by_index::<String>(0)? == "off" => Ok(()),
            // Every connection is at work, or none can be opened: a new one tells which.
            (Err(DbErr::ConnectionAcquire(_)), Location::Postgres(url)) => postgres::probe(url).await,
            _ => Err(self.lost()),
        }
    }

    /// What was opened so far leads nowhere.
    fn lost(&self) -> Error {
        if let Watch::Server(doubt) = &self.read.watch {
            doubt.raise();
        }
        Error::Unavailable(Outage::Storage("the database does not answer, or takes no writes".into()))
    }

    /// Why a server of `PostgreSQL` cannot be worked with, as far as a new connection tells.
    pub async fn probe(&self) -> Result<()> {
        match &self.location {
            Location::Sqlite(_) => self.check().await,
            Location::Postgres(url) => postgres::probe(url).await,
        }
    }

    /// What time it is for the database. None where it has no clock but ours.
    pub async fn now(&self) -> Result<Option<Timestamp>> {
        use sea_orm::ConnectionTrait;
        if self.is_embedded() {
            return Ok(None);
        }
        let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
        let row = self.read.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
        let micros: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(micros.map(Timestamp::from_micros))
    }

    /// Whether this process owns the database alone.
    pub fn is_embedded(&self) -> bool {
        self.write.get_database_backend() == DbBackend::Sqlite
    }

    /// The names of all steps of the schema.
    pub fn migrations() -> Vec<String> {
        migration::Migrator::migrations().iter().map(|step| step.name().to_owned()).collect()
    }

    /// Steps that the schema is behind. A database of a newer server is refused.
    pub async fn pending_migrations(&self) -> Result<Vec<String>> {
        let applied = migration::Migrator::get_migration_with_status_read_only(&self.read.inner).await;
        let steps = applied.map_err(newer_schema)?;
        Ok(steps
            .iter()
            .filter(|step| step.status() == sea_orm_migration::MigrationStatus::Pending)
            .map(|step| step.name().to_owned())
            .collect())
    }

    /// Brings the schema up to date, in one transaction and one process at a time, and hands that transaction over
    /// for what else must happen once: sea-orm-migration takes no lock itself, and on `SQLite` no transaction.
    pub async fn migrate(&self) -> Result<WriteTx> {
        let inner = self.begin().await?;
        lock_migrations(&inner).await?;
        failpoint!("migrate.locked");
        let schema = SchemaManager::new(&inner);
        if schema.has_table("user").await? && !schema.has_table("seaql_migrations").await? {
            return Err(Error::internal(
                "the database holds the tables of another program; name one of latchkey's own with --database-url",
            ));
        }
        migration::Migrator::up(&inner, None).await.map_err(newer_schema)?;
        failpoint!("migrate.schema");
        Ok(self.transaction(Transaction::Plain(inner), Deadline::Never))
    }

    /// Closes all connections.
    pub async fn close(self) {
        // Nothing is left to do about a connection that does not want to close.
        let _ = self.read.inner.close().await;
        let _ = self.write.inner.close().await;
    }
}

/// Waits until no other process migrates. On `SQLite` the transaction itself is the lock.
async fn lock_migrations(c: &impl Connection) -> Result<()> {
    if c.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    // Waiting for another replica, and an index over a million rows, take longer than any call may.
    for limit in ["statement_timeout", "idle_in_transaction_session_timeout"] {
        c.execute_unprepared(&format!("SET LOCAL {limit} = 0")).await?;
    }
    let lock = |function| Statement::from_string(DbBackend::Postgres, format!("SELECT {function}({MIGRATION_LOCK})"));
    let row = c.query_one_raw(lock("pg_try_advisory_xact_lock")).await?;
    if !row.map(|row| row.try_get_by_index::<bool>(0)).transpose()?.unwrap_or_default() {
        tracing::warn!("another latchkeyd is bringing the schema up to date; waiting for it");
        c.execute_unprepared(&format!("SET LOCAL lock_timeout = {}", MIGRATION_WAIT.as_millis())).await?;
        c.execute_raw(lock("pg_advisory_xact_lock")).await.map_err(error::of_migration_lock)?;
    }
    c.execute_unprepared("SET LOCAL lock_timeout = 0").await?;
    Ok(())
}

/// A transaction of the embedded database that has the only writer from the start.
fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

/// "latchkey" in ASCII, so that no other program takes it by chance.
const MIGRATION_LOCK: i64 = 0x6c61_7463_686b_6579;

fn newer_schema(error: sea_orm::DbErr) -> Error {
    match error {
        sea_orm::DbErr::Custom(text) => Error::internal(format!("the database belongs to a newer latchkeyd: {text}")),
        other => other.into(),
    }
}

/// To read with, to write with, and what watches both.
type Connected = (DatabaseConnection, DatabaseConnection, Watch);

#[cfg(test)]
mod tests {
    use super::bounded::Files;
    use super::file::OwnFile;
    use super::flush::Flusher;
    use super::*;

    #[tokio::test]
    async fn nobody_is_told_of_a_commit_that_the_disk_did_not_take() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("latchkey.db");
        let mut store = Store::connect(&Location::Sqlite(path.clone())).await?;
        store.migrate().await?.commit().await?;
        // A device that cannot be flushed.
        let flusher = Flusher::of(std::fs::File::open("/dev/null")?)?;
        store.write.watch = Watch::File(Arc::new(Files { database: OwnFile::create(&path)?, flusher }));

        let tx = store.begin_write().await?;
        let (ending, generation) = (tx.ending(), store.generation());
        let told = tx.commit().await;
        assert!(matches!(told, Err(Error::Unavailable(Outage::Unconfirmed(_)))), "{told:?}");
        assert!(!ending.is_durable());
        assert_ne!(store.generation(), generation, "it may have been made");
        let next = store.begin_write().await.map(|_| ());
        assert!(matches!(next, Err(Error::Unavailable(Outage::Storage(_)))), "{next:?}");
        Ok(())
    }

    #[tokio::test]
    async fn the_log_is_the_same_file_as_long_as_the_store_is_open() -> Result<(), Box<dyn std::error::Error>> {
        use sea_orm::ConnectionTrait;
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("latchkey.db");
        let store = Store::connect(&Location::Sqlite(path)).await?;
        let log = dir.path().join("latchkey.db-wal");
        let opened = std::fs::metadata(&log)?.ino();
        store.migrate().await?.commit().await?;
        store.write.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        // As the pool does with a writer that was left in a transaction.
        store.write.inner.get_sqlite_connection_pool().acquire().await?.close().await?;
        store.begin_write().await?.commit().await?;
        assert_eq!(std::fs::metadata(&log)?.ino(), opened);
        Ok(())
    }

    #[tokio::test]
    async fn the_log_has_its_length_from_the_start() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("latchkey.db");
        let store = Store::connect(&Location::Sqlite(path.clone())).await?;
        let length = || std::fs::metadata(dir.path().join("latchkey.db-wal")).map(|found| found.len());
        let from_the_start = length()?;
        assert!(from_the_start > 32 << 20, "{from_the_start} bytes");

        // As a kill leaves it: with nothing in the log but zeros, and with something before them.
        for migrated in [false, true] {
            if migrated {
                store.migrate().await?.commit().await?;
            }
            let copy = dir.path().join(format!("copy-{migrated}.db"));
            std::fs::copy(&path, &copy)?;
            std::fs::copy(dir.path().join("latchkey.db-wal"), flush::log_of(&copy))?;
            let copy = Store::connect(&Location::Sqlite(copy)).await?;
            assert_eq!(copy.pending_migrations().await?.is_empty(), migrated);
        }
        assert_eq!(length()?, from_the_start);
        Ok(())
    }

    #[tokio::test]
    async fn the_log_is_moved_to_the_file_when_there_is_something_new() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("latchkey.db");
        let store = Store::connect(&Location::Sqlite(path.clone())).await?;
        store.migrate().await?.commit().await?;
        let before = std::fs::metadata(&path)?.len();
        store.move_log().await;
        let after = std::fs::metadata(&path)?.len();
        assert!(after > before, "{before} bytes, and then {after}");
        Ok(())
    }
}
