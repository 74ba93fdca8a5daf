//! The database, through sea-orm. All SQL is in this module.
//!
//! State changes are guarded updates (`… WHERE id = ? AND generation = ?`) whose row count is checked. Nothing is read, decided
//! in memory and written without a lock on its row. Functions that read accept any connection, functions that write accept a
//! [`WriteTx`]. The differences between the two databases are in this file, `sqlite/`, `postgres.rs`, `bounded.rs`,
//! `migration/` and the row locks of `users/`.

pub mod api_tokens;
pub mod audit;
mod bounded;
pub mod budgets;
mod commits;
mod condition;
pub mod deliveries;
mod due;
mod entity;
mod error;
pub mod event_counts;
pub mod familiar;
pub mod horizons;
pub mod idempotency;
pub mod inactivity;
pub mod keys;
pub mod links;
mod list_connection;
mod lists;
mod migration;
pub mod old_passwords;
mod page;
pub mod password_warnings;
mod postgres;
pub mod reset_requests;
pub mod second_factors;
pub mod sessions;
pub mod sign_in_policy;
mod single;
pub mod sources;
mod sqlite;
mod sweep;
mod text;
pub mod throttle;
pub mod tickets;
mod transaction;
pub mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, QueryResult, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};
use secrecy::SecretString;
use tokio::time::{Instant, timeout};

pub use self::bounded::Bounded;
use self::bounded::{Backend, Deadline, Kind};
use self::commits::Commits;
pub use self::condition::Condition;
pub use self::due::Due;
pub use self::error::is_lost_race;
pub use self::lists::ListReader;
use self::lists::Lists;
use self::postgres::Doubt;
pub use self::transaction::{Autocommit, Transaction, WriteTx};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// A pool or a transaction, to which statements can be sent.
pub use sea_orm::ConnectionTrait as Connection;

/// How long a statement may take, including the wait for a connection, and how long a whole transaction. Longer than
/// PostgreSQL's own limits, so that its more precise errors arrive first. Shorter than the deadline of a sign-in, 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a caller waits for a connection before the database counts as unavailable. The driver's default of 30 s is longer
/// than any of our deadlines.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a list may take by default.
const LIST_TIME: Duration = Duration::from_secs(2);

/// How long a read may take with which we look whether the database answers.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How recent a commit must be to show that the embedded database takes changes. In an overload a look could wait in vain for
/// the lock that our own writer takes again and again.
const RECENT_CHANGE: Duration = Duration::from_secs(2);

/// How long a starting server waits for another replica that migrates.
const MIGRATION_WAIT: Duration = Duration::from_mins(10);

/// The log filter for the libraries below: only warnings and errors of migrations. Connection problems are returned as errors,
/// and while the database is unavailable the pool would log them several times a second.
pub const QUIET: &str = "sea_orm_migration=warn,sqlx=off";

/// Where the database is.
#[derive(Debug, Clone)]
pub enum Location {
    /// A file that only this process uses.
    Sqlite(std::path::PathBuf),
    /// A server that several replicas share.
    Postgres(SecretString),
}

/// The connections to the database.
pub struct Store {
    /// `SQLite`: four readers. `PostgreSQL`: the pool.
    read: Bounded<DatabaseConnection>,
    /// `SQLite`: the only writer. `PostgreSQL`: the same pool.
    write: Bounded<DatabaseConnection>,
    lists: Lists,
    autocommit: Autocommit,
    /// `SQLite`: tries whether a change can be made. `PostgreSQL`: the same pool as `read`.
    look: DatabaseConnection,
    location: Location,
    commits: Arc<Commits>,
    /// The number of commits when the log was last moved to the database file.
    in_file: AtomicU64,
}

impl Store {
    /// Connects to the database. The embedded database is created if there is none, readable by its owner alone.
    pub async fn connect(location: &Location) -> Result<Store> {
        let (read, lists, write, look, kind) = match location {
            Location::Sqlite(path) => {
                let sqlite::Connected { read, lists, write, look, files } = sqlite::connect(path).await?;
                (read, lists, write, look, Kind::Sqlite(Arc::new(files)))
            }
            Location::Postgres(url) => {
                let postgres::Connected { pool, lists, doubt } = postgres::connect(url).await?;
                (pool.clone(), lists, pool.clone(), pool, Kind::Postgres(doubt))
            }
        };
        let backend = Backend::of(kind);
        let lists = Lists::new(lists, backend.clone(), LIST_TIME);
        let bounded = |inner| Bounded { inner, deadline: Deadline::Each, backend: backend.clone() };
        let (read, write, commits) = (bounded(read), bounded(write), Arc::<Commits>::default());
        let autocommit = Autocommit::new(write.clone(), Arc::clone(&commits));
        let (location, in_file) = (location.clone(), AtomicU64::new(0));
        Ok(Store { read, write, lists, autocommit, look, location, commits, in_file })
    }

