//! The command line as a whole. The arguments of a command are in its own file.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Args, Command as Parsed, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::args::Global;
use super::commands;

const AFTER_HELP: &str = "\
Examples:
  latchkey users list --attention";

/// What every help says of the options that all commands share.
const GLOBAL_LINE: &str = "Global options: latchkey help options";

const OPTIONS_HELP: &str = "\
A USER is a username; with @ in it an address; id:… an id; ext:… the id of another system.

Credentials, in this order: --local, LATCHKEY_TOKEN, the stored login (`latchkey login`), the local socket.

Exit codes: 0 done; 1 refused by the server, or by \"no\" at the prompt; 2 wrong usage; 3 unreachable or unexpected;
4 done, but the mail that --wait or `deliveries watch` follows is still under way.

Every command also has -h, --help; `latchkey --version` prints the version.";

/// Administers the accounts of a latchkey server.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, after_help = AFTER_HELP, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(commands::status::Status),
    #[command(subcommand)]
    Users(commands::users::Users),
    #[command(subcommand)]
    Sessions(commands::sessions::Sessions),
    #[command(subcommand)]
    Tokens(commands::tokens::Tokens),
    Roles(commands::roles::Roles),
    #[command(subcommand)]
    Policy(commands::policy::Policy),
    #[command(subcommand)]
    Deliveries(commands::deliveries::Deliveries),
    #[command(subcommand)]
    Email(commands::email::Email),
    #[command(subcommand)]
    Audit(commands::audit::Audit),
    Login(commands::login::SignIn),
    Logout(commands::logout::Logout),
    Whoami(commands::whoami::WhoAmI),
    Passwd(commands::passwd::Passwd),
    #[command(subcommand)]
    Mfa(commands::mfa::Mfa),
    #[command(subcommand)]
    Password(commands::password::Password),
    Completions(commands::shell::Completions),
    Man(commands::shell::Man),
    #[command(hide = true)]
    Options(Options),
}

/// The options that every command has.
#[derive(Debug, Args)]
#[command(after_help = OPTIONS_HELP, override_usage = "latchkey [GLOBAL OPTIONS] COMMAND …")]
pub(crate) struct Options {
    #[command(flatten)]
    _global: Global,
}

/// Parses the command line.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let mut command = brief();
    let mut matches = command.try_get_matches_from_mut(args)?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|fault| fault.format(&mut command))
}

/// The command line, where each help has the options of its command and one line for the global ones.
pub(crate) fn brief() -> Parsed {
    let standard = |name, short, action| Arg::new(name).short(short).long(name).action(action).hide(true);
    let command = Arguments::command()
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(standard("help", 'h', ArgAction::HelpShort).global(true).help("Print help"))
        .arg(standard("version", 'V', ArgAction::Version).help("Print version"));
    with_global_line(command.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg }))
}

/// The command line for the manual, where every page has the global options.
pub(crate) fn complete() -> Parsed {
    Arguments::command().after_help(format!("{OPTIONS_HELP}\n\n{AFTER_HELP}"))
}

/// The help of the global options.
pub(crate) fn options_help() -> String {
    let mut command = brief();
    command.build();
    command.find_subcommand_mut("options").map(|options| options.render_help().ansi().to_string()).unwrap_or_default()
}

fn with_global_line(command: Parsed) -> Parsed {
    if command.get_name() == "options" {
        return command;
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command.after_help(format!("{GLOBAL_LINE}\n\n{after}")).mut_subcommands(with_global_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        brief().debug_assert();
    }

    #[test]
    fn errors_name_flags_that_exist() {
        let mut unseen = vec![Arguments::command()];
        let mut flags = std::collections::BTreeSet::new();
        while let Some(command) = unseen.pop() {
            flags.extend(command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)));
            unseen.extend(command.get_subcommands().cloned());
        }
        for (field, argument) in crate::cli::output::error::ARGUMENTS {
            assert!(argument.strip_prefix("--").is_none_or(|flag| flags.contains(flag)), "{field}: {argument}");
        }
    }
}
