//! Certificates for tests, generated on demand.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A test CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Creates a CA.
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes the CA's own certificate.
    pub fn write(&self, path: &Path) -> PathBuf {
        write(path, &self.pem);
        path.to_owned()
    }

    /// Writes a certificate for these names, and its key.
    pub fn issue(&self, names: &[&str], certificate: &Path, key: &Path) {
        self.issue_with(names, certificate, key, |_| {});
    }

    /// As `issue`, with changed parameters.
    pub fn issue_with(
        &self,
        names: &[&str],
        certificate: &Path,
        key: &Path,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let pair = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        change(&mut params);
        write(certificate, &params.signed_by(&pair, &self.issuer).expect("a certificate").pem());
        write(key, &pair.serialize_pem());
    }
}

/// Replaces the file in one step, as programs that renew certificates do.
fn write(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).expect("a file");
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::rename(&draft, path).expect("a file");
}
