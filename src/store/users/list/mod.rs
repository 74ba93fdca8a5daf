//! Lists of accounts: filters, orders and pages.
//!
//! A caller can make these queries long, so they are sent through a [`ListReader`](crate::store::ListReader), which stops them.

mod by_concern;
#[cfg(test)]
mod tests;
mod text;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, SimpleExpr, UnionType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, Order, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Select,
};

use self::by_concern::position;
use self::text::{before_prefix_end, has_prefix, is_broad, join_first_term, matches_text};
use super::condition::{
    At, flag, holds, indexed, locked, matching, password_expired, password_expired_in_any_order, state,
    throttled_people,
};
use super::derived::with_derived;
use super::row::{UserRow, cause_number, kind_number};
use crate::domain::page::{Cursor, MOST_COUNTED, Page, PageSize, Total};
use crate::domain::password_age::MaxAge;
use crate::domain::sign_in_ability::{AbilityKind, Concern};
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserFlag};
use crate::domain::user_filter::{UserFilter, UserOrder};
use crate::error::{Resource, Result};
use crate::store::entity::{user, user_role, user_term};
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
    /// The maximum age of passwords, if there is one.
    pub max_age: Option<MaxAge>,
}

impl UserListing<'_> {
    fn at(&self) -> At {
        At { now: self.now, too_old: self.max_age.map(|max_age| max_age.too_old(self.now)) }
    }
}

/// Reads one page.
pub async fn user_list(
    c: &impl ConnectionTrait,
    listing: &UserListing<'_>,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<User>> {
    if listing.is_by_concern() {
        return listing.page_by_concern(c, after, size).await;
    }
    let plan = listing.plan(c).await?;
    let rows: Vec<ListedRow> = records(c, Resource::User, listing.select(plan, after, size)).await?;
    listing.page(rows, size)
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

/// Counts the accounts that match, up to [`MOST_COUNTED`].
pub async fn user_count(c: &impl ConnectionTrait, listing: &UserListing<'_>) -> Result<Total> {
    let users = user::Entity::find().filter(listing.filtered(&password_expired(listing.at())));
    let select = match &listing.filter.text {
        None => users,
        // Each account once, and no more terms than are counted.
        Some(text) if listing.is_text_only() => join_first_term(users, text).filter(has_prefix(text)),
        Some(text) => users.filter(matches_text(text, is_broad(c, text).await?)),
    };
    if !is_about_concerns(listing.filter) {
        let select = select.filter(matching(listing.filter, listing.at()));
        return Ok(Total::of(count_at_most(c, select.into_query(), MOST_COUNTED + 1).await?));
    }
    // Each concern by its own index.
    let mut counted = 0;
    for (concern, wanted) in listing.concerns() {
        let missing = (MOST_COUNTED + 1).saturating_sub(counted);
        let select = select.clone().filter(holds(concern, listing.at())).filter(wanted);
        counted += count_at_most(c, select.into_query(), missing).await?;
    }
    Ok(Total::of(counted))
}

/// Counts the rows of a query, and stops at `most`. On `SQLite` a count without a limit could be one instruction, which no time
/// limit interrupts.
async fn count_at_most(c: &impl ConnectionTrait, mut rows: SelectStatement, most: u32) -> Result<u32> {
    rows.clear_selects().expr(Expr::val(1)).limit(u64::from(most));
    let mut total = Query::select();
    total.expr(Expr::cust("COUNT(*)")).from_subquery(rows, "counted");
    let row = c.query_one(&total).await?;
    let counted: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(count(u64::try_from(counted.unwrap_or_default()).unwrap_or_default()))
}

/// What a list in an order of its own looks at first: the accounts that match, or those that come next in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    search: Search,
    /// Whether the password of many has expired.
    many_expired: bool,
}

/// How accounts are matched with the text of the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// There is no text.
    None,
    /// In the order of the terms.
    ByTerm,
    /// In another order. If many accounts match, each account in that order is matched; otherwise the matches are collected.
    ByAccount { is_broad: bool },
}

