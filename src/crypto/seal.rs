//! The seal key: a file outside the database, without which nothing that is sealed in it can be read.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use zeroize::Zeroizing;

use crate::domain::secret::Digest32;
use crate::effects::Effects;

/// What the file begins with, so that another file is not taken for one.
const HEADER: &str = "latchkey-seal-key-1:";

/// Why a seal key cannot be had. The messages name the file and what to do.
#[derive(Debug)]
pub enum SealError {
    /// There is no such file.
    Missing(PathBuf),
    /// It cannot be read or written.
    Io(PathBuf, std::io::Error),
    /// Others than its owner can read it.
    TooOpen(PathBuf, u32),
    /// It holds something else.
    Malformed(PathBuf),
    /// A new one would take its place.
    Exists(PathBuf),
}

impl std::fmt::Display for SealError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SealError::Missing(path) => write!(f, "there is no seal key at {}", path.display()),
            SealError::Io(path, error) => write!(f, "the seal key {}: {error}", path.display()),
            SealError::TooOpen(path, mode) => write!(
                f,
                "the seal key {} can be read by others (mode {mode:04o}); run: chmod 600 {}",
                path.display(),
                path.display()
            ),
            SealError::Malformed(path) => {
                write!(f, "{} does not hold a seal key; restore it from the backup", path.display())
            }
            SealError::Exists(path) => {
                write!(f, "{} is there already, and may be the only copy of a key; choose another name", path.display())
            }
        }
    }
}

impl std::error::Error for SealError {}

/// AES-256-GCM under the key of the file.
pub struct SealKey {
    key: LessSafeKey,
    fingerprint: String,
}

impl SealKey {
    /// Reads the key.
    pub fn read(path: &Path) -> Result<SealKey, SealError> {
        let io = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => SealError::Missing(path.to_owned()),
            _ => SealError::Io(path.to_owned(), error),
        };
        let found = std::fs::metadata(path).map_err(io)?;
        if !found.is_file() {
            return Err(SealError::Malformed(path.to_owned()));
        }
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealError::TooOpen(path.to_owned(), mode));
        }
        let bytes = Zeroizing::new(std::fs::read(path).map_err(io)?);
        let parsed = std::str::from_utf8(&bytes).ok().and_then(SealKey::parse);
        parsed.ok_or_else(|| SealError::Malformed(path.to_owned()))
    }

    /// Makes a key and writes it, to a file that must not exist yet. The file has its name only once it is whole.
    pub fn create(path: &Path, effects: &Effects) -> Result<SealKey, SealError> {
        let bytes = Zeroizing::new(effects.bytes::<32>());
        let text = Zeroizing::new(format!("{HEADER}{}\n", BASE64URL_NOPAD.encode(bytes.as_slice())));
        write_new(path, text.as_bytes()).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => SealError::Exists(path.to_owned()),
            _ => SealError::Io(path.to_owned(), error),
        })?;
        SealKey::parse(&text).ok_or_else(|| SealError::Malformed(path.to_owned()))
    }

    fn parse(text: &str) -> Option<SealKey> {
        let encoded = text.trim_end().strip_prefix(HEADER)?;
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?);
        SealKey::of(&bytes)
    }

    /// The AEAD under these 32 bytes.
    pub(super) fn of(bytes: &[u8]) -> Option<SealKey> {
        let digest = Digest32::sha256(&[b"latchkey seal key fingerprint", bytes].concat());
        let fingerprint = HEXLOWER.encode(digest.as_bytes().get(..8)?);
        Some(SealKey { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?), fingerprint })
    }

    /// Tells one key from another, and nothing about either.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Seals `plain`, bound to `context`: it opens in no other place.
    pub fn seal(&self, effects: &Effects, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let nonce = effects.bytes::<NONCE_LEN>();
        let mut in_out = plain.to_vec();
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut in_out).ok()?;
        Some([nonce.as_slice(), &in_out].concat())
    }

    /// The reverse of [`SealKey::seal`].
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, in_out) = sealed.split_at_checked(NONCE_LEN)?;
        let mut in_out = Zeroizing::new(in_out.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.key.open_in_place(nonce, Aad::from(context), &mut in_out).ok()?.len();
        in_out.truncate(length);
        Some(in_out)
    }
}

/// Writes a file that is not there yet, for its owner alone: all of it, or no file of this name. What is there is never
/// written over.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".seal-key-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    // The name too must outlive a power cut: the database is useless without this file.
    std::fs::File::open(folder)?.sync_all()
}
