//! Lists of accounts: filters, orders and pages.
//!
//! A list of the accounts that need attention, the worst first, reads one concern after the other, each from its own index.
//!
//! A caller can make these queries long, so they are sent through a [`ListReader`](crate::store::ListReader), which stops them.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, SimpleExpr, UnionType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, JoinType, Order, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Select,
};

use super::condition::{
    At, besides, flag, holds, indexed, locked, matching, outlasts_password, password_expired,
    password_expired_in_any_order, state, throttled_people,
};
use super::derived::{second_factor_enrolled, with_derived};
use super::row::{UserRow, cause_number, kind_number};
use crate::domain::page::{Cursor, MOST_COUNTED, Page, PageSize, Total};
use crate::domain::password_age::MaxAge;
use crate::domain::profile::SearchText;
use crate::domain::sign_in_ability::{AbilityKind, Concern};
use crate::domain::sign_in_policy::SignInPolicy;
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserFlag};
use crate::domain::user_filter::{UserFilter, UserOrder};
use crate::error::{Error, Resource, Result};
use crate::store::entity::{api_token, user, user_role, user_term};
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
    let users = user::Entity::find().filter(listing.filtered(password_expired(listing.at())));
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

/// Returns whether so many terms have the prefix that a list in an order of its own is read in that order. To collect and sort
/// all matches would take half a second at a million users.
async fn is_broad(c: &impl ConnectionTrait, text: &SearchText) -> Result<bool> {
    Ok(count_at_most(c, ids_with_term(text), MOST_COUNTED + 1).await? > MOST_COUNTED)
}

/// People to whom a policy applies and who have no second factor.
pub struct UsersWithoutFactor {
    /// How many.
    pub users: u64,
    /// Their API tokens that are live.
    pub api_tokens: u64,
}