    /// Sets how long a list may take.
    #[must_use]
    pub fn with_list_time(mut self, limit: Duration) -> Store {
        self.lists.time_limit = limit;
        self
    }

    /// Begins a list: for every query that a caller can make long. Returns `None` if no connection for lists is free before
    /// `give_up`.
    pub async fn list_reader(&self, give_up: Instant) -> Result<Option<ListReader>> {
        self.lists.reader(give_up).await
    }

    /// Returns the connections for short queries that change nothing.
    pub fn reader(&self) -> &Bounded<DatabaseConnection> {
        &self.read
    }

    /// Returns the connections for single statements, each a transaction of its own. Fails at once if the database accepts no
    /// changes.
    pub fn autocommit(&self) -> Result<&Autocommit> {
        self.write.backend.watched.check_changes()?;
        Ok(&self.autocommit)
    }

    /// Begins a transaction. `SQLite`: it takes the only writer at once. `PostgreSQL`: READ COMMITTED with row locks. Fails at
    /// once if the database accepts no changes.
    pub async fn begin(&self) -> Result<Transaction> {
        let deadline = Deadline::At(Instant::now() + ANSWER_TIMEOUT);
        Ok(self.transaction(self.begin_inner().await?, deadline))
    }

    /// Begins a transaction without a deadline, for work that no caller waits for.
    pub async fn begin_long(&self) -> Result<Transaction> {
        Ok(self.transaction(self.begin_inner().await?, Deadline::Never))
    }

    async fn begin_inner(&self) -> Result<DatabaseTransaction> {
        self.write.backend.watched.check_changes()?;
        Ok(self.write.run(self.write.inner.begin_with_options(immediate())).await?)
    }

    fn transaction(&self, inner: DatabaseTransaction, deadline: Deadline) -> Transaction {
        let bounded = Bounded { inner, deadline, backend: self.write.backend.clone() };
        Transaction::new(bounded, Arc::clone(&self.commits))
    }

    /// Makes everything durable that is visible now: for an answer that depends on what another call has just committed.
    pub async fn flush(&self) -> Result<()> {
        self.write.backend.flush().await
    }

    /// Moves the log of the embedded database to the database file if there were commits since the last time. The writer does
    /// not wait for it. If it fails, the writer does it later.
    pub async fn move_log(&self) {
        use sea_orm::ConnectionTrait;
        let Some(commits) = self.commits() else { return };
        if self.in_file.swap(commits, Ordering::Relaxed) == commits {
            return;
        }
        if let Err(error) = self.read.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await {
            tracing::debug!(%error, "the log of the database was not moved to its file");
        }
    }

    /// Tunes the writer of the embedded database for transactions with many rows, for programs that fill a database and end.
    /// With more memory it writes each page once in a transaction; with the default of 2 MiB, rows that are spread over the
    /// indexes cause each page to be written many times.
    pub async fn expect_bulk(&self) -> Result<()> {
        use sea_orm::ConnectionTrait;
        if self.is_embedded() {
            self.write.execute_unprepared("PRAGMA cache_size = -524288").await?;
            // Move the log to the file rarely, so that each page in it is moved once.
            self.write.execute_unprepared("PRAGMA wal_autocheckpoint = 65536").await?;
            // Keep statement journals in memory; otherwise they are written to a file page by page.
            self.write.execute_unprepared("PRAGMA temp_store = MEMORY").await?;
        }
        Ok(())
    }

    /// Returns the number of commits of this process. A commit is counted before it returns, so rows that were read are still
    /// up to date if the number has not changed since before the read. Returns `None` if other processes commit too.
    pub fn commits(&self) -> Option<u64> {
        self.is_embedded().then(|| self.commits.all())
    }

    /// Returns the number of commits that count a failure against a source. The blocks of sources depend on nothing else.
    /// Returns `None` if other processes commit too.
    pub fn failure_commits(&self) -> Option<u64> {
        self.is_embedded().then(|| self.commits.failures())
    }

    /// Returns whether a starting server may create a missing seal key. Replicas must share one, so theirs is created by hand.
    pub fn may_create_seal_key(&self) -> bool {
        self.is_embedded()
    }

    /// Returns what the database could do at the last look.
    pub fn condition(&self) -> Condition {
        self.write.backend.watched.condition()
    }

