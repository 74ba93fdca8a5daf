//! Keyset pagination. A page ends with the key of its last row, and the next page begins after that key. Unlike
//! offsets, keys neither repeat nor skip a row if others are added or removed in between.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sign_in_ability::Concern;

/// Lifetime of a page token.
pub const PAGE_TOKEN_TTL: Duration = Duration::from_hours(1);

/// Default number of rows per page.
pub const DEFAULT_SIZE: u32 = 50;

/// Maximum number of rows per page.
pub const MAX_SIZE: u32 = 500;

/// The most matches that a total counts. Counting a million takes a second.
pub const MOST_COUNTED: u32 = 10_000;

/// The number of matches on all pages, up to [`MOST_COUNTED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// The number.
    pub count: u32,
    /// Whether there are more.
    pub is_at_least: bool,
}

impl Total {
    /// Creates a total from a count that stopped after [`MOST_COUNTED`] and one more.
    pub fn of(counted: u32) -> Total {
        Total { count: counted.min(MOST_COUNTED), is_at_least: counted > MOST_COUNTED }
    }
}

/// Number of rows per page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// Zero means [`DEFAULT_SIZE`]; values above [`MAX_SIZE`] are reduced to it. Returns `None` for a negative value.
    pub fn parse(wanted: i32) -> Option<PageSize> {
        match u32::try_from(wanted).ok()? {
            0 => Some(PageSize(DEFAULT_SIZE)),
            size => Some(PageSize(size.min(MAX_SIZE))),
        }
    }

    /// Limits the size to `rows`, but to at least one.
    #[must_use]
    pub fn at_most(self, rows: u32) -> PageSize {
        PageSize(self.0.min(rows).max(1))
    }

    /// The number of rows.
    pub fn rows(self) -> u32 {
        self.0
    }
}

/// The key of the last row of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cursor {
    /// Ordered by a text key, then by id.
    Text(String, String),
    /// Ordered by a time in microseconds, then by id.
    Time(i64, String),
    /// Ordered by concern, and by another cursor among the accounts of one concern. The instant of the first page, in
    /// microseconds, decides who has which concern on all pages, so that no account moves because time passes.
    Concern(i64, Concern, Box<Cursor>),
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins. `None` on the last page.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Creates a page of at most `size` rows. `rows` has one row more if there is a next page.
    pub fn cut(mut rows: Vec<T>, size: PageSize, key: impl Fn(&T) -> Cursor) -> Page<T> {
        let size = size.rows() as usize;
        let more = rows.len() > size;
        rows.truncate(size);
        let next = if more { rows.last().map(key) } else { None };
        Page { rows, next }
    }

    /// Converts the rows.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page { rows: self.rows.into_iter().map(convert).collect(), next: self.next }
    }
}

/// Which page the caller requests.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Number of rows.
    pub size: PageSize,
    /// Token from the previous page. Empty for the first page.
    pub token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_is_coerced_but_not_below_zero() {
        let rows = |wanted| PageSize::parse(wanted).map(PageSize::rows);
        assert_eq!([rows(0), rows(7), rows(9999), rows(-1)], [Some(50), Some(7), Some(500), None]);
    }

    #[test]
    fn a_total_says_whether_there_are_more() {
        assert_eq!(Total::of(MOST_COUNTED), Total { count: MOST_COUNTED, is_at_least: false });
        assert_eq!(Total::of(MOST_COUNTED + 1), Total { count: MOST_COUNTED, is_at_least: true });
    }

    #[test]
    fn only_a_page_with_more_behind_it_has_a_next() {
        let page = |rows: Vec<i64>| Page::cut(rows, PageSize(2), |row| Cursor::Time(*row, String::new()));
        assert_eq!(page(vec![1, 2]).next, None);
        assert_eq!(page(vec![1, 2, 3]).next, Some(Cursor::Time(2, String::new())));
    }
}
