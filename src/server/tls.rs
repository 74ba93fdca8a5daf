//! TLS certificates: read at the start, and again when their files change.
//!
//! Certificate, key and client CA are replaced together, so a connection sees either all old or all new files. If the new
//! files are not usable, the server logs it and keeps the old ones.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::config;
use crate::environment::Environment;
use crate::metrics::{Metrics, Reload};

/// How often to check whether the files have changed. Certificates are renewed days before they expire.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// The TLS configuration for each protocol.
pub(super) struct TlsConfigs {
    /// HTTP/2, with client certificates if `tls.client_ca` is set.
    pub(super) grpc: Arc<ServerConfig>,
    /// HTTP/1, without client certificates: probes have none, and nothing here is secret.
    pub(super) http: Arc<ServerConfig>,
    /// When the certificate expires, in Unix seconds.
    not_after: u64,
}

/// Differs once a file was edited or replaced: modification time, length and inode number, symbolic links followed.
type FileVersion = (i64, i64, u64, u64);

/// The paths of `tls.cert`, `tls.key` and `tls.client_ca`.
#[derive(Debug, Clone)]
pub(super) struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// Why TLS is not available. Each message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Io(PathBuf, std::io::Error),
    /// Other users than its owner and group can read the key.
    #[error("the TLS key {path} can be read by other users (mode {1:04o}); run: chmod o= {path}", path = .0.display())]
    TooOpen(PathBuf, u32),
    /// A file has no certificate.
    #[error(
        "there is no certificate in {}; it must be PEM: lines between BEGIN CERTIFICATE and END CERTIFICATE, first \
         the server certificate and then intermediate CA certificates",
        .0.display()
    )]
    NoCertificate(PathBuf),
    /// The file has no key, or only one with a passphrase.
    #[error(
        "there is no key in {path}; it must be PEM (PKCS #8, PKCS #1 or SEC1) and have no passphrase: \
         openssl pkey -in KEY -out {path}",
        path = .0.display()
    )]
    NoKey(PathBuf),
    /// A file is damaged.
    #[error("{path} is not usable: {1}; replace it with an intact copy", path = .0.display())]
    Malformed(PathBuf, String),
    /// The key belongs to another certificate.
    #[error(
        "the key {} does not belong to the certificate {}; set tls.cert and tls.key to a matching pair",
        key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

impl TlsFiles {
    /// The files of the configuration, or `None` without TLS. The configuration has both certificate and key, or neither.
    pub(super) fn of(tls: &config::Tls) -> Option<TlsFiles> {
        let (certificate, key) = (tls.cert.clone()?, tls.key.clone()?);
        Some(TlsFiles { certificate, key, client_ca: tls.client_ca.clone() })
    }

    /// Reads the files.
    pub(super) async fn load(&self) -> Result<TlsConfigs, TlsError> {
        let chain = certificates(&self.certificate).await?;
        let not_after = not_after(&self.certificate, &chain)?;
        let key = private_key(&self.key).await?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let unusable = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            error => TlsError::Malformed(self.certificate.clone(), error.to_string()),
        };
        let mut http = server_config(&provider, None, chain.clone(), key.clone_key()).map_err(unusable)?;
        let verifier = match &self.client_ca {
            Some(path) => Some(verifier(path, &provider).await?),
            None => None,
        };
        let mut grpc = server_config(&provider, verifier, chain, key).map_err(unusable)?;
        grpc.alpn_protocols = vec![b"h2".to_vec()];
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConfigs { grpc: Arc::new(grpc), http: Arc::new(http), not_after })
    }

    /// All that is wrong with the files.
    pub(super) async fn faults(&self) -> Vec<TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut faults = Vec::new();
        faults.extend(certificates(&self.certificate).await.err());
        faults.extend(private_key(&self.key).await.err());
        if let Some(path) = &self.client_ca {
            faults.extend(verifier(path, &provider).await.err());
        }
        // Whether they belong together shows only once each can be read.
        if faults.is_empty() {
            faults.extend(self.load().await.err());
        }
        faults
    }

    /// The versions of the files; `None` for a file that is missing.
    async fn versions(&self) -> Vec<Option<FileVersion>> {
        let mut versions = Vec::new();
        for path in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            let found = tokio::fs::metadata(path).await.ok();
            versions.push(found.map(|found| (found.mtime(), found.mtime_nsec(), found.len(), found.ino())));
        }
        versions
    }
}

