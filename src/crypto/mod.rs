//! Cryptography: password hashing, the keys that all replicas share, and the seal key that protects them in the database.
//!
//! Nothing here reads or writes the database. aws-lc-rs is the one provider for everything but Argon2 (ADR 0016).

mod hasher;
mod keys;
mod seal;

pub use self::hasher::{HashPermit, Hasher, HasherSettings, Priority};
pub use self::keys::{
    KEYS_MAX_AGE, KeyRing, Keys, NextKey, PublicKey, REFRESH_KEY_VERSION, first_keys, new_signing_key,
    next_signing_key, short,
};
pub use self::seal::{SealError, SealKey};
