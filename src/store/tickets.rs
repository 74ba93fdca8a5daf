//! Tickets: one for each user and purpose, so that each sign-in replaces the previous ticket.

use sea_orm::sea_query::{Expr, ExprTrait, LockType, OnConflict, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait, Set};

use super::entity::ticket::{self, Column};
use super::single::only;
use super::sweep::delete_batch;
use super::text::{Decoder, WishColumns, count};
use super::{Autocommit, WriteTx};
use crate::domain::id::UserId;
use crate::domain::secret::Digest32;
use crate::domain::ticket::{MAX_TRIES, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

fn purpose_number(purpose: TicketPurpose) -> i16 {
    match purpose {
        TicketPurpose::PasswordChange => 1,
    }
}

/// Stores a ticket, and replaces the user's previous one for this purpose.
pub async fn ticket_replace(tx: &WriteTx, ticket: &Ticket, digest: &Digest32) -> Result<()> {
    let wish = WishColumns::from(&ticket.wish);
    let row = ticket::ActiveModel {
        user_id: Set(ticket.user_id.to_string()),
        purpose: Set(purpose_number(ticket.purpose)),
        digest: Set(digest.as_bytes().to_vec()),
        app: Set(wish.app),
        client_name: Set(wish.client_name),
        audiences: Set(wish.audiences),
        scopes: Set(wish.scopes),
        created_at: Set(ticket.created_at.as_micros()),
        expires_at: Set(ticket.expires_at.as_micros()),
        tries: Set(0),
    };
    let replace = OnConflict::columns([Column::UserId, Column::Purpose])
        .update_columns([
            Column::Digest,
            Column::App,
            Column::ClientName,
            Column::Audiences,
            Column::Scopes,
            Column::CreatedAt,
            Column::ExpiresAt,
            Column::Tries,
        ])
        .to_owned();
    ticket::Entity::insert(row).on_conflict(replace).exec_without_returning(tx).await?;
    failpoint!("store.ticket_replace");
    Ok(())
}

/// Reads a ticket that is valid at `now`.
pub async fn ticket_find(
    c: &impl ConnectionTrait,
    digest: &Digest32,
    purpose: TicketPurpose,
    now: Timestamp,
) -> Result<Option<Ticket>> {
    find(c, digest, purpose, now, false).await
}

/// Reads and locks a ticket that is valid at `now`.
pub async fn ticket_lock_row(
    c: &impl ConnectionTrait,
    digest: &Digest32,
    purpose: TicketPurpose,
    now: Timestamp,
) -> Result<Option<Ticket>> {
    find(c, digest, purpose, now, true).await
}

async fn find(
    c: &impl ConnectionTrait,
    digest: &Digest32,
    purpose: TicketPurpose,
    now: Timestamp,
    lock: bool,
) -> Result<Option<Ticket>> {
    let mut select = ticket::Entity::find()
        .filter(ticket::Column::Digest.eq(digest.as_bytes().to_vec()))
        .filter(ticket::Column::Purpose.eq(purpose_number(purpose)))
        .filter(ticket::Column::ExpiresAt.gt(now.as_micros()));
    if lock {
        QueryTrait::query(&mut select).lock(LockType::Update);
    }
    let row: Option<ticket::Model> = only(c, select).await?;
    let Some(row) = row else { return Ok(None) };
    let decoder = Decoder { resource: Resource::User, id: &row.user_id, version: None };
    Ok(Some(Ticket {
        user_id: decoder.parse(&row.user_id)?,
        purpose,
        wish: decoder.wish(WishColumns {
            app: row.app.clone(),
            client_name: row.client_name.clone(),
            audiences: row.audiences.clone(),
            scopes: row.scopes.clone(),
        })?,
        // A count that cannot be read is not below the limit.
        tries: u32::try_from(row.tries).unwrap_or(u32::MAX),
        created_at: decoder.instant(row.created_at)?,
        expires_at: decoder.instant(row.expires_at)?,
    }))
}

/// Counts a try with a ticket that is valid at `now`, before anything is hashed for it. Returns `false` if the ticket has no
/// tries left. One statement, so that replicas share the limit.
pub async fn ticket_try(tx: &Autocommit, digest: &Digest32, purpose: TicketPurpose, now: Timestamp) -> Result<bool> {
    let counted = ticket::Entity::update_many()
        .col_expr(Column::Tries, Expr::col(Column::Tries).add(1))
        .filter(Column::Digest.eq(digest.as_bytes().to_vec()))
        .filter(Column::Purpose.eq(purpose_number(purpose)))
        .filter(Column::ExpiresAt.gt(now.as_micros()))
        .filter(Column::Tries.between(0, MAX_TRIES - 1))
        .exec(tx)
        .await?;
    Ok(counted.rows_affected == 1)
}

/// Deletes all tickets of a user, and returns how many of them were valid at `now`.
pub async fn ticket_end_all(tx: &WriteTx, user: UserId, now: Timestamp) -> Result<u32> {
    let mut end = ticket::Entity::delete_many().filter(Column::UserId.eq(user.to_string()));
    let expiry = Query::returning().column(Column::ExpiresAt);
    let ended = tx.query_all(QueryTrait::query(&mut end).returning(expiry)).await?;
    failpoint!("store.ticket_end_all");
    let ends: Vec<i64> = ended.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, _>>()?;
    Ok(count(ends.into_iter().filter(|end| *end > now.as_micros()).count() as u64))
}

/// Deletes a batch of expired tickets. Returns whether there may be more.
pub async fn tickets_sweep(tx: &Autocommit, now: Timestamp) -> Result<bool> {
    delete_batch::<ticket::Entity>(tx, ticket::Column::ExpiresAt.lte(now.as_micros())).await
}
