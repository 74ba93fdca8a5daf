//! Links. A row stays for a while after its end, so that a link that was used is told from one that never was.

use std::collections::HashMap;

use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select, Set,
    UpdateMany,
};

use super::entity::link::{self, Column};
use super::single::only;
use super::sweep::delete_batch;
use super::text::{Decoder, count};
use super::{Autocommit, WriteTx};
use crate::domain::id::{LinkId, UserId};
use crate::domain::link::{Link, LinkPurpose, MAX_LIVE};
use crate::domain::secret::Digest32;
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

/// The digests of a new link: of its own secret, and of the one that cancels it.
pub struct LinkDigests {
    /// Of the link.
    pub link: Digest32,
    /// Of the secret that cancels it.
    pub cancel: Option<Digest32>,
}

/// Stores a link, and ends the oldest if the user has too many of this purpose. Returns the links that it ended.
pub async fn link_insert(tx: &WriteTx, link: &Link, digests: &LinkDigests) -> Result<Vec<LinkId>> {
    let row = link::ActiveModel {
        id: Set(link.id.to_string()),
        user_id: Set(link.user_id.to_string()),
        purpose: Set(purpose_number(link.purpose)),
        digest: Set(digests.link.as_bytes().to_vec()),
        cancel_digest: Set(digests.cancel.as_ref().map(|digest| digest.as_bytes().to_vec())),
        address: Set(link.address.clone()),
        created_at: Set(link.created_at.as_micros()),
        expires_at: Set(link.expires_at.as_micros()),
        ended_at: Set(None),
        used_at: Set(None),
        disowned_at: Set(None),
    };
    link::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.link_insert");
    let live = of_user(link.user_id, link.created_at)
        .filter(Column::Purpose.eq(purpose_number(link.purpose)))
        .filter(Column::Id.ne(link.id.to_string()))
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id);
    let older: Vec<link::Model> = live.all(tx).await?;
    let surplus = older.iter().skip(MAX_LIVE - 1).map(decode).collect::<Result<Vec<Link>>>()?;
    let surplus: Vec<LinkId> = surplus.into_iter().map(|link| link.id).collect();
    end(tx, &surplus, link.created_at).await?;
    Ok(surplus)
}

/// Finds a link by the digest of its secret, whether or not it still works.
pub async fn link_find(c: &impl ConnectionTrait, digest: &Digest32) -> Result<Option<Link>> {
    let select = link::Entity::find().filter(Column::Digest.eq(digest.as_bytes().to_vec()));
    only::<link::Model>(c, select).await?.as_ref().map(decode).transpose()
}

/// Finds a link by the digest of the secret that cancels it.
pub async fn link_find_to_cancel(c: &impl ConnectionTrait, digest: &Digest32) -> Result<Option<Link>> {
    let select = link::Entity::find().filter(Column::CancelDigest.eq(digest.as_bytes().to_vec()));
    only::<link::Model>(c, select).await?.as_ref().map(decode).transpose()
}

/// Reads the links of a user that work at `now`, newest first.
pub async fn link_live(c: &impl ConnectionTrait, user: UserId, now: Timestamp) -> Result<Vec<Link>> {
    let rows = of_user(user, now).order_by_desc(Column::CreatedAt).order_by_desc(Column::Id).all(c).await?;
    rows.iter().map(decode).collect()
}

/// Uses a link up. Returns `false` if it was used or ended before, or has expired. The guard is in the statement, so that of
/// many calls at once one succeeds.
pub async fn link_consume(tx: &WriteTx, id: LinkId, now: Timestamp) -> Result<bool> {
    let consumed = ending(id, now).col_expr(Column::UsedAt, Expr::value(now.as_micros())).exec(tx).await?;
    failpoint!("store.link_consume");
    Ok(consumed.rows_affected == 1)
}

fn ending(id: LinkId, now: Timestamp) -> UpdateMany<link::Entity> {
    link::Entity::update_many()
        .col_expr(Column::EndedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.eq(id.to_string()))
        .filter(Column::EndedAt.is_null())
        .filter(Column::ExpiresAt.gt(now.as_micros()))
}

/// Reads when a link was used, or another one by whose use it ended. `None` if it works, or ended otherwise.
pub async fn link_use(c: &impl ConnectionTrait, link: &Link) -> Result<Option<Timestamp>> {
    let ended_at = link::Entity::find_by_id(link.id.to_string()).select_only().column(Column::EndedAt).into_query();
    let links = of_any_age(link.user_id).filter(Column::UsedAt.in_subquery(ended_at)).all(c).await?;
    links.first().map(|used| decoder(used).instant_or_none(used.used_at)).transpose().map(Option::flatten)
}

