//! The composition root: the only place that wires the layers together.
//!
//! Start: lock file (SQLite) → connect → migrate → keys → bind → jobs → SERVING.
//! Stop: `NOT_SERVING` → listeners and jobs are told to stop → connections drain → remaining work and jobs end.

mod authority;
mod calls;
mod connection;
mod connection_limits;
mod error;
mod files;
mod http;
mod http2_frames;
mod listen;
mod lock_file;
mod pages;
mod socket;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use self::calls::AllCalls;
use self::connection::Protocol;
use self::connection_limits::ConnectionLimits;
pub use self::error::ServeError;
pub use self::files::{check_files, templates};
use self::listen::{Acceptor, CurrentTls, Incoming};
pub use self::lock_file::LockFile;
use self::pages::BoundPages;
pub use self::tls::TlsError;
use crate::app::{App, MailSettings, MailTransport, Settings, open_keys};
use crate::breach_list::{BreachList, BreachLists};
use crate::config::{self, Config, Database};
use crate::crypto::{Hasher, HasherSettings};
use crate::domain::horizon::Retention;
use crate::domain::link::LinkLifetimes;
use crate::domain::password::PasswordRules;
use crate::domain::session::SessionLimits;
use crate::environment::Environment;
use crate::error::Error;
use crate::grpc;
use crate::mail;
use crate::metrics::{Listener, Metrics};
use crate::store::sources::SourceRules;
use crate::store::{Condition, Location, Store};

/// How long calls in progress may take at a stop. Longer than the deadline of any call, shorter than the time after which
/// service managers kill a process.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// After this time a stop says what it waits for. Connections without work have ended by then.
const QUIET_DRAIN: Duration = Duration::from_secs(5);

/// How long a stop may take in total, counted from its signal: the 30 s after which service managers kill a process, less
/// the time that ending the process takes.
const STOP_DEADLINE: Duration = Duration::from_secs(28);

/// The time between two looks at the database. Load balancers should learn of an outage within seconds.
const READINESS_EVERY: Duration = Duration::from_secs(2);

/// The same while the database is not usable. Until a look finds that it is, calls fail.
const RECOVERY_EVERY: Duration = Duration::from_millis(500);

/// A running server.
pub struct Running {
    /// The address of gRPC.
    pub address: SocketAddr,
    /// The address of metrics, probes and public keys; `None` if they are off.
    pub http_address: Option<SocketAddr>,
    /// The address of the pages; `None` if they are off.
    pub pages_address: Option<SocketAddr>,
    /// The path of the local socket.
    pub socket: PathBuf,
    /// Where mail goes; `None` if it is off.
    pub mail: Option<mail::Place>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    app: Arc<App>,
    health: grpc::Health,
    call_log: Arc<grpc::CallLog>,
    calls: Arc<AllCalls>,
    reload_tls: Arc<Notify>,
    reload_breach_list: Arc<Notify>,
    stop: CancellationToken,
    listeners: TaskTracker,
    jobs: TaskTracker,
    stop_jobs: CancellationToken,
    bound_socket: socket::BoundSocket,
    /// Held until the server ends, so that no other server opens the same SQLite database.
    _lock: Option<LockFile>,
}

/// Connects to the database of the configuration. Takes the lock file first if it is SQLite.
pub async fn open_store(config: &Config) -> Result<(Store, Option<LockFile>), ServeError> {
    create_private_dir(&config.data_dir).await?;
    check_private_dir(&config.data_dir).await?;
    let list_time = config.lists.time_limit;
    match &config.database {
        Database::Sqlite { path } => {
            if let Some(parent) = path.parent() {
                create_private_dir(parent).await?;
            }
            let path = resolve_link(path).await?;
            let lock = LockFile::take(&path)?;
            Ok((Store::connect(&Location::Sqlite(path)).await?.with_list_time(list_time), Some(lock)))
        }
        Database::Postgres { url } => {
            Ok((Store::connect(&Location::Postgres(url.clone())).await?.with_list_time(list_time), None))
        }
    }
}

