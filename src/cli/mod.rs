//! `latchkey`, the command line: a gRPC client. It never opens the database.
//!
//! | module | contents |
//! | --- | --- |
//! | `completion` | the values that a shell proposes for a command line |
//! | `command_line` | the command line as a whole |
//! | `commands` | one file per command: its arguments, its calls, its output |
//! | `prompt`, `factor`, `setting`, `args` | what commands share: questions, codes, server and caller, arguments |
//! | `client` | the connection: address, credentials, TLS, calls |
//! | `output` | printing of answers and errors, with hints |
//! | `contract`, `user_ref`, `env`, `error` | what all others use |
//!
//! A module uses only modules below it.

mod args;
mod client;
mod command_line;
mod commands;
mod completion;
mod contract;
mod env;
mod error;
mod factor;
mod output;
mod prompt;
mod setting;
mod user_ref;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use command_line::Command;
use error::{Error, Exit};
use output::{Colour, Format, Screen};
use setting::Setting;

/// Runs the command in `args`, whose first element is the name of the program.
///
/// The exit code is 0 for success; 1 if the server refused, or the person at the prompt; 2 for a wrong command line;
/// 3 if the server cannot be reached or something unexpected happened; 4 if a mail that was followed is still under way.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(exit) = completion::answered(&args) {
        return exit.into();
    }
    let arguments = match command_line::parse(args) {
        Ok(arguments) => arguments,
        Err(answer) => return explain(&answer).into(),
    };
    let global = &arguments.global;
    let screen = Screen::new(global.output, global.color).reaching(global.reach());
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

/// Prints a help, or what is wrong with the command line.
fn explain(answer: &clap::Error) -> Exit {
    if answer.use_stderr() && answer.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let hint = elsewhere(answer).unwrap_or_default();
        Screen::new(Format::Text, Colour::Auto).usage(&format!("{}{hint}", answer.render()));
        return Exit::Usage;
    }
    if answer.use_stderr() {
        let _ = answer.print(); // A closed standard error is not worth an error.
        return Exit::Usage;
    }
    let screen = Screen::new(Format::Text, Colour::Auto);
    match screen.help(&answer.render().ansi().to_string()) {
        Ok(()) => Exit::Done,
        Err(error) => {
            screen.error(&error);
            Exit::Unexpected
        }
    }
}

/// The hint for a command that was given without its group, such as `latchkey unlock`.
fn elsewhere(answer: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(typed)) = answer.get(ContextKind::InvalidSubcommand) else { return None };
    let commands = command_line::complete();
    let group = commands.get_subcommands().find(|group| group.find_subcommand(typed).is_some())?;
    Some(format!("\nhint: did you mean `latchkey {} {typed}`?\n", group.get_name()))
}

fn block_on(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    runtime().map_err(|fault| Error::unexpected(format!("cannot start: {fault}")))?.block_on(work)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn dispatch(command: Command, setting: Setting) -> Result<(), Error> {
    match command {
        Command::Status(status) => status.run(&setting.caller()?).await,
        Command::Users(users) => users.run(&setting.caller()?).await,
        Command::Sessions(sessions) => sessions.run(&setting.caller()?).await,
        Command::Tokens(tokens) => tokens.run(&setting.caller()?).await,
        Command::Roles(roles) => roles.run(&setting.caller()?).await,
        Command::Policy(policy) => policy.run(&setting.caller()?).await,
        Command::Deliveries(deliveries) => deliveries.run(&setting.caller()?).await,
        Command::Email(email) => email.run(&setting).await,
        Command::Audit(audit) => audit.run(&setting.caller()?).await,
        Command::Whoami(whoami) => whoami.run(&setting.caller()?).await,
        Command::Passwd(passwd) => passwd.run(&setting.caller()?).await,
        Command::Password(password) => password.run(&setting.stranger()?).await,
        Command::Mfa(mfa) => mfa.run(&setting.caller()?).await,
        Command::Login(login) => login.run(&setting.stranger()?, &setting.store()?).await,
        Command::Logout(logout) => logout.run(&setting, &setting.store()?).await,
        Command::Completions(completions) => completions.run(&setting.screen),
        Command::Man(man) => man.run(&setting.screen, command_line::complete()),
        Command::Options(_) => setting.screen.help(&command_line::options_help()),
    }
}
