//! API tokens.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, QueryTrait, Set,
};

use super::entity::api_token;
use super::page::newest_first;
use super::single::{model, record, records};
use super::text::{Decoder, count, micros, readable};
use super::users::{owner, with_owner};
use super::{Autocommit, WriteTx};
use crate::domain::api_token::{ApiToken, LAST_USE_RESOLUTION};
use crate::domain::id::{ApiTokenId, UserId};
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::profile::TokenName;
use crate::domain::role::ScopeSet;
use crate::domain::secret::Digest32;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Resource, Result};

/// Adds an API token.
pub async fn api_token_insert(tx: &WriteTx, token: &ApiToken, digest: &Digest32) -> Result<()> {
    let row = api_token::ActiveModel {
        id: Set(token.id.to_string()),
        user_id: Set(token.user_id.to_string()),
        digest: Set(digest.as_bytes().to_vec()),
        name: Set(token.name.as_str().to_owned()),
        scopes: Set(token.scopes.to_text()),
        created_at: Set(token.created_at.as_micros()),
        expires_at: Set(token.expires_at.as_micros()),
        last_used_at: Set(micros(token.last_used_at)),
        revoked_at: Set(micros(token.revoked_at)),
    };
    api_token::Entity::insert(row).exec_without_returning(tx).await?;
    Ok(())
}

/// Reads an API token, with the digest of its secret.
pub async fn api_token_by_id(c: &impl ConnectionTrait, id: ApiTokenId) -> Result<Option<(ApiToken, Digest32)>> {
    let row: Option<api_token::Model> =
        record(c, Resource::ApiToken, api_token::Entity::find_by_id(id.to_string())).await?;
    row.as_ref().map(decode_with_digest).transpose()
}

/// Reads an API token, with the digest of its secret, and its user.
pub async fn api_token_with_user(
    c: &impl ConnectionTrait,
    id: ApiTokenId,
) -> Result<Option<(ApiToken, Digest32, User)>> {
    let select = with_owner(api_token::Entity::find_by_id(id.to_string()), api_token::Column::UserId);
    let Some(row) = c.query_one(&select.into_query()).await? else { return Ok(None) };
    let (token, digest) = decode_with_digest(&model(Resource::ApiToken, &row, "")?)?;
    Ok(Some((token, digest, owner(&row)?)))
}

/// Records a use, at most once an hour, and returns whether it did.
pub async fn api_token_used(tx: &Autocommit, id: ApiTokenId, now: Timestamp) -> Result<bool> {
    let stale = now.saturating_sub(LAST_USE_RESOLUTION).as_micros();
    let noted = api_token::Entity::update_many()
        .col_expr(api_token::Column::LastUsedAt, Expr::value(now.as_micros()))
        .filter(api_token::Column::Id.eq(id.to_string()))
        .filter(api_token::Column::LastUsedAt.is_null().or(api_token::Column::LastUsedAt.lt(stale)))
        .exec(tx)
        .await?;
    tx.invalidate_cached_rows();
    Ok(noted.rows_affected == 1)
}

/// Revokes an API token, and returns whether it was not revoked before.
pub async fn api_token_revoke(tx: &WriteTx, id: ApiTokenId, now: Timestamp) -> Result<bool> {
    let revoked = api_token::Entity::update_many()
        .col_expr(api_token::Column::RevokedAt, Expr::value(now.as_micros()))
        .filter(api_token::Column::Id.eq(id.to_string()))
        .filter(api_token::Column::RevokedAt.is_null())
        .exec(tx)
        .await?;
    Ok(revoked.rows_affected == 1)
}

/// Revokes the API tokens of a user that are valid at `now`, and returns their number.
pub async fn api_token_revoke_all(tx: &WriteTx, user: UserId, now: Timestamp) -> Result<u32> {
    let revoked = api_token::Entity::update_many()
        .col_expr(api_token::Column::RevokedAt, Expr::value(now.as_micros()))
        .filter(live(user, now))
        .exec(tx)
        .await?;
    failpoint!("store.api_token_revoke_all");
    Ok(count(revoked.rows_affected))
}

/// Counts the API tokens of a user that are valid at `now`.
pub async fn api_token_count_live(c: &impl ConnectionTrait, user: UserId, now: Timestamp) -> Result<u32> {
    Ok(count(api_token::Entity::find().filter(live(user, now)).count(c).await?))
}

/// Reads the scopes of each API token of a user that is valid at `now`.
pub async fn api_token_scopes_live(c: &impl ConnectionTrait, user: UserId, now: Timestamp) -> Result<Vec<ScopeSet>> {
    let select = api_token::Entity::find().filter(live(user, now)).select_only().column(api_token::Column::Scopes);
    let scopes: Vec<String> = select.into_tuple().all(c).await?;
    Ok(scopes.iter().map(|scopes| ScopeSet::from_text(scopes)).collect())
}

fn live(user: UserId, now: Timestamp) -> Condition {
    Condition::all()
        .add(api_token::Column::UserId.eq(user.to_string()))
        .add(api_token::Column::RevokedAt.is_null())
        .add(api_token::Column::ExpiresAt.gt(now.as_micros()))
}

/// Lists the API tokens of one user or of all users, newest first.
pub async fn api_token_list(
    c: &impl ConnectionTrait,
    user: Option<UserId>,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<ApiToken>> {
    let mut select = api_token::Entity::find();
    if let Some(user) = user {
        select = select.filter(api_token::Column::UserId.eq(user.to_string()));
    }
    let columns = (api_token::Column::CreatedAt, api_token::Column::Id);
    let rows: Vec<api_token::Model> =
        records(c, Resource::ApiToken, newest_first(select, columns, after, size)).await?;
    let page = Page::cut(rows, size, |row| Cursor::Time(row.created_at, row.id.clone()));
    Ok(Page { next: page.next, rows: readable(page.rows.iter().map(decode))? })
}

fn decode_with_digest(row: &api_token::Model) -> Result<(ApiToken, Digest32)> {
    let decoder = Decoder { resource: Resource::ApiToken, id: &row.id, version: None };
    let digest = decoder.ok(<[u8; 32]>::try_from(row.digest.as_slice()))?;
    Ok((decode(row)?, Digest32::from_bytes(digest)))
}

fn decode(row: &api_token::Model) -> Result<ApiToken> {
    let decoder = Decoder { resource: Resource::ApiToken, id: &row.id, version: None };
    Ok(ApiToken {
        id: decoder.parse(&row.id)?,
        user_id: decoder.parse(&row.user_id)?,
        name: decoder.ok(TokenName::parse(&row.name))?,
        scopes: ScopeSet::from_text(&row.scopes),
        created_at: decoder.instant(row.created_at)?,
        expires_at: decoder.instant(row.expires_at)?,
        last_used_at: decoder.instant_or_none(row.last_used_at)?,
        revoked_at: decoder.instant_or_none(row.revoked_at)?,
    })
}
