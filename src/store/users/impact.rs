//! For whom a policy means something: who lacks a second factor, how many passwords expire when, and how many are older than the rules.
//!
//! Of passwords, those that users may keep are counted. The database counts them: to read a million rows would take ten times as
//! long.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, JoinType, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::condition::{At, lasting, password_expired, password_expired_between};
use super::derived::second_factor_enrolled;
use crate::domain::password_age::MaxAge;
use crate::domain::sign_in_policy::SignInPolicy;
use crate::domain::time::Timestamp;
use crate::error::Result;
use crate::store::entity::{api_token, user, user_role};

/// People to whom a policy applies and who have no second factor.
pub struct UsersWithoutFactor {
    /// How many.
    pub users: u64,
    /// Their API tokens that are live.
    pub api_tokens: u64,
}

/// Counts for whom a policy would mean a new second factor.
pub async fn users_without_factor(
    c: &impl ConnectionTrait,
    policy: &SignInPolicy,
    now: Timestamp,
) -> Result<UsersWithoutFactor> {
    let mut condition = Condition::all().add(Expr::cust(r#""user".kind = 1"#)).add(second_factor_enrolled().not());
    if !policy.second_factor_required {
        let mut members = Query::select();
        members
            .column(user_role::Column::UserId)
            .from(user_role::Entity)
            .and_where(user_role::Column::Role.is_in(policy.second_factor_roles.iter().map(|role| role.as_str())));
        condition = condition.add(user::Column::Id.in_subquery(members));
    }
    let users = user::Entity::find().filter(condition.clone()).count(c).await?;
    let to_user = api_token::Entity::belongs_to(user::Entity).from(api_token::Column::UserId).to(user::Column::Id);
    let api_tokens = api_token::Entity::find()
        .join(JoinType::InnerJoin, to_user.into())
        .filter(condition)
        .filter(api_token::Column::RevokedAt.is_null())
        .filter(api_token::Column::ExpiresAt.gt(now.as_micros()))
        .count(c)
        .await?;
    Ok(UsersWithoutFactor { users, api_tokens })
}

fn at(max_age: MaxAge, now: Timestamp) -> At {
    At { now, too_old: Some(max_age.too_old(now)) }
}

/// Counts the passwords.
pub async fn password_count(c: &impl ConnectionTrait) -> Result<u64> {
    Ok(user::Entity::find().filter(lasting()).count(c).await?)
}

/// Counts the passwords that have expired at an instant.
pub async fn expired_count(c: &impl ConnectionTrait, max_age: MaxAge, now: Timestamp) -> Result<u64> {
    Ok(user::Entity::find().filter(password_expired(at(max_age, now))).count(c).await?)
}

/// Counts the users whose password has not expired at an instant, and who have no address.
pub async fn unexpired_without_address(c: &impl ConnectionTrait, max_age: MaxAge, now: Timestamp) -> Result<u64> {
    Ok(without_address(max_age, now).count(c).await?)
}

fn without_address(max_age: MaxAge, now: Timestamp) -> Select<user::Entity> {
    user::Entity::find()
        .filter(lasting_by_table())
        .filter(Expr::cust(r#"("user".email_key IS NULL) IS TRUE"#))
        .filter(password_expired(at(max_age, now)).not())
}

/// Selects the accounts with a lasting password, for a count that reads other columns of most accounts. `IS TRUE` hides the
/// condition from the index of their ages: to look up each account by an index takes ten times as long as to read the table.
fn lasting_by_table() -> SimpleExpr {
    Expr::cust(r#"("user".password_hash IS NOT NULL AND "user".password_kind = 1) IS TRUE"#)
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
    let until = at(max_age, until);
    let expiring = match after {
        Some(after) => password_expired_between(at(max_age, after), until),
        None => password_expired(until),
    };
    let names = user::Entity::find()
        .filter(expiring)
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
    Ok(unjudged(since).count(c).await?)
}

fn unjudged(since: Timestamp) -> Select<user::Entity> {
    let since = since.as_micros();
    let judged_at = Expr::col((user::Entity, user::Column::PasswordJudgedAt));
    user::Entity::find()
        .filter(lasting_by_table())
        .filter(user::Column::PasswordChangedAt.lt(since))
        .filter(judged_at.clone().is_null().or(judged_at.lt(since)))
        .filter(user::Column::ChangeDemanded.eq(false))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::users::query_plan::{empty_store, plan};

    #[tokio::test]
    async fn a_count_that_reads_most_accounts_reads_the_table() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let (_dir, store) = empty_store().await?;
        let (set_at, day) = (Timestamp::from_micros(0), Duration::from_hours(24));
        let max_age = MaxAge { age: day * 90, set_at, lead: day * 14, rollout: day * 30 };
        let now = set_at.saturating_add(day * 100);
        for select in [without_address(max_age, now), unjudged(now)] {
            assert_eq!(plan(&store, select).await?, ["SCAN user"]);
        }
        Ok(())
    }
}
