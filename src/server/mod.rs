//! The composition root: the only place that wires the layers together.
//!
//! Start: lock file (embedded database) → connect → migrate → keys → bind → jobs → SERVING.
//! Stop: `NOT_SERVING` → stop accepting → drain → jobs end → connections close.

mod http;
mod lock_file;
mod socket;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;

pub use self::lock_file::LockFile;
use crate::app::{App, Hasher, HasherSettings, Settings, StartError, open_keys};
use crate::config::{Config, Database};
use crate::domain::lockout::ThrottleRules;
use crate::domain::password::PasswordRules;
use crate::domain::session::SessionLimits;
use crate::effects::Effects;
use crate::error::Error;
use crate::grpc;
use crate::metrics::Metrics;
use crate::store::sources::SourceRules;
use crate::store::{Location, Store};

/// How long calls that are under way may take to end. Longer than any call's own deadline, shorter than what
/// supervisors grant before they kill.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// How often health asks whether the database answers: balancers should hear of an outage within seconds.
const READINESS_EVERY: Duration = Duration::from_secs(2);

/// Why the server does not start. Each message says what to do.
#[derive(Debug)]
pub enum ServeError {
    /// Database or keys.
    Start(StartError),
    /// A directory, file or address.
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another server owns the embedded database.
    Owned(PathBuf),
    /// Others can write to the data directory.
    DirectoryOfOthers {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The user id of its owner.
        owner: u32,
    },
    /// Something of ours.
    Internal(Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Start(error) => write!(f, "{error}"),
            ServeError::Io { what, source } => write!(f, "{what}: {source}"),
            ServeError::Owned(path) => write!(
                f,
                "another latchkeyd uses the database beside {}; stop it first, or use PostgreSQL for several replicas",
                path.display()
            ),
            ServeError::DirectoryOfOthers { path, mode, owner } => write!(
                f,
                "others can write to {} (mode {mode:04o}, owner {owner}); \
                 it must belong to the server's user, and: chmod 700 {}",
                path.display(),
                path.display()
            ),
            ServeError::Internal(Error::Internal(source)) => write!(f, "{source}"),
            ServeError::Internal(error) => {
                write!(f, "{error}")?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
        }
    }
}

impl std::error::Error for ServeError {}

impl From<StartError> for ServeError {
    fn from(error: StartError) -> ServeError {
        ServeError::Start(error)
    }
}

impl From<Error> for ServeError {
    fn from(error: Error) -> ServeError {
        ServeError::Internal(error)
    }
}

/// A server that runs.
pub struct Running {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Where metrics, probes and keys are served.
    pub http_address: Option<SocketAddr>,
    /// The local socket.
    pub socket: PathBuf,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    app: Arc<App>,
    health: grpc::Health,
    stop: CancellationToken,
    listeners: TaskTracker,
    jobs: TaskTracker,
    stop_jobs: CancellationToken,
    bound_socket: socket::BoundSocket,
    /// Held until the end: another server must not open the same database.
    _lock: Option<LockFile>,
}

/// Connects to the database of the configuration; the embedded one is locked first.
pub async fn open_store(config: &Config) -> Result<(Store, Option<LockFile>), ServeError> {
    create_private_dir(&config.data_dir)?;
    check_private_dir(&config.data_dir)?;
    match &config.database {
        Database::Sqlite { path } => {
            if let Some(parent) = path.parent() {
                create_private_dir(parent)?;
            }
            let lock = LockFile::take(path)?;
            Ok((Store::connect(&Location::Sqlite(path.clone())).await?, Some(lock)))
        }
        Database::Postgres { url } => Ok((Store::connect(&Location::Postgres(url.clone())).await?, None)),
    }
}

/// Starts everything, and returns when calls are served.
pub async fn start(config: &Config, effects: Effects) -> Result<Running, ServeError> {
    let (store, lock) = open_store(config).await?;
    let metrics = Arc::new(Metrics::new());
    // Replicas share a key; the embedded database is one server's own.
    let may_create = store.is_embedded();
    let keys = open_keys(&store, &effects, &config.seal_key_file, may_create).await?;
    let hasher = Hasher::start(hasher_settings(config), effects.clone(), Arc::clone(&metrics))?;
    let app = Arc::new(App::new(effects, Arc::clone(&metrics), settings(config), store, hasher, keys));
    let (routes, health) = grpc::routes(Arc::clone(&app), config.reflection).await?;

    let (stop, stop_jobs) = (CancellationToken::new(), CancellationToken::new());
    let (listeners, jobs) = (TaskTracker::new(), TaskTracker::new());
    let (tcp, address) = bind("--listen", config.listen).await?;
    let incoming = TcpIncoming::from(tcp).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_mins(1)));
    let served = grpc::transport().add_routes(routes.clone());
    let served = served.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    listeners.spawn(log_end("gRPC", served));

    let (unix, bound_socket) = socket::bind(&config.socket)?;
    let unix = UnixListenerStream::new(unix);
    let local = grpc::transport().add_routes(routes);
    listeners.spawn(log_end("local socket", local.serve_with_incoming_shutdown(unix, stop.clone().cancelled_owned())));

    let http_address = match config.http_listen {
        Some(listen) => {
            let (tcp, address) = bind("--http-listen", listen).await?;
            listeners.spawn(log_end("HTTP", http::serve(tcp, Arc::clone(&app), stop.clone().cancelled_owned())));
            Some(address)
        }
        None => None,
    };
    crate::jobs::start(&app, &jobs, &stop_jobs);
    health.set_serving(true).await;
    jobs.spawn(follow_readiness(Arc::clone(&app), health.clone(), stop.clone()));
    let socket = config.socket.clone();
    Ok(Running {
        address,
        http_address,
        socket,
        metrics,
        app,
        health,
        stop,
        listeners,
        jobs,
        stop_jobs,
        bound_socket,
        _lock: lock,
    })
}