    /// Looks at what the database can do, in at most 8 s, and remembers it: until the next look, calls that need more fail at
    /// once.
    pub async fn look(&self) -> Condition {
        let condition = match (&self.location, &self.read.backend.kind) {
            (Location::Postgres(url), Kind::Postgres(doubt)) => self.look_at_server(url, doubt).await,
            _ => self.look_at_file().await,
        };
        self.read.backend.watched.set(condition.clone());
        condition
    }

    async fn look_at_server(&self, url: &SecretString, doubt: &Doubt) -> Condition {
        match timeout(CHECK_TIMEOUT, ask(&self.read.inner, "SHOW transaction_read_only")).await {
            Ok(Ok(Some(row))) if row.try_get_by_index::<String>(0).is_ok_and(|value| value == "off") => {
                return Condition::Usable;
            }
            // Every connection is in use, or none can be opened.
            Ok(Err(DbErr::ConnectionAcquire(_))) => {}
            // Have the open connections replaced.
            _ => doubt.raise(),
        }
        // A new connection tells whether the server can be used, and why not.
        match postgres::probe(url).await {
            Ok(()) => Condition::Usable,
            Err(error) => Condition::Away(cause_of(&error)),
        }
    }

    async fn look_at_file(&self) -> Condition {
        let read = async {
            if let Kind::Sqlite(files) = &self.read.backend.kind {
                files.check()?;
            }
            // A read that touches the file, on a connection of its own: the others may be busy with long reads.
            ask(&self.look, "PRAGMA schema_version").await
        };
        match timeout(CHECK_TIMEOUT, read).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Condition::Away(cause_of(&error.into())),
            Err(_) => return Condition::Away("its file cannot be read in time".to_owned()),
        }
        let watched = &self.write.backend.watched;
        if watched.changed_within(RECENT_CHANGE) {
            return Condition::Usable;
        }
        let doubts_disk = watched.doubts_disk();
        match sqlite::try_change(&self.look, doubts_disk).await {
            Err(error) if !watched.changed_within(RECENT_CHANGE) => Condition::ReadOnly(cause_of(&error.into())),
            Ok(()) if doubts_disk => {
                watched.committed();
                Condition::Usable
            }
            _ => Condition::Usable,
        }
    }

    /// Returns the time of the database's clock, or `None` if it uses the clock of this machine.
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

    /// Returns whether this process alone uses the database.
    fn is_embedded(&self) -> bool {
        self.write.get_database_backend() == DbBackend::Sqlite
    }

    /// Returns the names of all migrations.
    pub fn migrations() -> Vec<String> {
        migration::Migrator::migrations().iter().map(|step| step.name().to_owned()).collect()
    }

    /// Returns the names of the migrations that have not been applied. Fails if the schema is newer than this program.
    pub async fn pending_migrations(&self) -> Result<Vec<String>> {
        pending_migrations(&self.read.inner).await
    }

    /// Brings the schema up to date in one transaction, and returns that transaction for other work that must happen once. Only
    /// one process does so at a time. sea-orm-migration itself takes no lock, and on `SQLite` uses no transaction.
    pub async fn migrate(&self) -> Result<WriteTx> {
        let inner = self.begin_inner().await?;
        lock_migrations(&inner).await?;
        failpoint!("migrate.locked");
        let pending = pending_migrations(&inner).await?;
        let schema = SchemaManager::new(&inner);
        if schema.has_table("user").await? && !schema.has_table("seaql_migrations").await? {
            return Err(Error::internal(
                "the database holds the tables of another program; name one of latchkey's own with --database-url",
            ));
        }
        // `up` begins with CREATE TABLE IF NOT EXISTS, which needs rights that the service may lack.
        if !pending.is_empty() {
            let done = migration::Migrator::up(&inner, None).await;
            done.map_err(|error| error::migration_error(error, &pending))?;
        }
        failpoint!("migrate.schema");
        Ok(self.transaction(inner, Deadline::Never).writable())
    }

    /// Closes all connections.
    pub async fn close(self) {
        // A connection that fails to close needs no further cleanup.
        let _ = self.read.inner.close().await;
        let _ = self.write.inner.close().await;
        let _ = self.look.close().await;
        self.lists.close().await;
    }
}

async fn pending_migrations(c: &impl sea_orm::ConnectionTrait) -> Result<Vec<String>> {
    let applied = migration::Migrator::get_migration_with_status_read_only(c).await;
    let steps = applied.map_err(newer_schema)?;
    Ok(steps
        .iter()
        .filter(|step| step.status() == sea_orm_migration::MigrationStatus::Pending)
        .map(|step| step.name().to_owned())
        .collect())
}

/// The options of every transaction. On `SQLite`, a deferred one that later writes would fail with BUSY at once, whatever the
/// timeout.
fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

