//! Conversion of database errors into the server's errors.

use std::borrow::Cow;

use sea_orm::{DbErr, RuntimeErr, sqlx};

use super::ACQUIRE_TIMEOUT;
use crate::error::{Error, Outage, Resource, Source};

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Error {
        match advice(&error) {
            Some(advice) if refuses_changes(&error) => {
                Error::Unavailable(Outage::ReadOnly(Advised { advice: advice.into(), source: error }.into()))
            }
            Some(advice) => {
                Error::Unavailable(Outage::Storage(Advised { advice: advice.into(), source: error }.into()))
            }
            None if is_outage(&error) => Error::Unavailable(Outage::Storage(cause(error))),
            None if is_unreadable(&error) => {
                tracing::warn!(%error, "a stored row cannot be read");
                Error::Corrupt { resource: Resource::Row, id: String::new(), etag: None }
            }
            None => Error::internal(error),
        }
    }
}

/// The cause in plain words, where the library's would not help.
fn cause(error: DbErr) -> Source {
    match error {
        DbErr::ConnectionAcquire(_) => {
            format!("no connection to it could be had within {} s", ACQUIRE_TIMEOUT.as_secs()).into()
        }
        DbErr::Conn(RuntimeErr::Internal(text)) => text.into(),
        other => other.into(),
    }
}

/// What is wrong with the database, and the remedy, for the log and for an operator who starts the server.
#[derive(Debug)]
struct Advised {
    advice: Cow<'static, str>,
    source: DbErr,
}

impl std::fmt::Display for Advised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text that sea-orm adds before the driver's message carries no information.
        match driver_error(&self.source).and_then(sqlx::Error::as_database_error) {
            Some(error) => write!(f, "{} ({})", self.advice, error.message()),
            None => write!(f, "{} ({})", self.advice, self.source),
        }
    }
}

impl std::error::Error for Advised {}

/// Returns the advice for a code of `PostgreSQL` or for the class of a code of `SQLite`, or `None` if there is none.
fn advice(error: &DbErr) -> Option<&'static str> {
    match sql_state(error)?.as_str() {
        "42501" => {
            return Some("the server's role of the database lacks a right; docs/operations.md lists what to grant");
        }
        // duplicate_prepared_statement, invalid_sql_statement_name
        "42P05" | "26000" => {
            return Some("a pooler gives each transaction another connection; let it keep one for a session");
        }
        _ => {}
    }
    Some(match sqlite_class(error)? {
        5 | 6 => "another program has locked the database; end it",
        8 => "the database is read-only; the server must be able to write to its file and directory",
        10 => "the disk fails to read or write; look at the log of the system",
        11 => "the database is damaged; stop the server and restore it from the backup",
        13 => "the disk is full; make room",
        14 => "the database cannot be opened; the server must be able to write to its file and directory",
        26 => "the file is not a database of SQLite; restore it from the backup, or name another with --database-url",
        _ => return None,
    })
}

/// Returns the class of a code of `SQLite`.
fn sqlite_class(error: &DbErr) -> Option<u32> {
    let code = sql_state(error).filter(|code| code.len() != 5)?;
    Some(code.parse::<u32>().ok()? & 0xff)
}

/// Returns whether the embedded database still answers but takes no changes: BUSY, LOCKED, READONLY, FULL.
fn refuses_changes(error: &DbErr) -> bool {
    matches!(sqlite_class(error), Some(5 | 6 | 8 | 13))
}

/// Returns whether the disk of the embedded database took no change: READONLY, IOERR, FULL.
pub(super) fn is_disk_failure(error: &DbErr) -> bool {
    matches!(sqlite_class(error), Some(8 | 10 | 13))
}

/// Converts an error of a commit. Without a response, the caller does not know whether the change was made. A response from a
/// server that was shutting down tells nothing either, because it may have been sent after the change.
pub(super) fn commit_error(error: DbErr) -> Error {
    let is_answer = sql_state(&error).is_some_and(|code| !["08", "57", "58"].iter().any(|lost| code.starts_with(lost)));
    if is_answer { error.into() } else { Error::Unavailable(Outage::Unconfirmed(error.into())) }
}

