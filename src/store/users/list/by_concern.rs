//! The accounts that need attention, the worst first: one concern after the other, each from its own index.

use sea_orm::sea_query::{Condition, Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, Order, QueryFilter, QueryOrder, QuerySelect, Select};

use super::{ListedRow, UserListing, is_about_concerns, rows};
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::sign_in_ability::{AbilityKind, Concern};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::domain::user_filter::UserOrder;
use crate::error::{Error, Resource, Result};
use crate::store::entity::user;
use crate::store::single::records;
use crate::store::users::condition::{At, besides, holds, outlasts_password, password_expired};

impl UserListing<'_> {
    /// Returns whether accounts are ordered by concern: if all have one, unless the caller chose an order or searches by text.
    pub(super) fn is_by_concern(&self) -> bool {
        is_about_concerns(self.filter) && self.filter.text.is_none() && self.order == UserOrder::Natural
    }

    /// The concerns that can match, the worst first, each with a further condition.
    pub(super) fn concerns(&self) -> impl Iterator<Item = (Concern, Condition)> {
        Concern::ALL.iter().filter_map(|concern| Some((*concern, self.wanted(*concern)?)))
    }

    /// The condition under which an account with this concern has a wanted ability to sign in. `None` if there is none.
    fn wanted(&self, concern: Concern) -> Option<Condition> {
        let is_wanted = |kind: &AbilityKind| self.filter.abilities.is_empty() || self.filter.abilities.contains(kind);
        match (concern.kinds(), concern.kinds().iter().filter(|kind| is_wanted(kind)).count()) {
            (_, 0) => None,
            (kinds, wanted) if kinds.len() == wanted => Some(Condition::all()),
            _ if is_wanted(&AbilityKind::No) => Some(outlasts_password(self.at())),
            _ => Some(outlasts_password(self.at()).not()),
        }
    }

    /// Reads one page, the worst concern first.
    pub(super) async fn page_by_concern(
        &self,
        c: &impl ConnectionTrait,
        after: Option<&Cursor>,
        size: PageSize,
    ) -> Result<Page<User>> {
        let (now, begin, mut key) = match after {
            None => (self.now, None, None),
            Some(Cursor::Concern(at, concern, key)) => (Timestamp::from_micros(*at), Some(*concern), Some(&**key)),
            // A token of a server that had another order.
            Some(_) => return Err(Error::PageTokenInvalid),
        };
        let listing = UserListing { now, ..*self };
        let condition = listing.filtered(&password_expired(listing.at()));
        let mut found: Vec<ListedRow> = Vec::new();
        for (concern, wanted) in listing.concerns().filter(|(concern, _)| begin.is_none_or(|begin| *concern >= begin)) {
            let missing = (u64::from(size.rows()) + 1).saturating_sub(found.len() as u64);
            if missing == 0 {
                break;
            }
            let select = rows().filter(condition.clone()).filter(wanted).limit(missing);
            let select = in_order(select, concern, key.take(), listing.at());
            let rows: Vec<ListedRow> = records(c, Resource::User, select).await?;
            found.extend(rows.into_iter().map(|row| ListedRow { concern: Some(concern), ..row }));
        }
        listing.page(found, size)
    }
}

/// The order among the accounts of one concern, and the key of a row in it.
enum Key {
    /// By username.
    Username,
    /// By the time at which the temporary password expires or has expired, the earliest first.
    PasswordExpiry,
    /// By the time at which the lock ends, the latest first.
    LockExpiry,
    /// By the age of the password, the oldest first.
    PasswordAge,
}

fn key_of(concern: Concern) -> Key {
    match concern {
        Concern::TemporaryPasswordExpired | Concern::TemporaryPassword => Key::PasswordExpiry,
        Concern::LockedWithEnd => Key::LockExpiry,
        Concern::PasswordExpired => Key::PasswordAge,
        Concern::LockedWithoutEnd
        | Concern::PasswordEnded
        | Concern::Pending
        | Concern::Throttled
        | Concern::ChangeRequired => Key::Username,
    }
}

pub(super) fn position(concern: Concern, row: &ListedRow) -> Cursor {
    let at = |at: Option<i64>| Cursor::Time(at.unwrap_or_default(), row.sort_id.clone());
    match key_of(concern) {
        Key::Username => Cursor::Text(row.sort_username.clone(), row.sort_id.clone()),
        Key::PasswordExpiry => at(row.row.password_expires_at()),
        Key::LockExpiry => at(row.row.lock_expires_at()),
        Key::PasswordAge => at(row.row.password_changed_at()),
    }
}

/// Selects the accounts with a concern after the cursor, in order.
pub(super) fn in_order(
    select: Select<user::Entity>,
    concern: Concern,
    after: Option<&Cursor>,
    at: At,
) -> Select<user::Entity> {
    let pair = |column: user::Column| {
        Expr::tuple([Expr::col((user::Entity, column)), Expr::col((user::Entity, user::Column::Id))])
    };
    let passed = |at: i64, id: &str| Expr::tuple([Expr::val(at), Expr::val(id)]);
    let after = after.map(|after| match (key_of(concern), after) {
        (Key::PasswordExpiry, Cursor::Time(at, id)) => pair(user::Column::PasswordExpiresAt).gt(passed(*at, id)),
        (Key::LockExpiry, Cursor::Time(at, id)) => pair(user::Column::LockExpiresAt).lt(passed(*at, id)),
        (Key::PasswordAge, Cursor::Time(at, id)) => pair(user::Column::PasswordChangedAt).gt(passed(*at, id)),
        (_, Cursor::Text(username, _)) => user::Column::Username.gt(username.as_str()),
        // Unreachable: the cursor was made by `position`.
        _ => Expr::val(false),
    });
    let select = match after {
        // The cursor replaces the lower bound. With both, SQLite would start from the bound.
        Some(after) if concern == Concern::TemporaryPassword => {
            let has_expiry = user::Column::PasswordExpiresAt.is_not_null();
            select.filter(after).filter(has_expiry).filter(besides(concern, at))
        }
        Some(after) => select.filter(after).filter(holds(concern, at)),
        None => select.filter(holds(concern, at)),
    };
    match key_of(concern) {
        Key::Username => select.order_by(user::Column::Username, Order::Asc),
        Key::PasswordExpiry => {
            select.order_by(user::Column::PasswordExpiresAt, Order::Asc).order_by(user::Column::Id, Order::Asc)
        }
        Key::LockExpiry => {
            select.order_by(user::Column::LockExpiresAt, Order::Desc).order_by(user::Column::Id, Order::Desc)
        }
        Key::PasswordAge => {
            select.order_by(user::Column::PasswordChangedAt, Order::Asc).order_by(user::Column::Id, Order::Asc)
        }
    }
}