#[derive(FromQueryResult)]
struct ListedRow {
    #[sea_orm(nested)]
    row: UserRow,
    sort_username: String,
    sort_id: String,
    sort_created_at: i64,
    sort_term: Option<String>,
    #[sea_orm(skip)]
    concern: Option<Concern>,
}

/// Selects all columns of [`ListedRow`] but the term.
fn columns() -> Select<user::Entity> {
    with_derived(user::Entity::find(), "")
        .column_as(user::Column::Username, "sort_username")
        .column_as(user::Column::Id, "sort_id")
        .column_as(user::Column::CreatedAt, "sort_created_at")
}

/// Selects the columns of [`ListedRow`], without a term.
fn rows() -> Select<user::Entity> {
    columns().expr_as(Expr::cust("NULL"), "sort_term")
}

impl UserListing<'_> {
    /// Cuts a page from its rows and one more, and decodes them.
    fn page(&self, rows: Vec<ListedRow>, size: PageSize) -> Result<Page<User>> {
        let size = size.at_most(rows_that_fit(&rows));
        let page = Page::cut(rows, size, |row| self.cursor(row));
        let next = page.next;
        let users = readable(page.rows.into_iter().map(|row| row.row.decode()))?;
        Ok(Page { rows: users, next })
    }

    async fn plan(&self, c: &impl ConnectionTrait) -> Result<Plan> {
        Ok(Plan { search: self.search(c).await?, many_expired: self.have_many_expired(c).await? })
    }

    /// Returns whether the list is about expired passwords, and there are many.
    async fn have_many_expired(&self, c: &impl ConnectionTrait) -> Result<bool> {
        let is_about = self.filter.flags.contains(&UserFlag::PasswordExpired) || is_about_concerns(self.filter);
        if self.max_age.is_none() || !is_about {
            return Ok(false);
        }
        let expired = user::Entity::find().filter(password_expired(self.at())).into_query();
        Ok(count_at_most(c, expired, MOST_COUNTED + 1).await? > MOST_COUNTED)
    }

    /// Selects the accounts whose password has expired, for a list in an order of its own. A few are found by their age. Of many,
    /// those that come next in the order are found sooner.
    fn expired(&self, plan: Plan) -> Condition {
        if plan.many_expired {
            return password_expired_in_any_order(self.at());
        }
        let ids = user::Entity::find().select_only().column(user::Column::Id).filter(password_expired(self.at()));
        Condition::all().add(user::Column::Id.in_subquery(ids.into_query()))
    }

    async fn search(&self, c: &impl ConnectionTrait) -> Result<Search> {
        Ok(match &self.filter.text {
            None => Search::None,
            Some(_) if self.is_by_term() => Search::ByTerm,
            Some(text) => Search::ByAccount { is_broad: is_broad(c, text).await? },
        })
    }

    /// Returns whether the filter has a text and nothing else.
    fn is_text_only(&self) -> bool {
        let UserFilter {
            text,
            states,
            kinds,
            lock_causes,
            flags,
            without_flags,
            roles,
            user_ids,
            has_second_factor,
            needs_attention,
            abilities,
        } = self.filter;
        let is_empty = states.is_empty()
            && kinds.is_empty()
            && lock_causes.is_empty()
            && flags.is_empty()
            && without_flags.is_empty()
            && roles.is_empty()
            && user_ids.is_empty()
            && has_second_factor.is_none();
        text.is_some() && is_empty && !needs_attention && abilities.is_empty()
    }

    fn select(&self, plan: Plan, after: Option<&Cursor>, size: PageSize) -> Select<user::Entity> {
        let limit = u64::from(size.rows()) + 1;
        let mut condition = self.filtered(&self.expired(plan));
        if let Some(after) = after {
            condition = condition.add(self.after(after));
        }
        if let Some(text) = self.filter.text.as_ref().filter(|_| self.is_by_term()) {
            // The cursor replaces the lower bound of the prefix. With both bounds, SQLite would start from the lower one.
            condition = condition.add(if after.is_some() { before_prefix_end(text) } else { has_prefix(text) });
        }
        condition = condition.add(matching(self.filter, self.at()));
        if is_about_concerns(self.filter) {
            let ids = self.concerned_ids(plan, condition.clone(), limit);
            condition = condition.add(user::Column::Id.in_subquery(ids));
        }
        let select = match (plan.search, &self.filter.text) {
            (Search::ByTerm, Some(text)) => join_first_term(columns(), text),
            (Search::ByAccount { is_broad }, Some(text)) => rows().filter(matches_text(text, is_broad)),
            _ => rows(),
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
            // Only lists by concern have such a cursor.
            Cursor::Concern(..) => Expr::val(false),
            Cursor::Time(at, id) => Expr::tuple([
                Expr::col((user::Entity, user::Column::CreatedAt)),
                Expr::col((user::Entity, user::Column::Id)),
            ])
            .lt(Expr::tuple([Expr::val(*at), Expr::val(id.as_str())])),
        }
    }

    fn cursor(&self, row: &ListedRow) -> Cursor {
        if let Some(concern) = row.concern {
            return Cursor::Concern(self.now.as_micros(), concern, Box::new(position(concern, row)));
        }
        match (&row.sort_term, self.order) {
            (Some(term), _) => Cursor::Text(term.clone(), row.sort_id.clone()),
            (None, UserOrder::CreatedAtDescending) => Cursor::Time(row.sort_created_at, row.sort_id.clone()),
            (None, _) => Cursor::Text(row.sort_username.clone(), row.sort_id.clone()),
        }
    }

    /// The conditions of the filter, except text, `needs_attention` and the ability to sign in.
    /// Those whose password has expired are selected by `expired`.
    fn filtered(&self, expired: &Condition) -> Condition {
        let filter = self.filter;
        let mut all = Condition::all();
        if !filter.states.is_empty() {
            all = all.add(filter.states.iter().fold(Condition::any(), |any, is| any.add(state(*is, self.at()))));
        }
        if !filter.kinds.is_empty() {
            all = all.add(filter.kinds.iter().fold(Condition::any(), |any, kind| {
                any.add(Expr::cust(format!(r#""user".kind = {}"#, kind_number(*kind))))
            }));
        }
        if !filter.lock_causes.is_empty() {
            let causes = filter.lock_causes.iter().map(|cause| cause_number(*cause));
            all = all.add(locked(self.at())).add(user::Column::LockCause.is_in(causes));
        }
        for is in &filter.flags {
            all = all.add(match is {
                UserFlag::PasswordExpired => expired.clone(),
                is => flag(*is, self.at()),
            });
        }
        for is in &filter.without_flags {
            all = all.add(flag(*is, self.at()).not());
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

    /// Selects the ids of accounts that need attention, for lists in another order: from the index of such accounts, and from
    /// those with an expired password, as many as fit on the page; and all throttled people. A single predicate with OR would
    /// scan the whole table.
    fn concerned_ids(&self, plan: Plan, condition: Condition, limit: u64) -> SelectStatement {
        let select = user::Entity::find().select_only().column(user::Column::Id);
        let select = match (plan.search, &self.filter.text) {
            (Search::ByTerm, Some(text)) => join_first_term(select, text).select_only().column(user::Column::Id),
            (Search::ByAccount { is_broad }, Some(text)) => select.filter(matches_text(text, is_broad)),
            _ => select,
        };
        let select = select.filter(condition);
        let first = |wanted: Condition, name: &'static str| {
            let mut ids = Query::select();
            let page = self.sorted(select.clone().filter(wanted)).limit(limit);
            ids.column("id").from_subquery(page.into_query(), name);
            ids
        };
        let mut ids = first(indexed(self.at()), "demanding");
        ids.union(UnionType::Distinct, throttled_people(self.at()));
        if self.max_age.is_some() {
            ids.union(UnionType::Distinct, first(self.expired(plan), "expired"));
        }
        ids
    }
}

/// Returns whether only accounts with a concern can match.
fn is_about_concerns(filter: &UserFilter) -> bool {
    filter.needs_attention || !filter.abilities.is_empty() && !filter.abilities.contains(&AbilityKind::Yes)
}
