//! `latchkeyd`, the server. See [`latchkey::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    latchkey::daemon::main()
}
