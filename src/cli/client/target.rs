//! The address of the server, and the credentials for it.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tonic::transport::Uri;

use super::login::Login;
use crate::cli::env::Environment;
use crate::cli::error::Error;

/// The default address of latchkeyd.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
/// The name of its socket in its data directory.
const SOCKET_NAME: &str = "latchkey.sock";
/// Its default data directory.
const DEFAULT_DATA_DIR: &str = "latchkey-data";

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

/// Whether the user named a socket. One chosen by default is trusted less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    /// By a flag, a variable, or a stored login.
    User,
    /// By default, relative to the current directory.
    Default,
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

/// The credentials of the caller.
#[derive(Debug)]
pub(crate) enum Identity {
    /// The token in the environment.
    Token(SecretString),
    /// A stored login.
    Login(Login),
    /// The user of this process. The server identifies them by the socket.
    Local,
    /// No credentials.
    Anonymous,
}

/// The server that the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// `--server`.
    pub(crate) server: Option<String>,
    /// `--socket`.
    pub(crate) socket: Option<PathBuf>,
    /// `--local`.
    pub(crate) local: bool,
}

impl Wish {
    /// The server named by a flag, else by the environment. `None` if neither names one.
    pub(crate) fn named(&self, environment: &Environment) -> Result<Option<Target>, Error> {
        match (&self.socket, self.server.as_ref()) {
            (Some(_), Some(_)) => Err(Error::usage("--server and --socket cannot be used together")),
            (None, Some(_)) if self.local => {
                Err(Error::usage("--local uses a socket: give --socket instead of --server"))
            }
            (Some(path), None) => Ok(Some(Target::Socket(absolute(path), ChosenBy::User))),
            (None, Some(server)) => Target::parse(server).map(Some),
            (None, None) if self.local => Ok(None),
            (None, None) => environment.server.as_deref().map(Target::parse).transpose(),
        }
    }

    /// The server to sign in at: the named one, else the default.
    pub(crate) fn sign_in_at(&self, environment: &Environment) -> Result<Target, Error> {
        if self.local {
            return Err(Error::usage("--local works without signing in: leave it out"));
        }
        self.named(environment)?.map_or_else(|| Target::parse(DEFAULT_SERVER), Ok)
    }

    /// The server and the credentials: `--local`, the token in the environment, the stored login, the local socket, in this
    /// order. A stored login is only sent to the server that issued it.
    pub(crate) fn resolve(&self, environment: &Environment, login: Option<Login>) -> Result<(Target, Identity), Error> {
        let named = self.named(environment)?;
        if self.local {
            let named = named.filter(|target| matches!(target, Target::Socket(..)));
            let target = named.or_else(|| socket(environment));
            return Ok((target.unwrap_or_else(default_socket), Identity::Local));
        }
        if let Some(token) = &environment.token {
            let target = named.map_or_else(|| Target::parse(DEFAULT_SERVER), Ok)?;
            return Ok((target, Identity::Token(token.clone())));
        }
        if let Some(login) = login
            && named.as_ref().is_none_or(|target| target.to_string() == login.server)
        {
            return Ok((Target::parse(&login.server)?, Identity::Login(login)));
        }
        match named {
            Some(target @ Target::Socket(..)) => Ok((target, Identity::Local)),
            Some(target @ (Target::Tcp(_) | Target::Tls(_))) => Ok((target, Identity::Anonymous)),
            None => match socket(environment) {
                Some(target) => Ok((target, Identity::Local)),
                None => Ok((Target::parse(DEFAULT_SERVER)?, Identity::Anonymous)),
            },
        }
    }
}

/// The socket that the environment names, else the one in the default data directory if it exists.
fn socket(environment: &Environment) -> Option<Target> {
    let named = environment.socket.clone();
    let named = named.or_else(|| environment.data_dir.as_ref().map(|directory| directory.join(SOCKET_NAME)));
    match named {
        Some(path) => Some(Target::Socket(absolute(&path), ChosenBy::User)),
        None => default_path().exists().then(default_socket),
    }
}

fn default_socket() -> Target {
    Target::Socket(absolute(&default_path()), ChosenBy::Default)
}

fn default_path() -> PathBuf {
    Path::new(DEFAULT_DATA_DIR).join(SOCKET_NAME)
}

/// Makes a path absolute, so that it is valid in a stored login and in output from every directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(server: &str) -> Login {
        Login { server: server.to_owned(), ..Login::default() }
    }

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

    #[test]
    fn a_login_is_shown_only_to_its_own_server() -> Result<(), Error> {
        let none = Environment::default();
        let (target, identity) = Wish::default().resolve(&none, Some(login("http://a:1")))?;
        assert_eq!(target.place(), "a:1");
        assert!(matches!(identity, Identity::Login(_)));
        let other = Wish { server: Some("b:1".to_owned()), ..Wish::default() };
        let (target, identity) = other.resolve(&none, Some(login("http://a:1")))?;
        assert_eq!(target.place(), "b:1");
        assert!(matches!(identity, Identity::Anonymous));
        Ok(())
    }

    #[test]
    fn local_comes_before_the_token_and_the_token_before_the_login() -> Result<(), Error> {
        let environment = Environment {
            token: Some("lka_x".to_owned().into()),
            socket: Some("/run/latchkey.sock".into()),
            ..Environment::default()
        };
        let (target, identity) = Wish::default().resolve(&environment, Some(login("http://a:1")))?;
        assert_eq!(target, Target::parse(DEFAULT_SERVER)?);
        assert!(matches!(identity, Identity::Token(_)));
        let local = Wish { local: true, ..Wish::default() };
        let (target, identity) = local.resolve(&environment, None)?;
        assert_eq!(target.place(), "/run/latchkey.sock");
        assert!(matches!(identity, Identity::Local));
        Ok(())
    }

    #[test]
    fn a_socket_is_searched_for_only_if_none_is_named() -> Result<(), Error> {
        let chosen_by = |wish: &Wish, environment: &Environment| match wish.resolve(environment, None)? {
            (Target::Socket(_, chosen_by), Identity::Local) => Ok::<_, Error>(Some(chosen_by)),
            _ => Ok(None),
        };
        let local = || Wish { local: true, ..Wish::default() };
        let none = Environment::default();
        assert_eq!(chosen_by(&local(), &none)?, Some(ChosenBy::Default));
        assert_eq!(chosen_by(&Wish { socket: Some("a".into()), ..local() }, &none)?, Some(ChosenBy::User));
        assert_eq!(
            chosen_by(&Wish { server: Some("unix:/a".into()), ..Wish::default() }, &none)?,
            Some(ChosenBy::User)
        );
        let socket = Environment { socket: Some("a".into()), ..Environment::default() };
        assert_eq!(chosen_by(&local(), &socket)?, Some(ChosenBy::User));
        let data_dir = Environment { data_dir: Some("a".into()), ..Environment::default() };
        assert_eq!(chosen_by(&Wish::default(), &data_dir)?, Some(ChosenBy::User));
        Ok(())
    }

    #[test]
    fn two_servers_are_one_too_many() {
        let wish = Wish { server: Some("a:1".into()), socket: Some("/x".into()), local: false };
        assert!(wish.resolve(&Environment::default(), None).is_err());
    }
}
