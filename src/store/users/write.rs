//! Changes to accounts.

use std::collections::BTreeSet;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, OnConflict};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, JoinType, PaginatorTrait, QueryFilter, QuerySelect, QueryTrait, Set,
    SqlErr,
};

use super::condition::idle;
use super::row::{encode, password_kind_number};
use crate::domain::credentials::{Credentials, UserWithCredentials};
use crate::domain::id::UserId;
use crate::domain::login::Login;
use crate::domain::password_hash::PasswordHash;
use crate::domain::profile::search_terms;
use crate::domain::role::Role;
use crate::domain::time::Timestamp;
use crate::domain::user::{Etag, PasswordKind, User};
use crate::error::{Error, Resource, Result, Taken};
use crate::store::entity::{administrator_guard, user, user_role, user_term, username_reservation};
use crate::store::old_passwords::old_password_remember;
use crate::store::sweep::delete_batch;
use crate::store::text::instant;
use crate::store::{Autocommit, WriteTx};

/// Adds an account.
pub async fn user_insert(tx: &WriteTx, user: &User, credentials: &Credentials) -> Result<()> {
    user::Entity::insert(encode(user, Some(credentials))).exec_without_returning(tx).await.map_err(already_exists)?;
    failpoint!("store.user_insert");
    write_index(tx, user).await
}

/// Adds many accounts with few statements: to fill a database, not for the service.
pub async fn user_insert_many(tx: &WriteTx, accounts: &[UserWithCredentials]) -> Result<()> {
    for chunk in accounts.chunks(ROWS_OF_27) {
        let rows = chunk.iter().map(|account| encode(&account.user, Some(&account.credentials)));
        user::Entity::insert_many(rows).exec_without_returning(tx).await.map_err(already_exists)?;
    }
    let users = || accounts.iter().map(|account| &account.user);
    let mut terms: Vec<_> = users().flat_map(term_rows).collect();
    // Sorted, so that neighbouring entries of the index are written together.
    terms.sort_unstable_by(|a, b| (a.term.as_ref(), a.user_id.as_ref()).cmp(&(b.term.as_ref(), b.user_id.as_ref())));
    for chunk in terms.chunks(ROWS_OF_3) {
        user_term::Entity::insert_many(chunk.iter().cloned()).exec_without_returning(tx).await?;
    }
    let roles: Vec<_> = users().flat_map(role_rows).collect();
    for chunk in roles.chunks(ROWS_OF_3) {
        user_role::Entity::insert_many(chunk.iter().cloned()).exec_without_returning(tx).await?;
    }
    Ok(())
}

/// Rows in a statement with 27 and with 3 values a row. `SQLite` binds at most 32 766 values, `PostgreSQL` 65 535. Well below
/// that, the cost a row of building and parsing the statement is already at its minimum.
const ROWS_OF_27: usize = 100;
const ROWS_OF_3: usize = 500;

/// Writes every column of an account that was read and locked in this transaction as `before`, and increments its version.
/// Without `credentials`, they stay unchanged.
pub async fn user_save(
    tx: &WriteTx,
    before: &User,
    after: &mut User,
    credentials: Option<&Credentials>,
    now: Timestamp,
) -> Result<()> {
    let corrupt =
        || Error::Corrupt { resource: Resource::User, id: before.id.to_string(), etag: Some(Etag(before.version)) };
    after.version = before.version.checked_add(1).ok_or_else(corrupt)?;
    if credentials.is_some() {
        remember_password(tx, before, now).await?;
    }
    after.updated_at = now;
    let saved = user::Entity::update_many()
        .set(encode(after, credentials))
        .filter(user::Column::Id.eq(before.id.to_string()))
        .filter(user::Column::Version.eq(before.version))
        .exec(tx)
        .await
        .map_err(already_exists)?;
    if saved.rows_affected == 0 {
        return Err(Error::Stale { resource: Resource::User, current: Etag(before.version) });
    }
    failpoint!("store.user_save");
    if terms(before) != terms(after) || before.roles != after.roles {
        user_term::Entity::delete_many().filter(user_term::Column::UserId.eq(before.id.to_string())).exec(tx).await?;
        user_role::Entity::delete_many().filter(user_role::Column::UserId.eq(before.id.to_string())).exec(tx).await?;
        write_index(tx, after).await?;
    }
    Ok(())
}

