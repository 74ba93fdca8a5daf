//! The keys that all replicas share: signing keys, and the root key from which the other keys are derived.
//!
//! A signing key is published a day before its first use, and stays published until the last token that it signed has expired.
//! So a verifier that fetches the keys now and then never meets an unknown one.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{encoding::AsDer, hmac};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use zeroize::Zeroizing;

use super::seal::SealKey;
use crate::domain::id::KeyId;
use crate::domain::key::{KeyPurpose, SealedKey};
use crate::domain::secret::Digest32;
use crate::domain::time::Timestamp;
use crate::environment::Environment;
use crate::error::{Error, Result};

/// Time from the first use of a signing key until its successor is made. The successor is first used after 30 days.
const ROTATE_AFTER: Duration = Duration::from_hours(29 * 24);
/// Time from the publication of a signing key until its first use.
const PUBLISH_AHEAD: Duration = Duration::from_hours(24);
/// A replaced key stays published this long, until the last token that it signed has expired, with an hour of reserve for clock
/// skew.
const KEEP_AFTER: Duration = Duration::from_mins(75);
/// How long verifiers may cache the keys.
pub const KEYS_MAX_AGE: Duration = Duration::from_mins(5);

/// Version of the key of refresh tokens. Each refresh token names it.
pub const REFRESH_KEY_VERSION: u16 = 1;

/// A public key, as verifiers see it.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// The key id (`kid`).
    pub id: KeyId,
    /// `SubjectPublicKeyInfo`, DER.
    pub der: Vec<u8>,
    /// When the key is first used.
    pub not_before: Timestamp,
    /// When the last token signed with the key expires. `None` while the key has no successor.
    pub not_after: Option<Timestamp>,
}

struct SigningKey {
    public: PublicKey,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// The raw public key in base64url, for the JWK Set.
    x: String,
}

/// A snapshot of all keys, opened with the seal key.
pub struct Keys {
    signing: HashMap<String, SigningKey>,
    /// Ids of the signing keys by `not_before`, oldest first.
    order: Vec<String>,
    refresh: Zeroizing<[u8; 32]>,
    page: SealKey,
    device: SealKey,
    outbox: SealKey,
    second_factor: SealKey,
    digest: hmac::Key,
}

/// The current [`Keys`], which can be replaced while the server runs.
///
/// A caller of [`KeyRing::current`] keeps its snapshot, so a replacement never changes the keys in the middle of a request.
pub struct KeyRing(RwLock<Arc<Keys>>);

impl KeyRing {
    /// Creates a ring whose current keys are `keys`.
    pub fn new(keys: Keys) -> KeyRing {
        KeyRing(RwLock::new(Arc::new(keys)))
    }

    /// Returns a snapshot of the current keys.
    pub fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the current keys.
    pub fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

impl Keys {
    /// Opens the stored keys with the seal key and derives the others from the root key.
    ///
    /// Fails if a key cannot be opened, or if there is no root key.
    pub fn open(seal: &SealKey, stored: &[SealedKey]) -> Result<Keys> {
        let mut signing = HashMap::new();
        let mut order = Vec::new();
        let mut root = None;
        for key in stored {
            let plain = seal.open(&context(key.id, key.purpose), &key.sealed).ok_or_else(|| unreadable(key))?;
            match key.purpose {
                KeyPurpose::Root => root = Some(plain),
                KeyPurpose::Signing => {
                    order.push(key.id.to_string());
                    signing.insert(key.id.to_string(), open_signing_key(key, &plain)?);
                }
            }
        }
        let root = root.ok_or_else(|| Error::internal("the database has no root key"))?;
        let page = SealKey::of(derive(&root, "page token").as_slice()).ok_or_else(|| Error::internal("page key"))?;
        let device = SealKey::of(derive(&root, "device token").as_slice());
        let outbox = SealKey::of(derive(&root, "outbox").as_slice());
        let second_factor = SealKey::of(derive(&root, "second factor").as_slice());
        Ok(Keys {
            signing,
            order,
            refresh: derive(&root, "refresh token"),
            page,
            device: device.ok_or_else(|| Error::internal("device key"))?,
            outbox: outbox.ok_or_else(|| Error::internal("outbox key"))?,
            second_factor: second_factor.ok_or_else(|| Error::internal("second factor key"))?,
            digest: hmac::Key::new(hmac::HMAC_SHA256, derive(&root, "digest").as_slice()),
        })
    }