/// Resolves a symbolic link to the database, so that its lock file and log lie beside the real file.
async fn resolve_link(path: &Path) -> Result<PathBuf, ServeError> {
    if !tokio::fs::symlink_metadata(path).await.is_ok_and(|found| found.is_symlink()) {
        return Ok(path.to_owned());
    }
    let failed = |source| ServeError::Io { what: format!("cannot open {}", path.display()), source };
    tokio::fs::canonicalize(path).await.map_err(failed)
}

/// Starts everything. Returns once calls are served.
pub async fn start(config: &Config, environment: Environment) -> Result<Running, ServeError> {
    // A mistake in the settings of mail should stop the start, not the first mail.
    let mail = mail::Transport::load(&config.mail)?.map(Arc::new);
    let templates = templates(config)?;
    let breach_lists = Arc::new(BreachLists::open(config.password.breach_list.as_deref())?);
    let metrics = Arc::new(Metrics::new());
    let hasher = start_hasher(config, &environment, &metrics);
    let (store, lock) = open_store(config).await?;
    let keys = open_keys(&store, &environment, &config.seal_key_file).await?;
    let hasher = hasher.join().map_err(|_| Error::internal("hashing did not start"))??;
    // Bound before anything else, because links in mails may lead to the port that the system chooses.
    let pages = BoundPages::bind(config).await?;
    let pages_address = pages.as_ref().map(|pages| pages.address);
    let settings = settings(config, pages_address);
    let app = App::new(environment, Arc::clone(&metrics), settings, store, hasher, keys);
    let app = Arc::new(app.with_breach_lists(breach_lists));
    app.first_throttle_rules().await?;
    let (stop, stop_jobs) = (CancellationToken::new(), CancellationToken::new());
    let failed_calls = config.connections.failed_calls;
    let (routes, health, call_log) = grpc::routes(Arc::clone(&app), config.reflection, failed_calls, &stop)?;

    let (listeners, jobs) = (TaskTracker::new(), TaskTracker::new());
    let reload_tls = Arc::<Notify>::default();
    let tls = start_tls(config, &app, &jobs, &stop, &reload_tls).await?;
    let calls = Arc::<AllCalls>::default();
    let acceptors = Acceptors { config, metrics: &metrics, tls, calls: &calls, stop: &stop };
    raise_descriptor_limit(config.connections.max);

    // All listeners are bound before any is served. The socket is last, because a failure after it would leave its file.
    let (tcp, address) = bind("--listen", config.listen)?;
    let http = config.http_listen.map(|listen| bind("--http-listen", listen)).transpose()?;
    let (unix, bound_socket) = socket::bind(&config.socket).await?;

    serve_grpc(&routes, listen::accept_tcp(tcp, acceptors.grpc(), &listeners), &listeners, &stop);
    serve_grpc(&routes, listen::accept_local(unix, acceptors.local(), &listeners), &listeners, &stop);
    let http_address = http.map(|(tcp, address)| {
        let incoming = listen::accept_tcp(tcp, acceptors.http(address), &listeners);
        listeners.spawn(http::serve(incoming, http::router(Arc::clone(&app)), stop.clone(), listeners.clone()));
        address
    });
    if let Some(pages) = pages {
        pages.serve(&app, &acceptors, &listeners, &jobs);
    }
    crate::jobs::start(&app, mail.as_ref(), &jobs, &stop_jobs);
    let reload_breach_list = crate::jobs::breach_list::start(&app, &jobs, &stop_jobs);
    if let Some(transport) = &mail {
        // Only one process uses the embedded database, so what was being sent when the last one ended is sent again at once.
        if matches!(config.database, Database::Sqlite { .. }) {
            app.void_leases().await?;
        }
        let urls = app.link_urls().cloned();
        let pages_url = pages_address.map(|pages| config.pages_url(pages));
        let mailer = mail::Mailer::new(Arc::clone(transport), templates, config.mail.from.clone(), urls, pages_url);
        let slow_after = config.mail.limits.slow_after;
        crate::jobs::outbox::start(&app, mailer, config.mail_test(), slow_after, &jobs, &stop_jobs);
        crate::jobs::resolve_requests(&app, &jobs, &stop_jobs);
    }
    app.warm_up().await;
    health.set_serving(true);
    jobs.spawn(Arc::clone(&call_log).report_gathered(stop.clone()));
    jobs.spawn(follow_readiness(Arc::clone(&app), health.clone(), stop.clone()));
    let socket = config.socket.clone();
    Ok(Running {
        address,
        http_address,
        pages_address,
        socket,
        mail: mail.map(|mail| mail.place()),
        metrics,
        app,
        health,
        call_log,
        calls,
        reload_tls,
        reload_breach_list,
        stop,
        listeners,
        jobs,
        stop_jobs,
        bound_socket,
        _lock: lock,
    })
}

