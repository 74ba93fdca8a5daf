//! The seal key, kept in a file outside the database. Nothing that is sealed in the database can be read without it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use zeroize::Zeroizing;

use crate::domain::secret::Digest32;
use crate::environment::Environment;

/// Header of the file, so that another file is not mistaken for a seal key.
const HEADER: &str = "latchkey-seal-key-1:";

/// Why a seal key cannot be read or created. The messages name the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file does not exist.
    #[error("there is no seal key at {}", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read or written.
    #[error("the seal key {path}: {1}", path = .0.display())]
    Io(PathBuf, std::io::Error),
    /// Users other than the owner can access the file. Holds its mode.
    #[error("the seal key {path} can be read by others (mode {1:04o}); run: chmod 600 {path}", path = .0.display())]
    TooOpen(PathBuf, u32),
    /// The file does not hold a seal key.
    #[error("{} does not hold a seal key; restore it from the backup", .0.display())]
    Malformed(PathBuf),
    /// The file exists already. A new key would overwrite it.
    #[error("{} is there already, and may be the only copy of a key; choose another name", .0.display())]
    Exists(PathBuf),
}

/// A key for authenticated encryption (AES-256-GCM): the seal key of the file, or one derived from a root key.
///
/// Sealed data is the 12-byte random nonce, followed by the ciphertext and its 16-byte tag.
pub struct SealKey {
    key: LessSafeKey,
    fingerprint: String,
}

impl SealKey {
    /// Reads the key from `path`.
    ///
    /// Fails if the file is missing, malformed, or accessible to users other than its owner.
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

    /// Creates a random key and writes it to `path`, which must not exist. The file appears under its name only when it is
    /// complete.
    pub fn create(path: &Path, environment: &Environment) -> Result<SealKey, SealError> {
        let bytes = Zeroizing::new(environment.bytes::<32>());
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

    /// Creates a key from 32 bytes. Returns `None` if the length differs.
    pub(super) fn of(bytes: &[u8]) -> Option<SealKey> {
        let digest = Digest32::sha256(&[b"latchkey seal key fingerprint", bytes].concat());
        let fingerprint = HEXLOWER.encode(digest.as_bytes().get(..8)?);
        Some(SealKey { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?), fingerprint })
    }

    /// Returns a short text that distinguishes keys without revealing them.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Encrypts and authenticates `plain`, bound to `context`: [`SealKey::open`] needs the same context. Returns `None` if the
    /// encryption fails.
    pub fn seal(&self, environment: &Environment, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let nonce = environment.bytes::<NONCE_LEN>();
        let mut in_out = plain.to_vec();
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut in_out).ok()?;
        Some([nonce.as_slice(), &in_out].concat())
    }

    /// Decrypts what [`SealKey::seal`] returned for the same `context`. Returns `None` if the data was altered, or was sealed
    /// with another key or context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, in_out) = sealed.split_at_checked(NONCE_LEN)?;
        let mut in_out = Zeroizing::new(in_out.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.key.open_in_place(nonce, Aad::from(context), &mut in_out).ok()?.len();
        in_out.truncate(length);
        Some(in_out)
    }
}

/// Writes a new file with access for its owner alone, completely or not at all. An existing file is never overwritten.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".seal-key-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    // Flush the directory too, so that the name survives a power cut: the database is useless without this file.
    std::fs::File::open(folder)?.sync_all()
}
