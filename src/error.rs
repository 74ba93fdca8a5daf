//! The one error of the server, named by what the caller can do next and free of any transport.
//!
//! `grpc/status.rs` maps it to a status in one exhaustive match. `Display` is what callers read, so it never prints a
//! source: the chain is for the log.

use std::time::Duration;

use crate::domain::caller::Denied;
use crate::domain::id::IdMalformed;
use crate::domain::lockout::LockCause;
use crate::domain::reason::Reason;
use crate::domain::time::Timestamp;
use crate::domain::user::Etag;
use crate::domain::violation::Violations;

/// What any fallible step of the server returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause behind an error, for the log alone.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A kind of thing that can be missing or broken.
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
    /// What is kept of a call, to answer its repetition.
    IdempotencyKey,
    /// Something else that is stored.
    Row,
}

impl Resource {
    /// As it stands in `google.rpc.ResourceInfo.resource_type`.
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

/// A unique value that somebody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The sign-in name.
    Username,
    /// The sign-in name of a deleted account, until then.
    UsernameReserved(Timestamp),
    /// The address.
    Email,
    /// The id of another system.
    ExternalId,
}

/// A state that stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// The account is locked.
    UserLocked(LockCause),
    /// No credential has ever been set.
    UserPending,
    /// The account is a service's.
    UserIsService,
    /// Nobody could administer users afterwards.
    LastAdministrator,
}

/// Why it is not known who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unauthenticated {
    /// No credential.
    Missing,
    /// Sign-in failed: one answer for every cause.
    Rejected,
    /// Malformed, forged, of another audience.
    TokenInvalid,
    /// Its time is over.
    TokenExpired,
    /// Session or API token revoked, or its user locked or gone.
    SessionRevoked,
    /// A refresh token came back after its time.
    RefreshReused,
    /// Unknown, used, replaced or expired.
    TicketInvalid,
    /// The password was proved too long ago.
    TooOld {
        /// How long ago it may have been.
        max_auth_age: Duration,
    },
}

/// What is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Failures from this source.
    Source,
    /// Wrong passwords for this name.
    Account,
    /// Places in the hashing queue.
    Hashing,
    /// Places in a lane of calls, by its name.
    Lane(&'static str),
}

/// What is not there for now.
#[derive(Debug)]
pub enum Outage {
    /// The process is draining.
    ShuttingDown,
    /// The database cannot be reached.
    Storage(Source),
    /// The database was lost while it confirmed a change. Nobody knows whether the change was made, so that the server
    /// itself must not try it again.
    Unconfirmed(Source),
}

/// An error, named by the caller's next step.
#[derive(Debug)]
pub enum Error {
    /// Mend the fields, all of them named.
    InvalidInput(Violations),
    /// Choose another password: every rule that this one breaks is named.
    PasswordRejected(Violations),
    /// Begin the list again.
    PageTokenInvalid,
    /// Begin the list again, or ask as before.
    PageTokenMismatch,
    /// Use a new key for a new call.
    IdempotencyKeyReused,
    /// Prove who you are.
    Unauthenticated(Unauthenticated),
    /// Ask somebody who may.
    Denied(Denied),
    /// Look for it elsewhere.
    NotFound {
        /// What.
        resource: Resource,
        /// By which field it was sought.
        field: &'static str,
    },
    /// Choose another value.
    AlreadyExists(Taken),
    /// Change the state first.
    Precondition(Unmet),
    /// Read again and decide.
    Stale {
        /// The version there is.
        current: Etag,
    },
    /// Wait.
    Exhausted {
        /// What is exhausted.
        limit: Limit,
        /// How long to wait.
        retry_after: Duration,
    },
    /// Send less.
    RequestTooLarge,
    /// Send what the method expects.
    MessageMalformed,
    /// Use another server.
    MethodUnavailable,
    /// Ask whether it was done, or repeat it with the same idempotency key.
    DeadlinePassed,
    /// Try again shortly.
    Unavailable(Outage),
    /// Remove or restore the record.
    Corrupt {
        /// What.
        resource: Resource,
        /// Which.
        id: String,
        /// With which version it can be deleted, where that can be read.
        etag: Option<Etag>,
    },
    /// Report it, with the request id.
    Internal(Source),
}