/// Converts an error of applying these migrations.
pub(super) fn migration_error(error: DbErr, pending: &[String]) -> Error {
    // 42501 is `insufficient_privilege`.
    if sql_state(&error).as_deref() != Some("42501") {
        return error.into();
    }
    Error::Internal(Box::new(Advised {
        advice: format!(
            "the schema is behind ({}), and this role of the database may not change it; run `latchkeyd migrate` as the role \
             that owns the tables, and grant this one reading and writing",
            pending.join(", ")
        )
        .into(),
        source: error,
    }))
}

/// Converts an error of waiting for another server that migrates.
pub(super) fn migration_lock_error(error: DbErr) -> Error {
    if sql_state(&error).as_deref() != Some("55P03") {
        return error.into();
    }
    let text = "another latchkeyd has been bringing the schema up to date for too long; look at its log, and start this \
                one again when it is done";
    Error::Unavailable(Outage::Storage(text.into()))
}

/// Returns whether the server takes no writes: it is a standby, or was made read-only.
pub(super) fn is_read_only(error: &DbErr) -> bool {
    sql_state(error).is_some_and(|code| code == "25006")
}

/// Returns whether a time limit has stopped the statement: SQLite's INTERRUPT, or PostgreSQL's `query_canceled`.
pub(super) fn is_interrupt(error: &DbErr) -> bool {
    sqlite_class(error) == Some(9) || sql_state(error).is_some_and(|code| code == "57014")
}

/// Returns the driver's own error, if there is one.
fn driver_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(source))
        | DbErr::Exec(RuntimeErr::SqlxError(source))
        | DbErr::Query(RuntimeErr::SqlxError(source)) => Some(source),
        _ => None,
    }
}

fn sql_state(error: &DbErr) -> Option<String> {
    driver_error(error)?.as_database_error()?.code().map(Cow::into_owned)
}

/// Returns whether a column holds a value of the wrong type. Only the embedded database permits that.
fn is_unreadable(error: &DbErr) -> bool {
    matches!(error, DbErr::Type(_))
        || matches!(driver_error(error), Some(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)))
}

/// Returns whether a later attempt may succeed: the database is unavailable, full, busy, read-only or shutting down.
fn is_outage(error: &DbErr) -> bool {
    if matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) {
        return true;
    }
    match driver_error(error) {
        Some(
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed,
        ) => true,
        Some(sqlx::Error::Database(_)) => sql_state(error).is_some_and(|code| is_outage_code(&code)),
        _ => false,
    }
}

/// Returns whether a code is one of an outage.
///
/// `PostgreSQL` (five characters): connection exceptions, insufficient resources, operator intervention, system errors,
/// transaction rollback, lock timeout, read-only after a failover, idle-in-transaction timeout, revoked privileges, corrupted
/// data or indexes. `SQLite` (a number; the low byte is the class): PERM, BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL,
/// CANTOPEN, PROTOCOL, NOTADB.
fn is_outage_code(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57", "58", "40", "55P03", "25006", "25P03", "42501", "XX001", "XX002"]
            .iter()
            .any(|outage| code.starts_with(outage));
    }
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 3 | 5 | 6 | 7 | 8 | 10 | 11 | 13 | 14 | 15 | 26))
}

/// Returns whether the transaction lost a race and can be retried as a whole: deadlock or serialization failure.
pub fn is_lost_race(error: &Error) -> bool {
    let (Error::Unavailable(Outage::Storage(source)) | Error::Internal(source)) = error else { return false };
    source.downcast_ref::<DbErr>().and_then(sql_state).is_some_and(|code| code == "40P01" || code == "40001")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_over_when_asked_again_is_an_outage() {
        let postgres = [
            "08006", "25006", "25P03", "40001", "40P01", "42501", "53100", "53200", "53300", "55P03", "57014", "57P01",
            "57P02", "57P03", "58030",
        ];
        let sqlite = ["5", "6", "8", "10", "13", "14", "261", "517", "778", "1032"];
        for code in postgres.iter().chain(&sqlite) {
            assert!(is_outage_code(code), "{code}");
        }
        for code in ["23505", "25P02", "42P01", "42703", "22021", "XX000", "19", "2067", "1"] {
            assert!(!is_outage_code(code), "{code}");
        }
    }

    #[test]
    fn a_commit_without_an_answer_may_have_been_made() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let lost = commit_error(DbErr::Query(RuntimeErr::SqlxError(sqlx::Error::Io(io).into())));
        assert!(matches!(lost, Error::Unavailable(Outage::Unconfirmed(_))), "{lost:?}");
        assert!(!is_lost_race(&lost), "and is not made again");
    }
}
