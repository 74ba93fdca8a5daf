//! `latchkey`, the command line: a gRPC client and nothing else. It never opens the database.
//!
//! | module | does |
//! | --- | --- |
//! | `args`, `env` | read the command line and the environment |
//! | `client` | find the server, know it, and as whom to act; make a call, or print it |
//! | `commands` | one file a command: its arguments, its calls, its answer |
//! | `prompt`, `output`, `error`, `hint` | ask, print, and say what went wrong and what helps |

mod args;
mod client;
mod commands;
mod env;
mod error;
mod hint;
mod output;
mod prompt;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command, Global};
use client::Client;
use client::login::{Login, Store};
use client::target::{Identity, Target, Wish};
use client::tls::Trust;
use env::Environment;
use error::{Error, Exit};
use output::Screen;

/// Runs the command that `args` name, the name of the program first, and tells how it ended.
///
/// The exit code is 0 if it was done; 1 if the server, or the person at the prompt, said no; 2 if the command line is
/// wrong; 3 if the server cannot be reached or something unexpected happened.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Also --help and --version, which are answers. A reader that went away needs no word of it.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let screen = Screen::new(arguments.global.output, arguments.global.color);
    let outcome = block_on(dispatch(arguments.command, Setting::new(arguments.global, screen.clone())));
    let outcome = match outcome {
        Err(Error::Shown(call)) => screen.verbatim(&call),
        outcome => outcome,
    };
    match outcome {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            screen.error(&error);
            error.exit().into()
        }
    }
}

fn block_on(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|fault| Error::unexpected(format!("cannot start: {fault}")))?.block_on(work)
}

async fn dispatch(command: Command, setting: Setting) -> Result<(), Error> {
    match command {
        Command::Status(status) => status.run(&setting.caller()?).await,
        Command::Users(users) => users.run(&setting.caller()?).await,
        Command::Sessions(sessions) => sessions.run(&setting.caller()?).await,
        Command::Tokens(tokens) => tokens.run(&setting.caller()?).await,
        Command::Roles(roles) => roles.run(&setting.caller()?).await,
        Command::Audit(audit) => audit.run(&setting.caller()?).await,
        Command::Whoami(whoami) => whoami.run(&setting.caller()?).await,
        Command::Passwd(passwd) => passwd.run(&setting.caller()?).await,
        Command::Login(login) => login.run(&setting.stranger()?, &setting.store()?).await,
        Command::Logout(logout) => logout.run(&setting, &setting.store()?).await,
        Command::Completions(completions) => completions.run(&setting.screen),
        Command::Man(man) => man.run(&setting.screen),
    }
}

/// What a command works with: where to print, and whom to ask.
#[derive(Debug)]
struct Cli {
    screen: Screen,
    client: Client,
}

/// What the command line and the environment say, before a command chooses as whom to act.
#[derive(Debug)]
struct Setting {
    screen: Screen,
    environment: Environment,
    wish: Wish,
    trust: Trust,
    show_grpcurl: bool,
}

impl Setting {
    fn new(global: Global, screen: Screen) -> Setting {
        let Global { server, socket, local, trust, show_grpcurl, .. } = global;
        let environment = Environment::read();
        let trust = trust.or(Trust::of_ca(environment.tls_ca.clone()));
        Setting { screen, environment, wish: Wish { server, socket, local }, trust, show_grpcurl }
    }

    fn store(&self) -> Result<Store, Error> {
        Store::new(&self.environment)
    }

    /// As whoever the caller is. The stored login is not even opened where something else comes before it.
    fn caller(&self) -> Result<Cli, Error> {
        let store = self.store().ok();
        let login = match &store {
            Some(store) if !self.wish.local && self.environment.token.is_none() => store.read()?,
            _ => None,
        };
        let (target, identity) = self.wish.resolve(&self.environment, login)?;
        Ok(self.cli(target, identity, store))
    }

    /// As nobody, to sign in.
    fn stranger(&self) -> Result<Cli, Error> {
        Ok(self.cli(self.wish.sign_in_at(&self.environment)?, Identity::Nobody, None))
    }

    /// As the user of a stored login.
    fn member(&self, store: &Store, login: Login) -> Result<Cli, Error> {
        let target = Target::parse(&login.server)?;
        Ok(self.cli(target, Identity::Login(login), Some(store.clone())))
    }

    fn cli(&self, target: Target, identity: Identity, store: Option<Store>) -> Cli {
        let trust = match &identity {
            Identity::Login(login) => self.trust.clone().or(login.trust.clone()),
            Identity::Token(_) | Identity::Local | Identity::Nobody => self.trust.clone(),
        };
        Cli { screen: self.screen.clone(), client: Client::new(target, trust, identity, store, self.show_grpcurl) }
    }
}
