//! `latchkey completions` and `latchkey man`, for packagers.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::error::Error;
use crate::cli::output::Screen;

const COMPLETIONS_HELP: &str = "\
Examples:
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
    /// Prints the completions for `command`.
    pub(crate) fn run(self, screen: &Screen, mut command: Command) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "latchkey", &mut script);
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
