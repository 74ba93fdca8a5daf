//! What must happen once before the service runs: the schema, and the keys.

use std::path::Path;

use super::keys::{Keys, create_first_keys};
use super::seal::{SealError, SealKey};
use crate::effects::Effects;
use crate::error::Error;
use crate::store::keys::{SealedKey, key_discard_all, key_list};
use crate::store::{Store, WriteTx};

/// Why the server does not start. Each message says what to do.
#[derive(Debug)]
pub enum StartError {
    /// The database.
    Store(Error),
    /// The seal key.
    Seal(SealError),
    /// There are no keys yet, and no key to seal new ones with.
    NoSealKey {
        /// Where it was looked for.
        path: String,
    },
    /// The seal key is not the one that sealed the database.
    WrongSealKey {
        /// The file.
        path: String,
        /// Its fingerprint. None: there is no file.
        found: Option<String>,
        /// That of the key which sealed the database.
        wanted: String,
    },
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Store(Error::Internal(source)) => write!(f, "{source}"),
            StartError::Store(error) => {
                write!(f, "{error}")?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            StartError::Seal(error) => write!(f, "{error}"),
            StartError::NoSealKey { path } => write!(
                f,
                "the database is empty and there is no seal key at {path}\n\
                 All replicas need the same key, so none is made by itself here. Make one and give every replica a copy:\n\
                 \n    latchkeyd key new {path}\n    latchkeyd serve --seal-key-file {path} …"
            ),
            StartError::WrongSealKey { path, found, wanted } => {
                match found {
                    Some(found) => write!(f, "the seal key {path} has the fingerprint {found}, ")?,
                    None => write!(f, "there is no seal key at {path}, ")?,
                }
                write!(
                    f,
                    "but the database was sealed with {wanted}\n\
                     Restore the right key from the backup. If it is lost, all sessions end and signing keys are made \
                     anew with:\n\n    latchkeyd key replace --discard-sealed"
                )
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> StartError {
        StartError::Store(error)
    }
}

impl From<SealError> for StartError {
    fn from(error: SealError) -> StartError {
        StartError::Seal(error)
    }
}

/// Keys that are open.
pub struct OpenedKeys {
    pub(super) keys: Keys,
    pub(super) seal: SealKey,
}

/// Brings the schema up to date.
pub async fn migrate(store: &Store) -> Result<(), StartError> {
    Ok(store.migrate().await?.commit().await?)
}

/// Brings the schema up to date and opens the keys; makes them if there are none. One transaction, and one process at
/// a time. `may_create` says whether a seal key may be made where there is none: for the embedded database, and not
/// for replicas, which must share one.
pub async fn open_keys(
    store: &Store,
    effects: &Effects,
    path: &Path,
    may_create: bool,
) -> Result<OpenedKeys, StartError> {
    let tx = store.migrate().await?;
    let stored = key_list(&*tx, true).await?;
    let opened = match stored.first() {
        Some(first) => open_existing(path, first, &stored)?,
        None => create(&tx, effects, path, may_create).await?,
    };
    tx.commit().await?;
    Ok(opened)
}

fn open_existing(path: &Path, first: &SealedKey, stored: &[SealedKey]) -> Result<OpenedKeys, StartError> {
    let wrong = |found| StartError::WrongSealKey {
        path: path.display().to_string(),
        found,
        wanted: first.seal_fingerprint.clone(),
    };
    let seal = match SealKey::read(path) {
        Ok(seal) => seal,
        Err(SealError::Missing(_)) => return Err(wrong(None)),
        Err(error) => return Err(error.into()),
    };
    if seal.fingerprint() != first.seal_fingerprint {
        return Err(wrong(Some(seal.fingerprint().to_owned())));
    }
    Ok(OpenedKeys { keys: Keys::open(&seal, stored)?, seal })
}

async fn create(tx: &WriteTx, effects: &Effects, path: &Path, may_create: bool) -> Result<OpenedKeys, StartError> {
    let seal = match SealKey::read(path) {
        Ok(seal) => seal,
        Err(SealError::Missing(_)) if may_create => SealKey::create(path, effects)?,
        Err(SealError::Missing(path)) => {
            return Err(StartError::NoSealKey { path: path.display().to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let stored = create_first_keys(&**tx, &seal, effects).await?;
    Ok(OpenedKeys { keys: Keys::open(&seal, &stored)?, seal })
}

/// Discards every sealed key and seals new ones: for an operator who lost the seal key. All sessions end, since their
/// refresh tokens can no longer be verified. Answers how many keys were discarded.
pub async fn replace_seal_key(store: &Store, effects: &Effects, path: &Path) -> Result<u64, StartError> {
    let tx = store.migrate().await?;
    let discarded = key_discard_all(&*tx).await?;
    create(&tx, effects, path, true).await?;
    tx.commit().await?;
    Ok(discarded)
}
