//! The client that follows from the command line, the environment and the stored login.

use super::args::Global;
use super::client::Client;
use super::client::local;
use super::client::login::{Login, LoginStore};
use super::client::target::{AskedBy, Target};
use super::client::tls::Trust;
use super::client::wish::{Identity, Wish};
use super::env::Environment;
use super::error::Error;
use super::output::Screen;

/// What a command runs with: output and client.
#[derive(Debug)]
pub(crate) struct Cli {
    pub(crate) screen: Screen,
    pub(crate) client: Client,
}

/// The settings from the command line and the environment. A command then chooses as whom to call.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) screen: Screen,
    environment: Environment,
    wish: Wish,
    trust: Trust,
    /// Whether calls are printed instead of made.
    pub(crate) show_grpcurl: bool,
}

impl Setting {
    /// Combines the global options with the environment.
    pub(crate) fn new(global: Global, screen: Screen) -> Setting {
        let Global { server, socket, local, trust, show_grpcurl, .. } = global;
        let environment = Environment::read();
        let tls = trust.flag().map(AskedBy::Flag).or(environment.tls_ca.as_ref().map(|_| AskedBy::Variable));
        let wish = Wish { server, socket, local, tls, insecure_plaintext: trust.bears_plaintext() };
        let trust = trust.or(Trust::of_ca(environment.tls_ca.clone()));
        Setting { screen, environment, wish, trust, show_grpcurl }
    }

    /// The store of the login.
    pub(crate) fn store(&self) -> Result<LoginStore, Error> {
        LoginStore::new(&self.environment)
    }

    /// A client for the caller. If several local sockets were found, says which one is used.
    pub(crate) fn caller(&self) -> Result<Cli, Error> {
        let cli = self.quiet_caller()?;
        if let Some(choice) = local::choice(cli.client.target()).filter(|_| !self.screen.is_json()) {
            self.screen.note(choice);
        }
        Ok(cli)
    }

    /// A client for the caller. Reads the stored login only if nothing takes precedence over it. Prints nothing.
    pub(crate) fn quiet_caller(&self) -> Result<Cli, Error> {
        let store = self.store().ok();
        let login = match &store {
            Some(store) if !self.wish.local && self.environment.token.is_none() => store.read()?,
            _ => None,
        };
        let (target, identity) = self.wish.resolve(&self.environment, login)?;
        Ok(self.cli(target, identity, store))
    }

    /// A client without credentials, to sign in.
    pub(crate) fn stranger(&self) -> Result<Cli, Error> {
        Ok(self.cli(self.wish.sign_in_at(&self.environment)?, Identity::Anonymous, None))
    }

    /// A client with the credentials of a stored login.
    pub(crate) fn member(&self, store: &LoginStore, login: Login) -> Result<Cli, Error> {
        let target = self.wish.signed_in_at(&login)?;
        Ok(self.cli(target, Identity::Login(login), Some(store.clone())))
    }

    fn cli(&self, target: Target, identity: Identity, store: Option<LoginStore>) -> Cli {
        let trust = match &identity {
            Identity::Login(login) => self.trust.clone().or(login.trust.clone()),
            Identity::Token(_) | Identity::Local | Identity::Anonymous => self.trust.clone(),
        };
        let screen = self.screen.clone();
        let target = (target, self.wish.names(&self.environment));
        Cli { client: Client::new(target, trust, identity, store, self.show_grpcurl, screen.clone()), screen }
    }
}
