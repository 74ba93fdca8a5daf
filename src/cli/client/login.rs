//! The stored login: one file that only its owner can read.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tls::Trust;
use crate::cli::env::Environment;
use crate::cli::error::{Error, Exit};
use crate::proto::v1::TokenSet;

/// How long to wait for another process that renews the same login. Longer than the timeout of a call.
const LOCK_PATIENCE: Duration = Duration::from_secs(40);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// A token with less time left is renewed before a call, since the call itself takes time.
const MARGIN_SECONDS: i64 = 30;

/// The contents of the file. The tokens are secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The server that issued it, as [`Target`](super::target::Target) prints it.
    pub(crate) server: String,
    /// The TLS settings for that server.
    #[serde(default)]
    pub(crate) trust: Trust,
    /// The name that the user signed in with.
    pub(crate) username: String,
    /// The id of the session.
    pub(crate) session_id: String,
    /// The access token.
    pub(crate) access_token: String,
    /// The expiry of the access token, in seconds since 1970.
    pub(crate) access_expire_second: i64,
    /// The refresh token.
    pub(crate) refresh_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("server", &self.server).field("username", &self.username).finish_non_exhaustive()
    }
}

impl Login {
    /// A login with the tokens that a server issued to `username`.
    pub(crate) fn new(server: String, trust: Trust, username: String, tokens: TokenSet) -> Login {
        Login { server, trust, username, ..Login::default() }.renewed(tokens)
    }

    /// The login with newer tokens.
    #[must_use]
    pub(crate) fn renewed(self, tokens: TokenSet) -> Login {
        Login {
            access_expire_second: tokens.access_expire_time.map_or(0, |end| end.seconds),
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            session_id: tokens.session_id,
            ..self
        }
    }

    /// Whether the access token is valid long enough for a call that starts now.
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        self.access_expire_second.saturating_sub(now.as_second()) > MARGIN_SECONDS
    }
}

/// A device token, by the server and the name that it was issued for. It survives the login.
#[derive(Clone, Serialize, Deserialize)]
struct Device {
    server: String,
    username: String,
    token: String,
}

/// The most device tokens in the file. The oldest is forgotten first.
const MAX_DEVICES: usize = 20;

/// The directory of the stored login.
#[derive(Debug, Clone)]
pub(crate) struct LoginStore {
    directory: PathBuf,
}

