//! Sealed keys, with which all replicas sign and seal. They cannot be read without the seal key.

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Set};

use super::entity::sealed_key;
use super::single::records;
use super::sweep::delete_batch;
use super::text::{Decoder, micros};
use super::{Autocommit, WriteTx};
use crate::domain::id::KeyId;
use crate::domain::key::{KeyPurpose, SealedKey};
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

/// Reads all keys, oldest first. With `lock`, no other transaction changes them until this one ends.
pub async fn key_list(c: &impl ConnectionTrait, lock: bool) -> Result<Vec<SealedKey>> {
    let mut select =
        sealed_key::Entity::find().order_by_asc(sealed_key::Column::NotBefore).order_by_asc(sealed_key::Column::Id);
    if lock {
        sea_orm::QueryTrait::query(&mut select).lock(LockType::Update);
    }
    records(c, Resource::Key, select).await?.into_iter().map(decode).collect()
}

/// Adds a key.
pub async fn key_insert(tx: &WriteTx, key: &SealedKey) -> Result<()> {
    let row = sealed_key::ActiveModel {
        id: Set(key.id.to_string()),
        purpose: Set(purpose_number(key.purpose)),
        sealed: Set(key.sealed.clone()),
        public: Set(key.public.clone()),
        seal_fingerprint: Set(key.seal_fingerprint.clone()),
        created_at: Set(key.created_at.as_micros()),
        not_before: Set(key.not_before.as_micros()),
        not_after: Set(micros(key.not_after)),
    };
    sealed_key::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.key_insert");
    Ok(())
}

/// Sets when a key expires.
pub async fn key_retire(tx: &WriteTx, id: KeyId, not_after: Timestamp) -> Result<()> {
    sealed_key::Entity::update_many()
        .col_expr(sealed_key::Column::NotAfter, Expr::value(not_after.as_micros()))
        .filter(sealed_key::Column::Id.eq(id.to_string()))
        .exec(tx)
        .await?;
    Ok(())
}

/// Brings the first use of a key forward.
pub async fn key_begin(tx: &WriteTx, id: KeyId, not_before: Timestamp) -> Result<()> {
    sealed_key::Entity::update_many()
        .col_expr(sealed_key::Column::NotBefore, Expr::value(not_before.as_micros()))
        .filter(sealed_key::Column::Id.eq(id.to_string()))
        .exec(tx)
        .await?;
    Ok(())
}

/// Deletes one key.
pub async fn key_delete(tx: &WriteTx, id: KeyId) -> Result<()> {
    sealed_key::Entity::delete_by_id(id.to_string()).exec(tx).await?;
    Ok(())
}

/// Deletes a batch of expired keys. Returns whether there may be more.
pub async fn keys_sweep(tx: &Autocommit, now: Timestamp) -> Result<bool> {
    delete_batch::<sealed_key::Entity>(tx, sealed_key::Column::NotAfter.lte(now.as_micros())).await
}

/// Deletes all keys, for an operator who has lost the seal key. Returns their number.
pub async fn key_discard_all(tx: &WriteTx) -> Result<u64> {
    Ok(sealed_key::Entity::delete_many().exec(tx).await?.rows_affected)
}

fn purpose_number(purpose: KeyPurpose) -> i16 {
    match purpose {
        KeyPurpose::Signing => 1,
        KeyPurpose::Root => 2,
    }
}

fn decode(row: sealed_key::Model) -> Result<SealedKey> {
    let decoder = Decoder { resource: Resource::Key, id: &row.id, version: None };
    let purpose =
        [KeyPurpose::Signing, KeyPurpose::Root].into_iter().find(|purpose| purpose_number(*purpose) == row.purpose);
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
