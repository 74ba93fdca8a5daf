//! P1, P2: sign-ins of known users, compared with the bare hash and with the usual way to hash.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use futures_util::future::try_join_all;
use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::{SignInRequest, sign_in_progress::Step};
use tonic::transport::Channel;

use crate::database::Filled;
use crate::load::CONNECTIONS;
use crate::measure::{Goal, Row, cores};
use crate::seed::{Fate, PASSWORD, Seed};
use crate::server::{LATCHKEYD, Server, processor_time};
use crate::{Outcome, tell};

/// Duration of calls that are not counted: statements are prepared, memory is touched.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to compare with, and for how long.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) turn: Duration,
    pub(crate) callers_per_core: usize,
    pub(crate) against_hash: bool,
    pub(crate) against_naive: bool,
    pub(crate) against_build: Option<PathBuf>,
}

/// The figures of one turn.
#[derive(Clone, Copy)]
struct Turn {
    /// Sign-ins or hashes a second.
    rate: f64,
    /// Processor time of one, in milliseconds, of the server or of the bare hash.
    processor_ms: f64,
    /// The part of it in the hashing threads.
    hashing_ms: f64,
}

/// A server, and the turns of our server and of this one.
struct Target {
    server: Server,
    channels: Vec<Channel>,
    rounds: Vec<(Turn, Turn)>,
}

/// Measures sign-ins in turn with what they are compared with.
pub(crate) async fn measure(plan: &Plan, filled: &Filled) -> Outcome<Vec<Row>> {
    let mut naive = None;
    if plan.against_naive {
        naive = Some(Target::start(&build_naive()?, &filled.second_place("naive")?).await?);
    }
    let mut build = None;
    if let Some(program) = &plan.against_build {
        build = Some(Target::start(program, &filled.second_place("build")?).await?);
    }
    let ours = Target::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let mut load = Load { seed: &filled.seed, callers: plan.callers_per_core * cores(), next_user: 0 };
    for target in [Some(&ours), naive.as_ref(), build.as_ref()].into_iter().flatten() {
        load.sign_ins(&target.server, &target.channels, WARM_UP).await?;
    }
    let mut hash_rounds = Vec::new();
    for round in 1..=plan.rounds {
        let our = load.sign_ins(&ours.server, &ours.channels, plan.turn).await?;
        tell(&format!("round {round}: {:.1} sign-ins/s", our.rate));
        if plan.against_hash {
            let hash = bare_hashes(plan.turn)?;
            tell(&format!(", {:.1} bare hashes/s", hash.rate));
            hash_rounds.push((our, hash));
        }
        for target in [naive.as_mut(), build.as_mut()].into_iter().flatten() {
            let theirs = load.sign_ins(&target.server, &target.channels, plan.turn).await?;
            tell(&format!(", {:.1} sign-ins/s of another build", theirs.rate));
            target.rounds.push((our, theirs));
        }
        tell("\n");
    }
    let rows = rows(&hash_rounds, naive.as_ref(), build.as_ref());
    for target in [Some(ours), naive, build].into_iter().flatten() {
        target.server.stop().await?;
    }
    Ok(rows)
}

fn rows(hash: &[(Turn, Turn)], naive: Option<&Target>, build: Option<&Target>) -> Vec<Row> {
    let pairs = |rounds: &[(Turn, Turn)], of: fn(&Turn) -> f64| {
        rounds.iter().map(|(ours, theirs)| (of(ours), of(theirs))).collect::<Vec<_>>()
    };
    let rate: fn(&Turn) -> f64 = |turn| turn.rate;
    let processor: fn(&Turn) -> f64 = |turn| turn.processor_ms;
    let mut rows = Vec::new();
    if !hash.is_empty() {
        rows.push(Row::of("P1", "SignIn : bare Argon2id", "1/s", &pairs(hash, rate), Some(Goal::AtLeast(0.95))));
        // This row holds even if other processes use the cores; the one above does not.
        let share: Vec<_> = hash.iter().map(|(ours, _)| (ours.hashing_ms, ours.processor_ms)).collect();
        rows.push(Row::of("P1", "  processor time: hashing : all", "ms", &share, Some(Goal::AtLeast(0.95))));
    }
    if let Some(Target { rounds, .. }) = naive {
        rows.push(Row::of(
            "P2",
            "SignIn : with verify_password",
            "1/s",
            &pairs(rounds, rate),
            Some(Goal::AtLeast(1.3)),
        ));
        rows.push(Row::of("P2", "  processor time", "ms", &pairs(rounds, processor), None));
    }
    if let Some(Target { rounds, .. }) = build {
        let beside: fn(&Turn) -> f64 = |turn| turn.processor_ms - turn.hashing_ms;
        rows.push(Row::of("-", "SignIn : of the other build", "1/s", &pairs(rounds, rate), None));
        rows.push(Row::of("-", "  processor time beside hashing", "ms", &pairs(rounds, beside), None));
    }
    rows
}

