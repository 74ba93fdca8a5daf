//! Accounts whose names begin with a text.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, JoinType, QueryFilter, QuerySelect, Select};

use super::count_at_most;
use crate::domain::page::MOST_COUNTED;
use crate::domain::profile::SearchText;
use crate::error::Result;
use crate::store::entity::{user, user_term};

/// Returns whether so many terms have the prefix that a list in an order of its own is read in that order. To collect and sort
/// all matches would take half a second at a million users.
pub(super) async fn is_broad(c: &impl ConnectionTrait, text: &SearchText) -> Result<bool> {
    Ok(count_at_most(c, ids_with_term(text), MOST_COUNTED + 1).await? > MOST_COUNTED)
}

/// Joins the first term of each account that has the prefix, so that no account appears twice. It is the one that has fewer
/// bytes in common with the term before it than the prefix is long.
pub(super) fn join_first_term(select: Select<user::Entity>, text: &SearchText) -> Select<user::Entity> {
    let of_user = user::Entity::belongs_to(user_term::Entity).from(user::Column::Id).to(user_term::Column::UserId);
    let length = i16::try_from(text.as_str().len()).unwrap_or(i16::MAX);
    select
        .join(JoinType::InnerJoin, of_user.into())
        .column_as(user_term::Column::Term, "sort_term")
        .filter(user_term::Column::Shared.lt(length))
}

pub(super) fn ids_with_term(text: &SearchText) -> SelectStatement {
    let mut ids = Query::select();
    ids.column(user_term::Column::UserId).from(user_term::Entity).cond_where(has_prefix(text));
    ids
}

/// Selects accounts with a term that has the prefix: by a probe for each account, or by a set of all that match.
pub(super) fn matches_text(text: &SearchText, by_probe: bool) -> SimpleExpr {
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

pub(super) fn has_prefix(text: &SearchText) -> Condition {
    before_prefix_end(text).add(user_term::Column::Term.gte(text.as_str()))
}

/// Selects terms below the end of the range that has the prefix.
pub(super) fn before_prefix_end(text: &SearchText) -> Condition {
    Condition::all().add_option(text.prefix_end().map(|end| user_term::Column::Term.lt(end)))
}
