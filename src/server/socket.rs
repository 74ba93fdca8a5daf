//! The local socket: how the operator on the host comes in, when all else fails too.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::ServeError;

/// Binds the socket, for its owner alone. A stale one, which nobody listens on, is replaced; a live one and any other
/// file is not.
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, BoundSocket), ServeError> {
    let failed = |source| ServeError::Io { what: format!("cannot listen on {}", path.display()), source };
    if let Some(parent) = path.parent() {
        super::create_private_dir(parent).await?;
    }
    match tokio::fs::symlink_metadata(path).await {
        Ok(found) if found.file_type().is_socket() => {
            if !is_stale(path).await.map_err(failed)? {
                return Err(ServeError::SocketInUse(path.to_owned()));
            }
            tokio::fs::remove_file(path).await.map_err(failed)?;
        }
        Ok(_) => return Err(failed(std::io::Error::other("there is another file of this name"))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // The directory is private already; this is for one that was made by somebody else.
    tokio::fs::set_permissions(path, Permissions::from_mode(0o600)).await.map_err(failed)?;
    let found = tokio::fs::symlink_metadata(path).await.map_err(failed)?;
    let bound = BoundSocket { path: path.to_owned(), inode: found.ino() };
    Ok((listener, bound))
}

/// Whether nobody listens there any more, as the system says. Who may not ask, or has to wait in line, does not know.
async fn is_stale(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file that this server bound.
#[derive(Debug)]
pub(super) struct BoundSocket {
    path: PathBuf,
    inode: u64,
}

impl BoundSocket {
    /// Removes it, unless a successor has put its own in its place.
    pub(super) async fn remove(&self) {
        let found = tokio::fs::symlink_metadata(&self.path).await;
        if found.is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = tokio::fs::remove_file(&self.path).await
        {
            tracing::debug!(%error, "the local socket was gone already");
        }
    }
}
