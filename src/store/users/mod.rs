//! Accounts.

mod list;
mod row;
mod write;

use sea_orm::sea_query::LockType;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IdenStatic, Iterable, JoinType, QueryFilter, QueryResult, QuerySelect,
    RelationDef, Select,
};

pub use self::list::{UserListing, user_count, user_list};
pub use self::write::{
    administrators_lock, reservation_find, reservations_sweep, role_has_members, user_count_able_administrators,
    user_delete, user_insert, user_insert_many, user_rehash, user_save, user_signed_in, user_signed_in_as_read,
};
use super::entity::{throttle, user};
use crate::domain::email::EmailAddress;
use crate::domain::id::UserId;
use crate::domain::user::{User, UserRef};
use crate::domain::username::Username;
use crate::error::{Resource, Result};
use crate::store::single::{model, record};

/// Reads one account.
pub async fn user_by_ref(c: &impl ConnectionTrait, user: &UserRef) -> Result<Option<User>> {
    one(c, with_throttle(find(user))).await
}

/// Reads one account by id.
pub async fn user_by_id(c: &impl ConnectionTrait, id: UserId) -> Result<Option<User>> {
    one(c, with_throttle(user::Entity::find_by_id(id.to_string()))).await
}

/// Reads the account that somebody means who signs in: by username, or by address if it can be one.
pub async fn user_by_login(c: &impl ConnectionTrait, login: &Login) -> Result<Option<User>> {
    match login {
        Login::Username(username) => user_by_ref(c, &UserRef::Username(username.clone())).await,
        Login::Email(email) => user_by_ref(c, &UserRef::Email(email.clone())).await,
    }
}

/// What somebody who signs in calls themselves.
#[derive(Debug, Clone)]
pub enum Login {
    /// A sign-in name.
    Username(Username),
    /// An address.
    Email(EmailAddress),
}

impl Login {
    /// Folded: the same for every spelling of it.
    pub fn key(&self) -> &str {
        match self {
            Login::Username(username) => username.as_str(),
            Login::Email(email) => email.key(),
        }
    }
}

/// The id of an account, without reading the rest: works on a corrupt record too.
pub async fn user_id_by_ref(c: &impl ConnectionTrait, user: &UserRef) -> Result<Option<UserId>> {
    let found: Option<String> = find(user).select_only().column(user::Column::Id).into_tuple().one(c).await?;
    Ok(found.and_then(|id| id.parse().ok()))
}

/// Reads and locks one account.
pub async fn user_lock_row(c: &impl ConnectionTrait, id: UserId) -> Result<Option<User>> {
    let mut select = with_throttle(user::Entity::find_by_id(id.to_string()));
    sea_orm::QueryTrait::query(&mut select).lock_with_tables(LockType::Update, [user::Entity]);
    one(c, select).await
}

/// The version of an account that may be corrupt. Locks the row.
pub async fn user_version(c: &impl ConnectionTrait, id: UserId) -> Result<Option<i64>> {
    let mut select = user::Entity::find_by_id(id.to_string()).select_only().column(user::Column::Version);
    sea_orm::QueryTrait::query(&mut select).lock(LockType::Update);
    Ok(select.into_tuple().one(c).await?)
}

/// What the columns of an account have before their names, beside those of something that belongs to it.
const OWNER: &str = "owner_";

/// Adds the account that a row belongs to: of who calls, both are needed, and this is one message to the database.
pub(super) fn with_owner<E: EntityTrait>(select: Select<E>, user_id: E::Column) -> Select<E> {
    let owner = E::belongs_to(user::Entity).from(user_id).to(user::Column::Id).into();
    let select = select.join(JoinType::InnerJoin, owner).join(JoinType::LeftJoin, throttle_of_user());
    let select = user::Column::iter()
        .fold(select, |select, column| select.column_as(column, format!("{OWNER}{}", column.as_str())));
    select
        .column_as(throttle::Column::Failures, format!("{OWNER}failures"))
        .column_as(throttle::Column::WaitsUntil, format!("{OWNER}waits_until"))
}

/// The account in a row of [`with_owner`].
pub(super) fn owner(row: &QueryResult) -> Result<User> {
    model::<row::UserRow>(Resource::User, row, OWNER)?.decode()
}

fn find(user: &UserRef) -> Select<user::Entity> {
    let condition = match user {
        UserRef::Id(id) => user::Column::Id.eq(id.to_string()),
        UserRef::Username(username) => user::Column::Username.eq(username.as_str()),
        UserRef::Email(email) => user::Column::EmailKey.eq(email.key()),
        UserRef::ExternalId(external_id) => user::Column::ExternalId.eq(external_id.as_str()),
    };
    user::Entity::find().filter(condition)
}

/// The row with what the throttle says of it.
fn with_throttle(select: Select<user::Entity>) -> Select<user::Entity> {
    select
        .join(JoinType::LeftJoin, throttle_of_user())
        .column_as(throttle::Column::Failures, "failures")
        .column_as(throttle::Column::WaitsUntil, "waits_until")
}

fn throttle_of_user() -> RelationDef {
    user::Entity::belongs_to(throttle::Entity).from(user::Column::Id).to(throttle::Column::UserId).into()
}

async fn one(c: &impl ConnectionTrait, select: Select<user::Entity>) -> Result<Option<User>> {
    record(c, Resource::User, select).await?.map(row::UserRow::decode).transpose()
}
