//! Sessions.

use sea_orm::sea_query::{Expr, LockType, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
    UpdateMany,
};

use super::entity::session;
use super::page::newest_first;
use super::second_factors::{proofs_from, second_factor_number};
use super::single::{model, record, records};
use super::sweep::delete_batch;
use super::text::{Decoder, WishColumns, count, micros, readable};
use super::users::{owner, with_owner};
use super::{Autocommit, WriteTx};
use crate::domain::id::{SessionId, UserId};
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::session::Session;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Resource, Result};

/// Which sessions of a user an operation applies to.
#[derive(Debug, Clone)]
pub enum Which<'a> {
    /// All sessions.
    All,
    /// All sessions but this one.
    AllBut(SessionId),
    /// These sessions.
    These(&'a [SessionId]),
}

/// Adds a session.
pub async fn session_insert(tx: &WriteTx, session: &Session) -> Result<()> {
    let wish = WishColumns::from(&session.wish);
    let row = session::ActiveModel {
        id: Set(session.id.to_string()),
        user_id: Set(session.user_id.to_string()),
        app: Set(wish.app),
        client_name: Set(wish.client_name),
        audiences: Set(wish.audiences),
        scopes: Set(wish.scopes),
        client_address: Set(session.client_address.clone()),
        auth_at: Set(session.auth_at.as_micros()),
        created_at: Set(session.created_at.as_micros()),
        last_used_at: Set(session.last_used_at.as_micros()),
        idle_expires_at: Set(session.idle_expires_at.as_micros()),
        expires_at: Set(session.expires_at.as_micros()),
        ended_at: Set(micros(session.ended_at)),
        generation: Set(i32::try_from(session.generation).unwrap_or(i32::MAX)),
        rotated_at: Set(micros(session.rotated_at)),
        second_factor: Set(second_factor_number(session.proofs)),
    };
    session::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.session_insert");
    Ok(())
}

/// Reads a session.
pub async fn session_by_id(c: &impl ConnectionTrait, id: SessionId) -> Result<Option<Session>> {
    record(c, Resource::Session, session::Entity::find_by_id(id.to_string())).await?.map(decode).transpose()
}

/// Reads a session and its user.
pub async fn session_with_user(c: &impl ConnectionTrait, id: SessionId) -> Result<Option<(Session, User)>> {
    let select = with_owner(session::Entity::find_by_id(id.to_string()), session::Column::UserId);
    let Some(row) = c.query_one(&select.into_query()).await? else { return Ok(None) };
    Ok(Some((decode(model(Resource::Session, &row, "")?)?, owner(&row)?)))
}

/// Reads and locks a session.
pub async fn session_lock_row(c: &impl ConnectionTrait, id: SessionId) -> Result<Option<Session>> {
    let mut select = session::Entity::find_by_id(id.to_string());
    QueryTrait::query(&mut select).lock(LockType::Update);
    record(c, Resource::Session, select).await?.map(decode).transpose()
}

/// Stores the last use of a live session and increments its generation, if that is still the one that was read. Returns
/// whether it was.
pub async fn session_rotate(tx: &WriteTx, session: &Session, now: Timestamp) -> Result<bool> {
    let generation = i32::try_from(session.generation).unwrap_or(i32::MAX);
    let rotated = used(session, now)
        .col_expr(session::Column::Generation, Expr::value(generation.saturating_add(1)))
        .col_expr(session::Column::RotatedAt, Expr::value(now.as_micros()))
        .filter(session::Column::Generation.eq(generation))
        .exec(tx)
        .await?;
    failpoint!("store.session_rotate");
    Ok(rotated.rows_affected == 1)
}

/// Stores the last use of a session, what was proved in it last and when, and returns whether it was live.
pub async fn session_reauthenticate(tx: &WriteTx, session: &Session, now: Timestamp) -> Result<bool> {
    let proved = used(session, now)
        .col_expr(session::Column::AuthAt, Expr::value(session.auth_at.as_micros()))
        .col_expr(session::Column::SecondFactor, Expr::value(second_factor_number(session.proofs)))
        .exec(tx)
        .await?;
    failpoint!("store.session_reauthenticate");
    Ok(proved.rows_affected == 1)
}

/// An update of the last use of a session, if the session is live.
fn used(session: &Session, now: Timestamp) -> UpdateMany<session::Entity> {
    session::Entity::update_many()
        .col_expr(session::Column::LastUsedAt, Expr::value(session.last_used_at.as_micros()))
        .col_expr(session::Column::IdleExpiresAt, Expr::value(session.idle_expires_at.as_micros()))
        .col_expr(session::Column::ClientAddress, Expr::value(session.client_address.as_str()))
        .filter(session::Column::Id.eq(session.id.to_string()))
        .filter(live(now))
}