/// Remembers the password that an account loses, if the policy asks for it.
async fn remember_password(tx: &WriteTx, user: &User, now: Timestamp) -> Result<()> {
    match user.policy.password_history {
        0 => Ok(()),
        kept => old_password_remember(tx, user.id, password_kind_number(PasswordKind::Generated), kept, now).await,
    }
}

/// Records a sign-in. The version, and so the etag, stays the same.
pub async fn user_signed_in(tx: &WriteTx, id: UserId, now: Timestamp) -> Result<()> {
    let note = user::Entity::update_many()
        .col_expr(user::Column::LastSignInAt, Expr::value(now.as_micros()))
        .filter(user::Column::Id.eq(id.to_string()));
    note.exec(tx).await?;
    failpoint!("store.user_signed_in");
    Ok(())
}

/// Records a sign-in if the account's version and hash, and the policy, are still as they were read, and returns whether they are. Locks the
/// row, without excluding transactions that share it.
pub async fn user_signed_in_as_read(tx: &WriteTx, read: &UserWithCredentials, now: Timestamp) -> Result<bool> {
    let UserWithCredentials { user: read, credentials, .. } = read;
    let Some(hash) = &credentials.password else { return Ok(false) };
    let noted = user::Entity::update_many()
        .col_expr(user::Column::LastSignInAt, Expr::value(now.as_micros()))
        .filter(user::Column::Id.eq(read.id.to_string()))
        .filter(user::Column::Version.eq(read.version))
        .filter(user::Column::PasswordHash.eq(hash.as_str()))
        .filter(Expr::cust("(SELECT sign_in_policy.version FROM sign_in_policy)").eq(read.policy.version))
        .exec(tx)
        .await?;
    failpoint!("store.user_signed_in_as_read");
    Ok(noted.rows_affected == 1)
}

/// Records that the password of an account, whose row is locked, was found at `at` to keep the rules of the policy.
pub async fn user_judged(tx: &WriteTx, id: UserId, at: Timestamp) -> Result<()> {
    user::Entity::update_many()
        .col_expr(user::Column::PasswordJudgedAt, Expr::value(at.as_micros()))
        .filter(user::Column::Id.eq(id.to_string()))
        .exec(tx)
        .await?;
    failpoint!("store.user_judged");
    Ok(())
}

/// Replaces a hash by a stronger one of the same password if it is still the one that was verified, and returns whether it was.
/// A reset in the meantime must not be undone.
pub async fn user_rehash(tx: &WriteTx, id: UserId, verified: &PasswordHash, renewed: &PasswordHash) -> Result<bool> {
    let changed = user::Entity::update_many()
        .col_expr(user::Column::PasswordHash, Expr::value(renewed.as_str()))
        .filter(user::Column::Id.eq(id.to_string()))
        .filter(user::Column::PasswordHash.eq(verified.as_str()))
        .exec(tx)
        .await?;
    failpoint!("store.user_rehash");
    Ok(changed.rows_affected == 1)
}

/// Ends the password of an account that is locked in this transaction. Its hash is kept apart, so that the same password is not
/// chosen again. A generated password is not remembered: no user chooses it.
pub async fn user_end_password(tx: &WriteTx, user: &User, now: Timestamp) -> Result<()> {
    remember_password(tx, user, now).await?;
    let generated = password_kind_number(PasswordKind::Generated);
    let kept = format!("CASE WHEN password_kind = {generated} THEN ended_password_hash ELSE password_hash END");
    user::Entity::update_many()
        .col_expr(user::Column::EndedPasswordHash, Expr::cust(kept))
        .col_expr(user::Column::PasswordHash, Expr::value(Option::<String>::None))
        .filter(user::Column::Id.eq(user.id.to_string()))
        .exec(tx)
        .await?;
    failpoint!("store.user_end_password");
    Ok(())
}

