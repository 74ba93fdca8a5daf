//! The keys that every replica shares: signing keys, and the root that the other keys derive from.
//!
//! A signing key is published a day before it is first used, and kept until the last token that it signed has expired,
//! so that a verifier which asks for keys now and then never meets an unknown one.

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
use crate::effects::Effects;
use crate::error::{Error, Result};

/// The next signing key is made this long after the one before was first used: it is used after 30 days.
const ROTATE_AFTER: Duration = Duration::from_hours(29 * 24);
/// And is published this long before it is first used.
const PUBLISH_AHEAD: Duration = Duration::from_hours(24);
/// A key that was replaced is published until the last token it signed has expired, with an hour to spare for clocks.
const KEEP_AFTER: Duration = Duration::from_mins(75);
/// Verifiers ask again after this time.
pub const KEYS_MAX_AGE: Duration = Duration::from_mins(5);

/// Version of the key behind refresh tokens, which they name.
pub const REFRESH_KEY_VERSION: u16 = 1;

/// A public key, as verifiers read it.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// The `kid`.
    pub id: KeyId,
    /// `SubjectPublicKeyInfo`, DER.
    pub der: Vec<u8>,
    /// When it is first used.
    pub not_before: Timestamp,
    /// When the last token signed with it expires.
    pub not_after: Option<Timestamp>,
}

struct SigningKey {
    public: PublicKey,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// The raw public key, for the JWK set.
    x: String,
}

/// All keys at one moment.
pub struct Keys {
    signing: HashMap<String, SigningKey>,
    /// By `not_before`, oldest first.
    order: Vec<String>,
    refresh: Zeroizing<[u8; 32]>,
    page: SealKey,
    digest: hmac::Key,
}

/// The keys, and their replacement while the server runs.
pub struct KeyRing(RwLock<Arc<Keys>>);

impl KeyRing {
    /// Begins with these keys.
    pub fn new(keys: Keys) -> KeyRing {
        KeyRing(RwLock::new(Arc::new(keys)))
    }

    /// The keys in use now.
    pub fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other keys into use.
    pub fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

impl Keys {
    /// Opens what is stored.
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
        Ok(Keys {
            signing,
            order,
            refresh: derive(&root, "refresh token"),
            page,
            digest: hmac::Key::new(hmac::HMAC_SHA256, derive(&root, "digest").as_slice()),
        })
    }

    /// The key that signs at `now`: the newest whose time has come, else the oldest. There is none whose time has come
    /// if a clock was turned back, or is behind that of the replica which made the first key.
    fn signer(&self, now: Timestamp) -> Option<&SigningKey> {
        self.newest_first().find(|key| key.public.not_before <= now).or_else(|| self.newest_first().last())
    }

    fn newest_first(&self) -> impl Iterator<Item = &SigningKey> {
        self.order.iter().rev().filter_map(|id| self.signing.get(id))
    }

    /// Signs claims.
    pub fn sign(&self, claims: &crate::domain::token::Claims, now: Timestamp) -> Result<String> {
        let key = self.signer(now).ok_or_else(|| Error::internal("there is no signing key"))?;
        let mut header = jsonwebtoken::Header::new(Algorithm::EdDSA);
        header.typ = Some(crate::domain::token::TOKEN_TYPE.to_owned());
        header.kid = Some(key.public.id.to_string());
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(Error::internal)
    }

    /// The key with this `kid`, unless its time is over. Nothing is fetched for an unknown one.
    pub fn verifier(&self, id: &str, now: Timestamp) -> Option<&DecodingKey> {
        let key = self.signing.get(id)?;
        key.public.not_after.is_none_or(|at| at > now).then_some(&key.decoding)
    }

    /// The key of refresh tokens of this version.
    pub fn refresh_key(&self, version: u16) -> Option<&[u8; 32]> {
        (version == REFRESH_KEY_VERSION).then_some(&*self.refresh)
    }

