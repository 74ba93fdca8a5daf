//! Conditions on accounts: the SQL equivalents of `User::state`, `User::flags`, `User::concern` and `User::sign_in_ability`; a
//! test compares them. Each is written like the partial index that serves it. An account has one concern, so the conditions of
//! the concerns exclude each other.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait};

use super::derived::{link_pending, mail_failed, second_factor_enrolled, second_factor_missing};
use super::row::kind_number;
use crate::domain::password_age::TooOld;
use crate::domain::sign_in_ability::{AbilityKind, Concern};
use crate::domain::time::Timestamp;
use crate::domain::user::{UserFlag, UserKind, UserState};
use crate::domain::user_filter::UserFilter;
use crate::domain::waves::Wave;
use crate::store::entity::{throttle, user};
use crate::store::throttle::FOR_GOOD;

/// The instant at which states and flags are evaluated, and the passwords that are too old then.
#[derive(Clone, Copy)]
pub(in crate::store) struct At {
    pub(in crate::store) now: Timestamp,
    /// `None` if no password is too old.
    pub(in crate::store) too_old: Option<TooOld>,
}

/// Selects accounts by `needs_attention` and by the ability to sign in.
pub(super) fn matching(filter: &UserFilter, at: At) -> Condition {
    let mut all = Condition::all();
    if filter.needs_attention {
        all = all.add(concerned(at));
    }
    if let Some(has_second_factor) = filter.has_second_factor {
        let enrolled = second_factor_enrolled();
        all = all.add(if has_second_factor { enrolled } else { enrolled.not() });
    }
    if !filter.abilities.is_empty() {
        all = all.add(filter.abilities.iter().fold(Condition::any(), |any, kind| any.add(ability(*kind, at))));
    }
    all
}

fn waiting_ids(at: At) -> SelectStatement {
    let mut ids = Query::select();
    ids.column(throttle::Column::AccountId)
        .from(throttle::Entity)
        .and_where(throttle::Column::WaitsUntil.gt(at.now.as_micros()))
        .and_where(throttle::Column::AccountId.is_not_null());
    ids
}

