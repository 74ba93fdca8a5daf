//! Conversion of columns: lists and maps as JSON, words as text, instants as numbers.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::domain::profile::{Audience, ClientName};
use crate::domain::role::ScopeSet;
use crate::domain::session::SignInWish;
use crate::domain::time::Timestamp;
use crate::error::{Error, Resource};

/// Decodes the columns of one record. A value that does not fit is reported as a corrupt record with this id.
pub(super) struct Decoder<'a> {
    pub(super) resource: Resource,
    pub(super) id: &'a str,
    pub(super) version: Option<i64>,
}

impl Decoder<'_> {
    pub(super) fn corrupt(&self) -> Error {
        let etag = self.version.map(crate::domain::user::Etag);
        Error::Corrupt { resource: self.resource, id: self.id.to_owned(), etag }
    }

    pub(super) fn parse<T: FromStr>(&self, text: &str) -> Result<T, Error> {
        text.parse().map_err(|_| self.corrupt())
    }

    pub(super) fn some<T>(&self, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.corrupt())
    }

    pub(super) fn ok<T, E>(&self, value: Result<T, E>) -> Result<T, Error> {
        value.map_err(|_| self.corrupt())
    }

    pub(super) fn strings(&self, json: &str) -> Result<Vec<String>, Error> {
        self.ok(serde_json::from_str(json))
    }

    /// Decodes an instant. Fails for one before 1970 or after the year 9999, which the API cannot express.
    pub(super) fn instant(&self, micros: i64) -> Result<Timestamp, Error> {
        const YEAR_10000: i64 = 253_402_300_800_000_000;
        self.some((0..YEAR_10000).contains(&micros).then_some(Timestamp::from_micros(micros)))
    }

    pub(super) fn instant_or_none(&self, micros: Option<i64>) -> Result<Option<Timestamp>, Error> {
        micros.map(|micros| self.instant(micros)).transpose()
    }

    pub(super) fn map(&self, json: &str) -> Result<BTreeMap<String, String>, Error> {
        self.ok(serde_json::from_str(json))
    }

    /// Decodes what a sign-in asked for, from the columns that sessions and tickets share.
    pub(super) fn wish(&self, columns: WishColumns) -> Result<SignInWish, Error> {
        let mut audiences = Vec::new();
        for text in self.strings(&columns.audiences)? {
            audiences.push(self.some(self.ok(Audience::parse(&text))?)?);
        }
        Ok(SignInWish {
            client_name: self.ok(ClientName::parse(&columns.client_name.unwrap_or_default()))?,
            audiences,
            scopes: columns.scopes.as_deref().map(ScopeSet::from_text),
            app: columns.app,
        })
    }
}

/// The columns of a [`SignInWish`].
pub(super) struct WishColumns {
    pub(super) app: String,
    pub(super) client_name: Option<String>,
    pub(super) audiences: String,
    pub(super) scopes: Option<String>,
}

impl From<&SignInWish> for WishColumns {
    fn from(wish: &SignInWish) -> WishColumns {
        let audiences: Vec<&str> = wish.audiences.iter().map(Audience::as_str).collect();
        WishColumns {
            app: wish.app.clone(),
            client_name: wish.client_name.as_ref().map(|name| name.as_str().to_owned()),
            audiences: json(&audiences),
            scopes: wish.scopes.map(ScopeSet::to_text),
        }
    }
}

/// Leaves corrupt records out of a list and logs them, so that one does not hide the others from an operator. Reading such a
/// record by itself tells what is wrong with it.
pub(super) fn readable<T>(decoded: impl Iterator<Item = Result<T, Error>>) -> Result<Vec<T>, Error> {
    let log_corrupt = |decoded: Result<T, Error>| match decoded {
        Err(Error::Corrupt { resource, id, .. }) => {
            tracing::error!(
                resource = resource.as_str(),
                id,
                "a stored record cannot be read; it is left out of a list"
            );
            None
        }
        decoded => Some(decoded),
    };
    decoded.filter_map(log_corrupt).collect()
}

/// Encodes a list or map of strings as JSON, which cannot fail.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(super) fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

/// Converts a count of rows, saturating at `u32::MAX`.
pub(super) fn count(rows: u64) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}
