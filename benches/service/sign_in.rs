//! P1 and P2: sign-ins of known users, against the bare hash and against the usual way to hash.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use futures_util::future::try_join_all;
use latchkey::app::seed::{PASSWORD, Seed};
use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::{SignInRequest, sign_in_progress::Step};
use tonic::transport::Channel;

use crate::database::Filled;
use crate::measure::{Goal, Row, cores};
use crate::server::{LATCHKEYD, Server, processor_time};
use crate::{Outcome, tell};

/// Connections that the callers share.
const CONNECTIONS: usize = 4;

/// Calls before anything counts: plans are prepared, memory is touched.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to compare, and for how long.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) turn: Duration,
    pub(crate) callers_per_core: usize,
    pub(crate) against_hash: bool,
    pub(crate) against_naive: bool,
}

/// What one turn came to.
#[derive(Clone, Copy)]
struct Turn {
    /// A second.
    rate: f64,
    /// Milliseconds of processor time for one, of the server or of the bare hash.
    processor_ms: f64,
}

struct Target {
    server: Server,
    channels: Vec<Channel>,
}

/// Measures sign-ins in turn with what they are held against.
pub(crate) async fn measure(plan: &Plan, filled: &Filled) -> Outcome<Vec<Row>> {
    let naive = if plan.against_naive {
        let program = build_naive()?;
        Some(Target::start(&program, &filled.second_place()?).await?)
    } else {
        None
    };
    let ours = Target::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let callers = plan.callers_per_core * cores();
    let mut next_user = 0;
    ours.sign_ins(&filled.seed, callers, WARM_UP, &mut next_user).await?;
    if let Some(naive) = &naive {
        naive.sign_ins(&filled.seed, callers, WARM_UP, &mut next_user).await?;
    }

    let (mut hash_rounds, mut naive_rounds) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        let hash = if plan.against_hash { Some(bare_hashes(plan.turn)?) } else { None };
        let our = ours.sign_ins(&filled.seed, callers, plan.turn, &mut next_user).await?;
        tell(&format!("round {round}: {:.1} sign-ins/s ({:.2} ms)", our.rate, our.processor_ms));
        if let Some(hash) = hash {
            tell(&format!(", {:.1} bare hashes/s ({:.2} ms)", hash.rate, hash.processor_ms));
            hash_rounds.push((our, hash));
        }
        if let Some(naive) = &naive {
            let theirs = naive.sign_ins(&filled.seed, callers, plan.turn, &mut next_user).await?;
            tell(&format!(", {:.1} naive sign-ins/s ({:.2} ms)", theirs.rate, theirs.processor_ms));
            naive_rounds.push((our, theirs));
        }
        tell("\n");
    }
    ours.server.stop().await?;
    if let Some(naive) = naive {
        naive.server.stop().await?;
    }
    Ok(rows(&hash_rounds, &naive_rounds))
}

fn rows(hash: &[(Turn, Turn)], naive: &[(Turn, Turn)]) -> Vec<Row> {
    let rates =
        |rounds: &[(Turn, Turn)]| rounds.iter().map(|(ours, limit)| (ours.rate, limit.rate)).collect::<Vec<_>>();
    let times = |rounds: &[(Turn, Turn)]| {
        rounds.iter().map(|(ours, limit)| (ours.processor_ms, limit.processor_ms)).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    if !hash.is_empty() {
        rows.push(Row::of("P1", "SignIn : bare Argon2id", "1/s", &rates(hash), Some(Goal::AtLeast(0.95))));
        rows.push(Row::of("P1", "  processor time of the server : of a hash", "ms", &times(hash), None));
    }
    if !naive.is_empty() {
        rows.push(Row::of("P2", "SignIn : with verify_password", "1/s", &rates(naive), Some(Goal::AtLeast(1.3))));
        rows.push(Row::of("P2", "  processor time of the servers", "ms", &times(naive), None));
    }
    rows
}

impl Target {
    async fn start(program: &Path, place: &crate::database::Place) -> Outcome<Target> {
        let server = Server::start(program, place).await?;
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(server.connect().await?);
        }
        Ok(Target { server, channels })
    }

    /// Signs users in, one after the other by so many callers, until the time is over.
    async fn sign_ins(&self, seed: &Seed, callers: usize, time: Duration, next_user: &mut u64) -> Outcome<Turn> {
        let first = *next_user;
        let (began, used) = (Instant::now(), self.server.processor_time()?);
        let loops = self.channels.iter().cycle().take(callers).zip(0_u64..).map(|(channel, caller)| async move {
            let mut client = AuthClient::new(channel.clone());
            let mut done = 0_u64;
            let mut n = first + caller;
            while began.elapsed() < time {
                let login = seed.username(able(seed, n));
                n += callers as u64;
                sign_in(&mut client, login).await?;
                done += 1;
            }
            Outcome::Ok((done, n))
        });
        let done = try_join_all(loops).await?;
        let elapsed = began.elapsed().as_secs_f64();
        let count = done.iter().map(|(done, _)| *done).sum::<u64>();
        *next_user = done.iter().map(|(_, n)| *n).max().unwrap_or(first);
        Ok(turn(count, elapsed, self.server.processor_time()? - used))
    }
}

/// The user at whom call `n` is aimed: spread over all of them, and one who gets in.
fn able(seed: &Seed, n: u64) -> u64 {
    // A prime that divides no number of users that anybody would choose, so that all have their turn.
    let start = n.wrapping_mul(7_368_787) % seed.users;
    (start..seed.users).chain(0..start).find(|user| seed.can_sign_in(*user)).unwrap_or(start)
}

async fn sign_in(client: &mut AuthClient<Channel>, login: String) -> Outcome<()> {
    let request = SignInRequest { login, password: PASSWORD.to_owned(), ..SignInRequest::default() };
    let answer = client.sign_in(request).await?.into_inner();
    match answer.progress.and_then(|progress| progress.step) {
        Some(Step::Tokens(_)) => Ok(()),
        _ => Err("a sign-in led to no tokens".into()),
    }
}

/// What the hash alone can do: every core, memory that was touched before.
fn bare_hashes(time: Duration) -> Outcome<Turn> {
    let defaults = latchkey::config::Argon2::default();
    let params = Params::new(defaults.memory_kib, defaults.iterations, defaults.parallelism, Some(32));
    let params = params.map_err(|error| error.to_string())?;
    let used = processor_time("self")?;
    let began = Instant::now();
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores()).map(|_| scope.spawn(|| hashes(&params, time))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let elapsed = began.elapsed().as_secs_f64();
    Ok(turn(counts.iter().sum(), elapsed, processor_time("self")? - used))
}

fn hashes(params: &Params, time: Duration) -> u64 {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut memory = vec![Block::default(); params.block_count()];
    let mut tag = [0; 32];
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < time {
        let hashed = argon2.hash_password_into_with_memory(PASSWORD.as_bytes(), &[7; 16], &mut tag, &mut memory);
        done += u64::from(hashed.is_ok());
    }
    std::hint::black_box(tag);
    done
}

#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
fn turn(count: u64, elapsed: f64, processor: f64) -> Turn {
    let count = count.max(1) as f64;
    Turn { rate: count / elapsed, processor_ms: processor * 1000.0 / count }
}

/// Builds the same server with what everybody writes: `verify_password` in `spawn_blocking`.
fn build_naive() -> Outcome<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("naive");
    tell("building the server with the feature naive-hasher\n");
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--bin", "latchkeyd", "--features", "naive-hasher"])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if built.success() { Ok(target.join("release/latchkeyd")) } else { Err("the second server was not built".into()) }
}
