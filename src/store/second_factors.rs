//! Authenticators and recovery codes. The row of the user is locked before anything here is written.

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait, Set};

use super::WriteTx;
use super::entity::{recovery_code, totp};
use super::single::record;
use super::text::{Decoder, micros};
use crate::domain::id::UserId;
use crate::domain::second_factor::{Proofs, SecondFactorMethod, TotpStep};
use crate::domain::secret::Digest32;
use crate::domain::time::Timestamp;
use crate::error::{Resource, Result};

/// An authenticator, as stored.
pub struct StoredTotp {
    /// The key, sealed.
    pub sealed_key: Vec<u8>,
    /// When it was confirmed.
    pub enrolled_at: Timestamp,
    /// The step of the last code that was accepted.
    pub last_step: TotpStep,
    /// Consecutive wrong codes since then.
    pub failures: u32,
    /// Until when codes are refused.
    pub waits_until: Option<Timestamp>,
    /// When the last wrong code came.
    pub last_failure_at: Option<Timestamp>,
}

/// Wrong codes of a user.
pub struct WrongCodes {
    /// How many in a row.
    pub failures: u32,
    /// Until when codes are refused.
    pub waits_until: Option<Timestamp>,
}

/// Reads and locks the authenticator of a user.
pub async fn totp_lock_row(c: &impl ConnectionTrait, user: UserId) -> Result<Option<StoredTotp>> {
    let mut select = totp::Entity::find_by_id(user.to_string());
    QueryTrait::query(&mut select).lock(LockType::Update);
    let Some(row) = record::<totp::Model>(c, Resource::User, select).await? else { return Ok(None) };
    let decoder = Decoder { resource: Resource::User, id: &row.user_id, version: None };
    Ok(Some(StoredTotp {
        enrolled_at: decoder.instant(row.enrolled_at)?,
        last_step: TotpStep(row.last_step),
        failures: decoder.ok(u32::try_from(row.failures))?,
        waits_until: decoder.instant_or_none(row.waits_until)?,
        last_failure_at: decoder.instant_or_none(row.last_failure_at)?,
        sealed_key: row.sealed_key,
    }))
}

/// Stores a confirmed authenticator in place of the one before, and `recovery_codes` in place of those before.
pub async fn second_factor_replace(
    tx: &WriteTx,
    user: UserId,
    totp: &StoredTotp,
    recovery_codes: &[Digest32],
) -> Result<()> {
    totp::Entity::delete_by_id(user.to_string()).exec(tx).await?;
    let row = totp::ActiveModel {
        user_id: Set(user.to_string()),
        sealed_key: Set(totp.sealed_key.clone()),
        enrolled_at: Set(totp.enrolled_at.as_micros()),
        last_step: Set(totp.last_step.0),
        failures: Set(i32::try_from(totp.failures).unwrap_or(i32::MAX)),
        waits_until: Set(micros(totp.waits_until)),
        last_failure_at: Set(micros(totp.last_failure_at)),
    };
    totp::Entity::insert(row).exec_without_returning(tx).await?;
    failpoint!("store.second_factor_replace");
    recovery_codes_replace(tx, user, recovery_codes).await
}

/// Replaces the recovery codes of a user.
pub async fn recovery_codes_replace(tx: &WriteTx, user: UserId, codes: &[Digest32]) -> Result<()> {
    recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(user.to_string())).exec(tx).await?;
    let rows = codes.iter().map(|code| recovery_code::ActiveModel {
        user_id: Set(user.to_string()),
        digest: Set(code.as_bytes().to_vec()),
    });
    recovery_code::Entity::insert_many(rows).exec_without_returning(tx).await?;
    failpoint!("store.recovery_codes_replace");
    Ok(())
}

/// Accepts the code of a step, and forgets wrong codes. Returns `false` if this step, or a later one, was accepted before. The
/// guard is in the statement, so that a code works once.
pub async fn totp_accept(tx: &WriteTx, user: UserId, step: TotpStep) -> Result<bool> {
    let accepted = totp::Entity::update_many()
        .col_expr(totp::Column::LastStep, Expr::value(step.0))
        .col_expr(totp::Column::Failures, Expr::value(0))
        .col_expr(totp::Column::WaitsUntil, Expr::value(Option::<i64>::None))
        .filter(totp::Column::UserId.eq(user.to_string()))
        .filter(totp::Column::LastStep.lt(step.0))
        .exec(tx)
        .await?;
    failpoint!("store.totp_accept");
    Ok(accepted.rows_affected == 1)
}

/// Uses a recovery code up, and forgets wrong codes. Returns `false` if the user has no such code.
pub async fn recovery_code_use(tx: &WriteTx, user: UserId, code: &Digest32) -> Result<bool> {
    let id = (user.to_string(), code.as_bytes().to_vec());
    if recovery_code::Entity::delete_by_id(id).exec(tx).await?.rows_affected != 1 {
        return Ok(false);
    }
    failpoint!("store.recovery_code_use");
    totp_forget_wrong_codes(tx, user).await?;
    Ok(true)
}

/// Forgets wrong codes.
pub async fn totp_forget_wrong_codes(tx: &WriteTx, user: UserId) -> Result<()> {
    totp::Entity::update_many()
        .col_expr(totp::Column::Failures, Expr::value(0))
        .col_expr(totp::Column::WaitsUntil, Expr::value(Option::<i64>::None))
        .filter(totp::Column::UserId.eq(user.to_string()))
        .exec(tx)
        .await?;
    failpoint!("store.totp_forget_wrong_codes");
    Ok(())
}

/// Counts a wrong code.
pub async fn totp_wrong_code(tx: &WriteTx, user: UserId, wrong: &WrongCodes, now: Timestamp) -> Result<()> {
    totp::Entity::update_many()
        .col_expr(totp::Column::Failures, Expr::value(i32::try_from(wrong.failures).unwrap_or(i32::MAX)))
        .col_expr(totp::Column::WaitsUntil, Expr::value(micros(wrong.waits_until)))
        .col_expr(totp::Column::LastFailureAt, Expr::value(now.as_micros()))
        .filter(totp::Column::UserId.eq(user.to_string()))
        .exec(tx)
        .await?;
    failpoint!("store.totp_wrong_code");
    Ok(())
}

/// Removes the authenticator and the recovery codes of a user.
pub async fn second_factor_remove(tx: &WriteTx, user: UserId) -> Result<()> {
    totp::Entity::delete_by_id(user.to_string()).exec(tx).await?;
    recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(user.to_string())).exec(tx).await?;
    failpoint!("store.second_factor_remove");
    Ok(())
}

/// The number that stands for the second factor that was proved.
pub(super) fn second_factor_number(proofs: Proofs) -> i16 {
    match proofs.second_factor {
        None => 0,
        Some(SecondFactorMethod::Totp) => 1,
        Some(SecondFactorMethod::RecoveryCode) => 2,
    }
}

pub(super) fn proofs_from(number: i16) -> Option<Proofs> {
    [None, Some(SecondFactorMethod::Totp), Some(SecondFactorMethod::RecoveryCode)]
        .map(|second_factor| Proofs { second_factor })
        .into_iter()
        .find(|proofs| second_factor_number(*proofs) == number)
}
