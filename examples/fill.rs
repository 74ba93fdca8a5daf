//! Fills an empty database with made-up users, to try latchkey with many accounts:
//!
//! ```console
//! $ cargo run --release --example fill -- --users 1000000 --data-dir ./latchkey-data
//! $ cargo run --release --bin latchkeyd -- --data-dir ./latchkey-data
//! ```

mod seed;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use latchkey::config::{self, Flags};
use latchkey::crypto::HasherSettings;
use latchkey::environment::Environment;
use latchkey::server;

use self::seed::{PASSWORD, Seed};

#[derive(Parser)]
#[command(about = "Fills an empty latchkey database with made-up users")]
struct Line {
    /// Number of users
    #[arg(long, default_value_t = 1000)]
    users: u64,
    /// Seed of the generator; the same seed creates the same users
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    flags: Flags,
}

#[tokio::main]
async fn main() -> ExitCode {
    match fill(&Line::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn fill(line: &Line) -> Result<(), Box<dyn std::error::Error>> {
    // Settings that no flag names keep their default: the environment of this program is not that of a server.
    let config = config::load(&line.flags, std::iter::empty(), |path| std::fs::read_to_string(path))
        .map_err(|problems| problems.to_string())?;
    let (store, _lock) = server::open_store(&config).await?;
    store.migrate().await?.commit().await?;
    let argon2 = &config.argon2;
    let settings = HasherSettings {
        memory_kib: argon2.memory_kib,
        iterations: argon2.iterations,
        parallelism: argon2.parallelism,
        threads: Some(1),
    };
    let seed = Seed::prepare(line.users, line.seed, settings, &Environment::system()).await?;
    seed.fill(&store, |written| say(&format!("\r{written} of {} users", line.users))).await?;
    store.close().await;
    say(&format!("\nall of them have the password: {PASSWORD}\nfor one, {}\n", seed.username(0)));
    Ok(())
}

/// Prints progress. A failure to print does not matter.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
