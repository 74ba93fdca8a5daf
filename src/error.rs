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
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Resource {
    /// An account.
    User,
    /// A session.
    Session,
    /// An API token.
    #[strum(to_string = "API token")]
    ApiToken,
    /// An audit event.
    Event,
    /// A signing key or a sealed secret.
    Key,
    /// A message to a user.
    Delivery,
    /// The stored answer of a call with an idempotency key.
    #[strum(to_string = "key")]
    IdempotencyKey,
    /// The policy of signing in.
    Policy,
    /// Any other stored row.
    #[strum(to_string = "key")]
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
            Resource::Delivery => "latchkey.v1.Delivery",
            Resource::IdempotencyKey => "latchkey.v1.IdempotencyKey",
            Resource::Policy => "latchkey.v1.SignInPolicy",
            Resource::Row => "latchkey.v1.Row",
        }
    }
}

/// A unique value that is already in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// The sign-in name.
    #[error("this username is taken")]
    Username,
    /// The sign-in name that another account gave up, reserved until this time.
    #[error("this username belonged to another account and is reserved until {0}")]
    UsernameReserved(Timestamp),
    /// The e-mail address.
    #[error("this e-mail address is taken")]
    Email,
    /// The e-mail address that another account gave up, reserved until this time.
    #[error("this e-mail address belonged to another account and is reserved until {0}")]
    EmailReserved(Timestamp),
    /// The id assigned by another system.
    #[error("this external id is taken")]
    ExternalId,
}

/// A precondition that is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// The account is locked.
    #[error("the account is locked; unlock it first")]
    UserLocked(LockCause),
    /// A credential has never been set.
    #[error("the account has no password yet; set one first")]
    UserPending,
    /// The account is a service account.
    #[error("the account is a service and has no password")]
    UserIsService,
    /// The account has no address.
    #[error("the account has no e-mail address; set one, or choose another way")]
    NoDeliveryAddress,
    /// This server sends no mail, or makes no links.
    #[error("this server sends no such mail; its operator can set mail.smtp.url, and links.url if its pages are off")]
    DeliveryDisabled,
    /// The message cannot be sent again, or is a notice, which cannot be cancelled.
    #[error("this message cannot be sent again; {0}")]
    DeliveryNotRepeatable(&'static str),
    /// No account could administer users afterwards.
    #[error("this would leave no administrator; make another user an administrator first")]
    LastAdministrator,
    /// The password was ended, and none has been set since.
    #[error("the password was ended; reset it first")]
    PasswordEnded,
    /// The policy asks for more time between two changes of a password.
    #[error("the password was changed a short time ago; change it again after {0}")]
    PasswordTooYoung(Timestamp),
    /// No second factor is enrolled.
    #[error("no second factor is set up; set one up first")]
    SecondFactorMissing,
    /// The policy asks the user for a second factor.
    #[error("the policy asks for a second factor; replace it in place of removing it")]
    SecondFactorMandatory,
}

