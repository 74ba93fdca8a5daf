//! The location of the database, and its text form without the password.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::formats;
use super::key::{Allowed, Value};
use super::problem::{Origin, Problems};

/// The file name of the default database.
const FILE_NAME: &str = "latchkey.db";

/// The accepted values of `database_url`.
pub(super) const DATABASE_URL: Allowed = Allowed::Text(
    "`sqlite:PATH`, `postgres://USER@HOST/DATABASE`, or `file:PATH` for a file that contains such a URL",
    |text| DatabaseUrl::read(text).is_some(),
);

/// Parameters of a `PostgreSQL` URL that may be printed. Any other parameter could be a secret.
const SHOWN_PARAMETERS: [&str; 8] =
    ["application_name", "dbname", "host", "hostaddr", "port", "sslmode", "sslrootcert", "user"];

/// The database of the server.
#[derive(Debug, Clone)]
pub enum Database {
    /// `SQLite`: one file on this machine, owned by one process.
    Sqlite {
        /// The file. It is created if it is missing.
        path: PathBuf,
    },
    /// `PostgreSQL`, or an engine that speaks its protocol.
    Postgres {
        /// The connection URL, which may contain a password.
        url: SecretString,
    },
}

/// The value of `database_url`, before the data directory is known and a file is read.
#[derive(Debug, Clone)]
pub(super) enum DatabaseUrl {
    /// The default: a `SQLite` file in the data directory.
    InDataDir,
    /// The URL of a database.
    Named(Database),
    /// A file that contains the URL, so that a password is in neither arguments nor environment.
    InFile(PathBuf),
}

impl Database {
    /// The default database.
    pub(super) fn default_in(data_dir: &Path) -> Self {
        Self::Sqlite { path: data_dir.join(FILE_NAME) }
    }

    /// Returns whether the URL contains a password, or something that could be one.
    pub(super) fn has_password(&self) -> bool {
        match self {
            Self::Postgres { url } => mask(url.expose_secret()).contains(MASK),
            Self::Sqlite { .. } => false,
        }
    }
}

/// Reads the database URL from a file. No message repeats the content of the file.
pub(super) fn read_from_file(
    path: &Path,
    origin: Origin,
    read_file: &impl Fn(&Path) -> io::Result<String>,
    problems: &mut Problems,
) -> Option<Database> {
    let shown = path.display().to_string();
    let text = match read_file(path) {
        Ok(text) => SecretString::from(text),
        Err(error) => {
            let message = format!("database_url: cannot read {shown:?}: {error}");
            problems.add(origin, message);
            return None;
        }
    };
    let database = Database::read(text.expose_secret().trim());
    if database.is_none() {
        let message = format!(
            "database_url: the file {shown:?} must contain one URL, `sqlite:PATH` or \
             `postgres://USER:PASSWORD@HOST/DATABASE`, with `@`, `/`, `?` and `#` in the password \
             percent-encoded"
        );
        problems.add(origin, message);
    }
    database
}

impl Value for DatabaseUrl {
    fn read(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("file:") {
            return formats::is_path(path).then(|| Self::InFile(PathBuf::from(path)));
        }
        Database::read(text).map(Self::Named)
    }

    fn write(&self) -> String {
        match self {
            Self::InDataDir => format!("sqlite:<data_dir>/{FILE_NAME}"),
            Self::Named(database) => database.write(),
            Self::InFile(path) => format!("file:{}", path.display()),
        }
    }
}

impl Value for Database {
    fn read(text: &str) -> Option<Self> {
        if let Some(path) = strip_sqlite(text) {
            // Other programs read parameters after `?`. A database in memory would lose all users.
            let is_file = formats::is_path(path) && path != ":memory:" && !path.contains('?');
            return is_file.then(|| Self::Sqlite { path: PathBuf::from(path) });
        }
        is_postgres(text).then(|| Self::Postgres { url: SecretString::from(text) })
    }

    fn write(&self) -> String {
        match self {
            Self::Sqlite { path } => format!("sqlite:{}", path.display()),
            Self::Postgres { url } => mask(url.expose_secret()),
        }
    }
}

/// A path that is in the data directory by default.
#[derive(Debug, Clone)]
pub(super) enum DataPath {
    /// The default: a file of this name in the data directory.
    InDataDir(&'static str),
    /// Any other path.
    At(PathBuf),
}

impl DataPath {
    /// Resolves the path.
    pub(super) fn resolve(self, data_dir: &Path) -> PathBuf {
        match self {
            Self::InDataDir(name) => data_dir.join(name),
            Self::At(path) => path,
        }
    }
}

impl Value for DataPath {
    fn read(text: &str) -> Option<Self> {
        Some(Self::At(PathBuf::from(text)))
    }

    fn write(&self) -> String {
        match self {
            Self::InDataDir(name) => format!("<data_dir>/{name}"),
            Self::At(path) => path.display().to_string(),
        }
    }
}

/// The path of `sqlite:PATH` or `sqlite://PATH`.
fn strip_sqlite(text: &str) -> Option<&str> {
    text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"))
}

/// The parts of a `PostgreSQL` URL.
struct PostgresUrl<'a> {
    scheme: &'a str,
    /// `user` or `user:password`.
    credentials: Option<&'a str>,
    /// `host`, `host:port` or nothing.
    host: &'a str,
    /// `/database` or nothing.
    path: &'a str,
    /// `name=value`, with `&` between.
    parameters: Option<&'a str>,
}

impl<'a> PostgresUrl<'a> {
    /// Parses a URL. An `@`, `/` or `?` in a password must be percent-encoded. Otherwise the parts would be ambiguous, and
    /// `mask` could miss a part of the password.
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if text.contains(|c: char| c == '#' || c.is_whitespace() || c.is_control()) {
            return None;
        }
        let (before, parameters) = rest.split_once('?').map_or((rest, None), |(before, after)| (before, Some(after)));
        let (authority, path) = before.find('/').and_then(|at| before.split_at_checked(at)).unwrap_or((before, ""));
        let (credentials, host) =
            authority.split_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let has_stray_at = [host, path, parameters.unwrap_or_default()].iter().any(|part| part.contains('@'));
        (!has_stray_at).then_some(Self { scheme, credentials, host, path, parameters })
    }
}

fn is_postgres(text: &str) -> bool {
    let Some(url) = PostgresUrl::parse(text) else {
        return false;
    };
    let after_name = match url.host.split_once(']') {
        Some((_, after_bracket)) => after_bracket,
        None => url.host.find(':').map_or("", |at| url.host.split_at(at).1),
    };
    let port = after_name.strip_prefix(':');
    ["postgres", "postgresql"].contains(&url.scheme)
        && (after_name.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok()))
}

/// The text in place of a secret.
const MASK: &str = "***";

/// The URL without its secrets.
fn mask(text: &str) -> String {
    let Some(url) = PostgresUrl::parse(text) else {
        return MASK.to_owned();
    };
    let credentials = url.credentials.map(|credentials| {
        credentials.split_once(':').map_or(format!("{credentials}@"), |(user, _)| format!("{user}:{MASK}@"))
    });
    let parameters = url.parameters.map(|parameters| {
        let shown: Vec<String> = parameters.split('&').map(mask_parameter).collect();
        format!("?{}", shown.join("&"))
    });
    format!(
        "{}://{}{}{}{}",
        url.scheme,
        credentials.unwrap_or_default(),
        url.host,
        url.path,
        parameters.unwrap_or_default()
    )
}

fn mask_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if SHOWN_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.to_owned(),
    }
}
