//! Why the server does not start.

use std::io;
use std::path::PathBuf;

use super::tls::TlsError;
use crate::app::StartError;
use crate::breach_list::BreachListError;
use crate::error::Error;
use crate::mail::{RelayError, TemplateError};
use crate::pages::LogoError;

/// Why the server does not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The database or the keys cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An operation on a directory, file or address failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation, such as `cannot open PATH`.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// Another server owns the SQLite database.
    #[error(
        "another latchkeyd uses the database beside {}; stop it first, or use PostgreSQL for several replicas",
        .0.display()
    )]
    Owned(PathBuf),
    /// Another server listens on the local socket.
    #[error(
        "another server listens on {}; stop it first, or choose another with --socket or --data-dir",
        .0.display()
    )]
    SocketInUse(PathBuf),
    /// Other users can write to the data directory.
    #[error(
        "other users can write to {path} (mode {mode:04o}, owner {owner}); make the server's user its owner, and run: \
         chmod 700 {path}",
        path = path.display()
    )]
    DirectoryOfOthers {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The user id of its owner.
        owner: u32,
    },
    /// The TLS certificate, its key, or the client CA is not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The relay for mail is not usable.
    #[error(transparent)]
    Mail(#[from] RelayError),
    /// The list of leaked passwords is not usable.
    #[error("{0}; or set password.breach_list to off")]
    BreachList(#[from] BreachListError),
    /// The logo is not usable.
    #[error(transparent)]
    Logo(#[from] LogoError),
    /// The templates of mails are not usable.
    #[error(transparent)]
    Templates(#[from] TemplateError),
    /// Any other error.
    #[error("{}", .0.with_source())]
    Internal(#[from] Error),
}
