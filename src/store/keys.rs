//! Sealed keys: what every replica signs and seals with, unreadable without the seal key.

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Set};

use super::entity::sealed_key;
use super::single::records;
use super::text::{Decoder, micros};
use crate::domain::id::KeyId;
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPurpose {
    /// Signs access tokens.
    Signing,
    /// The root that refresh tokens, page tokens and keyed digests derive their keys from.
    Root,
}

impl KeyPurpose {
    fn number(self) -> i16 {
        match self {
            KeyPurpose::Signing => 1,
            KeyPurpose::Root => 2,
        }
    }
}

/// A key as it is stored.
#[derive(Clone)]
pub struct SealedKey {
    /// The `kid` of a signing key.
    pub id: KeyId,
    /// What it is for.
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

/// Reads all keys, oldest first. With `lock`, nobody else changes them until the transaction ends.
pub async fn key_list(c: &impl ConnectionTrait, lock: bool) -> Result<Vec<SealedKey>> {
    let mut select =
        sealed_key::Entity::find().order_by_asc(sealed_key::Column::NotBefore).order_by_asc(sealed_key::Column::Id);
    if lock {
        sea_orm::QueryTrait::query(&mut select).lock(LockType::Update);
    }
    records(c, Resource::Key, select).await?.into_iter().map(decode).collect()
}

/// Adds a key.
pub async fn key_insert(c: &impl ConnectionTrait, key: &SealedKey) -> Result<()> {
    let row = sealed_key::ActiveModel {
        id: Set(key.id.to_string()),
        purpose: Set(key.purpose.number()),
        sealed: Set(key.sealed.clone()),
        public: Set(key.public.clone()),
        seal_fingerprint: Set(key.seal_fingerprint.clone()),
        created_at: Set(key.created_at.as_micros()),
        not_before: Set(key.not_before.as_micros()),
        not_after: Set(micros(key.not_after)),
    };
    sealed_key::Entity::insert(row).exec_without_returning(c).await?;
    failpoint!("store.key_insert");
    Ok(())
}

/// Sets when a key's time is over.
pub async fn key_retire(c: &impl ConnectionTrait, id: KeyId, not_after: Timestamp) -> Result<()> {
    sealed_key::Entity::update_many()
        .col_expr(sealed_key::Column::NotAfter, Expr::value(not_after.as_micros()))
        .filter(sealed_key::Column::Id.eq(id.to_string()))
        .exec(c)
        .await?;
    Ok(())
}

/// Forgets keys whose time is over.
pub async fn keys_sweep(c: &impl ConnectionTrait, now: Timestamp) -> Result<()> {
    sealed_key::Entity::delete_many().filter(sealed_key::Column::NotAfter.lte(now.as_micros())).exec(c).await?;
    Ok(())
}

/// Forgets all keys: for an operator who lost the key that sealed them.
pub async fn key_discard_all(c: &impl ConnectionTrait) -> Result<u64> {
    Ok(sealed_key::Entity::delete_many().exec(c).await?.rows_affected)
}

fn decode(row: sealed_key::Model) -> Result<SealedKey> {
    let decoder = Decoder { resource: Resource::Key, id: &row.id, version: None };
    let purpose = [KeyPurpose::Signing, KeyPurpose::Root].into_iter().find(|purpose| purpose.number() == row.purpose);
    Ok(SealedKey {
        id: decoder.parse(&row.id)?,
        purpose: decoder.some(purpose)?,
        sealed: row.sealed,
        public: row.public,
        seal_fingerprint: row.seal_fingerprint,
        created_at: decoder.instant(row.created_at)?,
        not_before: decoder.instant(row.not_before)?,
        not_after: decoder.instant_or_none(row.not_after)?,
    })
}