/// A file lock, held while a login is replaced. Dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl LoginStore {
    /// A store in the user's state directory.
    pub(crate) fn new(environment: &Environment) -> Result<LoginStore, Error> {
        let directory = environment.state_dir.clone().ok_or_else(|| {
            Error::stopped(Exit::Usage, "there is no directory for the login").hint("set HOME or XDG_STATE_HOME")
        })?;
        Ok(LoginStore { directory })
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("login.json")
    }

    /// Reads the login. `None` if there is none. Refuses a file that other users can read: its secrets may have leaked.
    pub(crate) fn read(&self) -> Result<Option<Login>, Error> {
        let path = self.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(self.fault("read", &fault)),
        };
        let mode = fs::metadata(&path).map_err(|fault| self.fault("read", &fault))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::unexpected(format!("{} can be read by others", path.display()))
                .hint("end that session and sign in again: `latchkey login`"));
        }
        serde_json::from_str(&text).map(Some).map_err(|_| {
            Error::unexpected(format!("{} does not contain a login", path.display()))
                .hint("sign in again: `latchkey login`")
        })
    }

    /// Writes the login atomically.
    pub(crate) fn write(&self, login: &Login) -> Result<(), Error> {
        self.write_json(&self.path(), login)
    }

    /// Returns the device token that the server issued to this name, or an empty text. A file that cannot be read is no reason
    /// not to sign in.
    pub(crate) fn device_token(&self, server: &str, username: &str) -> String {
        let mut devices = self.devices().into_iter();
        let device = devices.find(|device| device.server == server && device.username == username);
        device.map(|device| device.token).unwrap_or_default()
    }

    /// Stores the device token that a sign-in returned. A server that is too old returns none.
    pub(crate) fn keep_device_token(&self, server: &str, username: &str, token: String) -> Result<(), Error> {
        if token.is_empty() {
            return Ok(());
        }
        let mut devices = self.devices();
        devices.retain(|device| device.server != server || device.username != username);
        devices.insert(0, Device { server: server.to_owned(), username: username.to_owned(), token });
        devices.truncate(MAX_DEVICES);
        self.write_json(&self.devices_path(), &devices)
    }

    fn devices(&self) -> Vec<Device> {
        let text = fs::read_to_string(self.devices_path()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn devices_path(&self) -> PathBuf {
        self.directory.join("devices.json")
    }

    /// Removes the login. Returns whether there was one.
    pub(crate) fn remove(&self) -> Result<bool, Error> {
        match fs::remove_file(self.path()) {
            Ok(()) => Ok(true),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(fault) => Err(self.fault("remove", &fault)),
        }
    }

    /// Waits until no other process holds the lock. A refresh token works once: if two processes used it, the server would
    /// end the session.
    pub(crate) async fn lock(&self) -> Result<Lock, Error> {
        self.create_directory().map_err(|fault| self.fault("lock", &fault))?;
        let path = self.directory.join("login.lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|fault| self.fault("lock", &fault))?;
        let turns = LOCK_PATIENCE.as_millis() / LOCK_PAUSE.as_millis();
        for _ in 0..turns {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(TryLockError::Error(fault)) => return Err(self.fault("lock", &fault)),
            }
        }
        Err(Error::unexpected("another process keeps the stored login locked").hint("try again"))
    }

    fn create_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    fn write_json(&self, path: &Path, content: &impl Serialize) -> Result<(), Error> {
        let fault = |fault: &dyn fmt::Display| Error::unexpected(format!("cannot write {}: {fault}", path.display()));
        let text = serde_json::to_string_pretty(content).map_err(|error| fault(&error))?;
        self.write_file(path, &text).map_err(|error| fault(&error))
    }

    /// Replaces the file by a temporary one, which only its owner can read and whose name is unpredictable.
    fn write_file(&self, path: &Path, text: &str) -> io::Result<()> {
        self.create_directory()?;
        let mut draft = tempfile::Builder::new().prefix("login.json.").tempfile_in(&self.directory)?;
        draft.write_all(text.as_bytes())?;
        draft.as_file().sync_all()?;
        draft.persist(path)?;
        Ok(())
    }

    fn fault(&self, verb: &str, fault: &io::Error) -> Error {
        Error::unexpected(format!("cannot {verb} {}: {fault}", self.path().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn store(directory: &tempfile::TempDir) -> LoginStore {
        LoginStore { directory: directory.path().join("state/latchkey") }
    }

    fn failed(error: &Error) -> String {
        format!("{error:?}")
    }

    #[test]
    fn a_login_survives_its_file_and_is_for_its_owner_alone() -> Outcome {
        let directory = tempfile::tempdir()?;
        let store = store(&directory);
        let login = Login { server: "http://a:1".into(), refresh_token: "lkr_x".into(), ..Login::default() };
        assert!(store.read().map_err(|error| failed(&error))?.is_none());
        store.write(&login).map_err(|error| failed(&error))?;
        store.write(&login).map_err(|error| failed(&error))?;
        let read = store.read().map_err(|error| failed(&error))?;
        assert_eq!(read.map(|login| login.refresh_token).as_deref(), Some("lkr_x"));
        assert_eq!(fs::metadata(store.path())?.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&store.directory)?.permissions().mode() & 0o777, 0o700);
        assert!(store.remove().is_ok_and(|was| was));
        assert!(store.remove().is_ok_and(|was| !was));
        Ok(())
    }

    #[test]
    fn a_device_token_survives_the_login_and_is_found_by_server_and_name() -> Outcome {
        let directory = tempfile::tempdir()?;
        let store = store(&directory);
        assert_eq!(store.device_token("http://a:1", "ada"), "");
        for number in 0..MAX_DEVICES + 3 {
            let (server, token) = (format!("http://a:{number}"), format!("lkd_{number}"));
            store.keep_device_token(&server, "ada", token).map_err(|error| failed(&error))?;
        }
        store.keep_device_token("http://a:5", "ada", "lkd_new".into()).map_err(|error| failed(&error))?;
        store.keep_device_token("http://a:5", "ada", String::new()).map_err(|error| failed(&error))?;
        assert_eq!(store.device_token("http://a:5", "ada"), "lkd_new");
        assert_eq!(store.device_token("http://a:6", "ada"), "lkd_6");
        assert_eq!(store.device_token("http://a:5", "bob"), "");
        assert_eq!(store.device_token("http://a:1", "ada"), "", "the oldest is forgotten");
        assert_eq!(store.devices().len(), MAX_DEVICES);
        store.write(&Login::default()).map_err(|error| failed(&error))?;
        assert!(store.remove().is_ok_and(|was| was));
        assert_eq!(store.device_token("http://a:6", "ada"), "lkd_6");
        assert_eq!(fs::metadata(store.devices_path())?.permissions().mode() & 0o777, 0o600);
        fs::write(store.devices_path(), "{")?;
        assert_eq!(store.device_token("http://a:6", "ada"), "");
        Ok(())
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() -> Outcome {
        let directory = tempfile::tempdir()?;
        let store = store(&directory);
        store.write(&Login::default()).map_err(|error| failed(&error))?;
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o640))?;
        assert!(store.read().is_err());
        Ok(())
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let login = Login { access_token: "eyJ".into(), refresh_token: "lkr_x".into(), ..Login::default() };
        let text = format!("{login:?}");
        assert!(!text.contains("eyJ") && !text.contains("lkr_"), "{text}");
    }

    #[test]
    fn a_token_that_is_about_to_end_is_not_fresh() -> Outcome {
        let end: Timestamp = "2026-11-25T08:00:00Z".parse()?;
        let login = Login { access_expire_second: end.as_second(), ..Login::default() };
        assert!(login.is_fresh("2026-11-25T07:59:00Z".parse()?));
        assert!(!login.is_fresh("2026-11-25T07:59:40Z".parse()?));
        assert!(!Login::default().is_fresh(end));
        Ok(())
    }
}
