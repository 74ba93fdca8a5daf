//! The command line of the server: `latchkeyd serve | migrate | config | key | mail | breach-list | protoset`.

mod breach_list;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{StartError, migrate, replace_seal_key, revoke_signing_key};
use crate::config::{self, Config, Database, Flags};
use crate::crypto::SealKey;
use crate::domain::email::EmailAddress;
use crate::environment::Environment;
use crate::mail;
use crate::server::{self, Running, ServeError};
use crate::store::{self, Store};
use crate::telemetry;

/// Exit code of any failure.
const FAILED: u8 = 1;
/// Exit code of `migrate --check` if the schema is behind, for scripts that check before a roll-out.
const PENDING: u8 = 3;

/// Tasks that a thread of the runtime polls before it checks the network again. With tokio's default of 61, a call that
/// arrives just after 100 calls of another client waits for a millisecond.
const EVENT_INTERVAL: u32 = 7;

#[derive(Parser)]
#[command(
    name = "latchkeyd",
    version,
    about = "The latchkey identity service",
    args_conflicts_with_subcommands = true,
    after_help = "Without a command it serves. See docs/config.md for every setting.\n\n\
        Examples:\n  latchkeyd\n  latchkeyd serve --data-dir /var/lib/latchkey\n  \
        latchkeyd serve --database-url postgres://latchkey@db/latchkey --seal-key-file /etc/latchkey/seal.key\n  \
        latchkeyd config check"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(Flags),
    /// Bring the schema up to date; `serve` does so by itself
    Migrate(Migrate),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Handle the seal key and the signing keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Try out mail
    #[command(subcommand)]
    Mail(MailCommand),
    /// Make and check the list of leaked passwords, which users must not choose
    #[command(subcommand)]
    BreachList(breach_list::BreachListCommand),
    /// Write the descriptor set of the API, for `grpcurl -protoset` where reflection is off
    Protoset {
        /// The file; without one, standard output
        file: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Migrate {
    /// Leave the schema as it is; exit 3 if it is behind
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Report every problem of the configuration and of the files that it names for TLS, mail and pages
    Check(Flags),
    /// Print every value that is in effect, and where it comes from
    Print(Flags),
    /// Print docs/config.md
    Reference,
}

#[derive(Subcommand)]
enum MailCommand {
    /// Send one mail, show the conversation with the relay, and explain a failure
    Test {
        /// The address to write to
        address: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Write every mail with made-up values to a folder, to be looked at in a browser
    Preview {
        /// The folder; new, empty, or an earlier preview
        dir: PathBuf,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a seal key, for replicas to share
    New {
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Replace a seal key that is lost
    Replace {
        /// Discard what the lost key sealed: all sessions end, and signing keys are made anew
        #[arg(long, required = true)]
        discard_sealed: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Revoke one signing key: tokens that it signed are refused, sessions go on
    Revoke {
        /// Its id: the `kid` in the header of a token
        id: String,
        #[command(flatten)]
        flags: Flags,
    },
}

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    #[cfg(all(feature = "failpoints", debug_assertions))]
    let _armed = crate::failpoint::enabled::arm();
    let arguments =
        match Arguments::command().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches)) {
            Ok(arguments) => arguments,
            Err(error) => error.exit(),
        };
    match arguments.command.unwrap_or(Command::Serve(arguments.flags)) {
        Command::Serve(flags) => with_config(&flags, |config| block_on(serve(config, &flags))),
        Command::Migrate(Migrate { check: true, flags }) => {
            with_config(&flags, |config| block_on(check_schema(config)))
        }
        Command::Migrate(Migrate { check: false, flags }) => {
            with_config(&flags, |config| block_on(migrate_only(config)))
        }
        Command::Config(ConfigCommand::Check(flags)) => with_config(&flags, |config| block_on(check_config(config))),
        Command::Config(ConfigCommand::Print(flags)) => with_config(&flags, |config| Ok(print(&config.print()))),
        Command::Config(ConfigCommand::Reference) => print(&config::reference()),
        Command::Key(KeyCommand::New { file }) => exit_code(new_key(&file)),
        Command::Key(KeyCommand::Replace { flags, .. }) => with_config(&flags, |config| block_on(replace_key(config))),
        Command::Key(KeyCommand::Revoke { id, flags }) => {
            with_config(&flags, |config| block_on(revoke_key(config, &id)))
        }
        Command::Mail(MailCommand::Test { address, flags }) => {
            with_config(&flags, |config| block_on(test_mail(config, &address)))
        }
        Command::Mail(MailCommand::Preview { dir, flags }) => with_config(&flags, |config| preview_mail(config, &dir)),
        Command::BreachList(command) => breach_list::run(command),
        Command::Protoset { file } => exit_code(write_protoset(file)),
    }
}

type Outcome = Result<ExitCode, ServeError>;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment of the server")]
fn load(flags: &Flags) -> Result<Config, config::Problems> {
    config::load(flags, std::env::vars_os(), |path| std::fs::read_to_string(path))
}

fn with_config(flags: &Flags, run: impl FnOnce(&Config) -> Outcome) -> ExitCode {
    match load(flags) {
        Ok(config) => exit_code(run(&config)),
        Err(problems) => fail(&problems),
    }
}

fn exit_code(result: Outcome) -> ExitCode {
    result.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    // An error here cannot be reported anywhere.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(FAILED)
}

fn warn(text: &str) {
    // Without standard error there is nowhere to warn.
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(EVENT_INTERVAL).build();
    let runtime = runtime.map_err(|source| ServeError::Io { what: "cannot start the runtime".to_owned(), source })?;
    let outcome = runtime.block_on(work);
    // Tasks that still run have used up their time, or must not get any.
    runtime.shutdown_background();
    outcome
}

/// Starts the log for commands that print their own output. By default they log warnings and errors only.
fn log_warnings(config: &Config) -> Result<(), ServeError> {
    let level = if config.log.level == "info" { "warn".to_owned() } else { config.log.level.clone() };
    let log = config::Log { level, ..config.log.clone() };
    telemetry::init(&log, store::QUIET).map_err(crate::error::Error::internal)?;
    Ok(())
}

async fn serve(config: &Config, flags: &Flags) -> Outcome {
    let level = telemetry::init(&config.log, store::QUIET).map_err(crate::error::Error::internal)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::register()?;
    let running = server::start(config, Environment::system()).await?;
    announce(&running, config).await;
    let exit = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => break ExitCode::SUCCESS,
                Asked::Reload => reload(&running, config, flags, &level),
            },
            () = running.keys_replaced() => break ExitCode::from(FAILED),
        }
    };
    tracing::info!("stopping: new calls are refused, calls in progress finish; a second signal stops at once");
    tokio::select! {
        () = running.shutdown() => {
            tracing::info!("stopped");
            Ok(exit)
        }
        () = signals.stop() => {
            tracing::warn!("stopped at once: calls in progress were cut off");
            Ok(ExitCode::from(FAILED))
        }
    }
}

