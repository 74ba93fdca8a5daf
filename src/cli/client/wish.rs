//! The choice of the server and of the credentials for it.

use std::path::PathBuf;

use secrecy::SecretString;

use super::local;
use super::login::Login;
use super::target::{AskedBy, ChosenBy, Target, absolute};
use crate::cli::env::Environment;
use crate::cli::error::Error;

/// The default address of latchkeyd.
const DEFAULT_SERVER: &str = "127.0.0.1:50051";

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
    /// What asks for TLS.
    pub(crate) tls: Option<AskedBy>,
    /// `--insecure-plaintext`.
    pub(crate) insecure_plaintext: bool,
}

impl Wish {
    /// The server named by a flag, else by the environment. `None` if neither names one. Flags that contradict each other are
    /// refused.
    pub(crate) fn named(&self, environment: &Environment) -> Result<Option<Target>, Error> {
        match (&self.socket, self.server.as_ref()) {
            (Some(_), Some(_)) => Err(Error::usage("--server and --socket cannot be used together")),
            (None, Some(_)) if self.local => {
                Err(Error::usage("--local uses a socket: give --socket instead of --server"))
            }
            (path, None) if path.is_some() || self.local => {
                if let Some(by @ AskedBy::Flag(_)) = self.tls {
                    return Err(by.not_on_a_socket());
                }
                let named = path.as_ref().map(|path| Target::Socket(absolute(path), ChosenBy::User));
                if self.insecure_plaintext { Err(not_in_the_clear("the local socket")) } else { Ok(named) }
            }
            (_, server) => {
                let server = server.map(String::as_str).or(environment.server.as_deref());
                server.map(|server| self.parsed(server)).transpose()
            }
        }
    }

    /// Returns whether a flag or the environment names the server.
    pub(crate) fn names(&self, environment: &Environment) -> bool {
        self.server.is_some() || self.socket.is_some() || environment.server.is_some()
    }

    fn parsed(&self, server: &str) -> Result<Target, Error> {
        self.checked(Target::parse_for(server, self.tls)?)
    }

    /// Refuses `--insecure-plaintext` where it has no effect.
    fn checked(&self, target: Target) -> Result<Target, Error> {
        match &target {
            Target::Tls(_) if self.insecure_plaintext => Err(not_in_the_clear(&target.to_string())),
            Target::Socket(..) if self.insecure_plaintext => Err(not_in_the_clear("the local socket")),
            _ => Ok(target),
        }
    }

    /// The server to sign in at: the named one, else the default.
    pub(crate) fn sign_in_at(&self, environment: &Environment) -> Result<Target, Error> {
        if self.local {
            return Err(Error::usage("--local works without signing in: leave it out"));
        }
        self.named(environment)?.map_or_else(|| self.parsed(DEFAULT_SERVER), Ok)
    }

    /// The server of a stored login. Other flags must not name another one.
    pub(crate) fn signed_in_at(&self, login: &Login) -> Result<Target, Error> {
        let named = self.named(&Environment::default())?;
        if self.local || named.is_some_and(|named| named.to_string() != login.server) {
            let flag = if self.local {
                "--local"
            } else if self.socket.is_some() {
                "--socket"
            } else {
                "--server"
            };
            return Err(
                Error::usage(format!("the stored login is for {}", login.server)).hint(format!("leave out {flag}"))
            );
        }
        self.of_login(login)
    }

    /// The server of a stored login. Refuses a TLS setting if the login was made without TLS.
    fn of_login(&self, login: &Login) -> Result<Target, Error> {
        let tls = self.tls.or(login.trust.flag().map(|_| AskedBy::Login));
        match (Target::parse(&login.server)?, tls) {
            (Target::Tcp(_), Some(by)) => {
                let but = if by == AskedBy::Login { "its settings ask".to_owned() } else { format!("{by} asks") };
                Err(Error::usage(format!("the stored login is for {}, without TLS, but {but} for TLS", login.server))
                    .hint(match by {
                        AskedBy::Login => "sign in again with `latchkey login`".to_owned(),
                        _ => format!("leave out {by}, or sign in again with `latchkey login`"),
                    }))
            }
            (Target::Socket(..), Some(by @ AskedBy::Flag(_))) => Err(by.not_on_a_socket()),
            (target, _) => self.checked(target),
        }
    }

