//! The configuration of the server: defaults < TOML file < environment < flags.
//!
//! `keys.rs` declares every key once; parsing, [`Config::print`] and [`reference()`] follow from it. An unknown key or
//! variable is an error. All problems are reported at once, so that an operator does not find them one start at a time.

mod database;
mod flags;
mod formats;
mod given;
mod key;
mod keys;
mod mail;
mod notices;
mod pages;
mod problem;
mod relay_url;
mod removed;
mod render;
mod rules;
mod sender;
mod sources;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use self::database::Database;
use self::database::DatabaseUrl;
pub use self::flags::Flags;
use self::given::Given;
use self::key::Value;
pub use self::keys::{
    Argon2, Connections, Links, Lists, Log, LogFormat, Pages, Password, Reflection, Retention, Session, Smtp,
    TemporaryPassword, Throttle, Tls, Token, Transport,
};
use self::keys::{MailKeys, Organisation, Root, Support};
pub use self::mail::{DeliveryLimits, Mail};
pub use self::pages::{LinkUrl, Networks, PublicUrl};
use self::problem::Origin;
pub use self::problem::Problems;
pub use self::relay_url::{NotARelayUrl, RelayUrl, Security};
pub use self::render::reference;
pub use self::sender::{NotASender, Sender};

/// The configuration of the server. `docs/config.md` explains each key.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of the server's files.
    pub data_dir: PathBuf,
    /// The address of the gRPC service.
    pub listen: SocketAddr,
    /// The address of metrics, probes and public keys over HTTP; `None` turns them off.
    pub http_listen: Option<SocketAddr>,
    /// Whether the listeners may use addresses other than loopback without TLS.
    pub insecure_plaintext: bool,
    /// The database.
    pub database: Database,
    /// The Unix socket for the operator on this machine.
    pub socket: PathBuf,
    /// The file with the key that seals secrets in the database.
    pub seal_key_file: PathBuf,
    /// The `iss` claim of access tokens.
    pub issuer: String,
    /// Which callers may use gRPC reflection.
    pub reflection: Reflection,
    /// TLS.
    pub tls: Tls,
    /// Limits on connections.
    pub connections: Connections,
    /// Lists and searches.
    pub lists: Lists,
    /// The log.
    pub log: Log,
    /// The parameters of password hashing.
    pub argon2: Argon2,
    /// Limits on wrong passwords.
    pub throttle: Throttle,
    /// Rules for passwords that users choose.
    pub password: Password,
    /// Temporary passwords.
    pub temporary_password: TemporaryPassword,
    /// The lifetime of sessions.
    pub session: Session,
    /// Access tokens.
    pub token: Token,
    /// Mail.
    pub mail: Mail,
    /// The built-in pages.
    pub pages: Pages,
    /// Links.
    pub links: Links,
    /// The name of the organisation.
    pub organisation: String,
    /// The contact for users; `None`: their administrator.
    pub support: Option<String>,
    /// How long events of the audit log are kept.
    pub retention: Retention,
    /// The file that `--config` or `LATCHKEY_CONFIG` named.
    pub file: Option<PathBuf>,
    /// Warnings for the operator, one sentence each. The server starts nevertheless.
    pub warnings: Vec<String>,
    /// The file that contains the database URL, if `database_url` names one.
    database_file: Option<PathBuf>,
    /// Where each key was set. A missing key has its default.
    origins: BTreeMap<&'static str, Origin>,
}

/// Reads the configuration.
///
/// `environment` is the whole environment; variables of other programs are ignored. `read_file` is called for the file that
/// `--config` or `LATCHKEY_CONFIG` names, and for the file with the database URL if `database_url` names one. No other file
/// is read.
///
/// # Errors
///
/// All problems at once.
pub fn load(
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    let given = sources::gather(flags, environment, &read_file, &mut problems);
    let config = Config::from_given(&given, &read_file, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems.sorted()) }
}

impl Config {
    /// The defaults, with every path under `data_dir`. For tests and benchmarks, which then change what they need. Nothing is
    /// validated.
    pub fn default_in(data_dir: &Path) -> Self {
        let root = Root::default();
        Self {
            data_dir: data_dir.to_owned(),
            listen: root.listen,
            http_listen: root.http_listen,
            insecure_plaintext: root.insecure_plaintext,
            database: Database::default_in(data_dir),
            socket: root.socket.resolve(data_dir),
            seal_key_file: root.seal_key_file.resolve(data_dir),
            issuer: root.issuer,
            reflection: root.reflection,
            tls: Tls::default(),
            connections: Connections::default(),
            lists: Lists::default(),
            log: Log::default(),
            argon2: Argon2::default(),
            throttle: Throttle::default(),
            password: Password::default(),
            temporary_password: TemporaryPassword::default(),
            session: Session::default(),
            token: Token::default(),
            mail: Mail::resolve(MailKeys::default(), Smtp::default(), data_dir, true),
            pages: Pages::default(),
            links: Links::default(),
            organisation: keys::default_sender().display_name().to_owned(),
            support: None,
            retention: Retention::default(),
            file: None,
            warnings: Vec::new(),
            database_file: None,
            origins: BTreeMap::new(),
        }
    }