/// Selects the locked accounts.
pub(in crate::store) fn locked(at: At) -> Condition {
    Condition::all().add(Expr::cust(r#""user".lock_cause IS NOT NULL"#)).add(
        Condition::any()
            .add(user::Column::LockExpiresAt.is_null())
            .add(user::Column::LockExpiresAt.gt(at.now.as_micros())),
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

/// Selects the accounts whose lasting password is older than the policy allows. It is never NULL.
pub(in crate::store) fn password_expired(at: At) -> Condition {
    lasting().add(older(at, &age_column()))
}

/// Does the same without the index of the ages, so that accounts are looked at in another order.
pub(super) fn password_expired_in_any_order(at: At) -> Condition {
    lasting().add(older(at, &Expr::cust(r#"+"user".password_changed_at"#)))
}

/// Selects those that have expired at an instant, and had not yet at an earlier one.
pub(super) fn password_expired_between(after: At, until: At) -> Condition {
    // The index alone tells which have expired before: reading these accounts, too, takes twenty times as long.
    password_expired(until).add(older(after, &age_column()).not())
}

/// Selects the accounts with a lasting password.
pub(super) fn lasting() -> Condition {
    Condition::all()
        .add(Expr::cust(r#""user".password_hash IS NOT NULL"#))
        .add(Expr::cust(r#""user".password_kind = 1"#))
}

fn age_column() -> SimpleExpr {
    Expr::col((user::Entity, user::Column::PasswordChangedAt))
}

/// Selects the passwords, changed at the instant in a column, that are older than the policy allows.
fn older(at: At, changed_at: &SimpleExpr) -> Condition {
    let Some(TooOld { changed_by, set_at, wave }) = at.too_old else { return Condition::all().add(Expr::val(false)) };
    let older = Condition::all().add(changed_at.clone().lte(changed_by.as_micros()));
    let later = || Condition::any().add(changed_at.clone().gte(set_at.as_micros()));
    match wave {
        Wave::All => older,
        Wave::Below(id) => older.add(later().add(user::Column::Id.lt(id.to_string()))),
        Wave::None => older.add(later()),
    }
}

/// When an account was last used, but for [`User::active_from`](crate::domain::user::User::active_from).
pub(in crate::store) const LAST_USED: &str = r#"COALESCE("user".last_sign_in_at, "user".created_at)"#;

/// Selects the accounts with a password that were last used at `since` or earlier. The SQL equivalent of `User::is_inactive`.
pub(in crate::store) fn idle(since: Timestamp) -> Condition {
    let since = since.as_micros();
    Condition::all()
        .add(Expr::cust(r#""user".password_hash IS NOT NULL"#))
        .add(Expr::cust(LAST_USED).lte(since))
        .add(user::Column::CreatedAt.lte(since))
        .add(Condition::any().add(user::Column::ActiveFrom.is_null()).add(user::Column::ActiveFrom.lte(since)))
}

/// Selects the accounts in a state.
pub(super) fn state(state: UserState, at: At) -> Condition {
    match state {
        UserState::Locked => locked(at),
        UserState::Pending => Condition::all().add(pending()).add(locked(at).not()),
        UserState::Active => Condition::all().add(pending().not()).add(locked(at).not()),
    }
}

/// Selects the accounts with a flag.
pub(super) fn flag(flag: UserFlag, at: At) -> Condition {
    let holds = match flag {
        UserFlag::MustChange => return Condition::any().add(must_change()).add(password_expired(at)),
        UserFlag::PasswordExpired => return password_expired(at),
        UserFlag::TemporaryPassword => Expr::cust(r#""user".password_kind > 1"#),
        UserFlag::LinkPending => return link_pending(at.now),
        UserFlag::MailFailed => return mail_failed(),
        UserFlag::EmailUnverified => {
            Expr::cust(r#"("user".kind = 1 AND "user".email_key IS NOT NULL AND "user".email_verified_at IS NULL)"#)
        }
        UserFlag::Throttled => user::Column::Id.in_subquery(waiting_ids(at)),
        UserFlag::NeverSignedIn => Expr::cust(r#"("user".kind = 1 AND "user".last_sign_in_at IS NULL)"#),
        UserFlag::SecondFactorMissing => return second_factor_missing(),
    };
    Condition::all().add(holds)
}

/// Selects the accounts with this concern.
pub(super) fn holds(concern: Concern, at: At) -> Condition {
    named(concern, at).add(besides(concern, at))
}

/// Selects a few more accounts than [`holds`]: the part of the condition by which an index finds them.
fn named(concern: Concern, at: At) -> Condition {
    let condition = match concern {
        Concern::LockedWithoutEnd => locked_without_end(),
        Concern::TemporaryPasswordExpired => user::Column::PasswordExpiresAt.lte(at.now.as_micros()),
        Concern::PasswordEnded => password_ended(),
        Concern::Pending => pending(),
        Concern::LockedWithEnd => user::Column::LockExpiresAt.gt(at.now.as_micros()),
        Concern::Throttled => user::Column::Id.in_subquery(throttled_people(at)),
        Concern::TemporaryPassword => user::Column::PasswordExpiresAt.gt(at.now.as_micros()),
        Concern::ChangeRequired => user::Column::PasswordExpiresAt.is_null().and(must_change()),
        Concern::PasswordExpired => return password_expired(at),
    };
    Condition::all().add(condition)
}

/// The rest of the condition: what the account must not have besides.
pub(super) fn besides(concern: Concern, at: At) -> Condition {
    let has_password = || user::Column::PasswordHash.is_not_null();
    let all = Condition::all();
    match concern {
        Concern::LockedWithoutEnd => all,
        Concern::TemporaryPasswordExpired => all.add(locked_without_end().not()).add(has_password()),
        Concern::PasswordEnded | Concern::Pending => all.add(locked_without_end().not()),
        Concern::LockedWithEnd => {
            all.add(user::Column::LockCause.is_not_null()).add(expired(at).not()).add(no_password().not())
        }
        Concern::Throttled => all.add(locked(at).not()).add(expired(at).not()).add(has_password()),
        Concern::TemporaryPassword => {
            // `IS TRUE` hides the condition from an index in another order.
            let must_change = Expr::cust(r#"("user".change_demanded OR "user".password_kind > 1) IS TRUE"#);
            all.add(must_change).add(locked(at).not()).add(throttled(at).not()).add(has_password())
        }
        Concern::ChangeRequired => all.add(locked(at).not()).add(throttled(at).not()).add(has_password()),
        Concern::PasswordExpired => {
            let demanded = Expr::cust(r#""user".change_demanded IS TRUE"#);
            all.add(demanded.not()).add(locked(at).not()).add(throttled(at).not())
        }
    }
}

/// Selects the accounts with any concern.
pub(super) fn concerned(at: At) -> Condition {
    Condition::any()
        .add(locked(at))
        .add(expired(at))
        .add(no_password())
        .add(must_change())
        .add(password_expired(at))
        .add(user::Column::Kind.eq(kind_number(UserKind::Person)).and(throttled(at)))
}

/// Selects the accounts with any concern but a throttle and a password that is too old, written so that the partial index
/// serves it.
pub(super) fn indexed(at: At) -> Condition {
    let any = Condition::any().add(locked(at)).add(no_password()).add(must_change());
    Condition::all().add(Expr::cust(INDEXED)).add(any)
}

/// The condition of the index, word for word.
const INDEXED: &str = r#"("user".lock_cause IS NOT NULL OR "user".change_demanded OR "user".password_kind > 1 OR ("user".kind = 1 AND "user".password_hash IS NULL)) IS TRUE"#;

fn ability(kind: AbilityKind, at: At) -> Condition {
    let having =
        |concerns: &[Concern]| concerns.iter().fold(Condition::any(), |any, concern| any.add(holds(*concern, at)));
    let by_kind = |is: AbilityKind| {
        let certain = Concern::ALL.iter().filter(|concern| concern.kinds() == [is]);
        having(&certain.copied().collect::<Vec<_>>())
    };
    let for_a_while = having(&[Concern::LockedWithEnd, Concern::Throttled]);
    match kind {
        AbilityKind::Yes => concerned(at).not(),
        AbilityKind::YesThen => by_kind(AbilityKind::YesThen),
        AbilityKind::NotUntil => Condition::all().add(for_a_while).add(outlasts_password(at).not()),
        AbilityKind::No => by_kind(AbilityKind::No).add(Condition::all().add(for_a_while).add(outlasts_password(at))),
    }
}

/// Selects accounts whose lock or throttle ends after their temporary password, or whose throttle has no end.
pub(super) fn outlasts_password(at: At) -> Condition {
    let expiry = || Expr::col((user::Entity, user::Column::PasswordExpiresAt));
    let lock = locked(at).add(Expr::col((user::Entity, user::Column::LockExpiresAt)).gte(expiry()));
    let mut throttle = waiting(at);
    throttle.and_where(Expr::col((throttle::Entity, throttle::Column::WaitsUntil)).gte(expiry()));
    let outlasts = Condition::all()
        .add(user::Column::PasswordExpiresAt.is_not_null())
        .add(Condition::any().add(lock).add(Expr::exists(throttle)));
    let mut refused = waiting(at);
    refused.and_where(Expr::col((throttle::Entity, throttle::Column::WaitsUntil)).eq(FOR_GOOD));
    let refused = user::Column::Kind.eq(kind_number(UserKind::Person)).and(Expr::exists(refused));
    Condition::any().add(outlasts).add(refused)
}

fn locked_without_end() -> SimpleExpr {
    Expr::cust(r#"("user".lock_cause IS NOT NULL AND "user".lock_expires_at IS NULL)"#)
}

fn expired(at: At) -> Condition {
    Condition::all()
        .add(user::Column::PasswordExpiresAt.is_not_null())
        .add(user::Column::PasswordExpiresAt.lte(at.now.as_micros()))
}

fn throttled(at: At) -> SimpleExpr {
    Expr::exists(waiting(at))
}

/// The throttle in force of the account in the row.
fn waiting(at: At) -> SelectStatement {
    let mut waiting = Query::select();
    waiting
        .expr(Expr::val(1))
        .from(throttle::Entity)
        .and_where(Expr::col((throttle::Entity, throttle::Column::AccountId)).equals((user::Entity, user::Column::Id)))
        .and_where(Expr::col((throttle::Entity, throttle::Column::WaitsUntil)).gt(at.now.as_micros()));
    waiting
}

/// The ids of all throttled people. A service may be throttled as well, which its API tokens do not notice.
pub(super) fn throttled_people(at: At) -> SelectStatement {
    let to_user = throttle::Entity::belongs_to(user::Entity).from(throttle::Column::AccountId).to(user::Column::Id);
    throttle::Entity::find()
        .select_only()
        .column(throttle::Column::AccountId)
        .join(sea_orm::JoinType::InnerJoin, to_user.into())
        .filter(throttle::Column::WaitsUntil.gt(at.now.as_micros()))
        .filter(user::Column::Kind.eq(kind_number(UserKind::Person)))
        .into_query()
}
