//! The error type of the server, named by what the caller can do next and independent of the transport.
//!
//! `grpc/status.rs` maps it to a status in one exhaustive match. `Display` is the message sent to callers, so it never
//! includes the source; only the log shows the chain of causes.

use std::time::Duration;

use crate::domain::caller::Denied;
use crate::domain::id::IdMalformed;
use crate::domain::lockout::LockCause;
use crate::domain::reason::Reason;
use crate::domain::time::Timestamp;
use crate::domain::user::Etag;
use crate::domain::violation::Violations;

/// Result of any fallible step of the server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The underlying cause, shown only in the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A kind of object that can be missing or corrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// An account.
    User,
    /// A session.
    Session,
    /// An API token.
    ApiToken,
    /// An audit event.
    Event,
    /// A signing key or a sealed secret.
    Key,
    /// The stored answer of a call with an idempotency key.
    IdempotencyKey,
    /// Any other stored row.
    Row,
}

impl Resource {
    /// The name in `google.rpc.ResourceInfo.resource_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Resource::User => "latchkey.v1.User",
            Resource::Session => "latchkey.v1.Session",
            Resource::ApiToken => "latchkey.v1.ApiToken",
            Resource::Event => "latchkey.v1.Event",
            Resource::Key => "latchkey.v1.SigningKey",
            Resource::IdempotencyKey => "latchkey.v1.IdempotencyKey",
            Resource::Row => "latchkey.v1.Row",
        }
    }
}

/// A unique value that is already in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The sign-in name.
    Username,
    /// The sign-in name of a deleted account, reserved until this time.
    UsernameReserved(Timestamp),
    /// The e-mail address.
    Email,
    /// The id assigned by another system.
    ExternalId,
}

/// A precondition that is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// The account is locked.
    UserLocked(LockCause),
    /// A credential has never been set.
    UserPending,
    /// The account is a service account.
    UserIsService,
    /// No account could administer users afterwards.
    LastAdministrator,
}

/// Why a caller is not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unauthenticated {
    /// No credential was sent.
    Missing,
    /// Sign-in failed. All causes share one answer.
    Rejected,
    /// The token is malformed, forged, or meant for another audience.
    TokenInvalid,
    /// The token has expired.
    TokenExpired,
    /// The session or API token is revoked, or its user is locked or deleted.
    SessionRevoked,
    /// A refresh token was used again after its grace period.
    RefreshReused,
    /// The ticket is unknown, used, replaced or expired.
    TicketInvalid,
    /// The password was verified too long ago.
    TooOld {
        /// The maximum age.
        max_auth_age: Duration,
    },
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Too many failures from this source.
    Source,
    /// Too many wrong passwords for this name.
    Account,
    /// The hashing queue is full.
    Hashing,
    /// The lane of this name is full.
    Lane(&'static str),
}

/// Why the service is temporarily unavailable.
#[derive(Debug)]
pub enum Outage {
    /// The server is shutting down.
    ShuttingDown,
    /// The database cannot be reached.
    Storage(Source),
    /// The connection to the database broke during commit. It is unknown whether the change was made, so the server
    /// must not retry it.
    Unconfirmed(Source),
}

/// An error. Each variant states what the caller can do next.
#[derive(Debug)]
pub enum Error {
    /// Fix the fields, which are all listed.
    InvalidInput(Violations),
    /// Choose another password. Every broken rule is listed.
    PasswordRejected(Violations),
    /// Restart the list from the first page.
    PageTokenInvalid,
    /// Restart the list, or repeat the original filter and order.
    PageTokenMismatch,
    /// Use a new key for a new call.
    IdempotencyKeyReused,
    /// Authenticate.
    Unauthenticated(Unauthenticated),
    /// Ask someone who has the right.
    Denied(Denied),
    /// Check the reference.
    NotFound {
        /// The kind of object.
        resource: Resource,
        /// The field that it was looked up by.
        field: &'static str,
    },
    /// Choose another value.
    AlreadyExists(Taken),
    /// Change the state of the account first.
    Precondition(Unmet),
    /// Read the account again and decide.
    Stale {
        /// The current version.
        current: Etag,
    },
    /// Wait and retry.
    Exhausted {
        /// The limit that was reached.
        limit: Limit,
        /// How long to wait.
        retry_after: Duration,
    },
    /// Send a smaller request.
    RequestTooLarge,
    /// Send the message that the method expects.
    MessageMalformed,
    /// Use a server that has this method.
    MethodUnavailable,
    /// Check whether the change was made, or repeat it with the same idempotency key.
    DeadlinePassed,
    /// Retry shortly.
    Unavailable(Outage),
    /// Delete or restore the record.
    Corrupt {
        /// The kind of object.
        resource: Resource,
        /// Its id.
        id: String,
        /// The etag with which it can be deleted, if that is readable.
        etag: Option<Etag>,
    },
    /// Report it, with the request id.
    Internal(Source),
}

