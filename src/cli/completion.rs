//! The values that a shell proposes for a command line.
//!
//! The shell runs latchkey with the line so far. Commands, options, states, roles and scopes are known here; usernames come
//! from the server that the line names. Without a server, or without the right to read users, there are none: a completion
//! never prints an error, and makes no call that would be refused, since refusals are events.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Command, CommandFactory, FromArgMatches};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};

use super::args::Global;
use super::command_line::{Arguments, brief};
use super::commands::shell::COMPLETION_VARIABLE;
use super::contract::scopes;
use super::error::Exit;
use super::output::{Colour, Format, Screen};
use super::setting::Setting;

/// The time that a server has for each answer. A person waits for it after each press of the key.
const PATIENCE: Duration = Duration::from_millis(300);

/// The names of the roles. They are no enum of the contract; a test compares them with the server's.
const ROLES: [&str; 7] = ["admin", "app", "auditor", "helpdesk", "operator", "verifier", "viewer"];

/// The scope to name the address of a client in its place, which changes what other methods do.
const PROXY_SCOPE: &str = "auth.proxy";

/// Answers a shell that asks for completions. `None` if this is an ordinary command line.
pub(super) fn answered(args: &[OsString]) -> Option<Exit> {
    let line: Vec<OsString> = args.iter().skip_while(|arg| *arg != "--").skip(1).cloned().collect();
    let command = || with_values(brief(), &line);
    let directory = std::env::current_dir().ok();
    let completion = CompleteEnv::with_factory(command).var(COMPLETION_VARIABLE);
    match completion.try_complete(args, directory.as_deref()) {
        Ok(true) => Some(Exit::Done),
        Ok(false) => None,
        Err(fault) => {
            let _ = fault.print();
            Some(Exit::Usage)
        }
    }
}

/// Adds to each argument the values that can be known. `line` is the command line so far.
fn with_values(command: Command, line: &[OsString]) -> Command {
    let command = command.mut_args(|arg| match arg.get_id().as_str() {
        "roles" | "add_roles" | "remove_roles" => arg.add(ArgValueCandidates::new(|| candidates(ROLES))),
        "scopes" => arg.add(ArgValueCandidates::new(|| candidates(all_scopes()))),
        "user" | "actor" | "names" => {
            let line = line.to_vec();
            arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
                candidates(usernames(&line, typed).unwrap_or_default())
            }))
        }
        _ => arg,
    });
    command.mut_subcommands(|command| with_values(command, line))
}

/// The scopes that the contract names, and the one that no method needs, sorted by name.
fn all_scopes() -> Vec<String> {
    let mut all = scopes();
    all.push(PROXY_SCOPE.to_owned());
    all.sort_unstable();
    all
}

fn candidates(values: impl IntoIterator<Item = impl Into<OsString>>) -> Vec<CompletionCandidate> {
    values.into_iter().map(CompletionCandidate::new).collect()
}

/// The usernames that begin with `typed`, from the server of the command line.
fn usernames(line: &[OsString], typed: &OsStr) -> Option<Vec<String>> {
    let typed = typed.to_str()?;
    let matches = Arguments::command().ignore_errors(true).try_get_matches_from(line).ok()?;
    let global = Global::from_arg_matches(&matches).ok()?;
    let setting = Setting::new(global, Screen::new(Format::Text, Colour::Never));
    let cli = setting.quiet_caller().ok().filter(|cli| cli.client.is_known() && !cli.client.is_showing())?;
    let runtime = super::runtime().ok()?;
    let usernames = runtime.block_on(cli.client.usernames(typed, PATIENCE));
    // The name of a server may still be looked up: that is not waited for.
    runtime.shutdown_background();
    usernames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_role_and_scope_argument_is_completed() {
        fn uncompleted(command: &Command, path: &str, found: &mut Vec<String>) {
            for arg in command.get_arguments() {
                let names: Vec<&str> =
                    arg.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str).collect();
                let wants = names.iter().any(|name| matches!(*name, "USER" | "USER|ID" | "ROLE" | "SCOPE"));
                let has = arg.get::<ArgValueCandidates>().is_some() || arg.get::<ArgValueCompleter>().is_some();
                if wants && !has {
                    found.push(format!("{path} {}", arg.get_id()));
                }
            }
            for sub in command.get_subcommands() {
                uncompleted(sub, &format!("{path} {}", sub.get_name()), found);
            }
        }
        let mut found = Vec::new();
        let mut command = with_values(brief(), &[]);
        command.build();
        uncompleted(&command, "latchkey", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn the_scopes_are_those_of_the_contract() {
        let scopes = scopes();
        for scope in ["audit.read", "roles.write", "users.lock", "users.reset"] {
            assert!(scopes.iter().any(|other| other == scope), "{scope}: {scopes:?}");
        }
    }
}