impl Target {
    async fn start(program: &Path, place: &crate::database::Place) -> Outcome<Target> {
        let server = Server::start(program, place).await?;
        let channels = connections(&server).await?;
        Ok(Target { server, channels, rounds: Vec::new() })
    }
}

async fn connections(server: &Server) -> Outcome<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(server.connect().await?);
    }
    Ok(channels)
}

/// Callers that sign users in.
pub(crate) struct Load<'a> {
    seed: &'a Seed,
    callers: usize,
    next_user: u64,
}

impl<'a> Load<'a> {
    /// Enough callers to keep all cores busy.
    pub(crate) fn of(filled: &'a Filled) -> Load<'a> {
        Load { seed: &filled.seed, callers: 8 * cores(), next_user: 0 }
    }

    /// Processor time of the server for one sign-in, without the hash, in milliseconds.
    pub(crate) async fn beside_hashing(&mut self, server: &Server, time: Duration) -> Outcome<f64> {
        let channels = connections(server).await?;
        self.sign_ins(server, &channels, WARM_UP).await?;
        let turn = self.sign_ins(server, &channels, time).await?;
        Ok(turn.processor_ms - turn.hashing_ms)
    }

    /// Every caller signs in one user after the other, until the time is over.
    async fn sign_ins(&mut self, server: &Server, channels: &[Channel], time: Duration) -> Outcome<Turn> {
        let (seed, first, callers) = (self.seed, self.next_user, self.callers);
        let (processor, hashing) = (server.processor_time()?, server.hashing_time()?);
        let began = Instant::now();
        let loops = channels.iter().cycle().take(callers).zip(first..).map(|(channel, start)| async move {
            let mut client = AuthClient::new(channel.clone());
            let (mut done, mut n) = (0_u64, start);
            while began.elapsed() < time {
                access_token(&mut client, seed.username(able(seed, n))).await?;
                n += callers as u64;
                done += 1;
            }
            Outcome::Ok((done, n))
        });
        let done = try_join_all(loops).await?;
        let elapsed = began.elapsed().as_secs_f64();
        let count = done.iter().map(|(done, _)| *done).sum::<u64>();
        self.next_user = done.iter().map(|(_, n)| *n).max().unwrap_or(first);
        let processor = server.processor_time()? - processor;
        Ok(Turn::of(count, elapsed, processor, server.hashing_time()? - hashing))
    }
}

impl Turn {
    #[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
    fn of(count: u64, elapsed: f64, processor: f64, hashing: f64) -> Turn {
        let count = count.max(1) as f64;
        Turn { rate: count / elapsed, processor_ms: processor * 1000.0 / count, hashing_ms: hashing * 1000.0 / count }
    }
}

/// The user of the nth call: spread over all users, and able to sign in.
pub(crate) fn able(seed: &Seed, n: u64) -> u64 {
    // A prime that divides no likely number of users, so that every user is reached.
    let start = n.wrapping_mul(7_368_787) % seed.users;
    (start..seed.users).chain(0..start).find(|user| seed.can_sign_in(*user)).unwrap_or(start)
}

/// Signs a user in completely. Returns the access token.
pub(crate) async fn access_token(client: &mut AuthClient<Channel>, login: String) -> Outcome<String> {
    let request = SignInRequest { login, password: PASSWORD.to_owned(), ..SignInRequest::default() };
    let answer = client.sign_in(request).await?.into_inner();
    match answer.progress.and_then(|progress| progress.step) {
        Some(Step::Tokens(tokens)) => Ok(tokens.access_token),
        _ => Err("a sign-in led to no tokens".into()),
    }
}

/// The rate of the hash alone: on every core, in memory that was touched before.
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
    let processor = processor_time("self")? - used;
    Ok(Turn::of(counts.iter().sum(), elapsed, processor, processor))
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

/// Builds the same server with the usual way to hash: `verify_password` in `spawn_blocking`.
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

impl Seed {
    /// Whether user `n` can sign in with [`PASSWORD`] and nothing else.
    pub(crate) fn can_sign_in(&self, n: u64) -> bool {
        self.fate(n) == Fate::Ordinary && !self.is_throttled(n)
    }
}
