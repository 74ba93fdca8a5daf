//! Connections to the local socket, with a check of its owner.
//!
//! The server identifies its caller by the uid of the peer. The client checks the server in the same way: otherwise
//! another user could put a socket at the expected path and read passwords.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::local::is_of_the_service;
use super::target::ChosenBy;

/// The socket was chosen by default and belongs to another user.
#[derive(Debug, thiserror::Error)]
#[error("the socket was not named, and belongs to uid {owner}, not to you (uid {own})")]
pub(crate) struct Stranger {
    owner: u32,
    own: u32,
}

/// Connects to the socket, and checks its owner before and after.
pub(crate) async fn connect(path: PathBuf, chosen_by: ChosenBy) -> io::Result<TokioIo<UnixStream>> {
    let file = tokio::fs::metadata(&path).await?;
    if !file.file_type().is_socket() {
        return Err(io::Error::other("it is not a socket"));
    }
    let own = rustix::process::geteuid().as_raw();
    familiar(file.uid(), own, chosen_by).map_err(|fault| io::Error::new(io::ErrorKind::PermissionDenied, fault))?;
    if chosen_by == ChosenBy::System && !is_of_the_service(&path) {
        let fault = Stranger { owner: file.uid(), own };
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
    }
    let stream = UnixStream::connect(path).await?;
    let peer = stream.peer_cred()?.uid();
    trusted(file.uid(), peer, own).map_err(|fault| io::Error::new(io::ErrorKind::PermissionDenied, fault))?;
    Ok(TokioIo::new(stream))
}

/// Checks the owner before connecting. The current directory may be another user's, who could then read passwords. A socket
/// that was found there must therefore belong to the user of this process, even if that is root. One in a directory of a
/// service is checked by [`is_of_the_service`].
fn familiar(owner: u32, own: u32, chosen_by: ChosenBy) -> Result<(), Stranger> {
    match chosen_by {
        ChosenBy::Default if owner != own => Err(Stranger { owner, own }),
        ChosenBy::Default | ChosenBy::System | ChosenBy::User => Ok(()),
    }
}

/// Checks the peer after connecting: it must own the socket, and be root or the user of this process. Root may use the
/// socket of any user, because latchkeyd has a user of its own where it runs as a service.
fn trusted(owner: u32, peer: u32, own: u32) -> Result<(), String> {
    if owner != peer {
        return Err(format!("the socket belongs to uid {owner}, but uid {peer} listens there"));
    }
    if own != 0 && peer != own && peer != 0 {
        return Err(format!("uid {peer} listens there, which is neither root nor you (uid {own})"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_oneself_are_trusted() {
        assert!(trusted(1000, 1000, 1000).is_ok());
        assert!(trusted(0, 0, 1000).is_ok());
        assert!(trusted(998, 998, 0).is_ok());
        assert!(trusted(998, 998, 1000).is_err());
    }

    #[test]
    fn a_socket_that_was_only_found_must_be_ones_own() {
        assert!(familiar(1000, 1000, ChosenBy::Default).is_ok());
        assert!(familiar(0, 0, ChosenBy::Default).is_ok());
        assert!(familiar(998, 0, ChosenBy::Default).is_err());
        assert!(familiar(0, 1000, ChosenBy::Default).is_err());
        assert!(familiar(998, 0, ChosenBy::User).is_ok());
    }

    #[test]
    fn the_owner_must_be_the_one_who_listens() {
        assert!(trusted(0, 1000, 1000).is_err());
        assert!(trusted(998, 1000, 0).is_err());
    }
}
