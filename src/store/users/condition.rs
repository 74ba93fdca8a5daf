//! Conditions on accounts: the SQL equivalents of `User::state`, `User::flags`, `User::concern` and `User::sign_in_ability`; a
//! test compares them. Each is written like the partial index that serves it. An account has one concern, so the conditions of
//! the concerns exclude each other.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait};

use super::derived::{link_pending, mail_failed, second_factor_enrolled, second_factor_missing};
use super::row::kind_number;
use crate::domain::sign_in_ability::{AbilityKind, Concern};
use crate::domain::time::Timestamp;
use crate::domain::user::{UserFlag, UserKind, UserState};
use crate::domain::user_filter::UserFilter;
use crate::store::entity::{throttle, user};
use crate::store::throttle::FOR_GOOD;

/// Selects accounts by `needs_attention` and by the ability to sign in.
pub(super) fn matching(filter: &UserFilter, now: Timestamp) -> Condition {
    let mut all = Condition::all();
    if filter.needs_attention {
        all = all.add(concerned(now));
    }
    if let Some(has_second_factor) = filter.has_second_factor {
        let enrolled = second_factor_enrolled();
        all = all.add(if has_second_factor { enrolled } else { enrolled.not() });
    }
    if !filter.abilities.is_empty() {
        all = all.add(filter.abilities.iter().fold(Condition::any(), |any, kind| any.add(ability(*kind, now))));
    }
    all
}

fn waiting_ids(now: Timestamp) -> SelectStatement {
    let mut ids = Query::select();
    ids.column(throttle::Column::AccountId)
        .from(throttle::Entity)
        .and_where(throttle::Column::WaitsUntil.gt(now.as_micros()))
        .and_where(throttle::Column::AccountId.is_not_null());
    ids
}

