//! The command line as a whole. The arguments of a command are in its own file.

use clap::{Parser, Subcommand};

use super::args::Global;
use super::commands;

const AFTER_HELP: &str = "\
A USER is a username; with @ in it an address; id:… an id; ext:… the id of another system.

Credentials, in this order: --local, LATCHKEY_TOKEN, the stored login (`latchkey login`), the local socket.

Exit codes: 0 done; 1 refused by the server, or by \"no\" at the prompt; 2 wrong usage; 3 unreachable or unexpected.

Examples:
  latchkey status
  latchkey users list --attention
  latchkey users reset ada --temporary-password --note \"ticket 4711\"
  latchkey users list --all --output json | jq -r '.users[].email // empty'";

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
    Audit(commands::audit::Audit),
    Login(commands::login::SignIn),
    Logout(commands::logout::Logout),
    Whoami(commands::whoami::WhoAmI),
    Passwd(commands::passwd::Passwd),
    Completions(commands::shell::Completions),
    Man(commands::shell::Man),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
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
