//! The environment: read here and nowhere else.

use std::env;
use std::path::PathBuf;

use secrecy::SecretString;

/// What the environment says. A variable that is empty counts as unset.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// `LATCHKEY_SERVER`: where the server is.
    pub(crate) server: Option<String>,
    /// `LATCHKEY_SOCKET`: where its local socket is.
    pub(crate) socket: Option<PathBuf>,
    /// `LATCHKEY_DATA_DIR`: the server's directory, which holds its socket.
    pub(crate) data_dir: Option<PathBuf>,
    /// `LATCHKEY_TOKEN`: an access token or an API token.
    pub(crate) token: Option<SecretString>,
    /// `LATCHKEY_TLS_CA`: the CA that signed the server's certificate.
    pub(crate) tls_ca: Option<PathBuf>,
    /// The directory for the stored login, if the environment lets one be found.
    pub(crate) state_dir: Option<PathBuf>,
}

impl Environment {
    /// Reads it.
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

/// As the XDG Base Directory Specification has it: a relative path is to be ignored.
fn state_dir() -> Option<PathBuf> {
    let stated = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = stated.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(base.join("latchkey"))
}

#[expect(clippy::disallowed_methods, reason = "the command line reads its few variables itself, here")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
