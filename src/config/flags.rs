//! The command-line flags for configuration keys.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::keys;

/// The flags that set configuration keys. They override the environment and the file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct Flags {
    /// A TOML file to read; without it, the one that `LATCHKEY_CONFIG` names, or none
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The key `data_dir`.
    #[arg(long, value_name = "DIR", help = about("data_dir"))]
    pub data_dir: Option<String>,
    /// The key `listen`.
    #[arg(long, value_name = "ADDR:PORT", help = about("listen"))]
    pub listen: Option<String>,
    /// The key `http_listen`.
    #[arg(long, value_name = "ADDR:PORT", help = about("http_listen"))]
    pub http_listen: Option<String>,
    /// The key `pages.listen`.
    #[arg(long, value_name = "ADDR:PORT", help = about("pages.listen"))]
    pub pages_listen: Option<String>,
    /// The key `database_url`.
    #[arg(long, value_name = "URL", value_parser = hide, help = about("database_url"))]
    pub database_url: Option<SecretString>,
    /// The key `socket`.
    #[arg(long, value_name = "PATH", help = about("socket"))]
    pub socket: Option<String>,
    /// The key `seal_key_file`.
    #[arg(long, value_name = "FILE", help = about("seal_key_file"))]
    pub seal_key_file: Option<String>,
    /// The key `insecure_plaintext`.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help = about("insecure_plaintext")
    )]
    pub insecure_plaintext: Option<String>,
    /// The key `tls.cert`.
    #[arg(long, value_name = "FILE", help = about("tls.cert"))]
    pub tls_cert: Option<String>,
    /// The key `tls.key`.
    #[arg(long, value_name = "FILE", help = about("tls.key"))]
    pub tls_key: Option<String>,
    /// The key `tls.client_ca`.
    #[arg(long, value_name = "FILE", help = about("tls.client_ca"))]
    pub tls_client_ca: Option<String>,
    /// The key `log.format`.
    #[arg(long, value_name = "FORMAT", help = about("log.format"))]
    pub log_format: Option<String>,
    /// The key `log.level`.
    #[arg(long, value_name = "FILTER", help = about("log.level"))]
    pub log_level: Option<String>,
    /// Sets any key, such as `--set session.idle=30m`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = hide)]
    pub set: Vec<SecretString>,
}

impl Flags {
    /// Each key with a flag of its own, and the value of that flag.
    pub(super) fn given(&self) -> [(&'static str, Option<&str>); 13] {
        [
            ("data_dir", self.data_dir.as_deref()),
            ("listen", self.listen.as_deref()),
            ("http_listen", self.http_listen.as_deref()),
            ("pages.listen", self.pages_listen.as_deref()),
            ("database_url", self.database_url.as_ref().map(ExposeSecret::expose_secret)),
            ("socket", self.socket.as_deref()),
            ("seal_key_file", self.seal_key_file.as_deref()),
            ("insecure_plaintext", self.insecure_plaintext.as_deref()),
            ("tls.cert", self.tls_cert.as_deref()),
            ("tls.key", self.tls_key.as_deref()),
            ("tls.client_ca", self.tls_client_ca.as_deref()),
            ("log.format", self.log_format.as_deref()),
            ("log.level", self.log_level.as_deref()),
        ]
    }
}

/// The help text of a flag: the first sentence of the key's description.
fn about(name: &str) -> &'static str {
    let doc = keys::all().find(|key| key.name == name).map_or("", |key| key.doc.trim());
    doc.split_once(". ").map_or(doc.trim_end_matches('.'), |(sentence, _)| sentence)
}

/// Parses a value that may contain a password. Every value is accepted here, because clap repeats a value that it rejects.
#[expect(clippy::unnecessary_wraps, reason = "the form that clap asks for")]
fn hide(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}
