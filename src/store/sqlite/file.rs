//! The file of the embedded database.

use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::{DbErr, RuntimeErr};

/// The database file that was opened. A file that is removed or replaced while it is open continues to exist without a name:
/// what is written to it is lost, and what is read from it is out of date.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    is_replaced: AtomicBool,
}

impl DatabaseFile {
    /// Creates the file with mode 0600, before the driver would create it with the mode of the umask.
    pub(super) fn create(path: &Path) -> io::Result<DatabaseFile> {
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        // A file that was restored from a backup may have any mode.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let found = file.metadata()?;
        if found.nlink() > 1 {
            // Lock file and log are named after the database: a second server that uses the other name would not see them.
            return Err(io::Error::other("it has another name, a hard link: remove one of the two"));
        }
        let (device, inode) = (found.dev(), found.ino());
        Ok(DatabaseFile { path: path.to_owned(), device, inode, is_replaced: AtomicBool::new(false) })
    }

    /// Compares the file that has the name now with the one that was opened, and returns whether they are the same. Blocks on
    /// the file system.
    pub(super) fn compare(&self) -> bool {
        let is_same =
            std::fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        self.is_replaced.store(!is_same, Ordering::Release);
        is_same
    }

    /// Fails if the last comparison found another file, or none.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        if !self.is_replaced.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(DbErr::Conn(RuntimeErr::Internal(format!(
            "{} was removed or replaced while the server ran; put it back, or restart the server",
            self.path.display()
        ))))
    }
}