/// Asks past [`Watched`](condition::Watched), for which the answer is.
async fn ask(connection: &DatabaseConnection, sql: &str) -> Result<Option<QueryResult>, DbErr> {
    use sea_orm::ConnectionTrait;
    connection.query_one_raw(Statement::from_string(connection.get_database_backend(), sql)).await
}

/// Why the database cannot be used, without the sentence for callers.
fn cause_of(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Waits until no other process migrates. On `SQLite` the transaction itself is the lock.
async fn lock_migrations(c: &impl Connection) -> Result<()> {
    if c.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    // Waiting for another replica, or creating an index over a million rows, takes longer than the limits of a call.
    for limit in ["statement_timeout", "idle_in_transaction_session_timeout"] {
        c.execute_unprepared(&format!("SET LOCAL {limit} = 0")).await?;
    }
    let lock = |function| Statement::from_string(DbBackend::Postgres, format!("SELECT {function}({MIGRATION_LOCK})"));
    let row = c.query_one_raw(lock("pg_try_advisory_xact_lock")).await?;
    if !row.map(|row| row.try_get_by_index::<bool>(0)).transpose()?.unwrap_or_default() {
        tracing::warn!("another latchkeyd is bringing the schema up to date; waiting for it");
        c.execute_unprepared(&format!("SET LOCAL lock_timeout = {}", MIGRATION_WAIT.as_millis())).await?;
        c.execute_raw(lock("pg_advisory_xact_lock")).await.map_err(error::migration_lock_error)?;
    }
    c.execute_unprepared("SET LOCAL lock_timeout = 0").await?;
    Ok(())
}

/// The key of the advisory lock: "latchkey" in ASCII, so that other programs are unlikely to use it.
const MIGRATION_LOCK: i64 = 0x6c61_7463_686b_6579;

fn newer_schema(error: sea_orm::DbErr) -> Error {
    match error {
        sea_orm::DbErr::Custom(text) => Error::internal(format!("the database belongs to a newer latchkeyd: {text}")),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Outage;

    async fn store_in(dir: &tempfile::TempDir) -> Result<Store> {
        Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await
    }

    #[tokio::test]
    async fn a_commit_that_the_disk_did_not_take_is_not_confirmed() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = store_in(&dir).await?;
        store.migrate().await?.commit().await?;
        let mut store = store;
        let Kind::Sqlite(files) = &store.write.backend.kind else { return Err("not SQLite".into()) };
        store.write.backend = Backend::of(Kind::Sqlite(Arc::new(files.failing()?)));

        let tx = store.begin().await?.writable();
        let commits = store.commits();
        let committed = tx.commit().await;
        assert!(matches!(committed, Err(Error::Unavailable(Outage::Unconfirmed(_)))), "{committed:?}");
        assert_ne!(store.commits(), commits, "it may have been made");
        let next = store.begin().await.map(|_| ());
        assert!(matches!(next, Err(Error::Unavailable(Outage::Storage(_)))), "{next:?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_database_whose_readers_are_all_busy_is_usable() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = store_in(&dir).await?;
        let readers = store.read.inner.get_sqlite_connection_pool();
        let mut held = Vec::new();
        for _ in 0..readers.options().get_max_connections() {
            held.push(readers.acquire().await?);
        }
        assert!(readers.try_acquire().is_none() && held.len() > 1, "all are busy");
        assert_eq!(store.look().await, Condition::Usable);
        Ok(())
    }

    #[tokio::test]
    async fn the_log_is_the_same_file_as_long_as_the_store_is_open() -> Result<(), Box<dyn std::error::Error>> {
        use sea_orm::ConnectionTrait;
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir()?;
        let store = store_in(&dir).await?;
        let log = dir.path().join("latchkey.db-wal");
        let opened = std::fs::metadata(&log)?.ino();
        store.migrate().await?.commit().await?;
        store.write.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        // As the pool does with a writer that is still in a transaction.
        store.write.inner.get_sqlite_connection_pool().acquire().await?.close().await?;
        store.begin().await?.writable().commit().await?;
        assert_eq!(std::fs::metadata(&log)?.ino(), opened);
        Ok(())
    }

    #[tokio::test]
    async fn the_log_is_moved_to_the_file_when_there_is_something_new() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = store_in(&dir).await?;
        store.migrate().await?.commit().await?;
        let path = dir.path().join("latchkey.db");
        let before = std::fs::metadata(&path)?.len();
        store.move_log().await;
        let after = std::fs::metadata(&path)?.len();
        assert!(after > before, "{before} bytes, and then {after}");
        Ok(())
    }
}
