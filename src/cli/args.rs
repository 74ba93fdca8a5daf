//! The command line as a whole; what belongs to one command stands with that command.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use super::client::call::enum_choices;
use super::client::tls::Trust;
use super::commands;
use super::output::{Colour, Format};
use crate::proto::v1::UserRef;
use crate::proto::v1::user_ref::Ref;

/// The most that a page holds (`ListUsersRequest.page_size`).
const PAGE_MAX: i32 = 500;

const AFTER_HELP: &str = "\
A USER is a username; with @ in it an address; id:… an id; ext:… the id of another system.

As whom: --local, LATCHKEY_TOKEN, the stored login (`latchkey login`), the local socket, in this order.

Exit codes: 0 done; 1 refused by the server, or by \"no\" at the prompt; 2 wrong usage; 3 unreachable or unexpected.

Examples:
  latchkey status
  latchkey users list --attention
  latchkey users reset ada --temporary-password --note \"ticket 4711\"
  latchkey users list --all --output json | jq -r '.users[].email // empty'";

const SERVER_HELP: &str =
    "The server, as https://host:port, or host:port [env: LATCHKEY_SERVER] [default: http://127.0.0.1:50051]";
const SOCKET_HELP: &str = "The server's local socket [env: LATCHKEY_SOCKET, else LATCHKEY_DATA_DIR/latchkey.sock]";

/// Administers the accounts of a latchkey server.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, after_help = AFTER_HELP, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    #[arg(long, global = true, value_name = "URL", help = SERVER_HELP)]
    pub(crate) server: Option<String>,
    #[arg(long, global = true, value_name = "PATH", help = SOCKET_HELP)]
    pub(crate) socket: Option<PathBuf>,
    /// Act as the local operator, through the socket, whoever is signed in.
    #[arg(long, global = true)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) trust: Trust,
    /// Print tables for people, or proto3 JSON for machines.
    #[arg(long, global = true, value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    pub(crate) output: Format,
    /// When to use colour.
    #[arg(
        long,
        global = true,
        value_name = "auto|always|never",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub(crate) color: Colour,
    /// Print the same call for grpcurl, with placeholders for secrets, and do nothing.
    #[arg(long, global = true)]
    pub(crate) show_grpcurl: bool,
}

/// What to do.
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

/// Which part of a list.
#[derive(Debug, Args)]
pub(crate) struct Paging {
    /// At most this many, on one page.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=i64::from(PAGE_MAX)))]
    pub(crate) limit: i32,
    /// All of them. With --output json, one object a page, each on a line.
    #[arg(long, conflicts_with_all = ["limit", "page_token"])]
    pub(crate) all: bool,
    /// Go on after an earlier page: its nextPageToken.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    pub(crate) page_token: String,
}

impl Paging {
    /// The size of a page.
    pub(crate) fn page_size(&self) -> i32 {
        if self.all { PAGE_MAX } else { self.limit }
    }
}

/// Reads a USER.
pub(crate) fn user(text: &str) -> Result<UserRef, String> {
    let reference = if let Some(id) = text.strip_prefix("id:") {
        (id, Ref::Id(id.to_owned()))
    } else if let Some(id) = text.strip_prefix("ext:") {
        (id, Ref::ExternalId(id.to_owned()))
    } else if text.contains('@') {
        (text, Ref::Email(text.to_owned()))
    } else {
        (text, Ref::Username(text.to_owned()))
    };
    match reference {
        ("", _) => Err("say which user: a username, an address, id:… or ext:…".to_owned()),
        (_, reference) => Ok(UserRef { r#ref: Some(reference) }),
    }
}

/// The reverse of [`user`].
pub(crate) fn user_text(user: &UserRef) -> Option<String> {
    Some(match user.r#ref.as_ref()? {
        Ref::Id(id) => format!("id:{id}"),
        Ref::ExternalId(id) => format!("ext:{id}"),
        Ref::Username(text) | Ref::Email(text) => text.clone(),
    })
}

/// Points at the user of an id.
pub(crate) fn user_of_id(id: &str) -> UserRef {
    UserRef { r#ref: Some(Ref::Id(id.to_owned())) }
}

/// Reads a length of time: `2h`, `1h 30m`, `90d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.as_secs() > 0 => Ok(duration),
        Ok(_) => Err("it must be a second at least".to_owned()),
        Err(_) => Err("give it as 30m, 4h or 90d".to_owned()),
    }
}

/// For the wire.
pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// Reads `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give it as KEY=VALUE".to_owned()),
    }
}

/// Reads a value of an enum of the contract, by its name without the prefix: `user-locked`.
pub(crate) fn enum_parser(enum_name: &str, prefix: &str) -> impl TypedValueParser<Value = i32> {
    // The command line is built once and lasts as long as the process, so its words may, too.
    let choices = enum_choices(enum_name, prefix).into_iter().map(|(word, number)| (&*word.leak(), number));
    let choices: Vec<(&'static str, i32)> = choices.collect();
    let words: Vec<&'static str> = choices.iter().map(|(word, _)| *word).collect();
    let number =
        move |word: String| choices.iter().find(|(choice, _)| *choice == word).map_or(0, |(_, number)| *number);
    PossibleValuesParser::new(words).map(number)
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
    fn a_user_is_read_by_its_looks() {
        let read = |text: &str| user(text).ok().and_then(|user| user.r#ref);
        assert_eq!(read("ada"), Some(Ref::Username("ada".into())));
        assert_eq!(read("ada@example.com"), Some(Ref::Email("ada@example.com".into())));
        assert_eq!(read("id:01jabc"), Some(Ref::Id("01jabc".into())));
        assert_eq!(read("ext:a@b"), Some(Ref::ExternalId("a@b".into())));
        assert!(user("").is_err() && user("id:").is_err() && user("ext:").is_err());
    }

    #[test]
    fn a_user_is_written_as_it_was_read() {
        for text in ["ada", "ada@example.com", "id:01jabc", "ext:4711"] {
            assert_eq!(user(text).ok().and_then(|user| user_text(&user)).as_deref(), Some(text));
        }
    }

    #[test]
    fn lengths_and_labels_are_read() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert!(duration("0s").is_err() && duration("soon").is_err());
        assert_eq!(label("team=a=b"), Ok(("team".into(), "a=b".into())));
        assert!(label("team").is_err() && label("=x").is_err());
    }
}
