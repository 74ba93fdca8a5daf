//! Lists of messages, and counts of them for limits.

use std::collections::HashSet;

use sea_orm::sea_query::{Condition, Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use strum::VariantArray as _;

use super::row::{decode, letter_number, state_number};
use super::with_link_ends;
use crate::domain::delivery::{Delivery, DeliveryFilter, DeliveryKind, LetterKind};
use crate::domain::id::UserId;
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};
use crate::store::entity::delivery::{self, Column};
use crate::store::page::newest_first;
use crate::store::single::records;
use crate::store::text::readable;

/// Whose messages are counted.
pub enum Requested<'a> {
    /// Those to a user.
    For(UserId),
    /// Those that a principal asked for.
    By(&'a str),
}

/// Lists messages, newest first, of one user or of all.
pub async fn delivery_list(
    c: &impl ConnectionTrait,
    filter: &DeliveryFilter,
    user: Option<UserId>,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<Delivery>> {
    let mut all = Condition::all().add_option(user.map(|user| Column::UserId.eq(user.to_string())));
    if !filter.kinds.is_empty() {
        let letters = LetterKind::VARIANTS.iter().filter(|letter| filter.kinds.contains(&letter.kind()));
        all = all.add(Column::Letter.is_in(letters.map(|letter| letter_number(*letter))));
    }
    if !filter.states.is_empty() {
        all = all.add(Column::State.is_in(filter.states.iter().map(|state| state_number(*state))));
    }
    let select = newest_first(delivery::Entity::find().filter(all), (Column::CreatedAt, Column::Id), after, size);
    let rows: Vec<delivery::Model> = records(c, Resource::Delivery, select).await?;
    let page = Page::cut(rows, size, |row| Cursor::Time(row.created_at, row.id.clone()));
    Ok(Page { next: page.next, rows: with_link_ends(c, readable(page.rows.iter().map(decode))?).await? })
}

/// Counts the messages with a link or a password that a user got, or that a principal asked for, since `since`, up to `most`.
/// Also returns when the oldest of them was made.
pub async fn delivery_count_requested(
    c: &impl ConnectionTrait,
    whose: &Requested<'_>,
    since: Timestamp,
    most: u64,
) -> Result<Vec<Timestamp>> {
    let secret = LetterKind::VARIANTS.iter().filter(|letter| letter.kind() != DeliveryKind::Notice);
    let of = match whose {
        // What strangers ask for has limits of its own.
        Requested::For(user) => Column::UserId.eq(user.to_string()).and(Column::RequestedBy.ne("")),
        Requested::By(principal) => Column::RequestedBy.eq(*principal),
    };
    let times: Vec<i64> = delivery::Entity::find()
        .select_only()
        .column(Column::CreatedAt)
        .filter(of)
        .filter(Column::CreatedAt.gt(since.as_micros()))
        .filter(Column::Letter.is_in(secret.map(|letter| letter_number(*letter))))
        .order_by_desc(Column::CreatedAt)
        .limit(most)
        .into_tuple()
        .all(c)
        .await?;
    Ok(times.into_iter().map(Timestamp::from_micros).collect())
}

/// When the links were made that a user got because a stranger asked for them, since `since`: newest first, up to `most`. Also
/// counts those to the same address when another account had it.
pub async fn delivery_self_service(
    c: &impl ConnectionTrait,
    user: UserId,
    address_key: &str,
    since: Timestamp,
    most: usize,
) -> Result<Vec<Timestamp>> {
    let mut found: HashSet<(i64, String)> = HashSet::new();
    for of in [Column::UserId.eq(user.to_string()), Column::AddressKey.eq(address_key)] {
        let newest: Vec<(i64, String)> = delivery::Entity::find()
            .select_only()
            .columns([Column::CreatedAt, Column::Id])
            .filter(of)
            // The condition of the partial index, word for word.
            .filter(Expr::cust("requested_by = ''"))
            .filter(Column::Letter.is_in([LetterKind::Invite, LetterKind::PasswordReset].map(letter_number)))
            .filter(Column::CreatedAt.gt(since.as_micros()))
            .order_by_desc(Column::CreatedAt)
            .limit(most as u64)
            .into_tuple()
            .all(c)
            .await?;
        found.extend(newest);
    }
    let mut times: Vec<Timestamp> = found.into_iter().map(|(at, _)| Timestamp::from_micros(at)).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    times.truncate(most);
    Ok(times)
}

/// Returns whether an invitation was sent to this address of a user.
pub async fn delivery_has_invited(c: &impl ConnectionTrait, user: UserId, address_key: &str) -> Result<bool> {
    let select = delivery::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::UserId.eq(user.to_string()))
        .filter(Column::AddressKey.eq(address_key))
        .filter(Column::Letter.eq(letter_number(LetterKind::Invite)))
        .limit(1);
    Ok(select.into_tuple::<String>().one(c).await?.is_some())
}
