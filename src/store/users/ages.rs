//! The ages of all passwords, page by page, and how many are older than the rules.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::domain::id::UserId;
use crate::domain::time::Timestamp;
use crate::error::Result;
use crate::store::entity::user;
use crate::store::text::instant;

/// The age of a password that its user may keep.
#[derive(Debug, Clone)]
pub struct PasswordAge {
    /// The user.
    pub user: UserId,
    /// The username, as stored.
    pub username: String,
    /// When the password was changed.
    pub changed_at: Timestamp,
    /// Whether the user can be told by mail.
    pub has_address: bool,
}

/// A place in the list of all passwords.
#[derive(Debug, Clone, Default)]
pub struct Place {
    changed_at: i64,
    id: String,
}

/// Reads a page, the oldest passwords first, and the place where the next begins. Rows whose id cannot be read are left out.
pub async fn password_ages(
    c: &impl ConnectionTrait,
    after: &Place,
    limit: u64,
) -> Result<(Vec<PasswordAge>, Option<Place>)> {
    let place = Expr::tuple([
        Expr::col((user::Entity, user::Column::PasswordChangedAt)),
        Expr::col((user::Entity, user::Column::Id)),
    ]);
    let rows: Vec<(String, String, i64, Option<String>)> = user::Entity::find()
        .select_only()
        .column(user::Column::Id)
        .column(user::Column::Username)
        .column(user::Column::PasswordChangedAt)
        .column(user::Column::EmailKey)
        .filter(place.gt(Expr::tuple([Expr::val(after.changed_at), Expr::val(after.id.as_str())])))
        .filter(Expr::cust(r#""user".password_hash IS NOT NULL"#))
        .filter(Expr::cust(r#""user".password_kind = 1"#))
        .order_by_asc(user::Column::PasswordChangedAt)
        .order_by_asc(user::Column::Id)
        .limit(limit)
        .into_tuple()
        .all(c)
        .await?;
    let is_full = rows.len() as u64 == limit;
    let next = rows.last().filter(|_| is_full);
    let next = next.map(|(id, _, changed_at, _)| Place { changed_at: *changed_at, id: id.clone() });
    let ages = rows.into_iter().filter_map(|(id, username, changed_at, email)| {
        let (user, changed_at) = (id.parse().ok()?, instant(changed_at));
        Some(PasswordAge { user, username, changed_at, has_address: email.is_some() })
    });
    Ok((ages.collect(), next))
}

/// Counts the passwords that are older than the rules, which are of `since`, and that no sign-in has judged. Those that must be
/// changed anyway are left out.
pub async fn unjudged_count(c: &impl ConnectionTrait, since: Timestamp) -> Result<u64> {
    let since = since.as_micros();
    let judged_at = Expr::col((user::Entity, user::Column::PasswordJudgedAt));
    let count = user::Entity::find()
        .filter(user::Column::PasswordChangedAt.lt(since))
        .filter(judged_at.clone().is_null().or(judged_at.lt(since)))
        .filter(Expr::cust(r#""user".password_hash IS NOT NULL"#))
        .filter(Expr::cust(r#""user".password_kind = 1"#))
        .filter(user::Column::ChangeDemanded.eq(false));
    Ok(count.count(c).await?)
}
