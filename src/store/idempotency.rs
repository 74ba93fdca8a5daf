//! Idempotency keys: one row for each principal, method and key, written in the transaction of the call.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, Set, SqlErr};

use super::entity::idempotency_key;
use super::sweep::delete_batch;
use super::text::json;
use super::{Autocommit, WriteTx};
use crate::domain::idempotency::{IdempotencyKey, KEY_TTL, Remembered};
use crate::domain::secret::Digest32;
use crate::domain::time::Timestamp;
use crate::error::{Error, Resource, Result};

/// The use of a key by a principal for a method.
#[derive(Debug, Clone)]
pub struct KeyUse<'a> {
    /// The principal's id.
    pub principal: String,
    /// The method.
    pub method: &'a str,
    /// The idempotency key.
    pub key: &'a IdempotencyKey,
    /// Keyed digest of the request. A plain hash of a body that holds a password would be an oracle.
    pub body: &'a Digest32,
}

/// Returns the stored result of the call with this key, or `None` if there was none. Fails if that call had a different
/// request.
pub async fn idempotency_find(
    c: &impl ConnectionTrait,
    used: &KeyUse<'_>,
    now: Timestamp,
) -> Result<Option<Remembered>> {
    let id = (used.principal.clone(), used.method.to_owned(), used.key.as_str().to_owned());
    let Some(row) = idempotency_key::Entity::find_by_id(id).one(c).await? else { return Ok(None) };
    if row.expires_at <= now.as_micros() {
        return Ok(None);
    }
    if row.body_digest != used.body.as_bytes() {
        return Err(Error::IdempotencyKeyReused);
    }
    let corrupt = || Error::Corrupt { resource: Resource::IdempotencyKey, id: row.idempotency_key.clone(), etag: None };
    serde_json::from_str(&row.answer).map(Some).map_err(|_| corrupt())
}

/// Stores the result of a call. Returns `false` if another call with the same key was first.
pub async fn idempotency_insert(tx: &WriteTx, used: &KeyUse<'_>, answer: &Remembered, now: Timestamp) -> Result<bool> {
    idempotency_key::Entity::delete_many()
        .filter(idempotency_key::Column::Principal.eq(used.principal.as_str()))
        .filter(idempotency_key::Column::Method.eq(used.method))
        .filter(idempotency_key::Column::IdempotencyKey.eq(used.key.as_str()))
        .filter(idempotency_key::Column::ExpiresAt.lte(now.as_micros()))
        .exec(tx)
        .await?;
    let row = idempotency_key::ActiveModel {
        principal: Set(used.principal.clone()),
        method: Set(used.method.to_owned()),
        idempotency_key: Set(used.key.as_str().to_owned()),
        body_digest: Set(used.body.as_bytes().to_vec()),
        answer: Set(json(answer)),
        expires_at: Set(now.saturating_add(KEY_TTL).as_micros()),
    };
    match idempotency_key::Entity::insert(row).exec_without_returning(tx).await {
        Ok(_) => {
            failpoint!("store.idempotency_insert");
            Ok(true)
        }
        Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a batch of expired keys. Returns whether there may be more.
pub async fn idempotency_sweep(tx: &Autocommit, now: Timestamp) -> Result<bool> {
    delete_batch::<idempotency_key::Entity>(tx, idempotency_key::Column::ExpiresAt.lte(now.as_micros())).await
}