/// Starts the hasher on a thread of its own: its calibration takes about as long as opening the database, so both run at the
/// same time.
fn start_hasher(
    config: &Config,
    environment: &Environment,
    metrics: &Arc<Metrics>,
) -> JoinHandle<Result<Hasher, Error>> {
    let (settings, environment, metrics) = (hasher_settings(config), environment.clone(), Arc::clone(metrics));
    std::thread::spawn(move || Hasher::start(settings, environment, metrics))
}

impl Running {
    /// Returns whether any user has the role `admin`.
    pub async fn has_administrator(&self) -> Result<bool, Error> {
        self.app.has_administrator().await
    }

    /// What the policy asks for that NIST SP 800-63B-4 forbids.
    pub async fn asked_against_nist(&self) -> Result<Vec<&'static str>, Error> {
        self.app.asked_against_nist().await
    }

    /// Waits until the keys in the database are replaced. The server must then stop.
    pub async fn keys_replaced(&self) {
        self.app.keys_replaced().await;
    }

    /// Reads the TLS files again, if there are any. The log says whether they are in use.
    pub fn reload_tls(&self) {
        self.reload_tls.notify_one();
    }

    /// The list of leaked passwords in use, if one is configured.
    pub fn breach_list(&self) -> Option<Arc<BreachList>> {
        self.app.breach_list()
    }

    /// Looks for a new list of leaked passwords, if one is configured. The log says whether it is in use.
    pub fn reload_breach_list(&self) {
        self.reload_breach_list.notify_one();
    }

    /// Stops in order: readiness ends, connections drain, remaining work and jobs end. Work that waits for an unresponsive
    /// database is abandoned at the deadline.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + STOP_DEADLINE;
        // From here on the server is not ready, and refuses new changes.
        self.app.close();
        self.health.set_serving(false);
        self.stop.cancel();
        // A health watch would otherwise keep its connection open.
        self.health.end_watches();
        self.stop_jobs.cancel();
        self.listeners.close();
        self.jobs.close();
        self.drain_calls().await;
        let work = async { tokio::join!(self.app.drain(), self.jobs.wait()) };
        if timeout_at(deadline, work).await.is_err() {
            tracing::warn!("work that waits for the database did not end in time and was abandoned");
        }
        self.call_log.report();
        self.bound_socket.remove().await;
    }

    /// Waits until all connections have ended. Says for which calls it waits if that takes long.
    async fn drain_calls(&self) {
        let deadline = Instant::now() + DRAIN_DEADLINE;
        let ended = self.listeners.wait();
        tokio::pin!(ended);
        if timeout(QUIET_DRAIN, &mut ended).await.is_ok() {
            return;
        }
        tracing::info!(calls = self.calls.in_progress(), "stopping: waiting for calls in progress");
        if timeout_at(deadline, ended).await.is_err() {
            tracing::warn!(calls = self.calls.in_progress(), "calls in progress at the deadline were cut off");
        }
    }
}

