//! Lists of accounts: filters, orders and pages.
//!
//! The predicates are the SQL equivalents of `User::state` and `User::flags`; a test compares them. Each is written like the
//! partial index that serves it.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, SimpleExpr, UnionType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, JoinType, Order, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, Select,
};

use super::row::{UserRow, cause_number, kind_number};
use super::with_throttle;
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::profile::SearchText;
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserFilter, UserFlag, UserOrder, UserState};
use crate::error::{Resource, Result};
use crate::store::entity::{throttle, user, user_role, user_term};
use crate::store::single::records;
use crate::store::text::{count, readable};

/// Upper bound of the label text on a page, in bytes. Everything else of a user is under 4 KiB, so that a response with 500
/// users stays under the 4 MiB that gRPC clients accept.
const MAX_LABEL_BYTES: usize = 2 << 20;

/// Which accounts to list, in which order, and the instant at which states and flags are evaluated.
pub struct UserListing<'a> {
    /// Which accounts.
    pub filter: &'a UserFilter,
    /// Their order.
    pub order: UserOrder,
    /// The instant at which states and flags are evaluated.
    pub now: Timestamp,
}

/// Reads one page.
pub async fn user_list(
    c: &impl ConnectionTrait,
    listing: &UserListing<'_>,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<User>> {
    let rows: Vec<ListedRow> = records(c, Resource::User, listing.select(after, size)).await?;
    let size = size.at_most(rows_that_fit(&rows));
    let page = Page::cut(rows, size, |row| listing.cursor(row));
    let next = page.next;
    let users = readable(page.rows.into_iter().map(|row| row.row.decode()))?;
    Ok(Page { rows: users, next })
}

/// Returns how many of these rows fit into one response.
fn rows_that_fit(rows: &[ListedRow]) -> u32 {
    let mut bytes = 0;
    let fit = rows.iter().take_while(|row| {
        bytes += row.row.label_bytes();
        bytes <= MAX_LABEL_BYTES
    });
    count(fit.count() as u64)
}

/// Counts all accounts that match.
pub async fn user_count(c: &impl ConnectionTrait, listing: &UserListing<'_>) -> Result<u64> {
    let mut condition = listing.filtered();
    if listing.filter.needs_attention {
        condition = condition.add(attention(listing.now));
    }
    if let Some(text) = &listing.filter.text {
        condition = condition.add(user::Column::Id.in_subquery(ids_with_term(text)));
    }
    Ok(user::Entity::find().filter(condition).count(c).await?)
}

#[derive(FromQueryResult)]
struct ListedRow {
    #[sea_orm(nested)]
    row: UserRow,
    sort_username: String,
    sort_id: String,
    sort_created_at: i64,
    sort_term: Option<String>,
}

