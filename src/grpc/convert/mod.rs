//! Converts messages to commands, and domain types to messages.
//!
//! A reader collects all violations of a message before it fails. `None` from a reader means that it has pushed a
//! violation; a value that may be absent is a nested `Option`. The comments of the contract state the limits.

#![expect(clippy::option_option, reason = "wrong, absent and set are three things")]

pub(super) mod audit;
pub(super) mod auth;
pub(super) mod code;
pub(super) mod deliveries;
pub(super) mod diagnosis;
pub(super) mod passwords;
pub(super) mod policy;
pub(super) mod second_factor;
pub(super) mod sessions;
pub(super) mod tokens;
pub(super) mod user;
pub(super) mod users;

use std::fmt;
use std::time::Duration;

use crate::domain::email::EmailAddress;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::page::{PageRequest, PageSize};
use crate::domain::profile::{ExternalId, Note};
use crate::domain::role::{Role, Scope, ScopeSet};
use crate::domain::time::Timestamp;
use crate::domain::user::{Etag, UserRef};
use crate::domain::username::Username;
use crate::domain::violation::{Describe, Fault, Violations};
use crate::error::{Error, Result};
use crate::proto::v1;

/// The maximum length of a ticket, in bytes.
const MAX_TICKET_BYTES: usize = 1024;

/// The maximum length of a page token, in bytes.
const MAX_PAGE_TOKEN_BYTES: usize = 1024;

/// The maximum number of scopes in a request.
const MAX_SCOPES: usize = 64;

/// The maximum number of roles in a request.
const MAX_ROLES: usize = 32;

/// The fault of a value whose type has no error of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wrong {
    Number,
    Address,
    Role,
    Scope,
    Etag,
    IdempotencyKey,
    PageSize,
    Timestamp,
    Past,
    Duration { max: Duration },
    TooLong { max_bytes: usize },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Number => f.write_str("not a value that this server knows"),
            Wrong::Address => f.write_str("not an IP address"),
            Wrong::Role => f.write_str("no such role; ListRoles names them"),
            Wrong::Scope => f.write_str("no such scope; ListRoles names them"),
            Wrong::Etag => f.write_str("not an etag; send it as it was read, quotes included"),
            Wrong::IdempotencyKey => f.write_str("must be a UUID"),
            Wrong::PageSize => f.write_str("must be 0 or more"),
            Wrong::Timestamp => f.write_str("must be between the years 1 and 9999, with nanos below a second"),
            Wrong::Past => f.write_str("must be in the future"),
            Wrong::Duration { max } => write!(f, "must be more than 0 and at most {} h", max.as_secs() / 3600),
            Wrong::TooLong { max_bytes } => write!(f, "has more than {max_bytes} bytes"),
        }
    }
}

impl Describe for Wrong {
    fn fault(&self) -> Fault {
        match self {
            Wrong::Number | Wrong::Role | Wrong::Scope => Fault::Unknown,
            Wrong::Address | Wrong::Etag | Wrong::IdempotencyKey => Fault::Malformed,
            Wrong::PageSize | Wrong::Timestamp | Wrong::Past | Wrong::Duration { .. } => Fault::OutOfRange,
            Wrong::TooLong { .. } => Fault::TooLong,
        }
    }
}

/// Returns the command, or all violations. `build` returns `None` only after a violation.
fn finish<T>(faults: Violations, build: impl FnOnce() -> Option<T>) -> Result<T> {
    match build() {
        Some(command) if faults.is_empty() => Ok(command),
        // A new password that is not text breaks a password rule; the request itself is valid.
        _ if faults.iter().all(|fault| fault.reason == Fault::NotText) => Err(Error::PasswordRejected(faults)),
        _ => Err(Error::InvalidInput(faults)),
    }
}

/// Reads the required field `user`.
fn user_ref(faults: &mut Violations, message: Option<v1::UserRef>) -> Option<UserRef> {
    use v1::user_ref::Ref;
    let Some(named) = message.and_then(|message| message.r#ref) else {
        faults.push("user", Fault::Required, "name the user by id, username, email or external_id");
        return None;
    };
    match named {
        Ref::Id(text) => faults.check("user.id", text.parse()).map(UserRef::Id),
        Ref::Username(text) => faults.check("user.username", Username::parse(&text)).map(UserRef::Username),
        Ref::Email(text) => faults.check("user.email", EmailAddress::parse(&text)).map(UserRef::Email),
        Ref::ExternalId(text) => {
            let id = faults.check("user.external_id", ExternalId::parse(&text))?;
            faults.require("user.external_id", id).map(UserRef::ExternalId)
        }
    }
}

fn note(faults: &mut Violations, text: &str) -> Option<Option<Note>> {
    faults.check("note", Note::parse(text))
}

