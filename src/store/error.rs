//! What the database says, as the server's own error.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::error::{Error, Outage};

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Error {
        if is_outage(&error) { Error::Unavailable(Outage::Storage(error.into())) } else { Error::internal(error) }
    }
}

/// The driver's own error, if there is one.
fn driver_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(source))
        | DbErr::Exec(RuntimeErr::SqlxError(source))
        | DbErr::Query(RuntimeErr::SqlxError(source)) => Some(source),
        _ => None,
    }
}

fn sql_state(error: &DbErr) -> Option<String> {
    driver_error(error)?.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

/// Whether another try may find the database well: it is away, full, busy, read-only or shutting down.
fn is_outage(error: &DbErr) -> bool {
    if matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) {
        return true;
    }
    match driver_error(error) {
        Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => {
            true
        }
        Some(sqlx::Error::Database(_)) => sql_state(error).is_some_and(|code| is_outage_code(&code)),
        _ => false,
    }
}

/// `PostgreSQL` (five symbols): connection exceptions, insufficient resources, operator intervention, rolled back,
/// lock timeout, read-only after a failover. `SQLite` (a number; the low byte is the class): BUSY, LOCKED, READONLY,
/// IOERR, FULL, CANTOPEN.
fn is_outage_code(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57", "40", "55P03", "25006"].iter().any(|outage| code.starts_with(outage));
    }
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14))
}

/// Whether the transaction lost a race and can be tried again whole: deadlock or serialization failure.
pub fn is_lost_race(error: &Error) -> bool {
    let (Error::Unavailable(Outage::Storage(source)) | Error::Internal(source)) = error else { return false };
    source.downcast_ref::<DbErr>().and_then(sql_state).is_some_and(|code| code == "40P01" || code == "40001")
}