/// Deletes an account with its sessions, tickets and API tokens, and reserves its username and address. Does not parse the
/// record.
pub async fn user_delete(tx: &WriteTx, id: UserId, version: i64, reserved_until: Timestamp) -> Result<()> {
    let select = user::Entity::find_by_id(id.to_string()).select_only();
    let select = select.column(user::Column::Username).column(user::Column::EmailKey);
    let given_up: Option<(String, Option<String>)> = select.into_tuple().one(tx).await?;
    let deleted = user::Entity::delete_many()
        .filter(user::Column::Id.eq(id.to_string()))
        .filter(user::Column::Version.eq(version))
        .exec(tx)
        .await?;
    if deleted.rows_affected == 0 {
        return Err(Error::NotFound { resource: Resource::User, field: "user" });
    }
    failpoint!("store.user_delete");
    let Some((username, email)) = given_up else { return Ok(()) };
    for name in [username].into_iter().chain(email) {
        reservation_insert(tx, name, id, reserved_until).await?;
    }
    Ok(())
}

/// Reserves the username and the address that an account gives up, and ends the reservations of those that it takes back.
/// Returns whether it gives up one of them.
pub async fn reservations_move(tx: &WriteTx, before: &User, after: &User, until: Timestamp) -> Result<bool> {
    let (old, new) = (names_of(before), names_of(after));
    for name in new.difference(&old) {
        username_reservation::Entity::delete_by_id(name.clone()).exec(tx).await?;
    }
    for name in old.difference(&new) {
        reservation_insert(tx, name.clone(), before.id, until).await?;
    }
    Ok(!old.is_subset(&new))
}

/// Ends the reservations of the username and the address of an account.
pub async fn reservations_end(tx: &WriteTx, user: &User) -> Result<()> {
    for name in names_of(user) {
        username_reservation::Entity::delete_by_id(name).exec(tx).await?;
    }
    Ok(())
}

fn names_of(user: &User) -> BTreeSet<String> {
    let email = user.email.as_ref().map(|email| email.key().to_owned());
    [user.username.to_string()].into_iter().chain(email).collect()
}

async fn reservation_insert(tx: &WriteTx, name: String, owner: UserId, until: Timestamp) -> Result<()> {
    let reservation = username_reservation::ActiveModel {
        username: Set(name),
        available_at: Set(until.as_micros()),
        user_id: Set(Some(owner.to_string())),
    };
    let replace = OnConflict::column(username_reservation::Column::Username)
        .update_columns([username_reservation::Column::AvailableAt, username_reservation::Column::UserId])
        .to_owned();
    username_reservation::Entity::insert(reservation).on_conflict(replace).exec_without_returning(tx).await?;
    failpoint!("store.reservation_insert");
    Ok(())
}

/// Returns until when a username or an address stays reserved for another account than `owner`, or `None` if it is not.
pub async fn reservation_find(
    c: &impl ConnectionTrait,
    login: &Login,
    owner: Option<UserId>,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let row = username_reservation::Entity::find_by_id(login.key().to_owned()).one(c).await?;
    let owner = owner.map(|id| id.to_string());
    let of_others = row.filter(|row| owner.is_none() || row.user_id != owner);
    Ok(of_others.map(|row| instant(row.available_at)).filter(|available_at| *available_at > now))
}

/// Returns for whom a username or an address is reserved, and until when. `None` if it is not.
pub async fn reservation_owner(
    c: &impl ConnectionTrait,
    login: &Login,
    now: Timestamp,
) -> Result<Option<(UserId, Timestamp)>> {
    let row = username_reservation::Entity::find_by_id(login.key().to_owned()).one(c).await?;
    let row = row.filter(|row| row.available_at > now.as_micros());
    Ok(row.and_then(|row| Some((row.user_id?.parse().ok()?, instant(row.available_at)))))
}

