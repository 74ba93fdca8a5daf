//! The arguments that several commands share: global options, paging, and parsers of values.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::client::tls::Trust;
use super::contract::enum_choices;
use super::output::typed_time::read_length;
use super::output::words::shell_word;
use super::output::{Colour, Format, LOCAL};

/// The largest page that the server allows (`ListUsersRequest.page_size`).
const PAGE_MAX: i32 = 500;

const SERVER_HELP: &str =
    "The server, as https://host:port, or host:port [env: LATCHKEY_SERVER] [default: http://127.0.0.1:50051]";
const SOCKET_HELP: &str = "The server's local socket [env: LATCHKEY_SOCKET, else latchkey.sock in LATCHKEY_DATA_DIR; \
    else in ./latchkey-data, /run/latchkey or /var/lib/latchkey]";

/// The options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    #[arg(long, global = true, value_name = "URL", help = SERVER_HELP)]
    pub(crate) server: Option<String>,
    #[arg(long, global = true, value_name = "PATH", help = SOCKET_HELP)]
    pub(crate) socket: Option<PathBuf>,
    /// Act as the local operator, through the socket, even if a user is signed in.
    #[arg(long, global = true)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) trust: Trust,
    /// Print tables for people, or proto3 JSON for machines.
    #[arg(
        long,
        short,
        global = true,
        value_name = "text|json",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
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

impl Global {
    /// The options by which the command reaches its server, as words of a shell.
    pub(crate) fn reach(&self) -> Vec<String> {
        let server = self.server.as_ref().map(|server| format!("--server {}", shell_word(server)));
        let socket = self.socket.as_ref().map(|path| format!("--socket {}", shell_word(&path.to_string_lossy())));
        let local = self.local.then(|| LOCAL.to_owned());
        server.into_iter().chain(socket).chain(local).chain(self.trust.options()).collect()
    }
}

/// The option of every command that changes something.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Confirmation {
    /// Do not ask for a confirmation.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// The options of every list: which part of it to print.
#[derive(Debug, Default, Args)]
pub(crate) struct Paging {
    /// At most this many, on one page.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=i64::from(PAGE_MAX)))]
    pub(crate) limit: i32,
    /// All; as JSON, one object a page, each on a line.
    #[arg(long, conflicts_with_all = ["limit", "page_token"])]
    pub(crate) all: bool,
    /// Go on after an earlier page: its nextPageToken.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) page_token: String,
}

impl Paging {
    /// The number of entries to ask for at once.
    pub(crate) fn page_size(&self) -> i32 {
        if self.all { PAGE_MAX } else { self.limit }
    }
}

/// Parses a number.
pub(crate) fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "give a whole number".to_owned())
}

/// Parses a length of time: `2h`, `1h 30m`, `90d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match read_length(text) {
        Some(length) if length.as_secs() > 0 => Ok(length),
        Some(_) => Err("it must be at least 1 s".to_owned()),
        None => Err("give a length of time such as 30m, 4h, 90d or \"1h 30m\"".to_owned()),
    }
}

/// Converts a length of time to its protobuf message.
pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// Parses `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give it as KEY=VALUE".to_owned()),
    }
}

/// Makes a parser for an enum of the contract. It takes names without the prefix, such as `user-locked`.
pub(crate) fn enum_parser(enum_name: &str, prefix: &str) -> impl TypedValueParser<Value = i32> {
    // Leaked on purpose: clap wants `&'static str`, and the command line is built once per process.
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

    #[derive(clap::Parser)]
    struct Listing {
        #[command(flatten)]
        paging: Paging,
    }

    #[test]
    fn a_page_token_may_begin_like_an_option() -> Result<(), clap::Error> {
        let line = <Listing as clap::Parser>::try_parse_from(["list", "--page-token", "-l7Q", "--limit", "2"])?;
        assert_eq!((line.paging.page_token.as_str(), line.paging.limit), ("-l7Q", 2));
        Ok(())
    }

    #[test]
    fn lengths_and_labels_are_read() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert!(duration("0s").is_err() && duration("soon").is_err());
        assert_eq!(label("team=a=b"), Ok(("team".into(), "a=b".into())));
        assert!(label("team").is_err() && label("=x").is_err());
    }
}