/// Records that the user did not ask for the link that was used at an instant. Returns `false` if that is known.
pub async fn link_disown(tx: &WriteTx, user: UserId, used_at: Timestamp, now: Timestamp) -> Result<bool> {
    let disowned = link::Entity::update_many()
        .col_expr(Column::DisownedAt, Expr::value(now.as_micros()))
        .filter(Column::UserId.eq(user.to_string()))
        .filter(Column::UsedAt.eq(used_at.as_micros()))
        .filter(Column::DisownedAt.is_null())
        .exec(tx)
        .await?;
    Ok(disowned.rows_affected > 0)
}

/// Reads when the user said that they had not asked for the link that was used at an instant. `None` if they did not.
pub async fn link_disowned(c: &impl ConnectionTrait, user: UserId, used_at: Timestamp) -> Result<Option<Timestamp>> {
    let links = of_any_age(user).filter(Column::UsedAt.eq(used_at.as_micros())).all(c).await?;
    links.first().map(|link| decoder(link).instant_or_none(link.disowned_at)).transpose().map(Option::flatten)
}

fn of_any_age(user: UserId) -> Select<link::Entity> {
    link::Entity::find().filter(Column::UserId.eq(user.to_string()))
}

/// Ends the links of a user, of one purpose or of all, and returns how many worked.
pub async fn link_end_all(tx: &WriteTx, user: UserId, purpose: Option<LinkPurpose>, now: Timestamp) -> Result<u32> {
    let mut update = link::Entity::update_many()
        .col_expr(Column::EndedAt, Expr::value(now.as_micros()))
        .filter(Column::UserId.eq(user.to_string()))
        .filter(Column::EndedAt.is_null())
        .filter(Column::ExpiresAt.gt(now.as_micros()));
    if let Some(purpose) = purpose {
        update = update.filter(Column::Purpose.eq(purpose_number(purpose)));
    }
    let ended = update.exec(tx).await?;
    failpoint!("store.link_end_all");
    Ok(count(ended.rows_affected))
}

/// Ends one link. Returns whether it worked.
pub async fn link_end(tx: &WriteTx, id: LinkId, now: Timestamp) -> Result<bool> {
    Ok(ending(id, now).exec(tx).await?.rows_affected == 1)
}

/// Reads when these links were used or ended. A link that was not has no entry.
pub(super) async fn link_ends(
    c: &impl ConnectionTrait,
    links: impl IntoIterator<Item = LinkId>,
) -> Result<HashMap<LinkId, Timestamp>> {
    let ids: Vec<String> = links.into_iter().map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ended = link::Entity::find().filter(Column::Id.is_in(ids)).filter(Column::EndedAt.is_not_null()).all(c).await?;
    let ended = ended.iter().map(decode).collect::<Result<Vec<Link>>>()?;
    Ok(ended.into_iter().filter_map(|link| Some((link.id, link.ended_at?))).collect())
}

async fn end(tx: &WriteTx, links: &[LinkId], now: Timestamp) -> Result<()> {
    if links.is_empty() {
        return Ok(());
    }
    link::Entity::update_many()
        .col_expr(Column::EndedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.is_in(links.iter().map(ToString::to_string)))
        .filter(Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(())
}

/// Deletes a batch of links that expired before `before`. Returns whether there may be more.
pub async fn links_sweep(tx: &Autocommit, before: Timestamp) -> Result<bool> {
    delete_batch::<link::Entity>(tx, Column::ExpiresAt.lte(before.as_micros())).await
}

fn of_user(user: UserId, now: Timestamp) -> Select<link::Entity> {
    of_any_age(user).filter(Column::EndedAt.is_null()).filter(Column::ExpiresAt.gt(now.as_micros()))
}

fn decoder(row: &link::Model) -> Decoder<'_> {
    Decoder { resource: Resource::Row, id: &row.id, version: None }
}

fn decode(row: &link::Model) -> Result<Link> {
    let decoder = decoder(row);
    Ok(Link {
        id: decoder.parse(&row.id)?,
        user_id: decoder.parse(&row.user_id)?,
        purpose: decoder.some(purpose_from(row.purpose))?,
        address: row.address.clone(),
        created_at: decoder.instant(row.created_at)?,
        expires_at: decoder.instant(row.expires_at)?,
        ended_at: decoder.instant_or_none(row.ended_at)?,
    })
}

fn purpose_number(purpose: LinkPurpose) -> i16 {
    match purpose {
        LinkPurpose::Invite => 1,
        LinkPurpose::PasswordReset => 2,
        LinkPurpose::EmailVerification => 4,
    }
}

pub(super) fn purpose_from(number: i16) -> Option<LinkPurpose> {
    [LinkPurpose::Invite, LinkPurpose::PasswordReset, LinkPurpose::EmailVerification]
        .into_iter()
        .find(|purpose| purpose_number(*purpose) == number)
}