impl Error {
    /// Wraps an unexpected failure of the server.
    pub fn internal(source: impl Into<Source>) -> Error {
        Error::Internal(source.into())
    }

    /// Creates the error for a user that does not exist.
    pub fn no_user(field: &'static str) -> Error {
        Error::NotFound { resource: Resource::User, field }
    }

    /// The reason that clients switch on.
    pub fn reason(&self) -> Reason {
        match self {
            Error::InvalidInput(_) => Reason::FieldInvalid,
            Error::PasswordRejected(_) => Reason::PasswordRejected,
            Error::PageTokenInvalid => Reason::PageTokenInvalid,
            Error::PageTokenMismatch => Reason::PageTokenMismatch,
            Error::IdempotencyKeyReused => Reason::IdempotencyKeyReused,
            Error::Unauthenticated(why) => match why {
                Unauthenticated::Missing => Reason::CredentialsMissing,
                Unauthenticated::Rejected => Reason::CredentialsRejected,
                Unauthenticated::TokenInvalid => Reason::TokenInvalid,
                Unauthenticated::TokenExpired => Reason::TokenExpired,
                Unauthenticated::SessionRevoked => Reason::SessionRevoked,
                Unauthenticated::RefreshReused => Reason::RefreshReused,
                Unauthenticated::TicketInvalid => Reason::TicketInvalid,
                Unauthenticated::TooOld { .. } => Reason::ReauthenticationRequired,
            },
            Error::Denied(denied) => denied.reason(),
            Error::NotFound { resource, .. } => match resource {
                Resource::User => Reason::UserNotFound,
                Resource::Session => Reason::SessionNotFound,
                Resource::ApiToken => Reason::ApiTokenNotFound,
                Resource::Event => Reason::EventNotFound,
                Resource::Key | Resource::IdempotencyKey | Resource::Row => Reason::Internal,
            },
            Error::AlreadyExists(taken) => match taken {
                Taken::Username => Reason::UsernameTaken,
                Taken::UsernameReserved(_) => Reason::UsernameReserved,
                Taken::Email => Reason::EmailTaken,
                Taken::ExternalId => Reason::ExternalIdTaken,
            },
            Error::Precondition(unmet) => match unmet {
                Unmet::UserLocked(_) => Reason::UserLocked,
                Unmet::UserPending => Reason::UserPending,
                Unmet::UserIsService => Reason::UserIsService,
                Unmet::LastAdministrator => Reason::LastAdministrator,
            },
            Error::Stale { .. } => Reason::EtagMismatch,
            Error::Exhausted { limit, .. } => match limit {
                Limit::Source => Reason::RateLimited,
                Limit::Account => Reason::Throttled,
                Limit::Hashing => Reason::HashingSaturated,
                Limit::Lane(_) => Reason::Overloaded,
            },
            Error::RequestTooLarge => Reason::RequestTooLarge,
            Error::MessageMalformed => Reason::MessageMalformed,
            Error::MethodUnavailable => Reason::MethodUnavailable,
            Error::Unavailable(Outage::ShuttingDown) => Reason::ShuttingDown,
            Error::Unavailable(Outage::Storage(_) | Outage::Unconfirmed(_)) => Reason::StorageUnavailable,
            Error::DeadlinePassed => Reason::DeadlinePassed,
            Error::Corrupt { .. } => Reason::RecordCorrupt,
            Error::Internal(_) => Reason::Internal,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::InvalidInput(violations) => f.write_str(&invalid_fields(violations)),
            Error::PasswordRejected(_) => f.write_str("the new password is not acceptable"),
            Error::PageTokenInvalid => f.write_str("the page token is invalid or has expired; start again from the first page"),
            Error::PageTokenMismatch => f.write_str("the filter or order changed between pages; start again from the first page"),
            Error::IdempotencyKeyReused => f.write_str("this idempotency key was used for another request; use a new key"),
            Error::Unauthenticated(why) => f.write_str(match why {
                Unauthenticated::Missing => "sign in, or send an API token",
                Unauthenticated::Rejected => "sign-in failed",
                Unauthenticated::TokenInvalid => "the token is not valid for this server",
                Unauthenticated::TokenExpired => "the token has expired; refresh it",
                Unauthenticated::SessionRevoked => "the session has ended; sign in again",
                Unauthenticated::RefreshReused => "this refresh token was already used, so the session has ended; sign in again",
                Unauthenticated::TicketInvalid => "the ticket was used or replaced, or has expired; sign in again",
                Unauthenticated::TooOld { .. } => "this needs a more recent sign-in; sign in again",
            }),
            Error::Denied(denied) => write!(f, "{denied}"),
            Error::NotFound { resource, field } => match resource {
                Resource::User => write!(f, "no user matches {field}"),
                Resource::Session => write!(f, "no session matches {field}"),
                Resource::ApiToken => write!(f, "no API token matches {field}"),
                Resource::Event => write!(f, "no event matches {field}"),
                Resource::Key | Resource::IdempotencyKey | Resource::Row => write!(f, "no key matches {field}"),
            },
            Error::AlreadyExists(taken) => match taken {
                Taken::Username => f.write_str("this username is taken"),
                Taken::UsernameReserved(until) => {
                    write!(f, "this username belonged to a deleted account and is reserved until {until}")
                }
                Taken::Email => f.write_str("this e-mail address is taken"),
                Taken::ExternalId => f.write_str("this external id is taken"),
            },
            Error::Precondition(unmet) => f.write_str(match unmet {
                Unmet::UserLocked(_) => "the account is locked; unlock it first",
                Unmet::UserPending => "the account has no password yet; set one first",
                Unmet::UserIsService => "the account is a service and has no password",
                Unmet::LastAdministrator => {
                    "this would leave no administrator; make another user an administrator first"
                }
            }),
            Error::Stale { current } => {
                write!(f, "the account has changed since you read it; its etag is now {current}")
            }
            Error::Exhausted { limit, retry_after } => {
                let what = match limit {
                    Limit::Source => "too many failures from this address",
                    Limit::Account => "too many wrong passwords for this name",
                    Limit::Hashing => "the queue for password hashing is full",
                    Limit::Lane(_) => "too many calls of this kind are under way",
                };
                write!(f, "{what}; try again in {} s", retry_after.as_secs().max(1))
            }
            Error::RequestTooLarge => f.write_str("the request is larger than this method accepts"),
            Error::MessageMalformed => f.write_str("the request is not a valid message for this method"),
            Error::MethodUnavailable => f.write_str("this server does not have this method"),
            Error::Unavailable(Outage::ShuttingDown) => f.write_str("the server is shutting down; try again"),
            Error::Unavailable(Outage::Storage(_)) => f.write_str("the database cannot be used"),
            Error::DeadlinePassed => f.write_str(
                "the call did not finish before the deadline; a change may have been made anyway: repeat the call, with \
                 the same idempotency key if it had one",
            ),
            Error::Unavailable(Outage::Unconfirmed(_)) => f.write_str(
                "the connection to the database broke during the commit, so the change may have been made; repeat the \
                 call, with the same idempotency key if it had one",
            ),
            Error::Corrupt { resource, id, .. } => {
                write!(f, "the stored record {} {id} cannot be read", resource.as_str())
            }
            Error::Internal(_) => f.write_str("internal error; the server's log has the details under this request id"),
        }
    }
}

fn invalid_fields(violations: &Violations) -> String {
    match violations.iter().len() {
        1 => "1 field is invalid".to_owned(),
        count => format!("{count} fields are invalid"),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Internal(source) | Error::Unavailable(Outage::Storage(source) | Outage::Unconfirmed(source)) => {
                Some(source.as_ref())
            }
            _ => None,
        }
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Error {
        Error::Denied(denied)
    }
}

impl From<Unauthenticated> for Error {
    fn from(why: Unauthenticated) -> Error {
        Error::Unauthenticated(why)
    }
}

impl From<Unmet> for Error {
    fn from(unmet: Unmet) -> Error {
        Error::Precondition(unmet)
    }
}

impl From<IdMalformed> for Error {
    fn from(malformed: IdMalformed) -> Error {
        Error::internal(malformed)
    }
}
