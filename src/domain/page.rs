//! Pages of a list. A page ends with the key of its last row; the next begins after it. Keys, not offsets: a row that
//! is added or removed meanwhile makes no other appear twice or never.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a page token is good.
pub const PAGE_TOKEN_TTL: Duration = Duration::from_hours(1);

/// Rows on a page when the caller does not say.
pub const DEFAULT_SIZE: u32 = 50;

/// The most rows on a page.
pub const MAX_SIZE: u32 = 500;

/// How many rows a caller wants at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// Zero means [`DEFAULT_SIZE`], too many means [`MAX_SIZE`], less than none is an error.
    pub fn parse(wanted: i32) -> Option<PageSize> {
        match u32::try_from(wanted).ok()? {
            0 => Some(PageSize(DEFAULT_SIZE)),
            size => Some(PageSize(size.min(MAX_SIZE))),
        }
    }

    /// This, but no more than `rows`, and at least one.
    #[must_use]
    pub fn at_most(self, rows: u32) -> PageSize {
        PageSize(self.0.min(rows).max(1))
    }

    /// Rows.
    pub fn rows(self) -> u32 {
        self.0
    }
}

/// The key of the last row of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cursor {
    /// A list in the order of a text key, then of ids.
    Text(String, String),
    /// A list in the order of an instant in microseconds, then of ids.
    Time(i64, String),
}

/// One page.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// Its rows.
    pub rows: Vec<T>,
    /// Where the next page begins. None: this was the last.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Makes a page of at most `size` rows from `rows`, of which one more was read to see whether there is a next.
    pub fn cut(mut rows: Vec<T>, size: PageSize, key: impl Fn(&T) -> Cursor) -> Page<T> {
        let size = size.rows() as usize;
        let more = rows.len() > size;
        rows.truncate(size);
        let next = if more { rows.last().map(key) } else { None };
        Page { rows, next }
    }

    /// The same page of other rows.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page { rows: self.rows.into_iter().map(convert).collect(), next: self.next }
    }
}

/// What a caller asks of a list.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Rows.
    pub size: PageSize,
    /// The token of the page before. Empty: the first page.
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
    fn only_a_page_with_more_behind_it_has_a_next() {
        let page = |rows: Vec<i64>| Page::cut(rows, PageSize(2), |row| Cursor::Time(*row, String::new()));
        assert_eq!(page(vec![1, 2]).next, None);
        assert_eq!(page(vec![1, 2, 3]).next, Some(Cursor::Time(2, String::new())));
    }
}
