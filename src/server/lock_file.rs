//! The lock of the SQLite database: one process owns the database, and until the process ends it holds a
//! lock on a file beside the database.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ServeError;

/// The lock. The kernel releases it when the process ends, even by a crash.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
}

impl LockFile {
    /// Locks the file `lock` in the directory of the database. Fails if another process holds the lock.
    pub fn take(database: &Path) -> Result<LockFile, ServeError> {
        let path: PathBuf = database.with_file_name("lock");
        let failed = |source| ServeError::Io { what: format!("cannot lock {}", path.display()), source };
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(LockFile { _file: file }),
            Err(TryLockError::WouldBlock) => Err(ServeError::Owned(path)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}