impl Running {
    /// Whether anybody could administer users over the network.
    pub async fn has_administrator(&self) -> Result<bool, Error> {
        self.app.has_administrator().await
    }

    /// Waits until the server must not go on: the keys of its database were replaced.
    pub async fn condemned(&self) {
        self.app.keys_replaced().await;
    }

    /// Stops in order: balancers look away, calls under way end, jobs finish their tick.
    pub async fn shutdown(mut self) {
        // From here on nothing is ready, and a new change is told to go elsewhere.
        self.app.close();
        self.health.set_serving(false).await;
        self.stop.cancel();
        // A watch of health would otherwise keep its connection open.
        self.health.end_watches().await;
        self.listeners.close();
        if tokio::time::timeout(DRAIN_DEADLINE, self.listeners.wait()).await.is_err() {
            tracing::warn!("calls were still under way at the deadline and were cut off");
        }
        self.app.drain().await;
        self.stop_jobs.cancel();
        self.jobs.close();
        self.jobs.wait().await;
        self.bound_socket.remove();
    }
}

/// Health follows the database, until the server stops: then it is told once more that nobody should come here.
async fn follow_readiness(app: Arc<App>, health: grpc::Health, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(READINESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serving = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let well = app.look_at_database().await;
        if well == serving || stop.is_cancelled() {
            continue;
        }
        health.set_serving(well).await;
        serving = well;
        if well {
            tracing::warn!("the database answers again");
        } else {
            // Balancers are told first: finding the cause out takes up to two seconds more.
            let cause = app.diagnose_database().await.err();
            let cause = cause.as_ref().and_then(std::error::Error::source).map(ToString::to_string);
            tracing::warn!(cause, "the database cannot be worked with; no calls should be sent here");
        }
    }
}

async fn log_end<E: fmt::Display>(listener: &'static str, served: impl Future<Output = Result<(), E>>) {
    if let Err(error) = served.await {
        tracing::error!(listener, %error, "a listener ended");
    }
}

async fn bind(flag: &str, listen: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed =
        |source| ServeError::Io { what: format!("cannot listen on {listen} (choose another with {flag})"), source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Others who can write there can put a database, a key or a socket of theirs in the place of ours.
fn check_private_dir(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| ServeError::Io { what: format!("cannot look at {}", path.display()), source };
    let found = std::fs::metadata(path).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if found.mode() & 0o022 == 0 && (own == 0 || found.uid() == own) {
        return Ok(());
    }
    Err(ServeError::DirectoryOfOthers { path: path.to_owned(), mode: found.mode() & 0o777, owner: found.uid() })
}

fn create_private_dir(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt;
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ServeError::Io { what: format!("cannot create {}", path.display()), source })
}

fn hasher_settings(config: &Config) -> HasherSettings {
    HasherSettings {
        memory_kib: config.argon2.memory_kib,
        iterations: config.argon2.iterations,
        parallelism: config.argon2.parallelism,
        threads: config.argon2.threads,
    }
}

fn settings(config: &Config) -> Settings {
    let throttle = &config.throttle;
    Settings {
        issuer: config.issuer.clone(),
        throttle: ThrottleRules {
            threshold: throttle.threshold,
            initial: throttle.initial,
            max: throttle.max,
            lockout_threshold: throttle.lockout_threshold,
            lockout_duration: throttle.lockout_duration,
            failure_memory: throttle.failure_memory,
        },
        sources: SourceRules {
            failures: throttle.source_failures,
            failures_window: throttle.source_failures_window,
            accounts: throttle.source_accounts,
            accounts_window: throttle.source_accounts_window,
            block: throttle.source_block,
        },
        unknown_names: throttle.unknown_names,
        password_rules: PasswordRules {
            min_length: config.password.min_length,
            max_length: config.password.max_length,
        },
        temporary_password_ttl: config.temporary_password.ttl,
        sessions: SessionLimits { idle: config.session.idle, absolute: config.session.absolute },
        admin_sessions: SessionLimits { idle: config.session.admin_idle, absolute: config.session.admin_absolute },
        max_sessions: config.session.max_per_user,
        access_ttl: config.token.access_ttl,
    }
}
