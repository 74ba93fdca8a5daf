//! Which users were told that their password will reach the maximum age.

use std::time::Duration;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set};

use super::WriteTx;
use super::due::Due;
use super::entity::password_warning::{self, Column};
use super::entity::user;
use super::users::{At, locked, password_expired};
use crate::domain::id::UserId;
use crate::domain::password_age::MaxAge;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// A warning: of a password that was changed at an instant, under a maximum age, some time before its end.
#[derive(Debug, Clone, Copy)]
pub struct Warning {
    /// When the password was changed.
    pub changed_at: Timestamp,
    /// The maximum age.
    pub max_age: MaxAge,
    /// How long before the end.
    pub before: Duration,
}

/// Returns up to `limit` people after `last` whose password ends within this time, and who were not told so yet. Locked
/// accounts and those without an address are left out.
pub async fn password_warnings_due(
    c: &impl ConnectionTrait,
    max_age: MaxAge,
    before: Duration,
    last: Option<&Due>,
    limit: u64,
    now: Timestamp,
) -> Result<Vec<Due>> {
    let at = |now: Timestamp| At { now, too_old: Some(max_age.too_old(now)) };
    let of_user = Expr::col((password_warning::Entity, Column::UserId)).equals((user::Entity, user::Column::Id));
    let changed_at = Expr::col((password_warning::Entity, Column::ChangedAt));
    let mut told = Query::select();
    told.expr(Expr::val(1))
        .from(password_warning::Entity)
        .and_where(of_user)
        .and_where(changed_at.equals((user::Entity, user::Column::PasswordChangedAt)))
        .and_where(Column::MaxAge.eq(micros(max_age.age)))
        .and_where(Column::MaxAgeSetAt.eq(max_age.set_at.as_micros()))
        .and_where(Column::BeforeEnd.lte(micros(before)));
    let place = Expr::tuple([
        Expr::col((user::Entity, user::Column::PasswordChangedAt)),
        Expr::col((user::Entity, user::Column::Id)),
    ]);
    let after = last.map(|last| place.gt(Expr::tuple([Expr::val(last.at), Expr::val(last.id.as_str())])));
    let due: Vec<(String, i64)> = user::Entity::find()
        .select_only()
        .column(user::Column::Id)
        .column(user::Column::PasswordChangedAt)
        .filter(Condition::all().add_option(after))
        .filter(password_expired(at(now.saturating_add(before))))
        .filter(password_expired(at(now)).not())
        .filter(user::Column::Email.is_not_null())
        .filter(locked(at(now)).not())
        .filter(Expr::exists(told).not())
        .order_by_asc(user::Column::PasswordChangedAt)
        .order_by_asc(user::Column::Id)
        .limit(limit)
        .into_tuple()
        .all(c)
        .await?;
    Ok(due.into_iter().map(Due::from).collect())
}

/// Records a warning. Returns `false` if the user was told so before, or later than this.
pub async fn password_warning_save(tx: &WriteTx, user: UserId, warning: Warning) -> Result<bool> {
    let Warning { changed_at, max_age, before } = warning;
    let row = password_warning::ActiveModel {
        user_id: Set(user.to_string()),
        changed_at: Set(changed_at.as_micros()),
        max_age: Set(micros(max_age.age)),
        max_age_set_at: Set(max_age.set_at.as_micros()),
        before_end: Set(micros(before)),
    };
    let stored = |column: Column| Expr::col((password_warning::Entity, column));
    let is_told = stored(Column::ChangedAt)
        .eq(changed_at.as_micros())
        .and(stored(Column::MaxAge).eq(micros(max_age.age)))
        .and(stored(Column::MaxAgeSetAt).eq(max_age.set_at.as_micros()))
        .and(stored(Column::BeforeEnd).lte(micros(before)));
    let replace = OnConflict::column(Column::UserId)
        .update_columns([Column::ChangedAt, Column::MaxAge, Column::MaxAgeSetAt, Column::BeforeEnd])
        .action_and_where(is_told.not())
        .to_owned();
    let saved = password_warning::Entity::insert(row).on_conflict(replace).exec_without_returning(tx).await?;
    failpoint!("store.password_warning_save");
    Ok(saved > 0)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
