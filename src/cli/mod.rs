//! `latchkey`, the command line: a gRPC client. It never opens the database.
//!
//! | module | contents |
//! | --- | --- |
//! | `command_line` | the command line as a whole |
//! | `commands` | one file per command: its arguments, its calls, its output |
//! | `prompt`, `setting`, `args` | what commands share: questions, server and caller, arguments |
//! | `client` | the connection: address, credentials, TLS, calls |
//! | `output` | printing of answers and errors, with hints |
//! | `contract`, `user_ref`, `env`, `error` | what all others use |
//!
//! A module uses only modules below it.

mod args;
mod client;
mod command_line;
mod commands;
mod contract;
mod env;
mod error;
mod output;
mod prompt;
mod setting;
mod user_ref;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use command_line::{Arguments, Command};
use error::{Error, Exit};
use output::{Colour, Format, Screen};
use setting::Setting;

/// Runs the command in `args`, whose first element is the name of the program.
///
/// The exit code is 0 for success; 1 if the server refused, or the person at the prompt; 2 for a wrong command line;
/// 3 if the server cannot be reached or something unexpected happened.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // This includes --help and --version. A closed standard output is not worth an error.
            return match answer.print() {
                _ if answer.use_stderr() => Exit::Usage,
                Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => {
                    Screen::new(Format::Text, Colour::Auto).error(&Error::unwritten(&fault));
                    Exit::Unexpected
                }
                Ok(()) | Err(_) => Exit::Done,
            }
            .into();
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
        Command::Completions(completions) => completions.run(&setting.screen, Arguments::command()),
        Command::Man(man) => man.run(&setting.screen, Arguments::command()),
    }
}