/// Looks at the database again and again and sets the health status accordingly, until the server stops.
async fn follow_readiness(app: Arc<App>, health: grpc::Health, stop: CancellationToken) {
    let mut known = Condition::Usable;
    loop {
        let pause = if known == Condition::Usable { READINESS_EVERY } else { RECOVERY_EVERY };
        let look = async {
            sleep(pause).await;
            app.look_at_database().await
        };
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = look => found,
        };
        health.set_serving(found == Condition::Usable);
        if std::mem::discriminant(&found) != std::mem::discriminant(&known) {
            match &found {
                Condition::Usable => tracing::warn!("the database is usable again"),
                Condition::ReadOnly(cause) => {
                    tracing::warn!(cause, "the database accepts no changes; this server is not ready for calls");
                }
                Condition::Away(cause) => {
                    tracing::warn!(cause, "the database is not usable; this server is not ready for calls");
                }
            }
        }
        known = found;
    }
}

/// Reads the TLS files, if TLS is configured, and starts the task that reloads them.
async fn start_tls(
    config: &Config,
    app: &App,
    jobs: &TaskTracker,
    stop: &CancellationToken,
    reload: &Arc<Notify>,
) -> Result<CurrentTls, ServeError> {
    let Some(files) = tls::TlsFiles::of(&config.tls) else { return Ok(None) };
    let metrics = Arc::clone(&app.metrics);
    let reloader = tls::Reloader::start(files, app.environment.clone(), metrics).await?;
    let tls = reloader.subscribe();
    jobs.spawn(reloader.run(stop.clone(), Arc::clone(reload)));
    Ok(Some(tls))
}

/// Makes the acceptor of each listener.
struct Acceptors<'a> {
    config: &'a Config,
    metrics: &'a Arc<Metrics>,
    tls: CurrentTls,
    calls: &'a Arc<AllCalls>,
    stop: &'a CancellationToken,
}

impl Acceptors<'_> {
    fn acceptor(&self, listener: Listener, protocol: Protocol, tls: CurrentTls) -> Acceptor {
        let config = &self.config.connections;
        let limits = ConnectionLimits::new(listener, config, Arc::clone(self.metrics));
        let (calls, stop) = (Arc::clone(self.calls), self.stop.clone());
        Acceptor { limits, protocol, tls, start_timeout: config.start_timeout, calls, stop }
    }

    fn http2(&self) -> Protocol {
        Protocol::Http2 { read_timeout: self.config.connections.read_timeout }
    }

    fn grpc(&self) -> Acceptor {
        self.acceptor(Listener::Grpc, self.http2(), self.tls.clone())
    }

    fn local(&self) -> Acceptor {
        self.acceptor(Listener::Local, self.http2(), None)
    }

    /// The pages get passwords, so they have TLS on loopback too: a proxy on this machine may be another user's.
    fn pages(&self) -> Acceptor {
        self.acceptor(Listener::Pages, Protocol::Http1, self.tls.clone())
    }

    /// HTTP has no TLS on loopback, because nothing in its responses is secret.
    fn http(&self, address: SocketAddr) -> Acceptor {
        let tls = self.tls.clone().filter(|_| !address.ip().to_canonical().is_loopback());
        self.acceptor(Listener::Http, Protocol::Http1, tls)
    }
}

fn serve_grpc(routes: &Routes, incoming: Incoming, listeners: &TaskTracker, stop: &CancellationToken) {
    let tracked = routes.clone().into_axum_router().layer(axum::middleware::from_fn(calls::track));
    let server = grpc::transport().add_routes(Routes::from(tracked).prepare());
    let connections = ReceiverStream::new(incoming);
    let ended = server.serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    listeners.spawn(log_end("gRPC", ended));
}

/// File descriptors for other purposes than connections of clients: database, files, logs.
const OTHER_DESCRIPTORS: u64 = 128;