async fn announce(running: &Running, config: &Config) {
    announce_mail(running);
    if let Some(list) = running.breach_list() {
        let header = list.header();
        let file = list.path().display();
        tracing::info!(keys = header.keys, digest = header.digest_text(), %file, "leaked passwords are in the list");
    }
    let http = running.http_address.map(|address| {
        let is_plain = config.tls.cert.is_none() || address.ip().to_canonical().is_loopback();
        format!("{}://{address}", if is_plain { "http" } else { "https" })
    });
    let pages = running.pages_address.map(|address| config.pages_url(address));
    match running.asked_against_nist().await {
        Ok(asked) if asked.is_empty() => {}
        Ok(asked) => tracing::warn!(
            "the policy asks for {}, which NIST SP 800-63B-4 forbids: keep that only if another standard asks for it",
            asked.join(", and for ")
        ),
        Err(error) => tracing::warn!(reason = error.reason().as_str(), "the policy could not be read"),
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        grpc = %running.address,
        http = http.as_deref().unwrap_or("off"),
        pages = pages.as_deref().unwrap_or("off"),
        socket = %running.socket.display(),
        "serving, {}", exposure(config)
    );
    match running.has_administrator().await {
        Ok(true) => {}
        Ok(false) => tracing::info!(
            "there is no administrator yet; in a second terminal: \
             latchkey{} users create root --role admin --temporary-password",
            socket_flag(config)
        ),
        Err(error) => tracing::warn!(reason = error.reason().as_str(), "administrators could not be counted"),
    }
}