/// Why a caller is not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// No credential was sent.
    #[error("sign in, or send an API token")]
    Missing,
    /// Sign-in failed. All causes share one answer.
    #[error("sign-in failed")]
    Rejected,
    /// The token is malformed, forged, or meant for another audience.
    #[error("the token is not valid for this server")]
    TokenInvalid,
    /// The token has expired.
    #[error("the token has expired; refresh it")]
    TokenExpired,
    /// The session or API token is revoked, or its user is locked or deleted.
    #[error("the session has ended; sign in again")]
    SessionRevoked,
    /// A refresh token was used again after its grace period.
    #[error("this refresh token was already used, so the session has ended; sign in again")]
    RefreshReused,
    /// The ticket is unknown, used, replaced or expired.
    #[error("the ticket was used or replaced, or has expired; sign in again")]
    TicketInvalid,
    /// The link is unknown, used, cancelled, replaced or expired.
    #[error("the link was used, cancelled or replaced, or has expired; use the newest one, or ask for another")]
    LinkInvalid,
    /// A second factor is enrolled, and was not proved.
    #[error("this needs a code of the second factor; send one, or sign in again with one")]
    SecondFactorRequired,
    /// The code of the second factor is wrong, or was used before.
    #[error("the code is wrong, or was used before; wait for the next one")]
    SecondFactorRejected,
    /// The password was verified too long ago.
    #[error("this needs a sign-in within the last {} minutes; authenticate again", max_auth_age.as_secs() / 60)]
    TooOld {
        /// The maximum age.
        max_auth_age: Duration,
    },
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Too many failures from this source.
    #[error("too many failures from this address")]
    Source,
    /// Too many passwords of this source were judged.
    #[error("this address has had too many passwords judged")]
    StrengthChecks,
    /// Too many wrong passwords for this name.
    #[error("too many wrong passwords for this name")]
    Account,
    /// Too many wrong codes of this user's second factor.
    #[error("too many wrong codes")]
    Codes,
    /// Too many sign-ins of this user, all with the right password.
    #[error("this user signs in too often; keep the session and refresh its tokens, or use an API token")]
    SignIns,
    /// Too many messages to this user.
    #[error("too many messages to this user")]
    Messages,
    /// Too many messages by this operator.
    #[error("too many messages by this operator")]
    OperatorMessages,
    /// A message may still arrive, and the pause before it is sent again has not passed.
    #[error("the last message of this kind to this user is less than a minute old and may still arrive")]
    Resends,
    /// The hashing queue is full.
    #[error("the queue for password hashing is full")]
    Hashing,
    /// The lane of this name is full.
    #[error("too many calls of this kind are under way")]
    Lane(&'static str),
}

