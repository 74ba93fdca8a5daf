//! The connections to the embedded database.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement, TransactionTrait};

use super::bounded::{Files, Watch};
use super::file::OwnFile;
use super::flush::{Flusher, log_of};
use super::{ACQUIRE_TIMEOUT, Connected, immediate};
use crate::error::{Error, Outage, Result};

/// Connections that read: more would only stand in line for the cores.
const READERS: u32 = 4;

/// How long the log becomes before it begins anew: 32 MiB in pages of 4 KiB.
const LOG_PAGES: usize = 8192;
/// What a log of so many pages takes, each with its header, and a little more: it begins anew a moment later.
const LOG_BYTES: usize = 33 * 1024 * 1024;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// How long whatever another program keeps locked is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the file, which is created if there is none, readable by its owner alone.
pub(super) async fn connect(path: &Path) -> Result<Connected> {
    let failed =
        |source: io::Error| Error::Unavailable(Outage::Storage(format!("{}: {source}", path.display()).into()));
    let file = OwnFile::create(path).map_err(failed)?;
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
    // The writer first: of several that make a new database one with a WAL, all but one would be told that it is locked.
    let write = Database::connect(writer).await?;
    write_back(&write, path).await?;
    lengthen_log(&write, path).await?;
    // They stay open as long as the store, and with them the file of the log, whatever becomes of the writer.
    let read = Database::connect(options(READERS)).await?;
    let flusher = Flusher::start(path).map_err(failed)?;
    Ok((read, write, Watch::File(Arc::new(Files { database: file, flusher }))))
}

/// Moves what is in the log to the file. What a server before this one could not flush may be in the memory of the system
/// alone: no later flush of the log would write it, and nothing that is appended to it could be read without it. So the
/// log begins anew, or nothing does.
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
        // For whoever reads SQLite has waited; for whoever moves the log at this moment it does not.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let read = format!("{}: another program reads it, a backup perhaps; start again when it has ended", path.display());
    Err(Error::Unavailable(Outage::Storage(read.into())))
}

/// Gives the log, which is empty, the length that it will have once it was full. While a file grows, each flush has its
/// new length to write as well, and takes twice as long: 0.4 ms and 0.2 ms on ext4.
async fn lengthen_log(write: &DatabaseConnection, path: &Path) -> Result<()> {
    // Nobody writes meanwhile, not even another program.
    let alone = write.begin_with_options(immediate()).await?;
    if let Err(error) = fill(&log_of(path)) {
        tracing::debug!(%error, "the log of the database keeps its length");
    }
    Ok(alone.rollback().await?)
}

/// Fills it with zeros, which SQLite takes for no log, unless another program has begun it.
fn fill(log: &Path) -> io::Result<()> {
    let log = OpenOptions::new().write(true).open(log)?;
    if log.metadata()?.len() > 0 {
        return Ok(());
    }
    let filled = (0..LOG_BYTES / ZEROS.len()).try_for_each(|_| (&log).write_all(&ZEROS)).and_then(|()| log.sync_data());
    // A disk that has no room for it has better uses for what there is.
    filled.or_else(|_| log.set_len(0))
}

fn connect_options(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        // The log is kept in order; the flusher makes durable what was committed, before anybody is told of it.
        .synchronous(SqliteSynchronous::Normal)
        .foreign_keys(true)
        // A job moves the log to the file beside the writer (`Store::move_log`), but only the writer can begin the log anew,
        // and only when all of it is moved: here it moves the rest itself once the log has 32 MiB.
        .pragma("wal_autocheckpoint", LOG_PAGES.to_string())
        .busy_timeout(BUSY_TIMEOUT)
        // What is deleted is overwritten.
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
}

/// When the disk is full or fails, SQLite may roll back by itself. The driver does not see that: it goes on counting a
/// transaction that is none, and makes every later one a part of it, whose commit makes nothing durable. Such a
/// connection is closed and never used again.
fn writer_options(options: SqlitePoolOptions) -> SqlitePoolOptions {
    use sea_orm::sqlx::Connection;
    options.after_release(|connection, _| {
        Box::pin(async move {
            if connection.is_in_transaction() {
                // Waits until the roll-back that is under way has ended.
                connection.ping().await?;
            }
            Ok(!connection.is_in_transaction())
        })
    })
}