impl Error {
    /// An error that is nobody's fault but ours.
    pub fn internal(source: impl Into<Source>) -> Error {
        Error::Internal(source.into())
    }

    /// No user matches.
    pub fn no_user(field: &'static str) -> Error {
        Error::NotFound { resource: Resource::User, field }
    }

    /// As callers switch on it.
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
            Error::InvalidInput(violations) => write!(f, "{} of the request must be mended", fields(violations)),
            Error::PasswordRejected(_) => f.write_str("the new password is not acceptable"),
            Error::PageTokenInvalid => f.write_str("the page token is not one of yours or too old; begin again"),
            Error::PageTokenMismatch => f.write_str("filter or order changed between pages; begin again"),
            Error::IdempotencyKeyReused => f.write_str("this idempotency key was used for another request"),
            Error::Unauthenticated(why) => f.write_str(match why {
                Unauthenticated::Missing => "sign in, or send an API token",
                Unauthenticated::Rejected => "sign-in failed",
                Unauthenticated::TokenInvalid => "the token is not valid here",
                Unauthenticated::TokenExpired => "the token has expired; refresh it",
                Unauthenticated::SessionRevoked => "the session is over; sign in again",
                Unauthenticated::RefreshReused => "this refresh token was used before; the session has ended",
                Unauthenticated::TicketInvalid => "the ticket is used, replaced or expired; sign in again",
                Unauthenticated::TooOld { .. } => "this needs a fresh sign-in; sign in again",
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
                    write!(f, "this username was deleted and stays reserved until {until}")
                }
                Taken::Email => f.write_str("this e-mail address is taken"),
                Taken::ExternalId => f.write_str("this external id is taken"),
            },
            Error::Precondition(unmet) => f.write_str(match unmet {
                Unmet::UserLocked(_) => "the account is locked; unlock it first",
                Unmet::UserPending => "the account has no password yet",
                Unmet::UserIsService => "a service has no password",
                Unmet::LastAdministrator => {
                    "nobody could administer users afterwards; make another administrator first"
                }
            }),
            Error::Stale { current } => {
                write!(f, "the account has changed since you read it; its etag is now {current}")
            }
            Error::Exhausted { limit, retry_after } => {
                let what = match limit {
                    Limit::Source => "too many failures from this address",
                    Limit::Account => "too many wrong passwords for this name",
                    Limit::Hashing => "all places for password hashing are taken",
                    Limit::Lane(_) => "too many calls of this kind are under way",
                };
                write!(f, "{what}; try again in {} s", retry_after.as_secs().max(1))
            }
            Error::RequestTooLarge => f.write_str("the request is larger than this method accepts"),
            Error::MessageMalformed => f.write_str("the request is not the message that this method expects"),
            Error::MethodUnavailable => f.write_str("this server does not have this method"),
            Error::Unavailable(Outage::ShuttingDown) => f.write_str("the server is shutting down"),
            Error::Unavailable(Outage::Storage(_)) => f.write_str("the database cannot be used"),
            Error::DeadlinePassed => f.write_str(
                "there was no answer before the deadline; a change may have been made all the same: repeat it, with the \
                 same idempotency key if it had one",
            ),
            Error::Unavailable(Outage::Unconfirmed(_)) => f.write_str(
                "the database was lost while it confirmed the change, which may have been made; repeat it, with the same \
                 idempotency key if it had one",
            ),
            Error::Corrupt { resource, id, .. } => {
                write!(f, "the stored record {} {id} cannot be read", resource.as_str())
            }
            Error::Internal(_) => f.write_str("something went wrong; the request id finds it in the server's log"),
        }
    }
}

fn fields(violations: &Violations) -> String {
    match violations.iter().len() {
        1 => "1 field".to_owned(),
        count => format!("{count} fields"),
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