/// How to make a query shorter, by a change to this field of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Narrowing {
    /// Clear the field.
    #[error("leave out {0}")]
    LeaveOut(&'static str),
    /// Set the field.
    #[error("set {0}")]
    Set(&'static str),
    /// Use a longer text.
    #[error("use a longer {0}")]
    Lengthen(&'static str),
    /// Use a smaller value.
    #[error("use a shorter {0}")]
    Shorten(&'static str),
}

impl Narrowing {
    /// The field.
    pub const fn field(self) -> &'static str {
        match self {
            Narrowing::LeaveOut(field)
            | Narrowing::Set(field)
            | Narrowing::Lengthen(field)
            | Narrowing::Shorten(field) => field,
        }
    }
}

/// Why the service is temporarily unavailable.
#[derive(Debug, thiserror::Error)]
pub enum Outage {
    /// The server is shutting down.
    #[error("the server is shutting down; try again")]
    ShuttingDown,
    /// The database cannot be reached, or must not be read.
    #[error("the database cannot be used")]
    Storage(#[source] Source),
    /// The database can be read, but takes no changes: another program has locked it, or its disk is full or read-only.
    #[error("the database accepts no changes at the moment; what only reads still works")]
    ReadOnly(#[source] Source),
    /// The connection to the database broke during commit. It is unknown whether the change was made, so the server
    /// must not retry it.
    #[error(
        "the connection to the database broke during the commit, so the change may have been made; repeat the call, \
         with the same idempotency key if it had one"
    )]
    Unconfirmed(#[source] Source),
    /// The list of leaked passwords cannot be read. It must not pass for empty.
    #[error("the list of leaked passwords cannot be read, so no password can be set at the moment; the log says why")]
    BreachList(#[source] Source),
}

/// An error. Each variant states what the caller can do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fix the fields, which are all listed.
    #[error("{}", invalid_fields(.0))]
    InvalidInput(Violations),
    /// Choose another password. Every broken rule is listed.
    #[error("the new password is not acceptable")]
    PasswordRejected(Violations),
    /// Restart the list from the first page.
    #[error("the page token is invalid or has expired; start again from the first page")]
    PageTokenInvalid,
    /// Restart the list, or repeat the original filter and order.
    #[error("the filter or order changed between pages; start again from the first page")]
    PageTokenMismatch,
    /// Use a new key for a new call.
    #[error("this idempotency key was used for another request; use a new key")]
    IdempotencyKeyReused,
    /// Authenticate.
    #[error(transparent)]
    Unauthenticated(#[from] Unauthenticated),
    /// Ask someone who has the right.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Check the reference.
    #[error("no {resource} matches {field}")]
    NotFound {
        /// The kind of object.
        resource: Resource,
        /// The field that it was looked up by.
        field: &'static str,
    },
    /// Choose another value.
    #[error(transparent)]
    AlreadyExists(Taken),
    /// Change the state of the account first.
    #[error(transparent)]
    Precondition(#[from] Unmet),
    /// Read the account or the policy again and decide.
    #[error("the {} has changed since you read it; its etag is now {current}", versioned(*resource))]
    Stale {
        /// The kind of object.
        resource: Resource,
        /// The current version.
        current: Etag,
    },
    /// Wait and retry.
    #[error("{limit}; try again in {} s", retry_after.as_secs().max(1))]
    Exhausted {
        /// The limit that was reached.
        limit: Limit,
        /// How long to wait.
        retry_after: Duration,
    },
    /// Narrow the query.
    #[error("the query took too long and was stopped{}", ways(narrowing))]
    QueryTooBroad {
        /// How, the most effective first.
        narrowing: Vec<Narrowing>,
    },
    /// Send a smaller request.
    #[error("the request is larger than this method accepts")]
    RequestTooLarge,
    /// Send the message that the method expects.
    #[error("the request is not a valid message for this method")]
    MessageMalformed,
    /// Use a server that has this method.
    #[error("this server does not have this method")]
    MethodUnavailable,
    /// Send the message without compression.
    #[error("the request is compressed with `{encoding}`, which this server does not support; send it uncompressed")]
    CompressionUnsupported {
        /// The compression that the request names.
        encoding: String,
    },
    /// Name the compression, or clear the flag.
    #[error("the message is flagged as compressed, but `grpc-encoding` names no compression; send it uncompressed")]
    CompressionUnnamed,
    /// Check whether the change was made, or repeat it with the same idempotency key.
    #[error(
        "the call did not finish before the deadline; a change may have been made anyway: repeat the call, with the \
         same idempotency key if it had one"
    )]
    DeadlinePassed,
    /// Retry shortly.
    #[error(transparent)]
    Unavailable(Outage),
    /// Delete or restore the record.
    #[error("the stored record {} {id} cannot be read", resource.as_str())]
    Corrupt {
        /// The kind of object.
        resource: Resource,
        /// Its id.
        id: String,
        /// The etag with which it can be deleted, if that is readable.
        etag: Option<Etag>,
    },
    /// Report it, with the request id.
    #[error("internal error; the server's log has the details under this request id")]
    Internal(#[source] Source),
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

    /// The text with its causes, outermost first, which callers never see and an operator needs. Libraries often repeat the text
    /// of a cause in their own; each is said once.
    pub fn with_source(&self) -> String {
        let own = Some(self.to_string()).filter(|_| !matches!(self, Error::Internal(_)));
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        let mut said: Vec<String> = Vec::new();
        for text in own.into_iter().chain(causes.map(ToString::to_string)) {
            if said.last().is_none_or(|last| !last.contains(&text)) {
                said.push(text);
            }
        }
        said.join(": ")
    }

    /// Returns whether an operator should investigate the error.
    pub fn is_our_fault(&self) -> bool {
        matches!(self, Error::Internal(_) | Error::Corrupt { .. } | Error::Unavailable(_))
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
                Unauthenticated::TicketInvalid | Unauthenticated::LinkInvalid => Reason::TicketInvalid,
                Unauthenticated::SecondFactorRequired => Reason::SecondFactorRequired,
                Unauthenticated::SecondFactorRejected => Reason::SecondFactorRejected,
                Unauthenticated::TooOld { .. } => Reason::ReauthenticationRequired,
            },
            Error::Denied(denied) => denied.reason(),
            Error::NotFound { resource, .. } => match resource {
                Resource::User => Reason::UserNotFound,
                Resource::Session => Reason::SessionNotFound,
                Resource::ApiToken => Reason::ApiTokenNotFound,
                Resource::Event => Reason::EventNotFound,
                Resource::Delivery => Reason::DeliveryNotFound,
                Resource::Key | Resource::IdempotencyKey | Resource::Policy | Resource::Row => Reason::Internal,
            },
            Error::AlreadyExists(taken) => match taken {
                Taken::Username => Reason::UsernameTaken,
                Taken::UsernameReserved(_) => Reason::UsernameReserved,
                Taken::Email | Taken::EmailReserved(_) => Reason::EmailTaken,
                Taken::ExternalId => Reason::ExternalIdTaken,
            },
            Error::Precondition(unmet) => match unmet {
                Unmet::UserLocked(_) => Reason::UserLocked,
                Unmet::UserPending => Reason::UserPending,
                Unmet::UserIsService => Reason::UserIsService,
                Unmet::NoDeliveryAddress => Reason::NoDeliveryAddress,
                Unmet::DeliveryDisabled => Reason::DeliveryDisabled,
                Unmet::DeliveryNotRepeatable(_) => Reason::DeliveryNotRepeatable,
                Unmet::LastAdministrator => Reason::LastAdministrator,
                Unmet::PasswordTooYoung(_) => Reason::PasswordTooYoung,
                Unmet::SecondFactorMissing => Reason::SecondFactorMissing,
                Unmet::SecondFactorMandatory => Reason::SecondFactorMandatory,
                Unmet::PasswordEnded => Reason::PasswordEnded,
            },
            Error::Stale { .. } => Reason::EtagMismatch,
            Error::Exhausted { limit, .. } => match limit {
                Limit::Source
                | Limit::StrengthChecks
                | Limit::SignIns
                | Limit::Messages
                | Limit::OperatorMessages
                | Limit::Resends => Reason::RateLimited,
                Limit::Account | Limit::Codes => Reason::Throttled,
                Limit::Hashing => Reason::HashingSaturated,
                Limit::Lane(_) => Reason::Overloaded,
            },
            Error::QueryTooBroad { .. } => Reason::QueryTooBroad,
            Error::RequestTooLarge => Reason::RequestTooLarge,
            Error::MessageMalformed | Error::CompressionUnnamed => Reason::MessageMalformed,
            Error::MethodUnavailable => Reason::MethodUnavailable,
            Error::CompressionUnsupported { .. } => Reason::CompressionUnsupported,
            Error::Unavailable(Outage::ShuttingDown) => Reason::ShuttingDown,
            Error::Unavailable(
                Outage::Storage(_) | Outage::ReadOnly(_) | Outage::Unconfirmed(_) | Outage::BreachList(_),
            ) => Reason::StorageUnavailable,
            Error::DeadlinePassed => Reason::DeadlinePassed,
            Error::Corrupt { .. } => Reason::RecordCorrupt,
            Error::Internal(_) => Reason::Internal,
        }
    }
}

fn invalid_fields(violations: &Violations) -> String {
    match violations.iter().len() {
        1 => "1 field is invalid".to_owned(),
        count => format!("{count} fields are invalid"),
    }
}

/// The name of an object with an etag, in a sentence.
fn versioned(resource: Resource) -> &'static str {
    if resource == Resource::Policy { "policy" } else { "account" }
}

/// The ways to narrow a query, as the end of a sentence.
fn ways(narrowing: &[Narrowing]) -> String {
    match narrowing {
        [] => String::new(),
        [way] => format!("; {way}"),
        [ways @ .., last] => {
            let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
            format!("; {}, or {last}", ways.join(", "))
        }
    }
}

impl From<IdMalformed> for Error {
    fn from(malformed: IdMalformed) -> Error {
        Error::internal(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("Failed to acquire connection: {0}")]
    struct Repeating(#[source] std::io::Error);

    #[test]
    fn the_causes_are_for_the_log_and_each_is_said_once() {
        assert_eq!(Error::internal(std::io::Error::other("disk full")).with_source(), "disk full");
        let repeating = Repeating(std::io::Error::other("timed out"));
        let storage = Error::Unavailable(Outage::Storage(repeating.into()));
        assert_eq!(storage.with_source(), "the database cannot be used: Failed to acquire connection: timed out");
        assert_eq!(storage.to_string(), "the database cannot be used", "callers never see a cause");
    }
}
