//! The environment variables. No other file of the command line reads them.

use std::env;
use std::path::PathBuf;

use secrecy::SecretString;

/// The environment variables. An empty variable counts as unset.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// `LATCHKEY_SERVER`: the address of the server.
    pub(crate) server: Option<String>,
    /// `LATCHKEY_SOCKET`: the path of the server's local socket.
    pub(crate) socket: Option<PathBuf>,
    /// `LATCHKEY_DATA_DIR`: the server's data directory, which contains its socket.
    pub(crate) data_dir: Option<PathBuf>,
    /// `LATCHKEY_TOKEN`: an access token or an API token.
    pub(crate) token: Option<SecretString>,
    /// `LATCHKEY_TLS_CA`: the CA that signed the server's certificate.
    pub(crate) tls_ca: Option<PathBuf>,
    /// The directory of the stored login. `None` if neither `XDG_STATE_HOME` nor `HOME` is usable.
    pub(crate) state_dir: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables.
    pub(crate) fn read() -> Environment {
        Environment {
            server: variable("LATCHKEY_SERVER"),
            socket: variable("LATCHKEY_SOCKET").map(PathBuf::from),
            data_dir: variable("LATCHKEY_DATA_DIR").map(PathBuf::from),
            token: variable("LATCHKEY_TOKEN").map(SecretString::from),
            tls_ca: variable("LATCHKEY_TLS_CA").map(PathBuf::from),
            state_dir: state_dir(),
        }
    }
}

/// Relative paths are ignored, as the XDG Base Directory Specification demands.
fn state_dir() -> Option<PathBuf> {
    let stated = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = stated.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(base.join("latchkey"))
}

#[expect(clippy::disallowed_methods, reason = "the command line reads its few variables itself, here")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
