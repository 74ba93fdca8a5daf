//! The local socket: the way in for an operator on this host, also when everything else fails.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::ServeError;

/// Binds the socket, for its owner only. Replaces a stale socket, on which no process listens. Fails if another server
/// listens on it, or if the path is any other file.
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
    // An existing directory may be open to others, so the socket itself is restricted.
    tokio::fs::set_permissions(path, Permissions::from_mode(0o600)).await.map_err(failed)?;
    let found = tokio::fs::symlink_metadata(path).await.map_err(failed)?;
    let bound = BoundSocket { path: path.to_owned(), inode: found.ino() };
    Ok((listener, bound))
}

/// Returns whether no process listens on the socket any more: then it refuses a connection. A full backlog means that a
/// process listens. Fails if the kernel does not say, such as for lack of permission.
async fn is_stale(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// The socket file that this server has made.
#[derive(Debug)]
pub(super) struct BoundSocket {
    path: PathBuf,
    inode: u64,
}

impl BoundSocket {
    /// Removes the file, unless another server has replaced it.
    pub(super) async fn remove(&self) {
        let found = tokio::fs::symlink_metadata(&self.path).await;
        if found.is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = tokio::fs::remove_file(&self.path).await
        {
            tracing::debug!(%error, "the local socket was already removed");
        }
    }
}
