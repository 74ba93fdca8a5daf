//! Page tokens. They are sealed, bound to the caller, the method, the filter and the order, and valid for an hour. A page token
//! grants no rights: each page is authorised anew.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::App;
use crate::crypto::short;
use crate::domain::caller::Caller;
use crate::domain::page::{Cursor, PAGE_TOKEN_TTL};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// Longer tokens are not decoded.
const MAX_TOKEN_BYTES: usize = 1024;

/// The context that all page tokens are sealed with.
const CONTEXT: &[u8] = b"page token 1";

#[derive(Serialize, Deserialize)]
struct Sealed {
    principal: String,
    method: String,
    /// A digest of filter and order.
    selection: String,
    made_at: i64,
    cursor: Cursor,
}

impl App {
    /// Returns the position at which the page begins, or `None` for the first page. `selection` is everything that must not
    /// change between pages, such as filter and order. Fails if the token is not valid for the caller, the method and
    /// `selection`.
    pub(super) fn cursor(&self, caller: &Caller, selection: &impl Serialize, token: &str) -> Result<Option<Cursor>> {
        if token.is_empty() {
            return Ok(None);
        }
        let sealed = self.open_token(token).ok_or(Error::PageTokenInvalid)?;
        let age = self.now().duration_since(Timestamp::from_micros(sealed.made_at));
        let is_own = sealed.principal == caller.principal.id() && sealed.method == caller.call.method;
        if !is_own || age > PAGE_TOKEN_TTL {
            return Err(Error::PageTokenInvalid);
        }
        if sealed.selection != self.selection_digest(selection)? {
            return Err(Error::PageTokenMismatch);
        }
        Ok(Some(sealed.cursor))
    }

    /// Returns the token of the page that begins after `next`, which is empty after the last page.
    pub(super) fn page_token(
        &self,
        caller: &Caller,
        selection: &impl Serialize,
        next: Option<Cursor>,
    ) -> Result<String> {
        let Some(cursor) = next else { return Ok(String::new()) };
        let sealed = Sealed {
            principal: caller.principal.id(),
            method: caller.call.method.clone(),
            selection: self.selection_digest(selection)?,
            made_at: self.now().as_micros(),
            cursor,
        };
        let plain = serde_json::to_vec(&sealed).map_err(Error::internal)?;
        let keys = self.keys.current();
        let token = keys.page_key().seal(&self.environment, CONTEXT, &plain);
        Ok(BASE64URL_NOPAD.encode(&token.ok_or_else(|| Error::internal("a page token could not be sealed"))?))
    }

    fn open_token(&self, token: &str) -> Option<Sealed> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let plain = self.keys.current().page_key().open(CONTEXT, &bytes)?;
        serde_json::from_slice(&plain).ok()
    }

    fn selection_digest(&self, selection: &impl Serialize) -> Result<String> {
        let json = serde_json::to_vec(selection).map_err(Error::internal)?;
        Ok(short(&self.keys.current().digest("page selection", &json)))
    }
}
