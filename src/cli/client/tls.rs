//! TLS: certificates of server and client, connections, and explanations of failures.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;

use crate::cli::error::{Error, innermost};
use crate::cli::output::words::shell_word;

/// The timeout for finding out whether a server speaks TLS.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The TLS settings. A stored login keeps them.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
pub(crate) struct Trust {
    /// PEM file of the CA that signed the server's certificate, instead of those of the system
    /// [env: `LATCHKEY_TLS_CA`].
    #[arg(long, global = true, value_name = "FILE", help = TLS_CA_HELP)]
    tls_ca: Option<PathBuf>,
    /// PEM file with a certificate of your own, if the server wants one.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Send passwords and tokens to http:// of another host, where others may listen.
    // Needed each time: a stored login does not keep it.
    #[arg(long, global = true)]
    #[serde(skip)]
    insecure_plaintext: bool,
}

const TLS_CA_HELP: &str =
    "PEM file of the CA that signed the server's certificate, instead of those of the system [env: LATCHKEY_TLS_CA]";

impl Trust {
    /// Fills unset values from `other`. Makes paths absolute.
    pub(crate) fn or(self, other: Trust) -> Trust {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Trust {
            tls_ca: self.tls_ca.or(other.tls_ca).map(absolute),
            tls_cert: self.tls_cert.or(other.tls_cert).map(absolute),
            tls_key: self.tls_key.or(other.tls_key).map(absolute),
            insecure_plaintext: self.insecure_plaintext || other.insecure_plaintext,
        }
    }

    /// The settings with only a CA, as the environment can give them.
    pub(crate) fn of_ca(tls_ca: Option<PathBuf>) -> Trust {
        Trust { tls_ca, ..Trust::default() }
    }

    /// The first flag that asks for TLS, if one is set.
    pub(crate) fn flag(&self) -> Option<&'static str> {
        let flags = [("--tls-ca", &self.tls_ca), ("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key)];
        flags.into_iter().find_map(|(flag, path)| path.is_some().then_some(flag))
    }

    /// Returns whether to send secrets over a network in plain text.
    pub(crate) fn bears_plaintext(&self) -> bool {
        self.insecure_plaintext
    }

    /// The settings as options of this program.
    pub(crate) fn options(&self) -> impl Iterator<Item = String> {
        let files = [("--tls-ca", &self.tls_ca), ("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key)];
        let files = files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
        let files = files.map(|(flag, path)| format!("{flag} {}", shell_word(&path.to_string_lossy())));
        files.chain(self.insecure_plaintext.then(|| "--insecure-plaintext".to_owned()))
    }

    /// The same settings for grpcurl: pairs of flag and file.
    pub(crate) fn grpcurl(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [("-cacert", &self.tls_ca), ("-cert", &self.tls_cert), ("-key", &self.tls_key)];
        files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?)))
    }

    /// The configuration of rustls.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            config.map_err(|fault| Error::unexpected(fault.to_string()))?.with_root_certificates(self.roots()?);
        let mut config = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key_file = PrivateKeyDer::from_pem_file(key).map_err(|fault| unusable(key, &fault))?;
                config.with_client_auth_cert(chain, key_file).map_err(|fault| unusable(key, &fault))?
            }
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.tls_ca else {
            // A CA that cannot be read is not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Error::unexpected("this system has no trusted CAs")
                    .hint("name the CA of the server: `--tls-ca FILE`"));
            }
            return Ok(roots);
        };
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|fault| unusable(path, &fault))?;
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read = read.map_err(|fault| unusable(path, &fault))?;
    if read.is_empty() { Err(unusable(path, &"there is no certificate in it")) } else { Ok(read) }
}

fn unusable(path: &Path, fault: &dyn fmt::Display) -> Error {
    Error::usage(format!("cannot use {}: {fault}", path.display())).hint("it must be a PEM file")
}

/// Connects, with the TLS handshake.
pub(crate) async fn connect(uri: Uri, config: Arc<ClientConfig>) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(|fault: InvalidDnsNameError| io::Error::other(fault))?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(TokioIo::new(stream))
}

/// Returns whether the server answers a TLS handshake, be it with an alert. No certificate is trusted, so nothing but the
/// handshake is sent.
pub(crate) async fn is_spoken_at(uri: &Uri) -> bool {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let Ok(config) = config else { return false };
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    match tokio::time::timeout(PROBE_TIMEOUT, connect(uri.clone(), Arc::new(config))).await {
        Ok(Ok(_)) => true,
        Ok(Err(fault)) => match fault.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) | None => false,
            Some(_) => true,
        },
        Err(_) => false,
    }
}

/// The error and its hint. `None` if the failure has nothing to do with TLS.
pub(crate) fn explain(fault: &(dyn std::error::Error + 'static), place: &str) -> Option<Error> {
    let fault = innermost(fault);
    let tls: &rustls::Error = fault.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()?;
    let (what, way_out) = match tls {
        rustls::Error::InvalidCertificate(fault) => certificate(fault),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            let way_out = "leave out the --tls-… flags and LATCHKEY_TLS_CA";
            ("the server does not speak TLS".to_owned(), format!("{way_out}, and use http://{place}"))
        }
        rustls::Error::AlertReceived(alert) => alerted(*alert),
        other => (format!("TLS failed: {other}"), "`openssl s_client -connect` shows details".to_owned()),
    };
    Some(Error::unexpected(format!("cannot reach {place}: {what}")).hint(way_out))
}

fn certificate(fault: &CertificateError) -> (String, String) {
    match fault {
        CertificateError::UnknownIssuer => (
            "its certificate is signed by a CA that is not trusted here".to_owned(),
            "if that is your own CA, name its file: `--tls-ca FILE`, or LATCHKEY_TLS_CA".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "its certificate is for another name".to_owned(),
            "reach it by a name in its certificate, or check that this is the right server".to_owned(),
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "its certificate has expired".to_owned(),
            "the server's operator must renew it; check also the clock of this machine".to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("its certificate is not valid yet".to_owned(), "check the clock of this machine".to_owned())
        }
        // `openssl req -x509` makes such a certificate by default.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => (
            "its certificate is a CA's, not a server's".to_owned(),
            "make one for the server: `openssl req -x509 … -addext basicConstraints=critical,CA:FALSE`".to_owned(),
        ),
        other => (format!("its certificate is invalid: {other}"), "tell the server's operator".to_owned()),
    }
}

fn alerted(alert: AlertDescription) -> (String, String) {
    match alert {
        AlertDescription::CertificateRequired => (
            "the server requires a client certificate".to_owned(),
            "give it with `--tls-cert FILE --tls-key FILE`".to_owned(),
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::DecryptError
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => (
            format!("the server does not accept your certificate ({alert:?})"),
            "it must be signed by the CA of tls.client_ca: `--tls-cert FILE --tls-key FILE`".to_owned(),
        ),
        other => (
            format!("the server ended TLS ({other:?})"),
            "check that it is latchkeyd, which speaks TLS 1.2 and 1.3, and HTTP/2".to_owned(),
        ),
    }
}
