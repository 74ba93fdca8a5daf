//! The address of a server.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::transport::Uri;

use crate::cli::error::Error;
use crate::cli::output::words::shell_word;

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Host and port, in plain text.
    Tcp(Uri),
    /// Host and port, over TLS.
    Tls(Uri),
    /// A local socket.
    Socket(PathBuf, ChosenBy),
}

/// Whether the user named a socket. One that was only found is trusted less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    /// By a flag, a variable, or a stored login.
    User,
    /// Found in the current directory.
    Default,
    /// Found in a directory of a service, which only root can create.
    System,
}

/// What asks for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedBy {
    /// This flag.
    Flag(&'static str),
    /// The variable `LATCHKEY_TLS_CA`.
    Variable,
    /// The TLS settings of the stored login.
    Login,
}

impl AskedBy {
    /// The error for a local socket, which never has TLS.
    pub(crate) fn not_on_a_socket(self) -> Error {
        Error::usage(format!("the local socket has no TLS, but {self} asks for TLS"))
            .hint(format!("leave out {self}, or name the server: `--server HOST:PORT`"))
    }
}

impl fmt::Display for AskedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AskedBy::Flag(flag) => flag,
            AskedBy::Variable => "LATCHKEY_TLS_CA",
            AskedBy::Login => "the stored login",
        })
    }
}

impl Target {
    /// Parses `https://host:port`, `http://host:port`, `host:port` or `unix:PATH`. Without a scheme, another host is
    /// reached over TLS.
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Target::Socket(PathBuf::from(path), ChosenBy::User));
        }
        let whole = if text.contains("://") { text.to_owned() } else { format!("none://{text}") };
        let wrong =
            || Error::usage(format!("{text:?} is not the address of a server")).hint("give it as https://host:port");
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|_| uri.port_u16().is_some() && bare).ok_or_else(wrong)?;
        let is_secret = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some("none") => !is_loopback(&uri),
            _ => return Err(wrong()),
        };
        let scheme = if is_secret { "https" } else { "http" };
        let uri = format!("{scheme}://{authority}").parse().map_err(|_| wrong())?;
        Ok(if is_secret { Target::Tls(uri) } else { Target::Tcp(uri) })
    }

    /// Parses an address as [`parse`](Self::parse) does, and applies `tls`: with a TLS setting, a server is never reached in
    /// plain text, be it on loopback.
    pub(crate) fn parse_for(text: &str, tls: Option<AskedBy>) -> Result<Target, Error> {
        let target = Target::parse(text)?;
        match (target, tls) {
            (Target::Tcp(uri), Some(by)) if text.contains("://") => {
                let place = Target::Tcp(uri).place();
                let secure = shell_word(&format!("https://{place}"));
                Err(Error::usage(format!("http://{place} is without TLS, but {by} asks for TLS"))
                    .hint(format!("use {secure}, or leave out {by}")))
            }
            (Target::Tcp(_), Some(_)) => Target::parse(&format!("https://{text}")),
            (Target::Socket(..), Some(by @ AskedBy::Flag(_))) => Err(by.not_on_a_socket()),
            (target, _) => Ok(target),
        }
    }

    /// Host and port, or the path of the socket.
    pub(crate) fn place(&self) -> String {
        match self {
            Target::Tcp(uri) | Target::Tls(uri) => uri.authority().map(ToString::to_string).unwrap_or_default(),
            Target::Socket(path, _) => path.display().to_string(),
        }
    }

    /// Whether calls cross a network in plain text.
    pub(crate) fn is_overheard(&self) -> bool {
        match self {
            Target::Tcp(uri) => !is_loopback(uri),
            Target::Tls(_) | Target::Socket(..) => false,
        }
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The form in a stored login.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(_) => write!(f, "http://{}", self.place()),
            Target::Tls(_) => write!(f, "https://{}", self.place()),
            Target::Socket(path, _) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Makes a path absolute, so that it is valid in a stored login and in output from every directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_scheme() -> Result<(), Error> {
        assert_eq!(Target::parse("127.0.0.1:50051")?, Target::parse("http://127.0.0.1:50051/")?);
        assert_eq!(Target::parse("id.example.org:80")?.place(), "id.example.org:80");
        assert_eq!(Target::parse("id.example.org:80")?, Target::parse("https://id.example.org:80")?);
        assert_eq!(Target::parse("[::1]:50051")?, Target::parse("http://[::1]:50051")?);
        assert!(!Target::parse("http://[::1]:50051")?.is_overheard());
        assert!(!Target::parse("https://id.example.org:80")?.is_overheard());
        assert!(Target::parse("http://id.example.org:80")?.is_overheard());
        for wrong in ["a", "http://a", "https://a", "none://a:1/x", "http://a:1/path", "ftp://a:1", ""] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
