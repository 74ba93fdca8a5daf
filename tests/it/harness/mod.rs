//! The test harness: starts servers and provides clients.

pub mod actors;
pub mod browser;
pub mod bystanders;
pub mod calls;
pub mod certificates;
pub mod child;
pub mod clock;
pub mod cluster;
pub mod daemon;
pub mod database;
pub mod dice;
pub mod factor;
pub mod h2;
pub mod history;
pub mod http;
pub mod links;
pub mod log;
pub mod mailbox;
pub mod pages;
pub mod postfix;
pub mod proxy;
pub mod raw;
pub mod refusal;
pub mod relay;
pub mod security;
pub mod smtp;
pub mod traffic;
pub mod transcript;
pub mod wire;

use std::future::Future;
use std::sync::Arc;

use latchkey::config::Config;
use latchkey::crypto::SealKey;
use latchkey::entropy::Entropy;
use latchkey::environment::Environment;
use latchkey::server::{self, Running};
use tempfile::TempDir;

pub use self::actors::{Client, Person};
pub use self::clock::TestClock;
use self::database::TestDatabase;
pub use self::refusal::{Refusal, refused};

/// A password that the rules accept. Every password in a test contains this word, for which the log is searched.
pub const PASSWORD: &str = "correct horse c4nary staple";
/// Another valid password.
pub const OTHER_PASSWORD: &str = "a wholly different c4nary";

/// A server running in this process, with its environment.
pub struct Harness {
    running: Option<Running>,
    pub config: Config,
    pub clock: Arc<TestClock>,
    dir: Arc<TempDir>,
    pub database: Arc<TestDatabase>,
}

impl Harness {
    /// Starts a server with the configuration of tests: cheap hashing, and no limits by source, because tests cause
    /// many failures.
    pub async fn start() -> Harness {
        Harness::with(|_| {}).await
    }