/// Says where mail goes.
fn announce_mail(running: &Running) {
    match &running.mail {
        Some(mail::Place::Relay(url)) => tracing::info!(relay = %url, "mail goes to the relay"),
        Some(mail::Place::Folder(path)) => tracing::info!(
            dir = %path.display(),
            "mail is written to files on this machine and reaches no user; set mail.smtp.url to send it"
        ),
        None => tracing::info!("mail is off; set mail.smtp.url to send it"),
    }
}

/// A short description of how the server can be reached.
fn exposure(config: &Config) -> &'static str {
    match (config.tls.cert.is_some(), config.listen.ip().to_canonical().is_loopback()) {
        (true, _) => "with TLS",
        (false, true) => "without TLS: on loopback and the local socket only",
        (false, false) => "without TLS, open to the network",
    }
}

/// The flag with which `latchkey` finds the socket; empty if it is at the default path.
fn socket_flag(config: &Config) -> String {
    let by_itself = Config::default_in(Path::new("./latchkey-data")).socket;
    if config.socket == by_itself { String::new() } else { format!(" --socket {}", config.socket.display()) }
}

/// Takes up what can change while the server runs, and names the keys that need a restart.
fn reload(running: &Running, in_use: &Config, flags: &Flags, level: &telemetry::Level) {
    let found = tokio::task::block_in_place(|| load(flags));
    let found = match found {
        Ok(found) => found,
        Err(problems) => {
            // An entry of the log is one line.
            let problems = problems.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            tracing::error!(problems, "the configuration is faulty; nothing was reloaded");
            return;
        }
    };
    if let Err(error) = level.set(&found.log.level) {
        tracing::error!(%error, "the configuration is faulty; nothing was reloaded");
        return;
    }
    running.reload_tls();
    running.reload_breach_list();
    tracing::info!(
        log.level = found.log.level,
        "reloaded log.level; the TLS files and the list of leaked passwords, if any, are read again"
    );
    let differing = in_use.differences(&found);
    let waiting: Vec<&str> = differing.into_iter().filter(|key| *key != "log.level").collect();
    if !waiting.is_empty() {
        tracing::warn!(keys = waiting.join(", "), "changed keys take effect at the next start");
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

/// The signals that the server handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the program that started the server ignores it, as `nohup` does.
    hangup: Option<Signal>,
    /// On a terminal, SIGHUP says that the terminal is gone. A service manager sends it to ask for a reload.
    has_terminal: bool,
    /// They would end the process. Registering them is enough to ignore them.
    _ignored: [Signal; 2],
}

impl Signals {
    /// Registers the handlers. Called before anything starts, so that a signal during the start is not lost.
    fn register() -> Result<Signals, ServeError> {
        let handle = |kind| {
            let failed = |source| ServeError::Io { what: "cannot wait for signals".to_owned(), source };
            signal(kind).map_err(failed)
        };
        Ok(Signals {
            hangup: if ignores_hangup() { None } else { Some(handle(SignalKind::hangup())?) },
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            has_terminal: std::fs::File::open("/dev/tty").is_ok(),
            _ignored: [handle(SignalKind::user_defined1())?, handle(SignalKind::user_defined2())?],
        })
    }

    async fn next(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = hangup => if self.has_terminal { Asked::Stop } else { Asked::Reload },
        }
    }

    /// Waits for a signal that can only ask for a stop. A terminal that closes may send SIGHUP twice.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns whether this process was started with SIGHUP ignored. Linux tells; elsewhere it is taken not to be.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    // Bit n - 1 is signal n, and SIGHUP is 1.
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

/// Returns whether there is a database. SQLite would create one when it is opened.
async fn is_there(config: &Config) -> bool {
    match &config.database {
        Database::Sqlite { path } => tokio::fs::try_exists(path).await.unwrap_or_default(),
        Database::Postgres { .. } => true,
    }
}

/// Reports each problem with the files that the configuration names.
async fn check_config(config: &Config) -> Outcome {
    let faults = server::check_files(config).await;
    if faults.is_empty() {
        return Ok(print("the configuration is good\n"));
    }
    for fault in &faults {
        fail(fault);
    }
    Ok(ExitCode::from(FAILED))
}

async fn check_schema(config: &Config) -> Outcome {
    if !is_there(config).await {
        print(&format!("there is no database yet; pending: {}\n", Store::migrations().join(", ")));
        return Ok(ExitCode::from(PENDING));
    }
    let (store, _lock) = server::open_store(config).await?;
    let pending = store.pending_migrations().await?;
    store.close().await;
    if pending.is_empty() {
        return Ok(print("the schema is up to date\n"));
    }
    print(&format!("the schema is behind; pending: {}\n", pending.join(", ")));
    Ok(ExitCode::from(PENDING))
}

async fn migrate_only(config: &Config) -> Outcome {
    log_warnings(config)?;
    let (store, _lock) = server::open_store(config).await?;
    let pending = store.pending_migrations().await?;
    migrate(&store).await?;
    store.close().await;
    Ok(match pending.as_slice() {
        [] => print("the schema was up to date\n"),
        steps => print(&format!("migrated: {}\n", steps.join(", "))),
    })
}

fn new_key(file: &std::path::Path) -> Outcome {
    let key = SealKey::create(file, &Environment::system()).map_err(StartError::from)?;
    Ok(print(&format!(
        "wrote a seal key to {}, fingerprint {}\nKeep a copy apart from the backups of the database.\n",
        file.display(),
        key.fingerprint()
    )))
}

async fn replace_key(config: &Config) -> Outcome {
    if !is_there(config).await {
        return Err(StartError::NothingSealed.into());
    }
    log_warnings(config)?;
    let (store, _lock): (Store, _) = server::open_store(config).await?;
    let uid = rustix::process::getuid().as_raw();
    let replaced = replace_seal_key(&store, &Environment::system(), &config.seal_key_file, uid).await?;
    store.close().await;
    Ok(print(&format!(
        "discarded {} sealed keys, made new ones and ended {} sessions; all users must sign in again, \
         and services that verify tokens must fetch the signing keys again\n",
        replaced.discarded, replaced.sessions_ended
    )))
}

async fn revoke_key(config: &Config, id: &str) -> Outcome {
    if !is_there(config).await {
        return Err(StartError::NothingSealed.into());
    }
    log_warnings(config)?;
    let (store, _lock): (Store, _) = server::open_store(config).await?;
    let uid = rustix::process::getuid().as_raw();
    let successor = revoke_signing_key(&store, &Environment::system(), &config.seal_key_file, id, uid).await?;
    store.close().await;
    let signs = successor.map(|successor| format!("{successor} signs from now on; ")).unwrap_or_default();
    Ok(print(&format!(
        "revoked the signing key {id}; {signs}servers follow within ten seconds, and services that verify tokens offline \
         when they next fetch the keys, within five minutes\n"
    )))
}

async fn test_mail(config: &Config, address: &str) -> Outcome {
    log_warnings(config)?;
    let Ok(to) = EmailAddress::parse(address).map_err(|fault| fail(&format!("ADDRESS: {fault}"))) else {
        return Ok(ExitCode::from(FAILED));
    };
    if config.writes_mail_by_default() {
        warn(
            "no configuration file was read, so this tests the default, mail as files; for a server that runs with one: \
             latchkeyd mail test ADDRESS --config FILE",
        );
        // The first mail would create it, and look like one of the server.
        if !config.data_dir.is_dir() {
            return Ok(fail(&format!(
                "{}, the data directory, does not exist; nothing is tested",
                config.data_dir.display()
            )));
        }
    }
    let print_line = |line: &str| {
        print(&format!("{line}\n"));
    };
    match mail::try_out(&config.mail, &to, &Environment::system(), &print_line).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(fail(&error)),
    }
}

fn preview_mail(config: &Config, dir: &Path) -> Outcome {
    match mail::preview(&server::templates(config)?, dir) {
        Ok(count) => Ok(print(&format!("{count} mails: open {}\n", dir.join("index.html").display()))),
        Err(error) => Ok(fail(&error)),
    }
}

fn write_protoset(file: Option<PathBuf>) -> Outcome {
    let protoset = crate::proto::protoset().map_err(crate::error::Error::internal)?;
    let Some(path) = file else {
        let written = std::io::stdout().write_all(&protoset);
        return Ok(if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) });
    };
    std::fs::write(&path, protoset)
        .map_err(|source| ServeError::Io { what: format!("cannot write {}", path.display()), source })?;
    Ok(ExitCode::SUCCESS)
}