/// Counts for whom a policy would mean a new second factor.
pub async fn users_without_factor(
    c: &impl ConnectionTrait,
    policy: &SignInPolicy,
    now: Timestamp,
) -> Result<UsersWithoutFactor> {
    let mut condition = Condition::all().add(Expr::cust(r#""user".kind = 1"#)).add(second_factor_enrolled().not());
    if !policy.second_factor_required {
        let mut members = Query::select();
        members
            .column(user_role::Column::UserId)
            .from(user_role::Entity)
            .and_where(user_role::Column::Role.is_in(policy.second_factor_roles.iter().map(|role| role.as_str())));
        condition = condition.add(user::Column::Id.in_subquery(members));
    }
    let users = user::Entity::find().filter(condition.clone()).count(c).await?;
    let to_user = api_token::Entity::belongs_to(user::Entity).from(api_token::Column::UserId).to(user::Column::Id);
    let api_tokens = api_token::Entity::find()
        .join(JoinType::InnerJoin, to_user.into())
        .filter(condition)
        .filter(api_token::Column::RevokedAt.is_null())
        .filter(api_token::Column::ExpiresAt.gt(now.as_micros()))
        .count(c)
        .await?;
    Ok(UsersWithoutFactor { users, api_tokens })
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
        let mut condition = self.filtered(self.expired(plan));
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
    fn filtered(&self, expired: Condition) -> Condition {
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
}

impl UserListing<'_> {
    /// Returns whether accounts are ordered by concern: if all have one, unless the caller chose an order or searches by text.
    fn is_by_concern(&self) -> bool {
        is_about_concerns(self.filter) && self.filter.text.is_none() && self.order == UserOrder::Natural
    }

    /// The concerns that can match, the worst first, each with a further condition.
    fn concerns(&self) -> impl Iterator<Item = (Concern, Condition)> {
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
    async fn page_by_concern(
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
        let condition = listing.filtered(password_expired(listing.at()));
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

fn position(concern: Concern, row: &ListedRow) -> Cursor {
    let at = |at: Option<i64>| Cursor::Time(at.unwrap_or_default(), row.sort_id.clone());
    match key_of(concern) {
        Key::Username => Cursor::Text(row.sort_username.clone(), row.sort_id.clone()),
        Key::PasswordExpiry => at(row.row.password_expires_at()),
        Key::LockExpiry => at(row.row.lock_expires_at()),
        Key::PasswordAge => at(row.row.password_changed_at()),
    }
}

/// Selects the accounts with a concern after the cursor, in order.
fn in_order(select: Select<user::Entity>, concern: Concern, after: Option<&Cursor>, at: At) -> Select<user::Entity> {
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

/// Selects accounts with a term that has the prefix: by a probe for each account, or by a set of all that match.
fn matches_text(text: &SearchText, by_probe: bool) -> SimpleExpr {
    if !by_probe {
        return user::Column::Id.in_subquery(ids_with_term(text));
    }
    let mut term = Query::select();
    term.expr(Expr::val(1))
        .from(user_term::Entity)
        .and_where(Expr::col((user_term::Entity, user_term::Column::UserId)).equals((user::Entity, user::Column::Id)))
        .cond_where(has_prefix(text));
    Expr::exists(term)
}

fn has_prefix(text: &SearchText) -> Condition {
    before_prefix_end(text).add(user_term::Column::Term.gte(text.as_str()))
}

/// Selects terms below the end of the range that has the prefix.
fn before_prefix_end(text: &SearchText) -> Condition {
    Condition::all().add_option(text.prefix_end().map(|end| user_term::Column::Term.lt(end)))
}

/// Returns whether only accounts with a concern can match.
fn is_about_concerns(filter: &UserFilter) -> bool {
    filter.needs_attention || !filter.abilities.is_empty() && !filter.abilities.contains(&AbilityKind::Yes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::id::UserId;
    use crate::domain::password_age::TooOld;
    use crate::domain::waves::Wave;
    use crate::store::{Location, Store};

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    /// The steps by which `SQLite` runs a query.
    async fn plan(store: &Store, select: Select<user::Entity>) -> std::result::Result<Vec<String>, sea_orm::DbErr> {
        let mut statement = select.build(sea_orm::DbBackend::Sqlite);
        statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
        let rows = store.reader().query_all_raw(statement).await?;
        rows.iter().map(|row| row.try_get("", "detail")).collect()
    }

    #[tokio::test]
    async fn each_concern_is_read_in_order_from_an_index_of_its_own() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let now = Timestamp::from_micros(1_000_000);
        let too_old = TooOld { changed_by: now, set_at: now, wave: Wave::Below(UserId::from_bytes([7; 16])) };
        let at = At { now, too_old: Some(too_old) };
        for (concern, index, cursor) in [
            (Concern::LockedWithoutEnd, "user_locked_for_good", Cursor::Text("ada".to_owned(), "x".to_owned())),
            (Concern::TemporaryPasswordExpired, "user_password_expiry", Cursor::Time(5, "x".to_owned())),
            (Concern::PasswordEnded, "user_password_ended", Cursor::Text("ada".to_owned(), "x".to_owned())),
            (Concern::Pending, "user_pending", Cursor::Text("ada".to_owned(), "x".to_owned())),
            (Concern::LockedWithEnd, "user_lock_expiry", Cursor::Time(5, "x".to_owned())),
            (Concern::TemporaryPassword, "user_password_expiry", Cursor::Time(5, "x".to_owned())),
            (Concern::ChangeRequired, "user_change_required", Cursor::Text("ada".to_owned(), "x".to_owned())),
            (Concern::PasswordExpired, "user_password_age", Cursor::Time(5, "x".to_owned())),
        ] {
            for after in [None, Some(&cursor)] {
                let plan = plan(&store, in_order(rows(), concern, after, at).limit(51)).await?;
                let first = plan.first().map(String::as_str).unwrap_or_default();
                assert!(first.contains(&format!("INDEX {index}")), "{concern:?} after {after:?}: {plan:#?}");
                assert!(
                    !plan.iter().any(|step| step.contains("TEMP B-TREE")),
                    "{concern:?} after {after:?}: {plan:#?}"
                );
            }
        }
        // A count has no order that leads to the index.
        for (concern, index) in [
            (Concern::PasswordEnded, "user_password_ended"),
            (Concern::Pending, "user_pending"),
            (Concern::ChangeRequired, "user_change_required"),
            (Concern::PasswordExpired, "user_password_age"),
        ] {
            let count = user::Entity::find().filter(holds(concern, at)).limit(10_001);
            let plan = plan(&store, count).await?;
            let first = plan.first().map(String::as_str).unwrap_or_default();
            assert!(first.contains(&format!("INDEX {index}")), "{concern:?}: {plan:#?}");
        }
        let throttled = plan(&store, in_order(rows(), Concern::Throttled, None, at).limit(51)).await?;
        assert!(!throttled.iter().any(|step| step.starts_with("SCAN user")), "{throttled:#?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_count_stops_at_its_bound_and_a_text_is_broad_beyond_ten_thousand_terms() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let columns =
            "id, kind, username, labels, roles, password_kind, change_demanded, version, created_at, updated_at";
        let user = format!(r#"INSERT INTO "user" ({columns}) VALUES ('1', 1, 'ada', '{{}}', '', 1, FALSE, 1, 1, 1)"#);
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)";
        let terms =
            format!("{numbers} INSERT INTO user_term (term, user_id, shared) SELECT 'made' || i, '1', 0 FROM n");
        for statement in [user, terms] {
            store.autocommit()?.execute_unprepared(&statement).await?;
        }
        let (made, narrow) = (SearchText::parse("made")?, SearchText::parse("made1000")?);
        let (Some(made), Some(narrow)) = (made, narrow) else { return Err("a text".into()) };
        assert_eq!(count_at_most(store.reader(), ids_with_term(&made), 7).await?, 7);
        assert_eq!(count_at_most(store.reader(), ids_with_term(&narrow), 7).await?, 3);
        assert!(is_broad(store.reader(), &made).await? && !is_broad(store.reader(), &narrow).await?);
        Ok(())
    }

    const BROAD: Plan = Plan { search: Search::ByAccount { is_broad: true }, many_expired: true };

    #[tokio::test]
    async fn a_list_of_many_expired_passwords_is_read_in_its_own_order() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let day = Duration::from_hours(24);
        let (set_at, now) = (Timestamp::from_micros(0), Timestamp::from_micros(0).saturating_add(day * 100));
        let max_age = Some(MaxAge { age: day * 90, set_at, lead: day * 14, rollout: day * 300 });
        let expired = UserFilter { flags: vec![UserFlag::PasswordExpired], ..UserFilter::default() };
        let then = UserFilter { abilities: vec![AbilityKind::YesThen], ..UserFilter::default() };
        let size = PageSize::parse(50).ok_or("a page size")?;
        for (filter, order) in [
            (&expired, UserOrder::Username),
            (&expired, UserOrder::CreatedAtDescending),
            (&then, UserOrder::Username),
            (&then, UserOrder::CreatedAtDescending),
        ] {
            let listing = UserListing { filter, order, now, max_age };
            for many_expired in [true, false] {
                let plan =
                    plan(&store, listing.select(Plan { search: Search::None, many_expired }, None, size)).await?;
                let by_age = plan.iter().any(|step| step.contains("INDEX user_password_age"));
                assert_eq!(by_age, !many_expired, "{filter:?} {order:?}: {plan:#?}");
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_broad_text_in_an_order_of_its_own_is_read_in_that_order() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let filter = UserFilter { text: SearchText::parse("a")?, ..UserFilter::default() };
        let size = PageSize::parse(50).ok_or("a page size")?;
        let time = Cursor::Time(5, "x".to_owned());
        let name = Cursor::Text("ada".to_owned(), "x".to_owned());
        for (order, cursor) in [(UserOrder::CreatedAtDescending, time), (UserOrder::Username, name)] {
            let listing = UserListing { filter: &filter, order, now: Timestamp::from_micros(1_000_000), max_age: None };
            for after in [None, Some(&cursor)] {
                let plan = plan(&store, listing.select(BROAD, after, size)).await?;
                let first = plan.first().map(String::as_str).unwrap_or_default();
                assert!(first.contains(" user USING ") && first.contains("INDEX"), "{order:?}: {plan:#?}");
                assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{order:?}: {plan:#?}");
                assert!(plan.iter().any(|step| step.contains("user_term_of_user")), "{order:?}: {plan:#?}");
            }
        }
        Ok(())
    }
}
