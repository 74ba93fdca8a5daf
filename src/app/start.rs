//! Preparing the database before the service runs: the schema and the keys.

use std::path::Path;

use crate::crypto::{Keys, SealError, SealKey, first_keys, new_signing_key};
use crate::domain::audit::{Actor, EventType, Outcome, RecordedEvent, Target};
use crate::domain::caller::{Call, Principal};
use crate::domain::id::{EventId, KeyId};
use crate::domain::key::{KeyPurpose, SealedKey};
use crate::environment::Environment;
use crate::error::Error;
use crate::store::audit::event_insert;
use crate::store::keys::{key_begin, key_delete, key_discard_all, key_insert, key_list};
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
    /// The database has no signing key with this id.
    #[error("there is no signing key {id:?}; there are {known}\nThe id is the `kid` in the header of a token.")]
    NoSuchKey {
        /// The id that was asked for.
        id: String,
        /// The ids of the signing keys.
        known: String,
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
    let details = [("keysDiscarded", discarded.to_string()), ("sessionsRevoked", sessions_ended.to_string())];
    event_insert(&tx, [key_event(environment, uid, "latchkeyd key replace", String::new(), &details)]).await?;
    tx.commit().await?;
    Ok(KeysReplaced { discarded, sessions_ended })
}

/// Revokes one signing key: servers refuse the tokens that it signed once they have read the keys again. If it is the key that
/// signs now, its published successor begins at once, or else a new key. Returns the id of that key. `uid` is the user id of
/// the operator, for the audit log.
pub async fn revoke_signing_key(
    store: &Store,
    environment: &Environment,
    path: &Path,
    id: &str,
    uid: u32,
) -> Result<Option<KeyId>, StartError> {
    let tx = store.migrate().await?;
    let stored = key_list(&tx, true).await?;
    let first = stored.first().ok_or(StartError::NothingSealed)?;
    let seal = open_existing(path, first, &stored)?.seal;
    let signing: Vec<&SealedKey> = stored.iter().filter(|key| key.purpose == KeyPurpose::Signing).collect();
    let Some(at) = signing.iter().position(|key| key.id.to_string() == id) else {
        let known = signing.iter().map(|key| key.id.to_string()).collect::<Vec<_>>().join(", ");
        return Err(StartError::NoSuchKey { id: id.to_owned(), known });
    };
    let now = environment.now();
    let (earlier, rest) = signing.split_at(at);
    let [revoked, later @ ..] = rest else { return Err(Error::internal("a key without a place").into()) };
    key_delete(&tx, revoked.id).await?;
    // The keys are sorted by their first use, so the last that has begun signs. If none has, the first does.
    let has_begun = revoked.not_before <= now || earlier.is_empty();
    let signs = has_begun && later.iter().all(|key| key.not_before > now);
    let successor = match later.first() {
        _ if !signs => None,
        Some(next) => {
            key_begin(&tx, next.id, now).await?;
            Some(next.id)
        }
        None => {
            let key = new_signing_key(&seal, environment, now)?;
            key_insert(&tx, &key).await?;
            Some(key.id)
        }
    };
    let details = successor.map(|successor| ("successor", successor.to_string()));
    event_insert(&tx, [key_event(environment, uid, "latchkeyd key revoke", id.to_owned(), details.as_slice())]).await?;
    tx.commit().await?;
    Ok(successor)
}

fn key_event(
    environment: &Environment,
    uid: u32,
    method: &str,
    key: String,
    details: &[(&str, String)],
) -> RecordedEvent {
    RecordedEvent {
        id: EventId::from_bytes(environment.bytes()),
        at: environment.now(),
        kind: EventType::KeyRotated,
        outcome: Outcome::Succeeded,
        reason: None,
        actor: Actor::of(&Principal::Local { uid }, &Call::default()),
        target: Target::default(),
        subject_id: key,
        changed_fields: Vec::new(),
        note: String::new(),
        details: details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        method: method.to_owned(),
        request_id: String::new(),
        client_request_id: String::new(),
    }
}
