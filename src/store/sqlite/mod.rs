//! The embedded database: its connections, its file, and how its commits become durable.

mod file;
mod flush;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement, TransactionTrait,
};

use self::file::DatabaseFile;
use self::flush::{Flusher, log_of};
use super::ACQUIRE_TIMEOUT;
use super::list_connection::{Interrupt, ListConnection};
use crate::error::{Error, Outage, Result};
use crate::priority::lower_priority;

/// Number of reading connections. More would only compete for the cores.
const READERS: u32 = 4;

/// Number of connections for lists. They compete with hashing for the cores.
const LIST_READERS: usize = 2;

/// How many instructions a list executes before its time limit is checked: some 50 µs.
const INSTRUCTIONS_PER_CHECK: i32 = 1000;

/// Size at which the log restarts: 32 MiB in pages of 4 KiB.
const LOG_PAGES: usize = 8192;

/// How long a connection waits for a lock that another program holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The files of the embedded database.
#[derive(Debug)]
pub(super) struct Files {
    database: Arc<DatabaseFile>,
    flusher: Flusher,
}

impl Files {
    fn of(database: Arc<DatabaseFile>, log: &Path) -> io::Result<Files> {
        let flusher = Flusher::start(std::fs::File::open(log)?, Arc::clone(&database))?;
        Ok(Files { database, flusher })
    }

    /// The same database, with commits that can never become durable.
    #[cfg(test)]
    pub(super) fn failing(&self) -> io::Result<Files> {
        // A device that cannot be flushed.
        Files::of(Arc::clone(&self.database), Path::new("/dev/null"))
    }

    /// Fails if the database was removed or replaced, or its disk has failed.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        self.database.check()?;
        self.flusher.check()
    }

    /// Waits until everything committed so far is durable.
    pub(super) async fn flush(&self) -> Result<(), DbErr> {
        // A commit to a file that was replaced is not confirmed either, and that is then the better explanation.
        self.flusher.flush().await.map_err(|error| self.database.check().err().unwrap_or(error))
    }
}

/// Connections for reading, for lists, for writing, and for looking whether writing works, and the files behind them.
pub(super) struct Connected {
    pub(super) read: DatabaseConnection,
    pub(super) lists: Vec<ListConnection>,
    pub(super) write: DatabaseConnection,
    pub(super) look: DatabaseConnection,
    pub(super) files: Files,
}

/// Opens the database. It is created if there is none, readable by its owner alone.
pub(super) async fn connect(path: &Path) -> Result<Connected> {
    let failed =
        |source: io::Error| Error::Unavailable(Outage::Storage(format!("{}: {source}", path.display()).into()));
    // The file is opened before the first connection and never again: closing any descriptor of a file drops all locks that
    // the process holds on it (fcntl(2)), and without SQLite's lock another program may delete the log.
    let database = Arc::new(DatabaseFile::create(path).map_err(failed)?);
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let options = |connections: u32| {
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
            .map_sqlx_sqlite_opts(connect_options);
        options
    };
    let mut writer = options(1);
    writer.map_sqlx_sqlite_pool_opts(writer_options);
    // The writer comes first: of several connections that create the log of a new database, all but one would fail with
    // "database is locked".
    let write = Database::connect(writer.clone()).await?;
    write_back(&write, path).await?;
    let look = Database::connect(writer).await?;
    // The readers stay open as long as the store. They keep the log file, whatever happens to the writer.
    let read = Database::connect(options(READERS)).await?;
    let mut lists = Vec::new();
    for _ in 0..LIST_READERS {
        let interrupt = Arc::new(Interrupt::new());
        let mut of_list = options(1);
        let of_pool = Arc::clone(&interrupt);
        of_list.map_sqlx_sqlite_pool_opts(move |options| list_options(options, &of_pool));
        lists.push(ListConnection { pool: Database::connect(of_list).await?, interrupt: Some(interrupt) });
    }
    let files = Files::of(database, &log_of(path)).map_err(failed)?;
    Ok(Connected { read, lists, write, look, files })
}

/// Moves the log to the file. An earlier server may have failed to flush a part of the log. A later flush would skip that part,
/// and entries after it could not be read without it. So the server starts with an empty log or not at all.
async fn write_back(write: &DatabaseConnection, path: &Path) -> Result<()> {
    let statement = Statement::from_string(DbBackend::Sqlite, "PRAGMA wal_checkpoint(TRUNCATE)");
    let give_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        let row = write.query_one_raw(statement.clone()).await?;
        if row.map(|row| row.try_get_by_index::<i32>(0)).transpose()? == Some(0) {
            return Ok(());
        }
        if Instant::now() >= give_up {
            break;
        }
        // SQLite itself waits for readers, but not for another checkpoint.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let read = format!("{}: another program reads it, a backup perhaps; start again when it has ended", path.display());
    Err(Error::Unavailable(Outage::Storage(read.into())))
}

/// Begins a transaction that writes, and rolls it back. It waits for a lock as long as any other change. With `really`, it makes
/// a change that changes nothing: only a commit shows whether the disk has room.
pub(super) async fn try_change(look: &DatabaseConnection, really: bool) -> Result<(), DbErr> {
    let tx = look.begin_with_options(super::immediate()).await?;
    if !really {
        return tx.rollback().await;
    }
    // No part of the program uses this number.
    tx.execute_unprepared("PRAGMA user_version = 0").await?;
    tx.commit().await
}

fn connect_options(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        // SQLite keeps the log in order; the flusher makes it durable before any caller is told of a change.
        .synchronous(SqliteSynchronous::Normal)
        .foreign_keys(true)
        // A job moves the log to the file beside the writer (`Store::move_log`), but only the writer can restart the log, and
        // only when all of it has been moved. The writer moves the rest itself once the log has reached 32 MiB.
        .pragma("wal_autocheckpoint", LOG_PAGES.to_string())
        .busy_timeout(BUSY_TIMEOUT)
        // Deleted content is overwritten.
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
}

/// Configures the pool to close a connection that is still in a transaction when it is released. When the disk is full or
/// fails, SQLite may roll back by itself. The driver does not notice: it still counts an open transaction, and makes every
/// later one a savepoint of it, whose commit makes nothing durable.
fn writer_options(options: SqlitePoolOptions) -> SqlitePoolOptions {
    use sea_orm::sqlx::Connection;
    options.after_release(|connection, _| {
        Box::pin(async move {
            if connection.is_in_transaction() {
                // Waits until the rollback in progress has ended.
                connection.ping().await?;
            }
            Ok(!connection.is_in_transaction())
        })
    })
}

/// Configures a pool to interrupt its statements, and to execute them at the priority of hashing: sign-ins would otherwise wait
/// for lists until these leave a core.
fn list_options(options: SqlitePoolOptions, interrupt: &Arc<Interrupt>) -> SqlitePoolOptions {
    let interrupt = Arc::clone(interrupt);
    writer_options(options).after_connect(move |connection, _| {
        let interrupt = Arc::clone(&interrupt);
        Box::pin(async move {
            let mut has_priority = true;
            // SQLite calls this on the thread that executes the statements of this connection.
            let may_go_on = move || {
                if std::mem::take(&mut has_priority) {
                    lower_priority();
                }
                !interrupt.is_due()
            };
            connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS_PER_CHECK, may_go_on);
            Ok(())
        })
    })
}