    /// As `start`, with changes to the configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Harness {
        log::install();
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let database = Arc::new(TestDatabase::create(dir.path()).await);
        let mut config = test_config(dir.path(), &database);
        change(&mut config);
        Harness::run(config, Arc::new(TestClock::default()), dir, database).await
    }

    /// Restarts the server with another source of randomness.
    pub async fn with_entropy(mut self, entropy: Arc<dyn Entropy>) -> Harness {
        self.halt().await;
        let environment = Environment { clock: Arc::<TestClock>::clone(&self.clock), entropy };
        self.running = Some(server::start(&self.config, environment).await.unwrap_or_else(|error| panic!("{error}")));
        self
    }

    /// Blocks all other writers until the value is dropped.
    pub async fn hold_database(&self) -> database::Held {
        self.database.hold().await
    }

    async fn run(config: Config, clock: Arc<TestClock>, dir: Arc<TempDir>, database: Arc<TestDatabase>) -> Harness {
        let environment = Environment { clock: Arc::<TestClock>::clone(&clock), ..Environment::system() };
        if database.is_shared() && !config.seal_key_file.exists() {
            SealKey::create(&config.seal_key_file, &environment).expect("a seal key");
        }
        let started = Box::pin(server::start(&config, environment)).await;
        let running = started.unwrap_or_else(|error| panic!("{error}"));
        Harness { running: Some(running), config, clock, dir, database }
    }

    /// Starts a second replica on the same database. Only if several servers can share it.
    pub async fn replica(&self) -> Option<Harness> {
        self.replica_at(Arc::clone(&self.clock)).await
    }

    /// As `replica`, with a clock of its own.
    pub async fn replica_at(&self, clock: Arc<TestClock>) -> Option<Harness> {
        if !self.database.is_shared() {
            eprintln!("skipped: one server owns the embedded database; set TEST_DATABASE_URL");
            return None;
        }
        let mut config = self.config.clone();
        config.socket = self.dir.path().join("replica.sock");
        Some(Harness::run(config, clock, Arc::clone(&self.dir), Arc::clone(&self.database)).await)
    }

    /// Restarts the server on the same files.
    pub async fn restart(mut self) -> Harness {
        self.halt().await;
        // Clippy limits the size of a future, and the configuration is large.
        Box::pin(self.resume()).await
    }

    /// Starts the server again after [`Harness::halt`].
    pub async fn resume(self) -> Harness {
        Harness::run(self.config.clone(), Arc::clone(&self.clock), Arc::clone(&self.dir), Arc::clone(&self.database))
            .await
    }

    /// Shuts the server down gracefully.
    pub async fn stop(mut self) {
        self.halt().await;
    }

    /// Shuts the server down gracefully and keeps its files.
    pub async fn halt(&mut self) {
        self.running().shutdown().await;
    }

    /// The error with which a server with this configuration fails to start.
    pub async fn start_error(config: &Config) -> String {
        match server::start(config, Environment::system()).await {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    }

    fn running(&mut self) -> Running {
        self.running.take().expect("a server that runs")
    }

    /// The server.
    pub fn server(&self) -> &Running {
        self.running.as_ref().expect("a server that runs")
    }

    /// URL of gRPC, `http://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Address of gRPC, `127.0.0.1:…`.
    pub fn address(&self) -> String {
        self.server().address.to_string()
    }

    /// Returns whether the database is PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        self.database.is_shared()
    }

    /// Address of metrics and probes, `127.0.0.1:…`.
    pub fn http_address(&self) -> String {
        self.server().http_address.expect("an HTTP listener").to_string()
    }

    /// Address of the pages, `127.0.0.1:…`.
    pub fn pages_address(&self) -> String {
        self.server().pages_address.expect("a listener of the pages").to_string()
    }

    /// The local socket.
    pub fn socket(&self) -> &std::path::Path {
        &self.server().socket
    }

    /// The URL for `--database-url`.
    pub fn database_url(&self) -> String {
        match &self.config.database {
            latchkey::config::Database::Sqlite { path } => format!("sqlite:{}", path.display()),
            latchkey::config::Database::Postgres { .. } => self.database.url(),
        }
    }

    /// The data directory of the server.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Connects to the database directly, like another program.
    pub async fn connect(&self) -> sea_orm::DatabaseConnection {
        self.database.connect().await
    }

    /// Runs SQL on the database directly, to simulate a broken disk or an intruder.
    pub async fn sql(&self, statement: &str) {
        self.database.execute(statement).await;
    }

    /// The first column of every row, as text.
    pub async fn query(&self, statement: &str) -> Vec<String> {
        self.database.query(statement).await
    }
}

/// The configuration of tests.
pub fn test_config(dir: &std::path::Path, database: &TestDatabase) -> Config {
    let mut config = Config::default_in(dir);
    config.listen = "127.0.0.1:0".parse().expect("an address");
    config.http_listen = Some(config.listen);
    config.pages.listen = Some(config.listen);
    config.database = database.location();
    config.argon2.memory_kib = 64;
    config.argon2.iterations = 1;
    config.argon2.allow_weak = true;
    config.connections.failed_calls = 0;
    config.throttle.source_failures = 0;
    config.throttle.source_accounts = 0;
    config.session.sign_ins_per_minute = 0;
    config
}

/// Polls until the answer is there. For events that happen asynchronously.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::time::Instant::now() < give_up {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("never came: {what}")
}

/// Number of repetitions of a test that fails only by chance: `few` in CI, and ten thousand with `TEST_FULL=1`.
pub fn rounds(few: usize) -> usize {
    if is_full() { 10_000 } else { few }
}

/// Returns whether `TEST_FULL` is set.
pub fn is_full() -> bool {
    std::env::var("TEST_FULL").is_ok_and(|value| value == "1")
}

/// Runs all futures concurrently.
pub async fn at_once<T>(work: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures_util::future::join_all(work).await
}

impl Drop for Harness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            log::assert_clean();
        }
    }
}