    /// Returns the key that signs at `now`: the newest that is valid, else the oldest. No key is valid yet if a clock was
    /// turned back, or is behind the clock of the replica that made the first key.
    fn signer(&self, now: Timestamp) -> Option<&SigningKey> {
        self.newest_first().find(|key| key.public.not_before <= now).or_else(|| self.newest_first().last())
    }

    fn newest_first(&self) -> impl Iterator<Item = &SigningKey> {
        self.order.iter().rev().filter_map(|id| self.signing.get(id))
    }

    /// Signs `claims` as a JWT with the key that is current at `now`.
    pub fn sign(&self, claims: &crate::domain::token::Claims, now: Timestamp) -> Result<String> {
        let key = self.signer(now).ok_or_else(|| Error::internal("there is no signing key"))?;
        let mut header = jsonwebtoken::Header::new(Algorithm::EdDSA);
        header.typ = Some(crate::domain::token::TOKEN_TYPE.to_owned());
        header.kid = Some(key.public.id.to_string());
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(Error::internal)
    }

    /// Returns the key with this `kid`, or `None` if it is unknown or has expired. Nothing is fetched for an unknown one.
    pub fn verifier(&self, id: &str, now: Timestamp) -> Option<&DecodingKey> {
        let key = self.signing.get(id)?;
        key.public.not_after.is_none_or(|at| at > now).then_some(&key.decoding)
    }

    /// Returns the key of refresh tokens of this version, or `None` if the version is unknown.
    pub fn refresh_key(&self, version: u16) -> Option<&[u8; 32]> {
        (version == REFRESH_KEY_VERSION).then_some(&*self.refresh)
    }

    /// Returns the key that seals page tokens.
    pub fn page_key(&self) -> &SealKey {
        &self.page
    }

    /// Returns the key that seals device tokens.
    pub fn device_key(&self) -> &SealKey {
        &self.device
    }

    /// Returns the key that seals messages until they are sent.
    pub fn outbox_key(&self) -> &SealKey {
        &self.outbox
    }

    /// Returns the key that seals the keys of authenticators.
    pub fn second_factor_key(&self) -> &SealKey {
        &self.second_factor
    }

    /// Returns the HMAC-SHA-256 of `bytes` for one purpose: for values that are compared later, and that a reader of the
    /// database must not be able to guess.
    pub fn digest(&self, purpose: &str, bytes: &[u8]) -> Digest32 {
        let mut context = hmac::Context::with_key(&self.digest);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(bytes);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        Digest32::from_bytes(digest)
    }

    /// Returns the public keys: the current one, then future ones, then earlier ones.
    pub fn public(&self, now: Timestamp) -> Vec<PublicKey> {
        let current = self.signer(now).map(|key| key.public.id);
        let mut keys: Vec<PublicKey> = self
            .newest_first()
            .map(|key| key.public.clone())
            .filter(|key| key.not_after.is_none_or(|at| at > now))
            .collect();
        keys.sort_by_key(|key| Some(key.id) != current);
        keys
    }

    /// Returns the public keys as a JWK Set (RFC 7517, RFC 8037), in the order of [`Keys::public`].
    pub fn jwks(&self, now: Timestamp) -> String {
        let keys: Vec<serde_json::Value> = self
            .public(now)
            .iter()
            .filter_map(|key| self.signing.get(&key.id.to_string()))
            .map(|key| {
                serde_json::json!({
                    "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                    "kid": key.public.id.to_string(), "x": key.x,
                })
            })
            .collect();
        serde_json::json!({ "keys": keys }).to_string()
    }

