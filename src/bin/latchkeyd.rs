//! The server.

use std::process::ExitCode;

fn main() -> ExitCode {
    latchkey::daemon::main()
}