    /// Parses and validates the given values. A section with an invalid value keeps its defaults, and the rules between keys
    /// are not applied to it: they would report values that the operator did not set.
    fn from_given(given: &Given, read_file: &impl Fn(&Path) -> io::Result<String>, problems: &mut Problems) -> Self {
        let mut config = Self::default_in(&Root::default().data_dir);
        let (pages, links) = (Pages::read(given, problems), Links::read(given, problems));
        let tls = Tls::read(given, problems);
        if let Some(tls) = &tls {
            rules::check_tls(tls, given, problems);
        }
        if let Some(root) = Root::read(given, problems) {
            rules::check_addresses(&root, pages.as_ref(), given, problems);
            rules::check_plaintext(&root, pages.as_ref(), tls.as_ref(), given, problems);
            config.apply_root(root, given, read_file, problems);
        }
        if let Some(argon2) = Argon2::read(given, problems) {
            rules::check_argon2(&argon2, given, problems);
            config.argon2 = argon2;
        }
        if let Some(throttle) = Throttle::read(given, problems) {
            rules::check_throttle(&throttle, given, problems);
            config.throttle = throttle;
        }
        if let Some(session) = Session::read(given, problems) {
            rules::check_session(&session, given, problems);
            config.session = session;
        }
        if let Some(retention) = Retention::read(given, problems) {
            rules::check_retention(&retention, given, problems);
            config.retention = retention;
        }
        let (mail, smtp) = (MailKeys::read(given, problems), Smtp::read(given, problems));
        if let (Some(mail), Some(smtp)) = (mail, smtp) {
            let is_embedded = matches!(config.database, Database::Sqlite { .. });
            config.mail = Mail::resolve(mail, smtp, &config.data_dir, is_embedded);
            rules::check_mail(&config.mail, given, problems);
        }
        if let (Some(pages), Some(links)) = (pages, links) {
            rules::check_links(&pages, &links, given, problems);
            (config.pages, config.links) = (pages, links);
        }
        let organisation = Organisation::read(given, problems).unwrap_or_default().name;
        let is_named = organisation != "auto";
        config.organisation = if is_named { organisation } else { config.mail.from.display_name().to_owned() };
        config.support = Support::read(given, problems).unwrap_or_default().contact;
        config.tls = tls.unwrap_or_default();
        config.connections = Connections::read(given, problems).unwrap_or_default();
        config.lists = Lists::read(given, problems).unwrap_or_default();
        config.log = Log::read(given, problems).unwrap_or_default();
        config.password = Password::read(given, problems).unwrap_or_default();
        config.temporary_password = TemporaryPassword::read(given, problems).unwrap_or_default();
        config.token = Token::read(given, problems).unwrap_or_default();
        config.origins = keys::all().map(|key| (key.name, given.origin(key.name))).collect();
        config.file.clone_from(&given.file);
        config.warnings = rules::warnings(&config);
        config.warnings.extend_from_slice(&given.warnings);
        config
    }

    /// Sets addresses and paths, now that the data directory is known.
    fn apply_root(
        &mut self,
        root: Root,
        given: &Given,
        read_file: &impl Fn(&Path) -> io::Result<String>,
        problems: &mut Problems,
    ) {
        let data_dir = root.data_dir;
        self.socket = root.socket.resolve(&data_dir);
        if !formats::is_socket_path(&self.socket.write()) {
            problems.add(
                given.origin("data_dir"),
                "data_dir makes the path of the socket longer than 103 bytes: a longer one fits \
                 in no socket address; set `socket` to a shorter path",
            );
        }
        self.database = match root.database_url {
            DatabaseUrl::InDataDir => Database::default_in(&data_dir),
            DatabaseUrl::Named(database) => database,
            DatabaseUrl::InFile(path) => {
                let origin = given.origin("database_url");
                let database = database::read_from_file(&path, origin, read_file, problems);
                self.database_file = Some(path);
                database.unwrap_or_else(|| Database::default_in(&data_dir))
            }
        };
        self.seal_key_file = root.seal_key_file.resolve(&data_dir);
        self.data_dir = data_dir;
        self.listen = root.listen;
        self.http_listen = root.http_listen;
        self.insecure_plaintext = root.insecure_plaintext;
        self.issuer = root.issuer;
        self.reflection = root.reflection;
    }

    /// The command that tries out mail with this configuration.
    pub fn mail_test(&self) -> String {
        let file = self.file.as_ref().map(|file| format!(" --config {}", file.display())).unwrap_or_default();
        format!("latchkeyd mail test ADDRESS{file}")
    }

    /// Returns whether mail is written to files only because nothing was configured: a server with a configuration file may
    /// send its mail elsewhere.
    pub fn writes_mail_by_default(&self) -> bool {
        let is_default = |key| *self.origin(key) == Origin::Default;
        self.file.is_none()
            && self.mail.transport == Transport::File
            && is_default("mail.transport")
            && is_default("mail.dir")
    }

    /// Where the value of a key comes from.
    fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

#[cfg(test)]
mod tests;
