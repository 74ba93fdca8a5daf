//! Keyset pages.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect, Select};

use crate::domain::page::{Cursor, PageSize};

/// Selects one page and one more row, newest first, ties broken by id. The pair is compared as a tuple: an index does not serve
/// the same condition written with OR.
pub(super) fn newest_first<E: EntityTrait>(
    select: Select<E>,
    (at, id): (E::Column, E::Column),
    after: Option<&Cursor>,
    size: PageSize,
) -> Select<E> {
    let select = match after {
        Some(Cursor::Time(last_at, last_id)) => select.filter(
            Expr::tuple([Expr::col((E::default(), at)), Expr::col((E::default(), id))])
                .lt(Expr::tuple([Expr::val(*last_at), Expr::val(last_id.as_str())])),
        ),
        _ => select,
    };
    select.order_by(at, Order::Desc).order_by(id, Order::Desc).limit(u64::from(size.rows()) + 1)
}
