//! Accounts.

mod condition;
mod decoy;
mod derived;
mod impact;
mod list;
#[cfg(test)]
mod query_plan;
mod row;
mod write;

use sea_orm::sea_query::{Func, LockType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, IdenStatic, Iterable, JoinType, QueryFilter, QueryResult,
    QuerySelect, Select,
};

pub(super) use self::condition::{At, LAST_USED, idle, locked, password_expired};
use self::derived::with_derived;
pub use self::impact::{
    UsersWithoutFactor, expired_count, expiring_names, password_count, unexpired_without_address, unjudged_count,
    users_without_factor,
};
pub use self::list::{UserListing, user_count, user_list};
pub use self::write::{
    administrators_lock, reservation_find, reservation_owner, reservations_end, reservations_move, reservations_sweep,
    role_has_members, user_count_able_administrators, user_delete, user_end_password, user_insert, user_insert_many,
    user_judged, user_rehash, user_save, user_signed_in, user_signed_in_as_read,
};
use super::entity::user;
use crate::domain::credentials::UserWithCredentials;
use crate::domain::id::UserId;
use crate::domain::login::Login;
use crate::domain::user::{User, UserRef};
use crate::error::{Resource, Result};
use crate::store::single::{model, record};

/// Reads one account.
pub async fn user_by_ref(c: &impl ConnectionTrait, user: &UserRef) -> Result<Option<User>> {
    one(c, with_derived(find(user), "")).await
}

/// Reads one account by id.
pub async fn user_by_id(c: &impl ConnectionTrait, id: UserId) -> Result<Option<User>> {
    one(c, with_derived(user::Entity::find_by_id(id.to_string()), "")).await
}

/// Reads the account that a sign-in names, with its credentials. Takes as long if there is none.
pub async fn user_by_login(c: &impl ConnectionTrait, login: &Login) -> Result<Option<UserWithCredentials>> {
    let user = match login {
        Login::Username(username) => UserRef::Username(username.clone()),
        Login::Email(email) => UserRef::Email(email.clone()),
    };
    decoy::one_or_decoy(c, with_derived(find(&user), ""), find(&user)).await
}

/// Reads one account by id, with its credentials.
pub async fn user_with_credentials(c: &impl ConnectionTrait, id: UserId) -> Result<Option<UserWithCredentials>> {
    one_with_credentials(c, with_derived(user::Entity::find_by_id(id.to_string()), "")).await
}

/// Returns the id of an account without reading the rest. Works on a corrupt record too.
pub async fn user_id_by_ref(c: &impl ConnectionTrait, user: &UserRef) -> Result<Option<UserId>> {
    let found: Option<String> = find(user).select_only().column(user::Column::Id).into_tuple().one(c).await?;
    Ok(found.and_then(|id| id.parse().ok()))
}

/// Reads and locks one account, to change it.
pub async fn user_lock_row(c: &impl ConnectionTrait, id: UserId) -> Result<Option<User>> {
    let select = with_derived(user::Entity::find_by_id(id.to_string()), "");
    one(c, locking(c, select, id, RowLock::Write)).await
}

/// Reads and locks the account at which a sign-in failed. Takes as long if there is none.
pub async fn user_lock_row_or_decoy(c: &impl ConnectionTrait, id: Option<UserId>) -> Result<Option<User>> {
    let id = id.unwrap_or_else(decoy::decoy_id);
    let select = user::Entity::find_by_id(id.to_string());
    let found = locking(c, with_derived(select.clone(), ""), id, RowLock::Write);
    Ok(decoy::one_or_decoy(c, found, select).await?.map(|account| account.user))
}

/// Reads and locks one account with its credentials, to change it.
pub async fn user_lock_row_with_credentials(
    c: &impl ConnectionTrait,
    id: UserId,
) -> Result<Option<UserWithCredentials>> {
    let select = with_derived(user::Entity::find_by_id(id.to_string()), "");
    one_with_credentials(c, locking(c, select, id, RowLock::Write)).await
}