/// Raises the soft limit of file descriptors. It is 1 024 on many systems, for programs that cannot handle more.
/// Three listeners may each need that many, and a process may raise its soft limit up to the hard limit.
fn raise_descriptor_limit(max: u32) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let needed = 3 * (u64::from(max) + u64::from(listen::REFUSED_AT_ONCE)) + OTHER_DESCRIPTORS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(needed, |maximum| maximum.min(needed)));
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    if !raised || limit.current < Some(needed) {
        tracing::warn!(
            needed,
            limit = limit.current,
            "the limit of file descriptors is below what connections.max may need; raise the hard limit, or lower connections.max"
        );
    }
}

async fn log_end<E: fmt::Display>(listener: &'static str, served: impl Future<Output = Result<(), E>>) {
    if let Err(error) = served.await {
        tracing::error!(listener, %error, "a listener failed");
    }
}

fn bind(flag: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed =
        |source| ServeError::Io { what: format!("cannot listen on {address} (choose another with {flag})"), source };
    let listener = listen::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Fails if other users can write to the directory: they could replace the database, the key or the socket.
async fn check_private_dir(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| ServeError::Io { what: format!("cannot look at {}", path.display()), source };
    let found = tokio::fs::metadata(path).await.map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if found.mode() & 0o022 == 0 && (own == 0 || found.uid() == own) {
        return Ok(());
    }
    Err(ServeError::DirectoryOfOthers { path: path.to_owned(), mode: found.mode() & 0o777, owner: found.uid() })
}

async fn create_private_dir(path: &Path) -> Result<(), ServeError> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    match tokio::fs::metadata(path).await {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => {
            let source = std::io::ErrorKind::NotADirectory.into();
            return Err(ServeError::Io { what: format!("cannot use {}", path.display()), source });
        }
        Err(_) => {}
    }
    let failed = |source| ServeError::Io { what: format!("cannot create {}", path.display()), source };
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).await.map_err(failed)
}

fn hasher_settings(config: &Config) -> HasherSettings {
    HasherSettings {
        memory_kib: config.argon2.memory_kib,
        iterations: config.argon2.iterations,
        parallelism: config.argon2.parallelism,
        threads: config.argon2.threads,
    }
}

fn mail_settings(config: &Config, pages: Option<SocketAddr>) -> MailSettings {
    MailSettings {
        transport: match config.mail.transport {
            config::Transport::Off => MailTransport::Off,
            config::Transport::File => MailTransport::File,
            config::Transport::Smtp => MailTransport::Smtp,
        },
        notices: config.mail.notices.clone(),
        temporary_passwords: config.mail.temporary_passwords,
        urls: config.link_urls(pages),
        lifetimes: LinkLifetimes {
            self_service: config.links.self_service_ttl,
            operator: config.links.operator_ttl,
            invite: config.links.invite_ttl,
            verification: config.links.verification_ttl,
        },
    }
}

fn settings(config: &Config, pages: Option<SocketAddr>) -> Settings {
    let throttle = &config.throttle;
    Settings {
        issuer: config.issuer.clone(),
        organisation: config.organisation.clone(),
        throttle: throttle.rules(),
        sources: SourceRules {
            failures: throttle.source_failures,
            failures_window: throttle.source_failures_window,
            accounts: throttle.source_accounts,
            accounts_window: throttle.source_accounts_window,
            block: throttle.source_block,
        },
        unknown_names: throttle.unknown_names,
        retention: Retention {
            operators: config.retention.operators,
            sign_ins: config.retention.sign_ins,
            strangers: config.retention.strangers,
        },
        password_rules: PasswordRules {
            min_length: config.password.min_length,
            max_length: config.password.max_length,
            ..PasswordRules::default()
        },
        temporary_password_ttl: config.temporary_password.ttl,
        sessions: SessionLimits { idle: config.session.idle, absolute: config.session.absolute },
        admin_sessions: SessionLimits { idle: config.session.admin_idle, absolute: config.session.admin_absolute },
        max_sessions: config.session.max_per_user,
        sign_ins_per_minute: config.session.sign_ins_per_minute,
        access_ttl: config.token.access_ttl,
        mail: mail_settings(config, pages),
    }
}