    /// Returns the id of the newest signing key if its successor should be made now, else `None`.
    pub fn rotation_due(&self, now: Timestamp) -> Option<KeyId> {
        let newest = self.newest_first().next()?;
        let due = newest.public.not_before.saturating_add(ROTATE_AFTER);
        (due <= now).then_some(newest.public.id)
    }
}

/// Makes the first keys of a database: the root key and a signing key.
pub fn first_keys(seal: &SealKey, environment: &Environment) -> Result<[SealedKey; 2]> {
    let now = environment.now();
    let root = Zeroizing::new(environment.bytes::<32>());
    let root = sealed(seal, environment, KeyPurpose::Root, root.as_slice(), None, now)?;
    Ok([root, new_signing_key(seal, environment, now)?])
}

/// A signing key and the retirement of its predecessor.
pub struct NextKey {
    /// The new key.
    pub key: SealedKey,
    /// When the last token of the old key has expired.
    pub retires_old_at: Timestamp,
}

/// Makes the next signing key, first used after it has been published for a day.
pub fn next_signing_key(seal: &SealKey, environment: &Environment) -> Result<NextKey> {
    let not_before = environment.now().saturating_add(PUBLISH_AHEAD);
    let key = new_signing_key(seal, environment, not_before)?;
    Ok(NextKey { key, retires_old_at: not_before.saturating_add(KEEP_AFTER) })
}

/// Makes a signing key.
pub fn new_signing_key(seal: &SealKey, environment: &Environment, not_before: Timestamp) -> Result<SealedKey> {
    let unlikely = |_| Error::internal("a signing key could not be made");
    let seed = Zeroizing::new(environment.bytes::<32>());
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
        .map_err(|_| Error::internal("a signing key could not be made"))?;
    let private = pair.to_pkcs8v1().map_err(unlikely)?;
    let public = pair.public_key().as_der().map_err(unlikely)?;
    sealed(seal, environment, KeyPurpose::Signing, private.as_ref(), Some(public.as_ref().to_vec()), not_before)
}

fn sealed(
    seal: &SealKey,
    environment: &Environment,
    purpose: KeyPurpose,
    plain: &[u8],
    public: Option<Vec<u8>>,
    not_before: Timestamp,
) -> Result<SealedKey> {
    let id = KeyId::from_bytes(environment.bytes());
    let sealed = seal
        .seal(environment, &context(id, purpose), plain)
        .ok_or_else(|| Error::internal("a key could not be sealed"))?;
    Ok(SealedKey {
        id,
        purpose,
        sealed,
        public,
        seal_fingerprint: seal.fingerprint().to_owned(),
        created_at: environment.now(),
        not_before,
        not_after: None,
    })
}

fn open_signing_key(key: &SealedKey, private: &[u8]) -> Result<SigningKey> {
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private).map_err(|_| unreadable(key))?;
    let raw = pair.public_key().as_ref();
    Ok(SigningKey {
        public: PublicKey {
            id: key.id,
            der: key.public.clone().ok_or_else(|| unreadable(key))?,
            not_before: key.not_before,
            not_after: key.not_after,
        },
        encoding: EncodingKey::from_ed_der(private),
        decoding: DecodingKey::from_ed_der(raw),
        x: BASE64URL_NOPAD.encode(raw),
    })
}

fn unreadable(key: &SealedKey) -> Error {
    Error::Corrupt { resource: crate::error::Resource::Key, id: key.id.to_string(), etag: None }
}

/// Returns the context to which a sealed key is bound: it cannot be opened under another id or purpose.
fn context(id: KeyId, purpose: KeyPurpose) -> Vec<u8> {
    let purpose = match purpose {
        KeyPurpose::Signing => "Signing",
        KeyPurpose::Root => "Root",
    };
    format!("{purpose} {id}").into_bytes()
}

/// Derives the key for one purpose (HMAC as the pseudo-random function of a one-step key derivation, NIST SP 800-56C).
fn derive(root: &[u8], purpose: &str) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, root), purpose.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(tag.as_ref());
    key
}

/// Returns the first 16 bytes of a digest in hexadecimal, for an etag or an unknown username in the audit log.
pub fn short(digest: &Digest32) -> String {
    HEXLOWER.encode(digest.as_bytes().get(..16).unwrap_or_default())
}