    /// The server and the credentials: `--local`, the token in the environment, the stored login, the local socket, in this
    /// order. A stored login is only sent to the server that issued it.
    pub(crate) fn resolve(&self, environment: &Environment, login: Option<Login>) -> Result<(Target, Identity), Error> {
        let named = self.named(environment)?;
        if self.local {
            let target = named.or_else(|| socket(environment)).or_else(|| local::found().map(Into::into));
            return Ok((target.unwrap_or_else(local::default_socket), Identity::Local));
        }
        if let Some(token) = &environment.token {
            let target = named.map_or_else(|| self.parsed(DEFAULT_SERVER), Ok)?;
            return Ok((target, Identity::Token(token.clone())));
        }
        if let Some(login) = login
            && named.as_ref().is_none_or(|target| target.to_string() == login.server)
        {
            return Ok((self.of_login(&login)?, Identity::Login(login)));
        }
        match named {
            Some(target @ Target::Socket(..)) => Ok((target, Identity::Local)),
            Some(target @ (Target::Tcp(_) | Target::Tls(_))) => Ok((target, Identity::Anonymous)),
            None => match self.unnamed_socket(environment) {
                Some(target) => Ok((target, Identity::Local)),
                None => Ok((self.parsed(DEFAULT_SERVER)?, Identity::Anonymous)),
            },
        }
    }

    /// The socket to use if no server is named. Flags for a connection over the network rule it out.
    fn unnamed_socket(&self, environment: &Environment) -> Option<Target> {
        if self.insecure_plaintext || matches!(self.tls, Some(AskedBy::Flag(_))) {
            return None;
        }
        socket(environment).or_else(|| local::usable().map(Into::into))
    }
}

/// The socket that the environment names.
fn socket(environment: &Environment) -> Option<Target> {
    let named = environment.socket.clone();
    let named = named.or_else(|| environment.data_dir.as_ref().map(|directory| directory.join(local::SOCKET_NAME)));
    named.map(|path| Target::Socket(absolute(&path), ChosenBy::User))
}

fn not_in_the_clear(place: &str) -> Error {
    Error::usage(format!("--insecure-plaintext is for http:// of another host, not for {place}"))
        .hint("leave out --insecure-plaintext, or name the server: `--server http://HOST:PORT`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(server: &str) -> Login {
        Login { server: server.to_owned(), ..Login::default() }
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
        let wish = Wish { server: Some("a:1".into()), socket: Some("/x".into()), ..Wish::default() };
        assert!(wish.resolve(&Environment::default(), None).is_err());
    }

    #[test]
    fn a_tls_setting_means_tls_on_loopback_too() -> Result<(), Error> {
        let none = Environment::default();
        for by in [AskedBy::Flag("--tls-ca"), AskedBy::Variable] {
            let wish = |server: Option<&str>| Wish { server: server.map(Into::into), tls: Some(by), ..Wish::default() };
            for server in ["localhost:1", "127.0.0.1:1", "[::1]:1", "https://localhost:1"] {
                assert!(matches!(wish(Some(server)).sign_in_at(&none)?, Target::Tls(_)), "{server}");
            }
            assert_eq!(wish(None).sign_in_at(&none)?.to_string(), "https://127.0.0.1:50051");
            assert!(wish(Some("http://localhost:1")).sign_in_at(&none).is_err());
            assert!(wish(None).resolve(&none, Some(login("http://127.0.0.1:1"))).is_err());
        }
        // A login that an earlier version stored.
        let trust = crate::cli::client::tls::Trust::of_ca(Some("/ca.pem".into()));
        let insecure = Login { trust, ..login("http://127.0.0.1:1") };
        assert!(Wish::default().resolve(&none, Some(insecure)).is_err());
        Ok(())
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let none = Environment::default();
        let refused = |wish: Wish| wish.resolve(&none, None).is_err();
        let flag = Some(AskedBy::Flag("--tls-ca"));
        assert!(refused(Wish { socket: Some("/x".into()), tls: flag, ..Wish::default() }));
        assert!(refused(Wish { server: Some("unix:/x".into()), tls: flag, ..Wish::default() }));
        assert!(refused(Wish { local: true, tls: flag, ..Wish::default() }));
        assert!(refused(Wish { local: true, insecure_plaintext: true, ..Wish::default() }));
        assert!(refused(Wish { server: Some("a:1".into()), insecure_plaintext: true, ..Wish::default() }));
        assert!(!refused(Wish { server: Some("http://a:1".into()), insecure_plaintext: true, ..Wish::default() }));
        // The variable is for servers; a socket needs no CA.
        assert!(!refused(Wish { socket: Some("/x".into()), tls: Some(AskedBy::Variable), ..Wish::default() }));
        let at_b = Wish { server: Some("http://b:1".into()), ..Wish::default() };
        assert!(at_b.signed_in_at(&login("http://a:1")).is_err());
        assert!(Wish { local: true, ..Wish::default() }.signed_in_at(&login("http://a:1")).is_err());
    }
}
