//! Sealed keys: what every replica signs and seals with, as it is stored.

use super::id::KeyId;
use super::time::Timestamp;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPurpose {
    /// Signs access tokens.
    Signing,
    /// The root that refresh tokens, page tokens and keyed digests derive their keys from.
    Root,
}

/// A key as it is stored.
#[derive(Clone)]
pub struct SealedKey {
    /// The `kid` of a signing key.
    pub id: KeyId,
    /// The purpose of the key.
    pub purpose: KeyPurpose,
    /// The key, sealed.
    pub sealed: Vec<u8>,
    /// The public half of a signing key: `SubjectPublicKeyInfo`, DER.
    pub public: Option<Vec<u8>>,
    /// Fingerprint of the key that sealed it.
    pub seal_fingerprint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is first used.
    pub not_before: Timestamp,
    /// When nothing that it signed is good any more.
    pub not_after: Option<Timestamp>,
}
