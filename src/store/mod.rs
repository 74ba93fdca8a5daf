//! The database: the only home of SQL, through sea-orm.
//!
//! State changes are guarded updates (`… WHERE id = ? AND generation = ?`) whose count of rows is checked; nothing is
//! read, decided in memory and written. Whatever the two databases do differently is in this file and in
//! `migration/`.

pub mod api_tokens;
pub mod audit;
mod entity;
mod error;
pub mod idempotency;
pub mod keys;
mod migration;
mod page;
pub mod sessions;
mod single;
pub mod sources;
mod text;
pub mod throttle;
pub mod tickets;
pub mod users;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::sqlx;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use secrecy::{ExposeSecret, SecretString};

pub use self::error::is_lost_race;
use crate::domain::time::Timestamp;
use crate::error::{Error, Outage, Result};

/// Something that queries can be sent to: a pool or a transaction.
pub use sea_orm::ConnectionTrait as Connection;

/// How long a caller waits for a connection before it is told that the database is away. The driver's default of
/// 30 s is longer than any deadline of ours.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// The filter for the log of the libraries below: of migrations and connections, what went wrong.
pub const QUIET: &str = "sea_orm_migration=warn,sqlx=error";

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
    read: DatabaseConnection,
    /// `SQLite`: the one writer. `PostgreSQL`: the same pool.
    write: DatabaseConnection,
    /// Moved by every commit of this process.
    generation: Arc<AtomicU64>,
}

/// A transaction that may write. Dropping it rolls back.
pub struct WriteTx {
    tx: DatabaseTransaction,
    generation: Arc<AtomicU64>,
}

impl Deref for WriteTx {
    type Target = DatabaseTransaction;
    fn deref(&self) -> &DatabaseTransaction {
        &self.tx
    }
}

impl WriteTx {
    /// Makes everything durable. Whatever comes of it, nothing that was read before is good any more.
    pub async fn commit(self) -> Result<()> {
        let _moves = Moves(self.generation);
        Ok(self.tx.commit().await?)
    }
}

/// Moves the generation when it is dropped.
struct Moves(Arc<AtomicU64>);

impl Drop for Moves {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Store {
    /// Connects; the embedded database is created if there is none, readable by its owner alone.
    pub async fn connect(location: &Location) -> Result<Store> {
        match location {
            Location::Sqlite(path) => Store::connect_sqlite(path).await,
            Location::Postgres(url) => Store::connect_postgres(url).await,
        }
    }

    async fn connect_sqlite(path: &Path) -> Result<Store> {
        create_private(path).map_err(|source| Error::Unavailable(Outage::Storage(source.into())))?;
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let connect = |connections: u32| {
            let mut options = ConnectOptions::new(url.clone());
            options
                .max_connections(connections)
                .min_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                // A connection is a file handle: it never goes stale.
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .sqlx_logging(false)
                .map_sqlx_sqlite_opts(sqlite_options);
            Database::connect(options)
        };
        Ok(Store { write: connect(1).await?, read: connect(4).await?, generation: Arc::default() })
    }

    async fn connect_postgres(url: &SecretString) -> Result<Store> {
        probe_postgres(url).await?;
        let mut options = ConnectOptions::new(url.expose_secret().to_owned());
        options
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_timeout(ACQUIRE_TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_postgres_opts(postgres_options);
        let pool = Database::connect(options).await?;
        Ok(Store { read: pool.clone(), write: pool, generation: Arc::default() })
    }

    /// For queries that change nothing.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.read
    }

    /// For a single statement that is a transaction of its own.
    pub fn autocommit(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Begins a transaction that may write. `SQLite`: IMMEDIATE, since a deferred one that turns out to write is told
    /// BUSY at once, whatever the timeout. `PostgreSQL`: READ COMMITTED with row locks.
    pub async fn begin_write(&self) -> Result<WriteTx> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let tx = self.write.begin_with_options(options).await?;
        Ok(WriteTx { tx, generation: Arc::clone(&self.generation) })
    }

    /// Gives the writer of the embedded database the memory to touch each page once in a transaction with many rows:
    /// with the default of 2 MiB, rows that are all over the indexes write each page many times. For programs that
    /// fill a database and end.
    pub async fn expect_bulk(&self) -> Result<()> {
        use sea_orm::ConnectionTrait;
        if self.is_embedded() {
            self.write.execute_unprepared("PRAGMA cache_size = -524288").await?;
            // Where what a statement may have to undo is kept: otherwise a file, written page by page.
            self.write.execute_unprepared("PRAGMA temp_store = MEMORY").await?;
        }
        Ok(())
    }

