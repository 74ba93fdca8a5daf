//! Tickets: a few for each user and purpose.

use sea_orm::sea_query::{Expr, ExprTrait, LockType, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set, UpdateMany,
};

use super::entity::ticket::{self, Column};
use super::second_factors::{proofs_from, second_factor_number};
use super::single::only;
use super::sweep::delete_batch;
use super::text::{Decoder, WishColumns, count};
use super::{Autocommit, WriteTx};
use crate::domain::id::UserId;
use crate::domain::secret::Digest32;
use crate::domain::ticket::{Enrollment, SignInGoal, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

fn purpose_number(purpose: TicketPurpose) -> i16 {
    match purpose {
        TicketPurpose::PasswordChange => 1,
        TicketPurpose::SecondFactor => 2,
        TicketPurpose::Enrollment => 3,
        TicketPurpose::TotpConfirmation => 4,
    }
}

fn goal_number(goal: SignInGoal) -> i16 {
    match goal {
        SignInGoal::Session => 1,
        SignInGoal::Enrollment => 2,
    }
}

fn goal_from(number: i16) -> Option<SignInGoal> {
    [SignInGoal::Session, SignInGoal::Enrollment].into_iter().find(|goal| goal_number(*goal) == number)
}

/// Stores a ticket, and ends the oldest if the user has too many of this purpose.
pub async fn ticket_insert(tx: &WriteTx, ticket: &Ticket, digest: &Digest32) -> Result<()> {
    let kept = ticket.purpose.max_live().saturating_sub(1);
    let older: Vec<Vec<u8>> = ticket::Entity::find()
        .select_only()
        .column(Column::Digest)
        .filter(Column::UserId.eq(ticket.user_id.to_string()))
        .filter(Column::Purpose.eq(purpose_number(ticket.purpose)))
        .order_by_desc(Column::CreatedAt)
        .into_tuple()
        .all(tx)
        .await?;
    let surplus: Vec<Vec<u8>> = older.into_iter().skip(kept).collect();
    if !surplus.is_empty() {
        ticket::Entity::delete_many().filter(Column::Digest.is_in(surplus)).exec(tx).await?;
    }
    let wish = WishColumns::from(&ticket.wish);
    let enrollment = ticket.enrollment.as_ref();
    let row = ticket::ActiveModel {
        digest: Set(digest.as_bytes().to_vec()),
        user_id: Set(ticket.user_id.to_string()),
        purpose: Set(purpose_number(ticket.purpose)),
        second_factor: Set(second_factor_number(ticket.proofs)),
        goal: Set(goal_number(ticket.goal)),
        session_id: Set(enrollment.and_then(|enrollment| enrollment.session_id).map(|id| id.to_string())),
        sealed_key: Set(enrollment.map(|enrollment| enrollment.sealed_key.clone())),
        app: Set(wish.app),
        client_name: Set(wish.client_name),
        audiences: Set(wish.audiences),
        scopes: Set(wish.scopes),
        created_at: Set(ticket.created_at.as_micros()),
        expires_at: Set(ticket.expires_at.as_micros()),
        tries: Set(0),
    };
    ticket::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.ticket_insert");
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
        .filter(Column::Digest.eq(digest.as_bytes().to_vec()))
        .filter(Column::Purpose.eq(purpose_number(purpose)))
        .filter(Column::ExpiresAt.gt(now.as_micros()));
    if lock {
        QueryTrait::query(&mut select).lock(LockType::Update);
    }
    let row: Option<ticket::Model> = only(c, select).await?;
    row.map(|row| decode(row, purpose)).transpose()
}

fn decode(row: ticket::Model, purpose: TicketPurpose) -> Result<Ticket> {
    let decoder = Decoder { resource: Resource::User, id: &row.user_id, version: None };
    let enrollment = match purpose {
        TicketPurpose::TotpConfirmation => Some(Enrollment {
            session_id: row.session_id.map(|id| decoder.parse(&id)).transpose()?,
            sealed_key: decoder.some(row.sealed_key)?,
        }),
        TicketPurpose::PasswordChange | TicketPurpose::SecondFactor | TicketPurpose::Enrollment => None,
    };
    Ok(Ticket {
        user_id: decoder.parse(&row.user_id)?,
        purpose,
        proofs: decoder.some(proofs_from(row.second_factor))?,
        goal: decoder.some(goal_from(row.goal))?,
        wish: decoder.wish(WishColumns {
            app: row.app,
            client_name: row.client_name,
            audiences: row.audiences,
            scopes: row.scopes,
        })?,
        enrollment,
        // A count that cannot be read is not below the limit.
        tries: u32::try_from(row.tries).unwrap_or(u32::MAX),
        created_at: decoder.instant(row.created_at)?,
        expires_at: decoder.instant(row.expires_at)?,
    })
}

/// Counts a try with a ticket that is valid at `now`, before anything is hashed for it. Returns `false` if the ticket has no
/// tries left. One statement, so that replicas share the limit.
pub async fn ticket_try(tx: &Autocommit, digest: &Digest32, purpose: TicketPurpose, now: Timestamp) -> Result<bool> {
    Ok(counted(digest, purpose, now).exec(tx).await?.rows_affected == 1)
}

/// Counts a wrong code with a ticket whose row is locked.
pub async fn ticket_wrong_code(tx: &WriteTx, digest: &Digest32, purpose: TicketPurpose, now: Timestamp) -> Result<()> {
    counted(digest, purpose, now).exec(tx).await?;
    failpoint!("store.ticket_wrong_code");
    Ok(())
}

fn counted(digest: &Digest32, purpose: TicketPurpose, now: Timestamp) -> UpdateMany<ticket::Entity> {
    ticket::Entity::update_many()
        .col_expr(Column::Tries, Expr::col(Column::Tries).add(1))
        .filter(Column::Digest.eq(digest.as_bytes().to_vec()))
        .filter(Column::Purpose.eq(purpose_number(purpose)))
        .filter(Column::ExpiresAt.gt(now.as_micros()))
        .filter(Column::Tries.between(0, i64::from(purpose.max_tries()) - 1))
}

/// Uses a ticket up.
pub async fn ticket_end(tx: &WriteTx, digest: &Digest32) -> Result<()> {
    ticket::Entity::delete_by_id(digest.as_bytes().to_vec()).exec(tx).await?;
    failpoint!("store.ticket_end");
    Ok(())
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
