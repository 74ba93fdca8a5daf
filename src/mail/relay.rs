//! The relay: the server that takes our mail, and what a connection to it needs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::config::{DeliveryLimits, RelayUrl, Security};

/// Shown in place of a secret.
pub(super) const HIDDEN: &str = "***";

/// The relay and everything that a connection to it needs.
#[derive(Debug)]
pub struct Relay {
    pub(super) url: RelayUrl,
    pub(super) credentials: Option<Credentials>,
    /// The name for `EHLO`. `None`: the address of the connection.
    pub(super) hello: Option<String>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) limits: DeliveryLimits,
}

/// User and password.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: SecretString,
}

/// Why a relay cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A file cannot be read.
    #[error("{key}: cannot read {path}: {source}", path = path.display())]
    Io {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The password file is not one line of text.
    #[error("mail.smtp.password_file: {} must contain the password as one line of text", .0.display())]
    NoPassword(PathBuf),
    /// Other users can read the password.
    #[error(
        "mail.smtp.password_file: {path} can be read by other users (mode {1:04o}); run: chmod o= {path}",
        path = .0.display()
    )]
    TooOpen(PathBuf, u32),
    /// The file of the CA is not usable.
    #[error("mail.smtp.ca: {path} must be PEM, with at least one certificate: {1}", path = .0.display())]
    NoCa(PathBuf, String),
    /// There is nothing to check the relay's certificate against.
    #[error("this system has no trusted CAs; name the CA of the relay with mail.smtp.ca")]
    NoTrust,
}

impl Relay {
    /// Reads the files that a connection needs.
    ///
    /// # Errors
    ///
    /// A file that is missing or not usable, or a password that other users can read.
    pub fn load(
        url: RelayUrl,
        password_file: Option<&Path>,
        ca: Option<&Path>,
        hello: Option<String>,
    ) -> Result<Relay, RelayError> {
        let password = password_file.map(read_password).transpose()?;
        let credentials = url.user.clone().zip(password).map(|(user, password)| Credentials { user, password });
        let roots = roots(&url, ca)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(|_| RelayError::NoTrust)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Relay { url, credentials, hello, tls: Arc::new(tls), limits: DeliveryLimits::default() })
    }

    /// All that is wrong with the files.
    pub(super) fn faults(url: &RelayUrl, password_file: Option<&Path>, ca: Option<&Path>) -> Vec<RelayError> {
        let password = password_file.and_then(|path| read_password(path).err());
        password.into_iter().chain(roots(url, ca).err()).collect()
    }

    /// Sets how long the steps may take.
    #[must_use]
    pub fn with_limits(mut self, limits: DeliveryLimits) -> Relay {
        self.limits = limits;
        self
    }

    /// Where the relay is.
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// Replaces the password in a text of the server, in every form in which it was sent.
    pub(super) fn hide(&self, text: &str) -> String {
        let Some(credentials) = &self.credentials else { return text.to_owned() };
        let secrets = [credentials.plain(), encoded(credentials.password.expose_secret())];
        let bare = credentials.password.expose_secret();
        let forms = secrets.iter().map(|secret| secret.as_str()).chain([bare]);
        forms.fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
    }
}

impl Credentials {
    /// The initial response of `AUTH PLAIN` (RFC 4616).
    pub(super) fn plain(&self) -> Zeroizing<String> {
        let message = Zeroizing::new(format!("\0{}\0{}", self.user, self.password.expose_secret()));
        encoded(&message)
    }
}

/// Base64, as `AUTH` wants everything.
pub(super) fn encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(text.as_bytes()))
}

/// Reads the password. Its group may be able to read it, other users may not.
fn read_password(path: &Path) -> Result<SecretString, RelayError> {
    use std::os::unix::fs::PermissionsExt;
    let io = |source| RelayError::Io { key: "mail.smtp.password_file", path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(RelayError::TooOpen(path.to_owned(), mode));
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(io)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| RelayError::NoPassword(path.to_owned()))?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(RelayError::NoPassword(path.to_owned()));
    }
    Ok(SecretString::from(line))
}

/// The CAs whose certificates are trusted: those of the file, or else those of the system. None without TLS.
fn roots(url: &RelayUrl, ca: Option<&Path>) -> Result<RootCertStore, RelayError> {
    let mut roots = RootCertStore::empty();
    if url.security == Security::Plain {
        return Ok(roots);
    }
    let Some(path) = ca else {
        // A CA that cannot be read is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(RelayError::NoTrust) } else { Ok(roots) };
    };
    let bytes = std::fs::read(path);
    let bytes = bytes.map_err(|source| RelayError::Io { key: "mail.smtp.ca", path: path.to_owned(), source })?;
    let unusable = |why: String| RelayError::NoCa(path.to_owned(), why);
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unusable("there is none in it".to_owned())) } else { Ok(roots) }
}