impl UserListing<'_> {
    fn select(&self, after: Option<&Cursor>, size: PageSize) -> Select<user::Entity> {
        let limit = u64::from(size.rows()) + 1;
        let mut condition = self.filtered();
        if let Some(after) = after {
            condition = condition.add(self.after(after));
        }
        if let Some(text) = self.filter.text.as_ref().filter(|_| self.is_by_term()) {
            // The cursor replaces the lower bound of the prefix. With both bounds, SQLite would start from the lower one.
            condition = condition.add(if after.is_some() { before_prefix_end(text) } else { has_prefix(text) });
        }
        if self.filter.needs_attention {
            let ids = self.attention_ids(condition.clone(), limit);
            condition = condition.add(user::Column::Id.in_subquery(ids));
        }
        let select = with_throttle(user::Entity::find())
            .column_as(user::Column::Username, "sort_username")
            .column_as(user::Column::Id, "sort_id")
            .column_as(user::Column::CreatedAt, "sort_created_at");
        let select = match &self.filter.text {
            Some(text) if self.is_by_term() => join_first_term(select, text),
            Some(text) => select
                .expr_as(Expr::cust("NULL"), "sort_term")
                .filter(user::Column::Id.in_subquery(ids_with_term(text))),
            None => select.expr_as(Expr::cust("NULL"), "sort_term"),
        };
        self.sorted(select.filter(condition)).limit(limit)
    }

    /// Returns whether accounts are ordered by the matching term: with a text, unless the caller chose an order. A broad prefix
    /// then ends after one page, where sorting all matches by name takes half a second at a million users.
    fn is_by_term(&self) -> bool {
        self.filter.text.is_some() && self.order == UserOrder::Natural
    }

    fn sorted(&self, select: Select<user::Entity>) -> Select<user::Entity> {
        match self.order {
            UserOrder::Natural if self.is_by_term() => {
                select.order_by(user_term::Column::Term, Order::Asc).order_by(user_term::Column::UserId, Order::Asc)
            }
            UserOrder::Natural | UserOrder::Username => select.order_by(user::Column::Username, Order::Asc),
            UserOrder::CreatedAtDescending => {
                select.order_by(user::Column::CreatedAt, Order::Desc).order_by(user::Column::Id, Order::Desc)
            }
        }
    }

    /// Selects the rows after the cursor. Tuples are compared as such: written with OR, the last page of a million takes 97 ms
    /// instead of 0.2 ms.
    fn after(&self, cursor: &Cursor) -> SimpleExpr {
        match cursor {
            Cursor::Text(term, id) if self.is_by_term() => Expr::tuple([
                Expr::col((user_term::Entity, user_term::Column::Term)),
                Expr::col((user_term::Entity, user_term::Column::UserId)),
            ])
            .gt(Expr::tuple([Expr::val(term.as_str()), Expr::val(id.as_str())])),
            Cursor::Text(username, _) => user::Column::Username.gt(username.as_str()),
            Cursor::Time(at, id) => Expr::tuple([
                Expr::col((user::Entity, user::Column::CreatedAt)),
                Expr::col((user::Entity, user::Column::Id)),
            ])
            .lt(Expr::tuple([Expr::val(*at), Expr::val(id.as_str())])),
        }
    }

    fn cursor(&self, row: &ListedRow) -> Cursor {
        match (&row.sort_term, self.order) {
            (Some(term), _) => Cursor::Text(term.clone(), row.sort_id.clone()),
            (None, UserOrder::CreatedAtDescending) => Cursor::Time(row.sort_created_at, row.sort_id.clone()),
            (None, _) => Cursor::Text(row.sort_username.clone(), row.sort_id.clone()),
        }
    }

    /// The conditions of the filter, except text and `needs_attention`.
    fn filtered(&self) -> Condition {
        let filter = self.filter;
        let mut all = Condition::all();
        if !filter.states.is_empty() {
            all = all.add(filter.states.iter().fold(Condition::any(), |any, is| any.add(state(*is, self.now))));
        }
        if !filter.kinds.is_empty() {
            all = all.add(filter.kinds.iter().fold(Condition::any(), |any, kind| {
                any.add(Expr::cust(format!(r#""user".kind = {}"#, kind_number(*kind))))
            }));
        }
        if !filter.lock_causes.is_empty() {
            let causes = filter.lock_causes.iter().map(|cause| cause_number(*cause));
            all = all.add(locked(self.now)).add(user::Column::LockCause.is_in(causes));
        }
        for is in &filter.flags {
            all = all.add(flag(*is, self.now));
        }
        for is in &filter.without_flags {
            all = all.add(flag(*is, self.now).not());
        }
        if !filter.roles.is_empty() {
            let mut members = Query::select();
            members
                .column(user_role::Column::UserId)
                .from(user_role::Entity)
                .and_where(user_role::Column::Role.is_in(filter.roles.iter().map(|role| role.as_str())));
            all = all.add(user::Column::Id.in_subquery(members));
        }
        if !filter.user_ids.is_empty() {
            all = all.add(user::Column::Id.is_in(filter.user_ids.iter().map(ToString::to_string)));
        }
        all
    }

    /// Selects the ids of accounts that need attention: from the index of locked accounts and those that must change their
    /// password, as many as fit on the page; and all throttled accounts. A single predicate with OR would scan the whole table.
    fn attention_ids(&self, condition: Condition, limit: u64) -> SelectStatement {
        let select = user::Entity::find().select_only().column(user::Column::Id);
        let select = match &self.filter.text {
            Some(text) if self.is_by_term() => join_first_term(select, text).select_only().column(user::Column::Id),
            Some(text) => select.filter(user::Column::Id.in_subquery(ids_with_term(text))),
            None => select,
        };
        let select = self.sorted(select.filter(condition).filter(demanding(self.now))).limit(limit);
        let mut page = Query::select();
        page.column("id").from_subquery(sea_orm::QueryTrait::into_query(select), "demanding");
        page.union(UnionType::Distinct, waiting_ids(self.now));
        page
    }
}

/// Joins the first term of each account that has the prefix, so that no account appears twice. It is the one that has fewer
/// bytes in common with the term before it than the prefix is long.
fn join_first_term(select: Select<user::Entity>, text: &SearchText) -> Select<user::Entity> {
    let of_user = user::Entity::belongs_to(user_term::Entity).from(user::Column::Id).to(user_term::Column::UserId);
    let length = i16::try_from(text.as_str().len()).unwrap_or(i16::MAX);
    select
        .join(JoinType::InnerJoin, of_user.into())
        .column_as(user_term::Column::Term, "sort_term")
        .filter(user_term::Column::Shared.lt(length))
}

fn ids_with_term(text: &SearchText) -> SelectStatement {
    let mut ids = Query::select();
    ids.column(user_term::Column::UserId).from(user_term::Entity).cond_where(has_prefix(text));
    ids
}

fn has_prefix(text: &SearchText) -> Condition {
    before_prefix_end(text).add(user_term::Column::Term.gte(text.as_str()))
}

/// Selects terms below the end of the range that has the prefix.
fn before_prefix_end(text: &SearchText) -> Condition {
    Condition::all().add_option(text.prefix_end().map(|end| user_term::Column::Term.lt(end)))
}

fn waiting_ids(now: Timestamp) -> SelectStatement {
    let mut ids = Query::select();
    ids.column(throttle::Column::UserId)
        .from(throttle::Entity)
        .and_where(throttle::Column::WaitsUntil.gt(now.as_micros()))
        .and_where(throttle::Column::UserId.is_not_null());
    ids
}

fn locked(now: Timestamp) -> Condition {
    Condition::all().add(Expr::cust(r#""user".lock_cause IS NOT NULL"#)).add(
        Condition::any()
            .add(user::Column::LockExpiresAt.is_null())
            .add(user::Column::LockExpiresAt.gt(now.as_micros())),
    )
}

fn pending() -> SimpleExpr {
    Expr::cust(r#"("user".kind = 1 AND "user".password_hash IS NULL)"#)
}

fn must_change() -> SimpleExpr {
    Expr::cust(r#"("user".change_demanded OR "user".password_kind > 1)"#)
}

fn state(state: UserState, now: Timestamp) -> Condition {
    match state {
        UserState::Locked => locked(now),
        UserState::Pending => Condition::all().add(pending()).add(locked(now).not()),
        UserState::Active => Condition::all().add(pending().not()).add(locked(now).not()),
    }
}

fn flag(flag: UserFlag, now: Timestamp) -> Condition {
    let holds = match flag {
        UserFlag::MustChange => must_change(),
        UserFlag::TemporaryPassword => Expr::cust(r#""user".password_kind > 1"#),
        UserFlag::Throttled => user::Column::Id.in_subquery(waiting_ids(now)),
        UserFlag::NeverSignedIn => Expr::cust(r#"("user".kind = 1 AND "user".last_sign_in_at IS NULL)"#),
    };
    Condition::all().add(holds)
}

/// Selects accounts that are locked or must change their password, written so that the partial index serves it.
fn demanding(now: Timestamp) -> Condition {
    Condition::all()
        .add(Expr::cust(r#"("user".lock_cause IS NOT NULL OR "user".change_demanded OR "user".password_kind > 1)"#))
        .add(Condition::any().add(locked(now)).add(must_change()))
}

fn attention(now: Timestamp) -> Condition {
    Condition::any().add(demanding(now)).add(user::Column::Id.in_subquery(waiting_ids(now)))
}