    /// A number that moves with every commit of users, sessions and tokens, before it returns: what was read is still
    /// so if it has not moved since before the read. None where other processes commit too.
    pub fn generation(&self) -> Option<u64> {
        self.is_embedded().then(|| self.generation.load(Ordering::SeqCst))
    }

    /// Moves the generation, after a statement that was a transaction of its own.
    pub fn moved(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the database answers.
    pub async fn answers(&self) -> bool {
        use sea_orm::ConnectionTrait;
        self.read.execute_unprepared("SELECT 1").await.is_ok()
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
        let applied = migration::Migrator::get_migration_with_status_read_only(&self.read).await;
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
        let tx = self.begin_write().await?;
        tx.lock_migrations().await?;
        migration::Migrator::up(&*tx, None).await.map_err(newer_schema)?;
        Ok(tx)
    }

    /// Closes all connections.
    pub async fn close(self) {
        // Nothing is left to do about a connection that does not want to close.
        let _ = self.read.close().await;
        let _ = self.write.close().await;
    }
}

impl WriteTx {
    /// Waits until no other process migrates. On `SQLite` the transaction itself is the lock.
    async fn lock_migrations(&self) -> Result<()> {
        use sea_orm::ConnectionTrait;
        if self.get_database_backend() == DbBackend::Postgres {
            // Waiting for another replica, and an index over a million rows, take longer than any call may.
            for limit in ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"] {
                self.execute_unprepared(&format!("SET LOCAL {limit} = 0")).await?;
            }
            self.execute_raw(Statement::from_string(
                DbBackend::Postgres,
                format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"),
            ))
            .await?;
        }
        Ok(())
    }
}

/// "latchkey" in ASCII, so that no other program takes it by chance.
const MIGRATION_LOCK: i64 = 0x6c61_7463_686b_6579;

/// Enough for the hashing threads and operators of one replica, and few enough that ten replicas fit into the 100
/// connections that `PostgreSQL` accepts by default.
const POSTGRES_CONNECTIONS: u32 = 10;

fn newer_schema(error: sea_orm::DbErr) -> Error {
    match error {
        sea_orm::DbErr::Custom(text) => Error::internal(format!("the database belongs to a newer latchkeyd: {text}")),
        other => other.into(),
    }
}

fn sqlite_options(options: sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions {
    options
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        // Acknowledged means durable: with NORMAL a power cut may lose the last commits.
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        // What is deleted is overwritten.
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
}

fn postgres_options(options: sqlx::postgres::PgConnectOptions) -> sqlx::postgres::PgConnectOptions {
    let local = options.get_socket().is_some() || is_loopback(options.get_host());
    let options = options.application_name("latchkeyd").options([
        // What the row locks of the use cases are made for, whatever the default of the database.
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "10s"),
    ]);
    // The driver's default would go on in plain text where TLS fails.
    if !local && matches!(options.get_ssl_mode(), sqlx::postgres::PgSslMode::Prefer) {
        options.ssl_mode(sqlx::postgres::PgSslMode::VerifyFull)
    } else {
        options
    }
}

/// One plain connection first: the pool would only say that it waited in vain, and not what for.
async fn probe_postgres(url: &SecretString) -> Result<()> {
    use sea_orm::sqlx::Connection;
    let unreachable = |text: String| Error::Unavailable(Outage::Storage(text.into()));
    let options: sqlx::postgres::PgConnectOptions =
        url.expose_secret().parse().map_err(|_| unreachable("the database URL cannot be read".to_owned()))?;
    let options = postgres_options(options);
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let connecting = sqlx::postgres::PgConnection::connect_with(&options);
    match tokio::time::timeout(ACQUIRE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => {
            // What it was for is known.
            let _ = connection.close().await;
            Ok(())
        }
        // Without the line of PostgreSQL's own source, which the driver would add.
        Ok(Err(sqlx::Error::Database(error))) => Err(unreachable(format!("{place}: {}", error.message()))),
        Ok(Err(error)) => Err(unreachable(format!("{place}: {error}"))),
        Err(_) => Err(unreachable(format!("{place} does not answer"))),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Creates the file with mode 0600 before the driver would create it with the umask's.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    // One that was restored from a backup may have any mode.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}
