//! Preparing the database before the service runs: the schema and the keys.

use std::path::Path;

use crate::crypto::{Keys, SealError, SealKey, first_keys};
use crate::domain::audit::{Actor, EventType, Outcome, RecordedEvent, Target};
use crate::domain::caller::{Call, Principal};
use crate::domain::id::EventId;
use crate::domain::key::SealedKey;
use crate::environment::Environment;
use crate::error::Error;
use crate::store::audit::event_insert;
use crate::store::keys::{key_discard_all, key_insert, key_list};
use crate::store::sessions::session_end_all;
use crate::store::{Store, WriteTx};

/// Why the server does not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database is not usable.
    #[error("{}", .0.with_source())]
    Store(#[from] Error),
    /// The seal key is not usable.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database has no keys yet, and there is no seal key to seal new ones with.
    #[error(
        "the database is empty and there is no seal key at {path}\n\
         All replicas need the same key, so the server does not make one. Make one and give every replica a copy:\n\
         \n    latchkeyd key new {path}\n    latchkeyd serve --seal-key-file {path} …"
    )]
    NoSealKey {
        /// The expected path of the seal key.
        path: String,
    },
    /// The database has no sealed keys, so there is no seal key to replace.
    #[error(
        "this database has no sealed keys, so there is nothing to replace; is it the right one?\n\
         Use the same settings as `serve`: --data-dir, --database-url or --config."
    )]
    NothingSealed,
    /// The seal key that is to be replaced still exists.
    #[error(
        "{path} is the key that sealed this database, and would also seal the new keys\n\
         If it was stolen, move it away first. If not, there is nothing to replace."
    )]
    SealKeyInPlace {
        /// The file.
        path: String,
    },
    /// The seal key is not the one that sealed the database.
    #[error(
        "{}, but the database was sealed with {wanted}\n\
         Restore the right key from the backup. If it is lost, run this with the same settings as `serve`; it \
         ends all sessions and makes new signing keys:\n\n    latchkeyd key replace --discard-sealed",
        seal_key_found(.path, .found.as_deref())
    )]
    WrongSealKey {
        /// The file.
        path: String,
        /// The fingerprint of the key in the file. `None` if there is no file.
        found: Option<String>,
        /// The fingerprint of the key that sealed the database.
        wanted: String,
    },
}

fn seal_key_found(path: &str, fingerprint: Option<&str>) -> String {
    match fingerprint {
        Some(fingerprint) => format!("the seal key {path} has the fingerprint {fingerprint}"),
        None => format!("there is no seal key at {path}"),
    }
}

/// The keys of the database, opened with the seal key.
pub struct OpenedKeys {
    pub(super) keys: Keys,
    pub(super) seal: SealKey,
}

/// Brings the schema up to date.
pub async fn migrate(store: &Store) -> Result<(), StartError> {
    Ok(store.migrate().await?.commit().await?)
}

/// Brings the schema up to date and opens the keys. If there are none, makes them. This is one transaction, which one process
/// at a time can run.
pub async fn open_keys(store: &Store, environment: &Environment, path: &Path) -> Result<OpenedKeys, StartError> {
    let pending = store.pending_migrations().await?;
    let tx = store.migrate().await?;
    let stored = key_list(&tx, true).await?;
    let opened = match stored.first() {
        Some(first) => open_existing(path, first, &stored)?,
        None => create(&tx, environment, path, store.may_create_seal_key()).await?,
    };
    failpoint!("migrate.commit");
    tx.commit().await?;
    failpoint!("migrate.committed");
    if !pending.is_empty() {
        tracing::info!(steps = pending.join(" "), "the schema was brought up to date");
    }
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

async fn create(
    tx: &WriteTx,
    environment: &Environment,
    path: &Path,
    may_create: bool,
) -> Result<OpenedKeys, StartError> {
    let seal = match SealKey::read(path) {
        Ok(seal) => seal,
        Err(SealError::Missing(_)) if may_create => {
            let seal = SealKey::create(path, environment)?;
            failpoint!("migrate.seal_key");
            seal
        }
        Err(SealError::Missing(path)) => {
            return Err(StartError::NoSealKey { path: path.display().to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let stored = first_keys(&seal, environment)?;
    for key in &stored {
        key_insert(tx, key).await?;
    }
    Ok(OpenedKeys { keys: Keys::open(&seal, &stored)?, seal })
}

/// What replacing a lost or stolen seal key ended.
#[derive(Debug, Clone, Copy)]
pub struct KeysReplaced {
    /// How many sealed keys were discarded.
    pub discarded: u64,
    /// How many sessions were ended, because their refresh tokens can no longer be verified.
    pub sessions_ended: u32,
}

/// Discards all sealed keys, seals new ones and ends all sessions, for an operator whose seal key is lost or stolen. Fails if
/// the old seal key still exists: keys that it seals next would be as unsafe as those before. `uid` is the user id of the
/// operator, for the audit log.
pub async fn replace_seal_key(
    store: &Store,
    environment: &Environment,
    path: &Path,
    uid: u32,
) -> Result<KeysReplaced, StartError> {
    let tx = store.migrate().await?;
    let stored = key_list(&tx, true).await?;
    if stored.is_empty() {
        return Err(StartError::NothingSealed);
    }
    if let Ok(seal) = SealKey::read(path)
        && stored.iter().any(|key| key.seal_fingerprint == seal.fingerprint())
    {
        return Err(StartError::SealKeyInPlace { path: path.display().to_string() });
    }
    let discarded = key_discard_all(&tx).await?;
    create(&tx, environment, path, true).await?;
    let sessions_ended = session_end_all(&tx, environment.now()).await?;
    event_insert(&tx, [replaced_event(environment, uid, discarded, sessions_ended)]).await?;
    tx.commit().await?;
    Ok(KeysReplaced { discarded, sessions_ended })
}

fn replaced_event(environment: &Environment, uid: u32, discarded: u64, sessions_ended: u32) -> RecordedEvent {
    let details = [("keysDiscarded", discarded.to_string()), ("sessionsRevoked", sessions_ended.to_string())];
    RecordedEvent {
        id: EventId::from_bytes(environment.bytes()),
        at: environment.now(),
        kind: EventType::KeyRotated,
        outcome: Outcome::Succeeded,
        reason: None,
        actor: Actor::of(&Principal::Local { uid }, &Call::default()),
        target: Target::default(),
        subject_id: String::new(),
        changed_fields: Vec::new(),
        note: String::new(),
        details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        method: "latchkeyd key replace".to_owned(),
        request_id: String::new(),
        client_request_id: String::new(),
    }
}
