//! The hashes of old passwords, as many of each user as the policy asks for.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};

use super::entity::old_password::{self, Column};
use super::sweep::delete_batch;
use super::{Autocommit, WriteTx};
use crate::domain::id::UserId;
use crate::domain::password_hash::PasswordHash;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Remembers the password that the account has. A generated password is not remembered: no user chooses it.
const REMEMBER: &str = r#"INSERT INTO old_password (user_id, ended_at, hash)
    SELECT id, $1, password_hash FROM "user" WHERE id = $2 AND password_hash IS NOT NULL AND password_kind <> $3
    ON CONFLICT DO NOTHING"#;

/// Remembers the password that the account has and is about to lose, and forgets all but the newest `kept`.
pub(super) async fn old_password_remember(
    tx: &WriteTx,
    user: UserId,
    generated: i16,
    kept: u32,
    now: Timestamp,
) -> Result<()> {
    let values = [now.as_micros().into(), user.to_string().into(), generated.into()];
    tx.execute_raw(Statement::from_sql_and_values(tx.get_database_backend(), REMEMBER, values)).await?;
    let oldest: Option<i64> = old_password::Entity::find()
        .select_only()
        .column(Column::EndedAt)
        .filter(Column::UserId.eq(user.to_string()))
        .order_by_desc(Column::EndedAt)
        .offset(u64::from(kept.saturating_sub(1)))
        .into_tuple()
        .one(tx)
        .await?;
    let surplus = Column::UserId.eq(user.to_string()).and(Column::EndedAt.lt(oldest.unwrap_or(i64::MIN)));
    old_password::Entity::delete_many().filter(surplus).exec(tx).await?;
    failpoint!("store.old_password_remember");
    Ok(())
}

/// The hashes of the newest `count` old passwords of a user.
pub async fn old_passwords(c: &impl ConnectionTrait, user: UserId, count: u32) -> Result<Vec<PasswordHash>> {
    let hashes: Vec<String> = old_password::Entity::find()
        .select_only()
        .column(Column::Hash)
        .filter(Column::UserId.eq(user.to_string()))
        .order_by_desc(Column::EndedAt)
        .limit(u64::from(count))
        .into_tuple()
        .all(c)
        .await?;
    Ok(hashes.into_iter().map(PasswordHash::new).collect())
}

/// Deletes a batch of old passwords if the policy asks for none. Returns whether there may be more.
pub async fn old_passwords_sweep(tx: &Autocommit) -> Result<bool> {
    let none = Expr::cust("(SELECT sign_in_policy.password_history FROM sign_in_policy)").eq(0);
    delete_batch::<old_password::Entity>(tx, none).await
}