/// Deletes a batch of expired reservations. Returns whether there may be more.
pub async fn reservations_sweep(tx: &Autocommit, now: Timestamp) -> Result<bool> {
    let is_over = username_reservation::Column::AvailableAt.lte(now.as_micros());
    delete_batch::<username_reservation::Entity>(tx, is_over).await
}

/// Locks the one row that each transaction locks first if it may remove an administrator.
pub async fn administrators_lock(c: &impl ConnectionTrait) -> Result<()> {
    let mut select = administrator_guard::Entity::find_by_id(1_i16);
    QueryTrait::query(&mut select).lock(LockType::Update);
    select.one(c).await?;
    Ok(())
}

/// Counts the administrators other than `except` who could act at `now`. The SQL equivalent of `User::is_able_administrator`,
/// without those who are inactive: their next sign-in would be refused.
pub async fn user_count_able_administrators(c: &impl ConnectionTrait, except: &User, now: Timestamp) -> Result<u64> {
    let since = except.policy.max_inactivity.and_then(|max| max.idle_since(now));
    let now = now.as_micros();
    let to_user = user_role::Entity::belongs_to(user::Entity).from(user_role::Column::UserId).to(user::Column::Id);
    let administrators = user_role::Entity::find()
        .join(JoinType::InnerJoin, to_user.into())
        .filter(user_role::Column::Role.eq(Role::Admin.as_str()))
        .filter(Condition::all().add_option(since.map(|since| idle(since).not())))
        .filter(user::Column::Id.ne(except.id.to_string()))
        .filter(Expr::cust(r#"("user".kind = 1 AND "user".password_hash IS NOT NULL)"#))
        .filter(user::Column::PasswordExpiresAt.is_null().or(user::Column::PasswordExpiresAt.gt(now)))
        .filter(user::Column::LockCause.is_null().or(user::Column::LockExpiresAt.lte(now)));
    Ok(administrators.count(c).await?)
}

/// Returns whether any user has this role.
pub async fn role_has_members(c: &impl ConnectionTrait, role: Role) -> Result<bool> {
    let member = user_role::Entity::find().filter(user_role::Column::Role.eq(role.as_str())).one(c).await?;
    Ok(member.is_some())
}

async fn write_index(tx: &WriteTx, user: &User) -> Result<()> {
    user_term::Entity::insert_many(term_rows(user)).exec_without_returning(tx).await?;
    if !user.roles.is_empty() {
        user_role::Entity::insert_many(role_rows(user)).exec_without_returning(tx).await?;
    }
    Ok(())
}

fn terms(user: &User) -> BTreeSet<String> {
    search_terms(&user.username, user.email.as_ref(), user.display_name.as_ref())
}

fn term_rows(user: &User) -> Vec<user_term::ActiveModel> {
    let mut before = String::new();
    let mut rows = Vec::new();
    for term in terms(user) {
        rows.push(user_term::ActiveModel {
            shared: Set(shared_bytes(&before, &term)),
            user_id: Set(user.id.to_string()),
            term: Set(term.clone()),
        });
        before = term;
    }
    rows
}

/// Returns how many leading bytes two terms have in common.
fn shared_bytes(before: &str, term: &str) -> i16 {
    let shared = before.bytes().zip(term.bytes()).take_while(|(a, b)| a == b).count();
    i16::try_from(shared).unwrap_or(i16::MAX)
}

fn role_rows(user: &User) -> Vec<user_role::ActiveModel> {
    user.roles
        .iter()
        .map(|role| user_role::ActiveModel { role: Set(role.as_str().to_owned()), user_id: Set(user.id.to_string()) })
        .collect()
}

/// Returns which unique value another account has. Both databases name the column only in the text of their message.
fn already_exists(error: sea_orm::DbErr) -> Error {
    let Some(SqlErr::UniqueConstraintViolation(message)) = error.sql_err() else { return error.into() };
    if message.contains("username") {
        Error::AlreadyExists(Taken::Username)
    } else if message.contains("email_key") {
        Error::AlreadyExists(Taken::Email)
    } else if message.contains("external_id") {
        Error::AlreadyExists(Taken::ExternalId)
    } else {
        error.into()
    }
}
