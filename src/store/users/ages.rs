//! How many passwords expire when, and how many are older than the rules.
//!
//! Only passwords that users may keep are counted. The database counts them: to read a million rows would take ten times as long.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::condition::{At, password_expired};
use crate::domain::password_age::MaxAge;
use crate::domain::time::Timestamp;
use crate::error::Result;
use crate::store::entity::user;

fn lasting() -> Select<user::Entity> {
    user::Entity::find()
        .filter(Expr::cust(r#""user".password_hash IS NOT NULL"#))
        .filter(Expr::cust(r#""user".password_kind = 1"#))
}

fn at(max_age: MaxAge, now: Timestamp) -> At {
    At { now, too_old: Some(max_age.too_old(now)) }
}

/// Counts the passwords.
pub async fn password_count(c: &impl ConnectionTrait) -> Result<u64> {
    Ok(lasting().count(c).await?)
}

/// Counts the passwords that have expired at an instant.
pub async fn expired_count(c: &impl ConnectionTrait, max_age: MaxAge, now: Timestamp) -> Result<u64> {
    Ok(user::Entity::find().filter(password_expired(at(max_age, now))).count(c).await?)
}

/// Counts the users whose password has not expired at an instant, and who have no address.
pub async fn unexpired_without_address(c: &impl ConnectionTrait, max_age: MaxAge, now: Timestamp) -> Result<u64> {
    let without = lasting().filter(user::Column::EmailKey.is_null());
    Ok(without.filter(password_expired(at(max_age, now)).not()).count(c).await?)
}

/// Reads the names of up to `limit` users whose password has expired at an instant, and had not yet at an earlier one. The oldest
/// passwords come first.
pub async fn expiring_names(
    c: &impl ConnectionTrait,
    max_age: MaxAge,
    after: Option<Timestamp>,
    until: Timestamp,
    limit: u64,
) -> Result<Vec<String>> {
    let mut expiring = user::Entity::find().filter(password_expired(at(max_age, until)));
    if let Some(after) = after {
        expiring = expiring.filter(password_expired(at(max_age, after)).not());
    }
    let names = expiring
        .select_only()
        .column(user::Column::Username)
        .order_by_asc(user::Column::PasswordChangedAt)
        .order_by_asc(user::Column::Id)
        .limit(limit)
        .into_tuple();
    Ok(names.all(c).await?)
}

/// Counts the passwords that are older than the rules, which are of `since`, and that no sign-in has judged. Those that must be
/// changed anyway are left out.
pub async fn unjudged_count(c: &impl ConnectionTrait, since: Timestamp) -> Result<u64> {
    let since = since.as_micros();
    let judged_at = Expr::col((user::Entity, user::Column::PasswordJudgedAt));
    let unjudged = lasting()
        .filter(user::Column::PasswordChangedAt.lt(since))
        .filter(judged_at.clone().is_null().or(judged_at.lt(since)))
        .filter(user::Column::ChangeDemanded.eq(false));
    Ok(unjudged.count(c).await?)
}
