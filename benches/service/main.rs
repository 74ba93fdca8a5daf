//! Compares the service with limits that are measured in turn, in the same run. `docs/performance.md` explains the rows.
//!
//! ```console
//! $ cargo bench --bench service -- --users 100000 --rows P1,P2,P5 --json target/bench.json
//! ```
//!
//! Absolute figures of a shared machine vary by half from one run to the next. Ratios of two things that are measured
//! in turn (A B A B …) do not. So a row is a ratio: the median of the rounds, with the lowest and the highest.

mod alike;
mod attack;
mod database;
mod flood;
mod footprint;
mod growth;
mod list;
mod load;
mod mail;
mod measure;
mod online;
#[path = "../../examples/seed/mod.rs"]
mod seed;
mod server;
mod sign_in;
mod sink;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use secrecy::SecretString;

use self::database::Filled;
use self::measure::{Report, Row};

/// The number of users that P12 compares with, and of the database without messages in P13.
const FEW: u64 = 1000;

/// Any error ends the run with its message.
type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "Measures latchkey against limits on the same machine")]
struct Line {
    /// Users in the database
    #[arg(long, default_value_t = 10_000)]
    users: u64,
    /// Which rows to measure
    #[arg(long, value_delimiter = ',', default_value = "P1,P2,P3,P4,P5,P6,P7,P10,P11,P12,P13,F11,F12")]
    rows: Vec<Wanted>,
    /// Number of rounds; in each, the things that are compared take turns
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Duration of each turn of a rate, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Another build of the server, to compare sign-ins with
    #[arg(long, value_name = "LATCHKEYD")]
    against: Option<PathBuf>,
    /// Concurrent callers that sign in, per core
    #[arg(long, default_value_t = 8)]
    callers_per_core: usize,
    /// Also write the table to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of the filled database, created if missing; by default a temporary one
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// An empty or already filled `PostgreSQL` database; by default the embedded one
    #[arg(long, value_name = "URL")]
    database_url: Option<SecretString>,
    /// The same for the thousand users of P12 and P13, which need it on `PostgreSQL`
    #[arg(long, value_name = "URL")]
    small_database_url: Option<SecretString>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row of the table, by its name in docs/performance.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Sign-ins compared with the bare hash
    #[value(name = "P1")]
    SignInsAgainstHash,
    /// Sign-ins compared with the same service and the usual way to hash
    #[value(name = "P2")]
    SignInsAgainstNaive,
    /// Pages of users compared with the first page
    #[value(name = "P5")]
    Pages,
    /// Token checks compared with health checks
    #[value(name = "P3")]
    TokenChecks,
    /// Reads of one user compared with health checks
    #[value(name = "P4")]
    Reads,
    /// Locks while sign-ins keep every core busy
    #[value(name = "P6")]
    LocksBehindHashing,
    /// Token checks while sign-ins keep every core busy
    #[value(name = "P7")]
    TokenChecksBehindHashing,
    /// Memory at rest and with every slot for sign-ins taken
    #[value(name = "P10")]
    Memory,
    /// From start to SERVING
    #[value(name = "P11")]
    Start,
    /// All of it compared with a thousand users
    #[value(name = "P12")]
    Growth,
    /// Deliveries, resets with mail, and locks beside messages that wait
    #[value(name = "P13")]
    Mail,
    /// The latency of another client during floods, compared with its usual latency
    #[value(name = "F11")]
    Floods,
    /// The latency of operators and owners during attacks, compared with their usual latency
    #[value(name = "F12")]
    Attacks,
    /// Failed sign-ins at known and unknown names, compared by their duration
    #[value(name = "F19")]
    Alike,
}

/// One thread: the client must not use the cores that it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Line::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn run(line: &Line) -> Outcome<()> {
    let filled = Filled::open(line.users, line.data_dir.as_deref(), line.database_url.clone()).await?;
    let mut rows: Vec<Row> = Vec::new();
    let sign_in = sign_in::Plan {
        rounds: line.rounds,
        turn: Duration::from_secs(line.seconds),
        callers_per_core: line.callers_per_core,
        against_hash: line.rows.contains(&Wanted::SignInsAgainstHash),
        against_build: line.against.clone(),
        against_naive: line.rows.contains(&Wanted::SignInsAgainstNaive),
    };
    if sign_in.against_hash || sign_in.against_naive || sign_in.against_build.is_some() {
        rows.extend(sign_in::measure(&sign_in, &filled).await?);
    }
    let wants = |row: Wanted| line.rows.contains(&row);
    let (rounds, turn) = (line.rounds, Duration::from_secs(line.seconds));
    if wants(Wanted::TokenChecks) || wants(Wanted::Reads) {
        rows.extend(online::rates(rounds, turn, &filled).await?);
    }
    if wants(Wanted::Pages) {
        rows.extend(list::measure(rounds, &filled).await?);
    }
    if wants(Wanted::LocksBehindHashing) || wants(Wanted::TokenChecksBehindHashing) {
        rows.extend(online::behind_hashing(rounds, turn, &filled).await?);
    }
    if wants(Wanted::Memory) {
        rows.extend(footprint::memory(rounds, &filled).await?);
    }
    if wants(Wanted::Start) {
        rows.extend(footprint::start(rounds, &filled).await?);
    }
    let has_second = filled.is_embedded() || line.small_database_url.is_some();
    if wants(Wanted::Mail) {
        rows.extend(mail::measure(rounds, &filled).await?);
    }
    if (wants(Wanted::Growth) || wants(Wanted::Mail)) && has_second && line.users > FEW {
        let small = Filled::open(FEW, None, line.small_database_url.clone()).await?;
        if wants(Wanted::Growth) {
            rows.extend(growth::measure(rounds, turn, &filled, &small).await?);
        }
        if wants(Wanted::Mail) {
            rows.extend(mail::locks(rounds, turn, &filled, &small).await?);
        }
    }
    if wants(Wanted::Floods) {
        rows.extend(flood::measure(rounds, turn, &filled).await?);
    }
    if wants(Wanted::Attacks) {
        rows.extend(attack::measure(rounds, turn, &filled).await?);
    }
    if wants(Wanted::Alike) {
        rows.extend(alike::measure(&filled).await?);
    }
    let report = Report::of(&filled, line.rounds, rows);
    std::io::stdout().write_all(report.table().as_bytes())?;
    if let Some(path) = &line.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// Prints progress. A failure to print does not matter.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
