//! The outbox: messages to users, each with its state. A message is inserted in the transaction of what it announces.

mod list;
mod queue;
mod row;

use sea_orm::sea_query::{Condition, Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait, Set};
use strum::VariantArray as _;

pub use self::list::{Requested, delivery_count_requested, delivery_has_invited, delivery_list, delivery_self_service};
pub use self::queue::{
    Claimed, Leased, Mark, Queue, Room, delivery_cancelled, delivery_claim, delivery_failure, delivery_is_due,
    delivery_is_full, delivery_mark, delivery_queue, delivery_void_leases,
};
use self::row::{decode, letter_number, state_number};
use super::entity::delivery::{self, Column};
use super::links::link_ends;
use super::single::record;
use super::sweep::delete_batch;
use super::text::{count, micros};
use super::{Autocommit, WriteTx};
use crate::domain::delivery::{CONTENTS_VERSION, Delivery, DeliveryKind, DeliveryState, LetterKind};
use crate::domain::id::{DeliveryId, LinkId, UserId};
use crate::domain::link::LinkPurpose;
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

/// A message to be stored.
pub struct NewDelivery<'a> {
    /// The message.
    pub delivery: &'a Delivery,
    /// The key of its address: messages to one address are sent one after the other.
    pub address_key: &'a str,
    /// The principal that asked for it, for limits.
    pub requested_by: &'a str,
    /// Its sealed contents.
    pub contents: Vec<u8>,
}

/// Stores a message.
pub async fn delivery_insert(tx: &WriteTx, new: NewDelivery<'_>) -> Result<()> {
    let delivery = new.delivery;
    let row = delivery::ActiveModel {
        id: Set(delivery.id.to_string()),
        user_id: Set(delivery.user_id.to_string()),
        letter: Set(letter_number(delivery.letter)),
        address: Set(delivery.address.clone()),
        address_key: Set(new.address_key.to_owned()),
        locale: Set(delivery.locale.clone()),
        state: Set(state_number(delivery.state)),
        attempts: Set(0),
        last_error: Set(String::new()),
        relay: Set(String::new()),
        created_at: Set(delivery.created_at.as_micros()),
        updated_at: Set(delivery.updated_at.as_micros()),
        next_attempt_at: Set(micros(delivery.next_attempt_at)),
        expires_at: Set(micros(delivery.expires_at)),
        link_id: Set(delivery.link_id.map(|id| id.to_string())),
        resend_of: Set(delivery.resend_of.map(|id| id.to_string())),
        requested_by: Set(new.requested_by.to_owned()),
        contents_version: Set(CONTENTS_VERSION),
        contents: Set(Some(new.contents)),
        lease: Set(None),
        is_slow: Set(false),
        relay_failed: Set(false),
        was_unknown: Set(false),
        is_cancelled: Set(false),
    };
    delivery::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.delivery_insert");
    Ok(())
}

/// Reads one message.
pub async fn delivery_by_id(c: &impl ConnectionTrait, id: DeliveryId) -> Result<Option<Delivery>> {
    let select = delivery::Entity::find_by_id(id.to_string());
    let Some(row) = record::<delivery::Model>(c, Resource::Delivery, select).await? else { return Ok(None) };
    Ok(with_link_ends(c, vec![decode(&row)?]).await?.pop())
}

/// Adds to messages when their links were used or ended.
async fn with_link_ends(c: &impl ConnectionTrait, mut messages: Vec<Delivery>) -> Result<Vec<Delivery>> {
    let ends = link_ends(c, messages.iter().filter_map(|message| message.link_id)).await?;
    for message in &mut messages {
        message.link_ended_at = message.link_id.and_then(|link| ends.get(&link).copied());
    }
    Ok(messages)
}

/// Reads and locks one message.
pub async fn delivery_lock_row(c: &impl ConnectionTrait, id: DeliveryId) -> Result<Option<Delivery>> {
    let mut select = delivery::Entity::find_by_id(id.to_string());
    QueryTrait::query(&mut select).lock(LockType::Update);
    record::<delivery::Model>(c, Resource::Delivery, select).await?.as_ref().map(decode).transpose()
}

/// Which messages are cancelled.
pub enum Cancelled<'a> {
    /// One message.
    One(DeliveryId),
    /// Those that carry these links.
    OfLinks(&'a [LinkId]),
    /// Those to a user that carry a link of this purpose.
    LinksOf(UserId, LinkPurpose),
    /// Those to a user that carry a link or a password, or warn of the end of the password.
    OfPassword(UserId),
    /// All messages to a user.
    AllOf(UserId),
}

/// Cancels messages that have not gone out. One that is being sent is marked: it becomes CANCELLED unless the relay takes it.
pub async fn delivery_cancel(tx: &WriteTx, which: Cancelled<'_>, now: Timestamp) -> Result<u32> {
    let is_of_password =
        |letter: &&LetterKind| letter.kind() != DeliveryKind::Notice || **letter == LetterKind::PasswordExpiring;
    let letters = LetterKind::VARIANTS.iter().filter(is_of_password);
    let which = || match &which {
        Cancelled::One(id) => Condition::all().add(Column::Id.eq(id.to_string())),
        Cancelled::OfLinks(links) => Condition::all().add(Column::LinkId.is_in(links.iter().map(ToString::to_string))),
        Cancelled::LinksOf(user, purpose) => Condition::all()
            .add(Column::UserId.eq(user.to_string()))
            .add(Column::Letter.eq(letter_number(LetterKind::of_link(*purpose)))),
        Cancelled::OfPassword(user) => Condition::all()
            .add(Column::UserId.eq(user.to_string()))
            .add(Column::Letter.is_in(letters.clone().map(|letter| letter_number(*letter)))),
        Cancelled::AllOf(user) => Condition::all().add(Column::UserId.eq(user.to_string())),
    };
    let waiting = [DeliveryState::Queued, DeliveryState::Retrying].map(state_number);
    let cancelled = delivery::Entity::update_many()
        .col_expr(Column::State, Expr::value(state_number(DeliveryState::Cancelled)))
        .col_expr(Column::NextAttemptAt, Expr::value(None::<i64>))
        .col_expr(Column::Contents, Expr::value(None::<Vec<u8>>))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(which())
        .filter(Column::State.is_in(waiting))
        .exec(tx)
        .await?;
    failpoint!("store.delivery_cancel");
    // What the relay may have accepted stays UNKNOWN, and is not tried again.
    delivery::Entity::update_many()
        .col_expr(Column::NextAttemptAt, Expr::value(None::<i64>))
        .col_expr(Column::Contents, Expr::value(None::<Vec<u8>>))
        .filter(which())
        .filter(Column::State.eq(state_number(DeliveryState::Unknown)))
        .exec(tx)
        .await?;
    delivery::Entity::update_many()
        .col_expr(Column::IsCancelled, Expr::value(true))
        .filter(which())
        .filter(Column::State.eq(state_number(DeliveryState::Sending)))
        .exec(tx)
        .await?;
    Ok(count(cancelled.rows_affected))
}

/// Deletes a batch of messages that were made before `before` and have their last state. Returns whether there may be more.
pub async fn deliveries_sweep(tx: &Autocommit, before: Timestamp) -> Result<bool> {
    let old = Condition::all().add(Column::CreatedAt.lte(before.as_micros())).add(Column::NextAttemptAt.is_null());
    delete_batch::<delivery::Entity>(tx, old).await
}
