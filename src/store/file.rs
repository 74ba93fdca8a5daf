//! The file of the embedded database.

use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sea_orm::{DbErr, RuntimeErr};

/// The file that was opened. One that is removed or replaced underneath lives on without a name: what is written to
/// it is lost, and what is read from it is no longer true.
#[derive(Debug)]
pub(super) struct OwnFile {
    path: PathBuf,
    device: u64,
    number: u64,
}

impl OwnFile {
    /// Creates it with mode 0600 before the driver would create it with the umask's.
    pub(super) fn create(path: &Path) -> io::Result<OwnFile> {
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        // One that was restored from a backup may have any mode.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let found = file.metadata()?;
        if found.nlink() > 1 {
            // Lock and log go by the name: under the other one a second server would not see the first.
            return Err(io::Error::other("it has another name, a hard link: remove one of the two"));
        }
        Ok(OwnFile { path: path.to_owned(), device: found.dev(), number: found.ino() })
    }

    /// Whether the name still stands for the file that was opened.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.number) => Ok(()),
            _ => Err(DbErr::Conn(RuntimeErr::Internal(format!(
                "{} was removed or replaced while the server ran; put it back, or restart the server",
                self.path.display()
            )))),
        }
    }
}