/// Reads an optional etag; empty means unset.
fn etag(faults: &mut Violations, text: &str) -> Option<Option<Etag>> {
    if text.is_empty() {
        return Some(None);
    }
    faults.check("etag", Etag::parse(text).ok_or(Wrong::Etag)).map(Some)
}

/// Reads an optional key; empty means unset.
fn idempotency_key(faults: &mut Violations, text: &str) -> Option<Option<IdempotencyKey>> {
    if text.is_empty() {
        return Some(None);
    }
    faults.check("idempotency_key", IdempotencyKey::parse(text).ok_or(Wrong::IdempotencyKey)).map(Some)
}

fn page(faults: &mut Violations, size: i32, token: String) -> Option<PageRequest> {
    let size = faults.check("page_size", PageSize::parse(size).ok_or(Wrong::PageSize));
    let token = bounded(faults, "page_token", token, MAX_PAGE_TOKEN_BYTES);
    Some(PageRequest { size: size?, token: token? })
}

/// Reads a text and checks only its length.
fn bounded(faults: &mut Violations, field: &str, text: String, max_bytes: usize) -> Option<String> {
    let fits = text.len() <= max_bytes;
    faults.check(field, if fits { Ok(text) } else { Err(Wrong::TooLong { max_bytes }) })
}

/// Reads a list. A list with more than `max` items is rejected unread.
fn each<S, T, E: Describe>(
    faults: &mut Violations,
    field: &str,
    items: &[S],
    max: usize,
    parse: impl Fn(&S) -> std::result::Result<T, E>,
) -> Option<Vec<T>> {
    if items.len() > max {
        faults.push(field, Fault::TooMany, format!("at most {max}"));
        return None;
    }
    let mut parsed = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        parsed.extend(faults.check(format!("{field}[{index}]"), parse(item)));
    }
    (parsed.len() == items.len()).then_some(parsed)
}

fn roles(faults: &mut Violations, field: &str, names: &[String]) -> Option<Vec<Role>> {
    each(faults, field, names, MAX_ROLES, |name| Role::parse(name).ok_or(Wrong::Role))
}

fn scopes(faults: &mut Violations, names: &[String]) -> Option<ScopeSet> {
    let scopes = each(faults, "scopes", names, MAX_SCOPES, |name| Scope::parse(name).ok_or(Wrong::Scope))?;
    Some(scopes.into_iter().collect())
}

/// Reads an optional duration that is more than zero and at most `max`.
fn duration(
    faults: &mut Violations,
    field: &str,
    message: Option<prost_types::Duration>,
    max: Duration,
) -> Option<Option<Duration>> {
    let Some(message) = message else { return Some(None) };
    let duration = duration_of(message).filter(|duration| !duration.is_zero() && *duration <= max);
    faults.check(field, duration.ok_or(Wrong::Duration { max })).map(Some)
}

fn instant(faults: &mut Violations, field: &str, message: Option<prost_types::Timestamp>) -> Option<Option<Timestamp>> {
    let Some(message) = message else { return Some(None) };
    faults.check(field, instant_of(message).ok_or(Wrong::Timestamp)).map(Some)
}

/// Converts a duration to a message.
fn duration_message(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) }
}

/// Returns `None` if the duration is negative or malformed. (The conversion of prost-types overflows, and panics, on the
/// smallest values.)
fn duration_of(message: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(message.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(message.seconds).ok()?, nanos))
}

/// Returns `None` outside of the range that `google.protobuf.Timestamp` defines.
fn instant_of(message: prost_types::Timestamp) -> Option<Timestamp> {
    const YEAR_1: i64 = -62_135_596_800;
    const YEAR_9999_END: i64 = 253_402_300_799;
    let in_range = (YEAR_1..=YEAR_9999_END).contains(&message.seconds) && (0..1_000_000_000).contains(&message.nanos);
    in_range.then(|| Timestamp::from_micros(message.seconds * 1_000_000 + i64::from(message.nanos / 1000)))
}

/// Converts an instant to a message.
pub(super) fn stamp(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros().rem_euclid(1_000_000);
    prost_types::Timestamp { seconds: at.as_unix_seconds(), nanos: i32::try_from(micros * 1000).unwrap_or_default() }
}

/// Converts a count to the type of a message field.
pub(super) fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn names(scopes: ScopeSet) -> Vec<String> {
    scopes.iter().map(|scope| scope.to_string()).collect()
}

/// Reads a required text and checks only its length.
fn required(faults: &mut Violations, field: &str, text: String, max_bytes: usize) -> Option<String> {
    let text = bounded(faults, field, text, max_bytes)?;
    faults.require(field, (!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests;
