//! `latchkeyd`, the server. See [`latchkey::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    latchkey::core_dump::forbid();
    latchkey::daemon::main()
}