/// Ends sessions of a user, and returns how many of them were live. Sessions that seem to have expired are ended too: otherwise
/// one that expired because a clock was ahead for a moment would become live again.
pub async fn session_end(tx: &WriteTx, user: UserId, which: Which<'_>, now: Timestamp) -> Result<u32> {
    let mut condition =
        Condition::all().add(session::Column::UserId.eq(user.to_string())).add(session::Column::EndedAt.is_null());
    condition = match which {
        Which::All => condition,
        Which::AllBut(id) => condition.add(session::Column::Id.ne(id.to_string())),
        Which::These(ids) => condition.add(session::Column::Id.is_in(ids.iter().map(ToString::to_string))),
    };
    let mut end = session::Entity::update_many()
        .col_expr(session::Column::EndedAt, Expr::value(now.as_micros()))
        .filter(condition);
    let lived = Query::returning().expr(Expr::from(in_time(now)));
    let ended = tx.query_all(QueryTrait::query(&mut end).returning(lived)).await?;
    failpoint!("store.session_end");
    let lived: Vec<bool> = ended.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, _>>()?;
    Ok(count(lived.into_iter().filter(|lived| *lived).count() as u64))
}

/// Ends all sessions of all users, and returns their number.
pub async fn session_end_all(tx: &WriteTx, now: Timestamp) -> Result<u32> {
    let ended = session::Entity::update_many()
        .col_expr(session::Column::EndedAt, Expr::value(now.as_micros()))
        .filter(session::Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(count(ended.rows_affected))
}

/// Ends the oldest live sessions of a user so that at most `keep` are left, and returns the ids of those it ended.
pub async fn session_evict(tx: &WriteTx, user: UserId, keep: u32, now: Timestamp) -> Result<Vec<SessionId>> {
    // Reads all of them, which are few: SQLite plans a statement with a bound LIMIT anew each time it runs.
    let live_ids: Vec<String> = session::Entity::find()
        .select_only()
        .column(session::Column::Id)
        .filter(session::Column::UserId.eq(user.to_string()))
        .filter(live(now))
        .order_by(session::Column::CreatedAt, Order::Desc)
        .order_by(session::Column::Id, Order::Desc)
        .into_tuple()
        .all(tx)
        .await?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let ids: Vec<SessionId> = live_ids.iter().skip(keep).filter_map(|id| id.parse().ok()).collect();
    if !ids.is_empty() {
        session_end(tx, user, Which::These(&ids), now).await?;
    }
    Ok(ids)
}

/// Lists the sessions of a user, newest first.
pub async fn session_list(
    c: &impl ConnectionTrait,
    user: UserId,
    include_ended: bool,
    now: Timestamp,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<Session>> {
    let mut select = session::Entity::find().filter(session::Column::UserId.eq(user.to_string()));
    if !include_ended {
        select = select.filter(live(now));
    }
    let columns = (session::Column::CreatedAt, session::Column::Id);
    let rows: Vec<session::Model> = records(c, Resource::Session, newest_first(select, columns, after, size)).await?;
    let page = Page::cut(rows, size, |row| Cursor::Time(row.created_at, row.id.clone()));
    Ok(Page { next: page.next, rows: readable(page.rows.into_iter().map(decode))? })
}

/// Deletes a batch of the sessions that expired before `before`. Returns whether there may be more.
pub async fn sessions_sweep(tx: &Autocommit, before: Timestamp) -> Result<bool> {
    delete_batch::<session::Entity>(tx, session::Column::ExpiresAt.lt(before.as_micros())).await
}

/// The SQL equivalent of `Session::is_live`.
fn live(now: Timestamp) -> Condition {
    in_time(now).add(session::Column::EndedAt.is_null())
}

fn in_time(now: Timestamp) -> Condition {
    Condition::all()
        .add(session::Column::ExpiresAt.gt(now.as_micros()))
        .add(session::Column::IdleExpiresAt.gt(now.as_micros()))
}

fn decode(row: session::Model) -> Result<Session> {
    let decoder = Decoder { resource: Resource::Session, id: &row.id, version: None };
    Ok(Session {
        id: decoder.parse(&row.id)?,
        user_id: decoder.parse(&row.user_id)?,
        wish: decoder.wish(WishColumns {
            app: row.app,
            client_name: row.client_name,
            audiences: row.audiences,
            scopes: row.scopes,
        })?,
        client_address: row.client_address,
        auth_at: decoder.instant(row.auth_at)?,
        created_at: decoder.instant(row.created_at)?,
        last_used_at: decoder.instant(row.last_used_at)?,
        idle_expires_at: decoder.instant(row.idle_expires_at)?,
        expires_at: decoder.instant(row.expires_at)?,
        ended_at: decoder.instant_or_none(row.ended_at)?,
        generation: decoder.ok(u32::try_from(row.generation))?,
        rotated_at: decoder.instant_or_none(row.rotated_at)?,
        proofs: decoder.some(proofs_from(row.second_factor))?,
    })
}
