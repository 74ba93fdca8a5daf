//! The policy of signing in: one row.

use std::time::Duration;

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait};

use super::WriteTx;
use super::entity::sign_in_policy::{self, Column};
use super::single::record;
use super::text::{Decoder, micros};
use crate::domain::role::Role;
use crate::domain::sign_in_policy::{PasswordRulesSet, SignInPolicy};
use crate::domain::time::Timestamp;
use crate::domain::user_policy::UserPolicy;
use crate::error::{Error, Resource, Result};

/// The id of the row.
const ID: i16 = 1;

/// Reads the policy.
pub async fn policy_read(c: &impl ConnectionTrait) -> Result<SignInPolicy> {
    read(c, false).await
}

/// Reads and locks the policy.
pub async fn policy_lock_row(c: &impl ConnectionTrait) -> Result<SignInPolicy> {
    read(c, true).await
}

async fn read(c: &impl ConnectionTrait, lock: bool) -> Result<SignInPolicy> {
    let mut select = sign_in_policy::Entity::find_by_id(ID);
    if lock {
        QueryTrait::query(&mut select).lock(LockType::Update);
    }
    let row: Option<sign_in_policy::Model> = record(c, Resource::Row, select).await?;
    let row = row.ok_or_else(|| Error::internal("the database has no policy"))?;
    let decoder = Decoder { resource: Resource::Row, id: "sign_in_policy", version: Some(row.version) };
    Ok(SignInPolicy {
        second_factor_required: row.second_factor_required != 0,
        second_factor_roles: decoder.some(roles_from(row.second_factor_roles.split_whitespace()))?,
        second_factor_from: decoder.instant_or_none(row.second_factor_from)?,
        password_rules: PasswordRulesSet {
            min_length: decoder.ok(row.password_min_length.map(u32::try_from).transpose())?,
            max_length: decoder.ok(row.password_max_length.map(u32::try_from).transpose())?,
            min_score: decoder.ok(row.password_min_score.map(u8::try_from).transpose())?,
            reject_breached: row.password_reject_breached.map(|switch| switch != 0),
            reject_user_info: row.password_reject_user_info.map(|switch| switch != 0),
            require_letter_and_digit: row.password_letter_and_digit.map(|switch| switch != 0),
        },
        password_history: decoder.ok(u32::try_from(row.password_history))?,
        password_min_age: Duration::from_micros(decoder.ok(u64::try_from(row.password_min_age))?),
        checks_breached: row.password_check_breached != 0,
        version: row.version,
    })
}

/// Stores the policy, which was read and locked in this transaction, with its next version.
pub async fn policy_save(tx: &WriteTx, policy: &SignInPolicy) -> Result<()> {
    let roles: Vec<&str> = policy.second_factor_roles.iter().map(|role| role.as_str()).collect();
    let password = policy.password_rules;
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let age = i64::try_from(policy.password_min_age.as_micros()).unwrap_or(i64::MAX);
    sign_in_policy::Entity::update_many()
        .col_expr(Column::Version, Expr::value(policy.version))
        .col_expr(Column::SecondFactorRequired, Expr::value(i16::from(policy.second_factor_required)))
        .col_expr(Column::SecondFactorRoles, Expr::value(roles.join(" ")))
        .col_expr(Column::SecondFactorFrom, Expr::value(micros(policy.second_factor_from)))
        .col_expr(Column::PasswordMinLength, Expr::value(password.min_length.map(number)))
        .col_expr(Column::PasswordMaxLength, Expr::value(password.max_length.map(number)))
        .col_expr(Column::PasswordMinScore, Expr::value(password.min_score.map(i16::from)))
        .col_expr(Column::PasswordRejectBreached, Expr::value(password.reject_breached.map(i16::from)))
        .col_expr(Column::PasswordRejectUserInfo, Expr::value(password.reject_user_info.map(i16::from)))
        .col_expr(Column::PasswordLetterAndDigit, Expr::value(password.require_letter_and_digit.map(i16::from)))
        .col_expr(Column::PasswordHistory, Expr::value(number(policy.password_history)))
        .col_expr(Column::PasswordMinAge, Expr::value(age))
        .col_expr(Column::PasswordCheckBreached, Expr::value(i16::from(policy.checks_breached)))
        .filter(Column::Id.eq(ID))
        .exec(tx)
        .await?;
    failpoint!("store.policy_save");
    Ok(())
}

/// Reads what the policy means for a user with these roles from the derived column of the account.
pub(super) fn policy_of(text: &str, roles: &[Role]) -> Option<UserPolicy> {
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<i64>().ok();
    let (version, history, min_age) = (number()?, number()?, number()?);
    let (checks_breached, required, from) = (number()?, number()?, number()?);
    let policy = SignInPolicy {
        second_factor_required: required != 0,
        second_factor_from: (from != 0).then(|| Timestamp::from_micros(from)),
        second_factor_roles: roles_from(words)?,
        version,
        ..SignInPolicy::default()
    };
    Some(UserPolicy {
        second_factor_from: policy.required_from(roles),
        password_history: u32::try_from(history).ok()?,
        password_min_age: Duration::from_micros(u64::try_from(min_age).ok()?),
        checks_breached: checks_breached != 0,
        version,
    })
}

fn roles_from<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<Role>> {
    names.map(Role::parse).collect()
}
