//! The policy of signing in: one row.

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait};

use super::WriteTx;
use super::entity::sign_in_policy::{self, Column};
use super::single::record;
use super::text::{Decoder, micros};
use crate::domain::role::Role;
use crate::domain::sign_in_policy::SignInPolicy;
use crate::domain::time::Timestamp;
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
        version: row.version,
    })
}

/// Stores the policy, which was read and locked in this transaction, with its next version.
pub async fn policy_save(tx: &WriteTx, policy: &SignInPolicy) -> Result<()> {
    let roles: Vec<&str> = policy.second_factor_roles.iter().map(|role| role.as_str()).collect();
    sign_in_policy::Entity::update_many()
        .col_expr(Column::Version, Expr::value(policy.version))
        .col_expr(Column::SecondFactorRequired, Expr::value(i16::from(policy.second_factor_required)))
        .col_expr(Column::SecondFactorRoles, Expr::value(roles.join(" ")))
        .col_expr(Column::SecondFactorFrom, Expr::value(micros(policy.second_factor_from)))
        .filter(Column::Id.eq(ID))
        .exec(tx)
        .await?;
    failpoint!("store.policy_save");
    Ok(())
}

/// Reads the policy from the derived column of an account.
pub(super) fn policy_from(text: &str) -> Option<SignInPolicy> {
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<i64>().ok();
    let (version, required, from) = (number()?, number()?, number()?);
    Some(SignInPolicy {
        second_factor_required: required != 0,
        second_factor_from: (from != 0).then(|| Timestamp::from_micros(from)),
        second_factor_roles: roles_from(words)?,
        version,
    })
}

fn roles_from<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<Role>> {
    names.map(Role::parse).collect()
}