    /// The key that seals page tokens.
    pub fn page_key(&self) -> &SealKey {
        &self.page
    }

    /// A keyed digest: of what must be compared later, and must not be guessed by whoever reads the database.
    pub fn digest(&self, purpose: &str, bytes: &[u8]) -> Digest32 {
        let mut context = hmac::Context::with_key(&self.digest);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(bytes);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        Digest32::from_bytes(digest)
    }

    /// The public keys, the current one first, then those to come, then those that were.
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

    /// The same as a JWK Set (RFC 7517, RFC 8037).
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

    /// Whether the next signing key should be made, and after which.
    pub fn rotation_due(&self, now: Timestamp) -> Option<KeyId> {
        let newest = self.newest_first().next()?;
        let due = newest.public.not_before.saturating_add(ROTATE_AFTER);
        (due <= now).then_some(newest.public.id)
    }
}

/// Makes the first keys of a database: the root, and a signing key.
pub fn first_keys(seal: &SealKey, effects: &Effects) -> Result<[SealedKey; 2]> {
    let now = effects.now();
    let root = Zeroizing::new(effects.bytes::<32>());
    let root = sealed(seal, effects, KeyPurpose::Root, root.as_slice(), None, now)?;
    Ok([root, new_signing_key(seal, effects, now)?])
}

/// A signing key to follow another.
pub struct NextKey {
    /// The new key.
    pub key: SealedKey,
    /// When the last token of the old key has expired.
    pub retires_old_at: Timestamp,
}

/// Makes the next signing key.
pub fn next_signing_key(seal: &SealKey, effects: &Effects) -> Result<NextKey> {
    let not_before = effects.now().saturating_add(PUBLISH_AHEAD);
    let key = new_signing_key(seal, effects, not_before)?;
    Ok(NextKey { key, retires_old_at: not_before.saturating_add(KEEP_AFTER) })
}

fn new_signing_key(seal: &SealKey, effects: &Effects, not_before: Timestamp) -> Result<SealedKey> {
    let unlikely = |_| Error::internal("a signing key could not be made");
    let seed = Zeroizing::new(effects.bytes::<32>());
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
        .map_err(|_| Error::internal("a signing key could not be made"))?;
    let private = pair.to_pkcs8v1().map_err(unlikely)?;
    let public = pair.public_key().as_der().map_err(unlikely)?;
    sealed(seal, effects, KeyPurpose::Signing, private.as_ref(), Some(public.as_ref().to_vec()), not_before)
}

fn sealed(
    seal: &SealKey,
    effects: &Effects,
    purpose: KeyPurpose,
    plain: &[u8],
    public: Option<Vec<u8>>,
    not_before: Timestamp,
) -> Result<SealedKey> {
    let id = KeyId::from_bytes(effects.bytes());
    let sealed =
        seal.seal(effects, &context(id, purpose), plain).ok_or_else(|| Error::internal("a key could not be sealed"))?;
    Ok(SealedKey {
        id,
        purpose,
        sealed,
        public,
        seal_fingerprint: seal.fingerprint().to_owned(),
        created_at: effects.now(),
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

/// What a sealed key is bound to: it opens under no other id or purpose.
fn context(id: KeyId, purpose: KeyPurpose) -> Vec<u8> {
    let purpose = match purpose {
        KeyPurpose::Signing => "Signing",
        KeyPurpose::Root => "Root",
    };
    format!("{purpose} {id}").into_bytes()
}

/// A key for one purpose (HMAC as the pseudo-random function of a one-step key derivation, NIST SP 800-56C).
fn derive(root: &[u8], purpose: &str) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, root), purpose.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(tag.as_ref());
    key
}

/// Short text of a digest, for an etag or an unknown name in the audit log.
pub fn short(digest: &Digest32) -> String {
    HEXLOWER.encode(digest.as_bytes().get(..16).unwrap_or_default())
}