/// Reads and locks one account to record a sign-in. Excludes writers, but not transactions that share the row.
pub async fn user_lock_row_to_sign_in(c: &impl ConnectionTrait, id: UserId) -> Result<Option<UserWithCredentials>> {
    let select = with_derived(user::Entity::find_by_id(id.to_string()), "");
    one_with_credentials(c, locking(c, select, id, RowLock::SignIn)).await
}

/// Locks the row of an account for a change, and returns its version. Works on a corrupt record too.
pub async fn user_lock_version(c: &impl ConnectionTrait, id: UserId) -> Result<Option<i64>> {
    locked_version(c, id, RowLock::Write).await
}

/// Locks an account until the transaction ends, so that no other transaction changes or shares it. `SQLite` has one writer,
/// which has locked everything already.
pub async fn user_write_lock(c: &impl ConnectionTrait, id: UserId) -> Result<()> {
    take_lock(c, id, RowLock::Write).await
}

/// Locks an account against changes until the transaction ends. Other transactions may share the lock.
pub async fn user_share_lock(c: &impl ConnectionTrait, id: UserId) -> Result<()> {
    take_lock(c, id, RowLock::Share).await
}

async fn take_lock(c: &impl ConnectionTrait, id: UserId, lock: RowLock) -> Result<()> {
    if c.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    // The version is not used, because it may have been read before the lock was granted.
    locked_version(c, id, lock).await.map(|_| ())
}

async fn locked_version(c: &impl ConnectionTrait, id: UserId, lock: RowLock) -> Result<Option<i64>> {
    let select = user::Entity::find_by_id(id.to_string()).select_only().column(user::Column::Version);
    Ok(locking(c, select, id, lock).into_tuple().one(c).await?)
}

/// The purpose of a lock on an account's row.
#[derive(Debug, Clone, Copy)]
enum RowLock {
    Write,
    Share,
    SignIn,
}

/// Locks the row of the account. On `PostgreSQL`, writers and sharers first take an advisory lock, which is granted in the
/// order of requests. Shared row locks are granted past waiting writers, so a writer might never get the row of a busy account.
/// The advisory lock only adds fairness; the row lock protects the row. A transaction that already holds the row must not
/// request the advisory lock: its holder may be waiting for the row.
fn locking<E: EntityTrait>(c: &impl ConnectionTrait, mut select: Select<E>, id: UserId, lock: RowLock) -> Select<E> {
    let (lock, advisory) = match lock {
        RowLock::Write => (LockType::Update, Some("pg_advisory_xact_lock")),
        RowLock::Share => (LockType::KeyShare, Some("pg_advisory_xact_lock_shared")),
        RowLock::SignIn => (LockType::NoKeyUpdate, None),
    };
    sea_orm::QueryTrait::query(&mut select).lock_with_tables(lock, [user::Entity]);
    match (advisory, id.as_bytes().as_chunks().0) {
        // An id is random, so half of it is enough to identify the account.
        (Some(advisory), [key, ..]) if c.get_database_backend() == DbBackend::Postgres => {
            select.expr_as(Func::cust(advisory).arg(i64::from_be_bytes(*key)), "advisory")
        }
        _ => select,
    }
}

/// Prefix of an account's columns in a row that also holds something that belongs to the account.
const OWNER: &str = "owner_";

/// Joins the account to which a row belongs. Authentication needs both, and reads them in one round trip.
pub(super) fn with_owner<E: EntityTrait>(select: Select<E>, user_id: E::Column) -> Select<E> {
    let owner = E::belongs_to(user::Entity).from(user_id).to(user::Column::Id).into();
    let select = select.join(JoinType::InnerJoin, owner);
    let select = user::Column::iter()
        .fold(select, |select, column| select.column_as(column, format!("{OWNER}{}", column.as_str())));
    with_derived(select, OWNER)
}

/// Decodes the account in a row of [`with_owner`].
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

async fn one_with_credentials(
    c: &impl ConnectionTrait,
    select: Select<user::Entity>,
) -> Result<Option<UserWithCredentials>> {
    record(c, Resource::User, select).await?.map(row::UserRow::decode_with_credentials).transpose()
}

async fn one(c: &impl ConnectionTrait, select: Select<user::Entity>) -> Result<Option<User>> {
    record(c, Resource::User, select).await?.map(row::UserRow::decode).transpose()
}
