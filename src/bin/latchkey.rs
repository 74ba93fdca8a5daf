//! `latchkey`, the command line of the identity service. See [`latchkey::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    latchkey::core_dump::forbid();
    latchkey::cli::run(std::env::args_os())
}
