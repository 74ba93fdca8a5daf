//! `latchkey completions` and `latchkey man`, for packagers.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::cli::error::Error;
use crate::cli::output::Screen;

/// The variable by which a shell asks for completions.
pub(crate) const COMPLETION_VARIABLE: &str = "LATCHKEY_COMPLETE";

const COMPLETIONS_HELP: &str = "\
The script asks latchkey, and latchkey asks the server for usernames, if you may read them.
Write it again after an upgrade.

Examples:
  source <(latchkey completions bash)
  latchkey completions bash > /etc/bash_completion.d/latchkey
  latchkey completions zsh > \"${fpath[1]}/_latchkey\"
  latchkey completions fish > ~/.config/fish/completions/latchkey.fish";

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub(crate) fn run(self, screen: &Screen) -> Result<(), Error> {
        let (shells, name) = (Shells::builtins(), self.shell.to_string());
        let unknown = || Error::unexpected(format!("there are no completions for {name}"));
        let shell = shells.completer(&name).ok_or_else(unknown)?;
        let mut script = Vec::new();
        let written = shell.write_registration(COMPLETION_VARIABLE, "latchkey", "latchkey", "latchkey", &mut script);
        written.map_err(|fault| Error::unexpected(format!("cannot make the completions: {fault}")))?;
        screen.verbatim(&String::from_utf8_lossy(&script))
    }
}

const MAN_HELP: &str = "\
Examples:
  latchkey man | man -l -
  latchkey man --dir /usr/local/share/man/man1";

/// Print the manual page, or write one for each command.
#[derive(Debug, Args)]
#[command(after_help = MAN_HELP)]
pub(crate) struct Man {
    /// Write latchkey.1, latchkey-users.1 and so on there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints the manual page of `command`, or writes one for each of its commands.
    pub(crate) fn run(self, screen: &Screen, command: Command) -> Result<(), Error> {
        if let Some(directory) = self.dir {
            let written = fs::create_dir_all(&directory).and_then(|()| clap_mangen::generate_to(command, &directory));
            return written.map_err(|fault| {
                Error::unexpected(format!("cannot write manual pages to {}: {fault}", directory.display()))
            });
        }
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|fault| Error::unexpected(format!("cannot make the manual page: {fault}")))?;
        screen.verbatim(&String::from_utf8_lossy(&page))
    }
}