/// Selects the locked accounts.
pub(super) fn locked(now: Timestamp) -> Condition {
    Condition::all().add(Expr::cust(r#""user".lock_cause IS NOT NULL"#)).add(
        Condition::any()
            .add(user::Column::LockExpiresAt.is_null())
            .add(user::Column::LockExpiresAt.gt(now.as_micros())),
    )
}

/// Selects the people without a password: it was never set, or has ended.
fn no_password() -> SimpleExpr {
    Expr::cust(r#"("user".kind = 1 AND "user".password_hash IS NULL)"#)
}

fn pending() -> SimpleExpr {
    Expr::cust(r#"("user".kind = 1 AND "user".password_hash IS NULL AND "user".password_ended_at IS NULL)"#)
}

fn password_ended() -> SimpleExpr {
    Expr::cust(r#"("user".kind = 1 AND "user".password_hash IS NULL AND "user".password_ended_at IS NOT NULL)"#)
}

fn must_change() -> SimpleExpr {
    Expr::cust(r#"("user".change_demanded OR "user".password_kind > 1)"#)
}

/// Selects the accounts in a state.
pub(super) fn state(state: UserState, now: Timestamp) -> Condition {
    match state {
        UserState::Locked => locked(now),
        UserState::Pending => Condition::all().add(pending()).add(locked(now).not()),
        UserState::Active => Condition::all().add(pending().not()).add(locked(now).not()),
    }
}

/// Selects the accounts with a flag.
pub(super) fn flag(flag: UserFlag, now: Timestamp) -> Condition {
    let holds = match flag {
        UserFlag::MustChange => must_change(),
        UserFlag::TemporaryPassword => Expr::cust(r#""user".password_kind > 1"#),
        UserFlag::LinkPending => return link_pending(now),
        UserFlag::MailFailed => return mail_failed(),
        UserFlag::EmailUnverified => {
            Expr::cust(r#"("user".kind = 1 AND "user".email_key IS NOT NULL AND "user".email_verified_at IS NULL)"#)
        }
        UserFlag::Throttled => user::Column::Id.in_subquery(waiting_ids(now)),
        UserFlag::NeverSignedIn => Expr::cust(r#"("user".kind = 1 AND "user".last_sign_in_at IS NULL)"#),
        UserFlag::SecondFactorMissing => return second_factor_missing(),
    };
    Condition::all().add(holds)
}

/// Selects the accounts with this concern.
pub(super) fn holds(concern: Concern, now: Timestamp) -> Condition {
    named(concern, now).add(besides(concern, now))
}

/// Selects a few more accounts than [`holds`]: the part of the condition by which an index finds them.
fn named(concern: Concern, now: Timestamp) -> Condition {
    let condition = match concern {
        Concern::LockedWithoutEnd => locked_without_end(),
        Concern::TemporaryPasswordExpired => user::Column::PasswordExpiresAt.lte(now.as_micros()),
        Concern::PasswordEnded => password_ended(),
        Concern::Pending => pending(),
        Concern::LockedWithEnd => user::Column::LockExpiresAt.gt(now.as_micros()),
        Concern::Throttled => user::Column::Id.in_subquery(throttled_people(now)),
        Concern::TemporaryPassword => user::Column::PasswordExpiresAt.gt(now.as_micros()),
        Concern::ChangeRequired => user::Column::PasswordExpiresAt.is_null().and(must_change()),
    };
    Condition::all().add(condition)
}

/// The rest of the condition: what the account must not have besides.
pub(super) fn besides(concern: Concern, now: Timestamp) -> Condition {
    let has_password = || user::Column::PasswordHash.is_not_null();
    let all = Condition::all();
    match concern {
        Concern::LockedWithoutEnd => all,
        Concern::TemporaryPasswordExpired => all.add(locked_without_end().not()).add(has_password()),
        Concern::PasswordEnded | Concern::Pending => all.add(locked_without_end().not()),
        Concern::LockedWithEnd => {
            all.add(user::Column::LockCause.is_not_null()).add(expired(now).not()).add(no_password().not())
        }
        Concern::Throttled => all.add(locked(now).not()).add(expired(now).not()).add(has_password()),
        Concern::TemporaryPassword => {
            // `IS TRUE` hides the condition from an index in another order.
            let must_change = Expr::cust(r#"("user".change_demanded OR "user".password_kind > 1) IS TRUE"#);
            all.add(must_change).add(locked(now).not()).add(throttled(now).not()).add(has_password())
        }
        Concern::ChangeRequired => all.add(locked(now).not()).add(throttled(now).not()).add(has_password()),
    }
}

/// Selects the accounts with any concern.
pub(super) fn concerned(now: Timestamp) -> Condition {
    Condition::any()
        .add(locked(now))
        .add(expired(now))
        .add(no_password())
        .add(must_change())
        .add(user::Column::Kind.eq(kind_number(UserKind::Person)).and(throttled(now)))
}

/// Selects the accounts with any concern but a throttle, written so that the partial index serves it.
pub(super) fn indexed(now: Timestamp) -> Condition {
    let any = Condition::any().add(locked(now)).add(no_password()).add(must_change());
    Condition::all().add(Expr::cust(INDEXED)).add(any)
}

/// The condition of the index, word for word.
const INDEXED: &str = r#"("user".lock_cause IS NOT NULL OR "user".change_demanded OR "user".password_kind > 1 OR ("user".kind = 1 AND "user".password_hash IS NULL)) IS TRUE"#;

fn ability(kind: AbilityKind, now: Timestamp) -> Condition {
    let having =
        |concerns: &[Concern]| concerns.iter().fold(Condition::any(), |any, concern| any.add(holds(*concern, now)));
    let by_kind = |is: AbilityKind| {
        let certain = Concern::ALL.iter().filter(|concern| concern.kinds() == [is]);
        having(&certain.copied().collect::<Vec<_>>())
    };
    let for_a_while = having(&[Concern::LockedWithEnd, Concern::Throttled]);
    match kind {
        AbilityKind::Yes => concerned(now).not(),
        AbilityKind::YesThen => by_kind(AbilityKind::YesThen),
        AbilityKind::NotUntil => Condition::all().add(for_a_while).add(outlasts_password(now).not()),
        AbilityKind::No => by_kind(AbilityKind::No).add(Condition::all().add(for_a_while).add(outlasts_password(now))),
    }
}

/// Selects accounts whose lock or throttle ends after their temporary password, or whose throttle has no end.
pub(super) fn outlasts_password(now: Timestamp) -> Condition {
    let expiry = || Expr::col((user::Entity, user::Column::PasswordExpiresAt));
    let lock = locked(now).add(Expr::col((user::Entity, user::Column::LockExpiresAt)).gte(expiry()));
    let mut throttle = waiting(now);
    throttle.and_where(Expr::col((throttle::Entity, throttle::Column::WaitsUntil)).gte(expiry()));
    let outlasts = Condition::all()
        .add(user::Column::PasswordExpiresAt.is_not_null())
        .add(Condition::any().add(lock).add(Expr::exists(throttle)));
    let mut refused = waiting(now);
    refused.and_where(Expr::col((throttle::Entity, throttle::Column::WaitsUntil)).eq(FOR_GOOD));
    let refused = user::Column::Kind.eq(kind_number(UserKind::Person)).and(Expr::exists(refused));
    Condition::any().add(outlasts).add(refused)
}

fn locked_without_end() -> SimpleExpr {
    Expr::cust(r#"("user".lock_cause IS NOT NULL AND "user".lock_expires_at IS NULL)"#)
}

fn expired(now: Timestamp) -> Condition {
    Condition::all()
        .add(user::Column::PasswordExpiresAt.is_not_null())
        .add(user::Column::PasswordExpiresAt.lte(now.as_micros()))
}

fn throttled(now: Timestamp) -> SimpleExpr {
    Expr::exists(waiting(now))
}

/// The throttle in force of the account in the row.
fn waiting(now: Timestamp) -> SelectStatement {
    let mut waiting = Query::select();
    waiting
        .expr(Expr::val(1))
        .from(throttle::Entity)
        .and_where(Expr::col((throttle::Entity, throttle::Column::AccountId)).equals((user::Entity, user::Column::Id)))
        .and_where(Expr::col((throttle::Entity, throttle::Column::WaitsUntil)).gt(now.as_micros()));
    waiting
}

/// The ids of all throttled people. A service may be throttled as well, which its API tokens do not notice.
pub(super) fn throttled_people(now: Timestamp) -> SelectStatement {
    let to_user = throttle::Entity::belongs_to(user::Entity).from(throttle::Column::AccountId).to(user::Column::Id);
    throttle::Entity::find()
        .select_only()
        .column(throttle::Column::AccountId)
        .join(sea_orm::JoinType::InnerJoin, to_user.into())
        .filter(throttle::Column::WaitsUntil.gt(now.as_micros()))
        .filter(user::Column::Kind.eq(kind_number(UserKind::Person)))
        .into_query()
}