/// Reads the files again when they change.
pub(super) struct Reloader {
    files: TlsFiles,
    /// The versions of the files in use.
    versions: Vec<Option<FileVersion>>,
    /// Why the present files are not usable. Logged once.
    last_error: Option<String>,
    /// Whether the expiry of the certificate was logged.
    logged_expired: bool,
    current: watch::Sender<Arc<TlsConfigs>>,
    environment: Environment,
    metrics: Arc<Metrics>,
}

impl Reloader {
    /// Reads the files for the first time.
    pub(super) async fn start(
        files: TlsFiles,
        environment: Environment,
        metrics: Arc<Metrics>,
    ) -> Result<Reloader, TlsError> {
        // The versions are noted before the files are read, so that a change meanwhile is noticed.
        let versions = files.versions().await;
        let current = watch::Sender::new(Arc::new(files.load().await?));
        let mut reloader =
            Reloader { current, files, versions, last_error: None, logged_expired: false, environment, metrics };
        reloader.check_expiry();
        Ok(reloader)
    }

    /// The configurations in use, for the acceptors.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<TlsConfigs>> {
        self.current.subscribe()
    }

    /// Checks the files until the server stops. Reads them on `request` even if they have not changed.
    pub(super) async fn run(mut self, stop: CancellationToken, request: Arc<Notify>) {
        let mut ticks = tokio::time::interval(CHECK_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = request.notified() => {
                    self.versions.clear();
                    self.last_error = None;
                }
            }
            self.check_expiry();
            let versions = self.files.versions().await;
            if versions == self.versions {
                continue;
            }
            match self.files.load().await {
                Ok(tls) => {
                    (self.versions, self.last_error, self.logged_expired) = (versions, None, false);
                    self.current.send_replace(Arc::new(tls));
                    tracing::info!(file = %self.files.certificate.display(), "the TLS certificate was reloaded");
                    self.metrics.tls_reloaded(Reload::Taken);
                    self.check_expiry();
                }
                // Tried again at the next tick: some causes, such as a file mode or a lack of file descriptors, are fixed
                // without changing a file.
                Err(error) if self.last_error == Some(error.to_string()) => {}
                Err(error) => {
                    self.last_error = Some(error.to_string());
                    self.metrics.tls_reloaded(Reload::Refused);
                    tracing::error!(%error, "the new TLS files are not usable; the old certificate stays in use");
                }
            }
        }
    }

    /// Reports the expiry of the certificate as a metric, and logs once that it has passed.
    fn check_expiry(&mut self) {
        let not_after = self.current.borrow().not_after;
        self.metrics.certificate_ends(not_after);
        let now = u64::try_from(self.environment.now().as_unix_seconds()).unwrap_or_default();
        if not_after <= now && !self.logged_expired {
            self.logged_expired = true;
            let file = self.files.certificate.display();
            tracing::warn!(%file, "the TLS certificate has expired: clients will refuse it; renew it");
        }
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let config = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13, &TLS12])?;
    let config = match verifier {
        Some(verifier) => config.with_client_cert_verifier(verifier),
        None => config.with_no_client_auth(),
    };
    config.with_single_cert(chain, key)
}

/// Verifies that a client certificate is issued by one of the CAs in this file.
async fn verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let malformed = |fault: String| TlsError::Malformed(path.to_owned(), fault);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).await? {
        roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.build().map_err(|error| malformed(error.to_string()))
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = tokio::fs::read(path).await.map_err(|error| TlsError::Io(path.to_owned(), error))?;
    let read: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&text).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::NoCertificate(path.to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Malformed(path.to_owned(), error.to_string())),
    }
}

/// Reads the key. Its group may be able to read it, as some systems have a group for TLS keys; other users may not.
async fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let io = |error| TlsError::Io(path.to_owned(), error);
    let mode = tokio::fs::metadata(path).await.map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(TlsError::TooOpen(path.to_owned(), mode));
    }
    let text = Zeroizing::new(tokio::fs::read(path).await.map_err(io)?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::NoKey(path.to_owned()),
        // The error's own text could contain a part of the key.
        _ => TlsError::Malformed(path.to_owned(), "it is damaged".to_owned()),
    })
}

/// When the server's own certificate, the first of the chain, expires, in Unix seconds.
fn not_after(path: &Path, chain: &[CertificateDer<'static>]) -> Result<u64, TlsError> {
    let own = chain.first().ok_or_else(|| TlsError::NoCertificate(path.to_owned()))?;
    let read = x509_cert::Certificate::from_der(own);
    let read = read.map_err(|error| TlsError::Malformed(path.to_owned(), error.to_string()))?;
    Ok(read.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}
