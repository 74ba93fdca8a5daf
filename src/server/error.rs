//! Why the server does not start.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::tls::TlsError;
use crate::app::StartError;
use crate::error::Error;

/// Why the server does not start. Each message says what to do.
#[derive(Debug)]
pub enum ServeError {
    /// Database or keys.
    Start(StartError),
    /// A directory, file or address.
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another server owns the embedded database.
    Owned(PathBuf),
    /// Another server listens on the local socket.
    SocketInUse(PathBuf),
    /// Others can write to the data directory.
    DirectoryOfOthers {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The user id of its owner.
        owner: u32,
    },
    /// The certificate, its key, or the CA of clients.
    Tls(TlsError),
    /// Something of ours.
    Internal(Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Start(error) => write!(f, "{error}"),
            ServeError::Tls(error) => write!(f, "{error}"),
            ServeError::Io { what, source } => write!(f, "{what}: {source}"),
            ServeError::Owned(path) => write!(
                f,
                "another latchkeyd uses the database beside {}; stop it first, or use PostgreSQL for several replicas",
                path.display()
            ),
            ServeError::SocketInUse(path) => write!(
                f,
                "another server listens on {}; stop it first, or choose another with --socket or --data-dir",
                path.display()
            ),
            ServeError::DirectoryOfOthers { path, mode, owner } => write!(
                f,
                "others can write to {} (mode {mode:04o}, owner {owner}); \
                 it must belong to the server's user, and: chmod 700 {}",
                path.display(),
                path.display()
            ),
            ServeError::Internal(Error::Internal(source)) => write!(f, "{source}"),
            ServeError::Internal(error) => {
                write!(f, "{error}")?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
        }
    }
}

impl std::error::Error for ServeError {}

impl From<StartError> for ServeError {
    fn from(error: StartError) -> ServeError {
        ServeError::Start(error)
    }
}

impl From<Error> for ServeError {
    fn from(error: Error) -> ServeError {
        ServeError::Internal(error)
    }
}
