//! Maps an [`Error`] to a status. Codes are chosen only here.
//!
//! Handlers and layers pass on the error as the source of a bare status, and the record of the call encodes it once. The
//! details begin with `google.rpc.ErrorInfo` and end with `RequestInfo`, so that clients need not parse a message (AIP-193).
//! Every variable part of a message is also in the details.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use tonic::{Code, Status};
use tonic_types::{
    BadRequest, ErrorDetail, ErrorInfo, FieldViolation, PreconditionFailure, PreconditionViolation, QuotaFailure,
    QuotaViolation, RequestInfo, ResourceInfo, RetryInfo, StatusExt as _,
};

use crate::domain::caller::Denied;
use crate::domain::violation::Violations;
use crate::error::{Error, Limit, Outage, Resource, Taken, Unauthenticated, Unmet};

/// `ErrorInfo.domain` of every [`Error`].
const DOMAIN: &str = "latchkey.v1";

/// The retry delay while the server is unavailable: a restart or a failover takes seconds.
const RETRY_WHEN_UNAVAILABLE: Duration = Duration::from_secs(1);

/// The maximum size of the violations in one status, in bytes. Details are sent as base64 in headers, of which clients
/// accept 8 to 16 KiB: the violations of a thousand wrong ids would break the call instead of explaining it.
const MAX_VIOLATION_BYTES: usize = 2048;

/// Prefixes of the messages that tonic uses for malformed requests, with the code INTERNAL.
const MALFORMED: &[&str] = &[
    "failed to decode Protobuf message",
    "Missing request message.",
    "Unexpected EOF decoding stream.",
    "protocol error: received message with invalid compression flag",
];

/// The prefix of the message that tonic uses for a compressed request.
const COMPRESSED: &str = "Content is compressed with `";

/// The prefix of the message that tonic uses for a message that is flagged as compressed in a request that is not.
const FLAGGED: &str = "protocol error: received message with compressed-flag but no grpc-encoding";

/// The maximum length of the name of a compression that we repeat to the client, in bytes.
const MAX_ENCODING_BYTES: usize = 64;

/// The prefix of the message that tonic uses for a request over the size limit of the service.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// The prefix of the message that tonic uses for a request that broke off. The code depends on how the client reset the
/// stream; the client rarely receives it.
const BROKEN_OFF: &str = "h2 protocol error";

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let mut status = Status::new(code(&error), "");
        status.set_source(Arc::new(error));
        status
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Status::from(self).into_http()
    }
}

/// Returns the error that a status was made of, or `None` if tonic made the status.
pub(super) fn error_of(status: &Status) -> Option<&Error> {
    std::error::Error::source(status)?.downcast_ref()
}

fn code(error: &Error) -> Code {
    match error {
        Error::InvalidInput(_)
        | Error::PasswordRejected(_)
        | Error::PageTokenInvalid
        | Error::PageTokenMismatch
        | Error::IdempotencyKeyReused
        | Error::MessageMalformed => Code::InvalidArgument,
        Error::Unauthenticated(_) => Code::Unauthenticated,
        Error::Denied(_) => Code::PermissionDenied,
        Error::NotFound { .. } => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::Precondition(_) => Code::FailedPrecondition,
        Error::Stale { .. } => Code::Aborted,
        Error::Exhausted { .. } | Error::QueryTooBroad { .. } | Error::RequestTooLarge => Code::ResourceExhausted,
        Error::MethodUnavailable | Error::CompressionUnsupported { .. } => Code::Unimplemented,
        Error::Unavailable(_) => Code::Unavailable,
        Error::DeadlinePassed => Code::DeadlineExceeded,
        Error::Corrupt { .. } => Code::DataLoss,
        // The code is the one that the specification of gRPC compression requires.
        Error::Internal(_) | Error::CompressionUnnamed => Code::Internal,
    }
}

fn details(error: &Error) -> Vec<ErrorDetail> {
    let info = ErrorInfo::new(error.reason().as_str(), DOMAIN, metadata(error));
    let mut details = vec![info.into()];
    match error {
        Error::InvalidInput(violations) | Error::PasswordRejected(violations) => {
            details.push(bad_request(violations).into());
        }
        Error::NotFound { resource, .. } => details.push(resource_info(*resource, "", error)),
        Error::AlreadyExists(_) => details.push(resource_info(Resource::User, "", error)),
        Error::Corrupt { resource, id, .. } => details.push(resource_info(*resource, id, error)),
        Error::Precondition(_) => {
            let unmet = PreconditionViolation::new(error.reason().as_str(), "user", error.to_string());
            details.push(PreconditionFailure::new(vec![unmet]).into());
        }
        Error::Exhausted { limit, retry_after } => {
            details.push(RetryInfo::new(Some(*retry_after)).into());
            let quota = QuotaViolation::new(subject(*limit), error.to_string());
            details.push(QuotaFailure::new(vec![quota]).into());
        }
        Error::Unavailable(_) => {
            details.push(RetryInfo::new(Some(RETRY_WHEN_UNAVAILABLE)).into());
        }
        Error::PageTokenInvalid
        | Error::PageTokenMismatch
        | Error::IdempotencyKeyReused
        | Error::Unauthenticated(_)
        | Error::Denied(_)
        | Error::Stale { .. }
        | Error::QueryTooBroad { .. }
        | Error::RequestTooLarge
        | Error::MessageMalformed
        | Error::MethodUnavailable
        | Error::CompressionUnsupported { .. }
        | Error::CompressionUnnamed
        | Error::DeadlinePassed
        | Error::Internal(_) => {}
    }
    details
}

/// Returns the variable parts of the message.
fn metadata(error: &Error) -> HashMap<String, String> {
    let pairs: Vec<(&str, String)> = match error {
        Error::InvalidInput(violations) | Error::PasswordRejected(violations) => match fitting(violations) {
            count if count < violations.iter().len() => {
                vec![("violationsOmitted", (violations.iter().len() - count).to_string())]
            }
            _ => Vec::new(),
        },
        Error::Unauthenticated(Unauthenticated::TooOld { max_auth_age }) => {
            vec![("maxAuthAgeSeconds", max_auth_age.as_secs().to_string())]
        }
        Error::Denied(Denied::ScopeMissing(scope)) => vec![("scope", scope.to_string())],
        Error::Denied(Denied::TargetOutranksCaller { missing }) => vec![("missingScopes", missing.to_text())],
        Error::NotFound { field, .. } => vec![("field", (*field).to_owned())],
        Error::AlreadyExists(Taken::UsernameReserved(until) | Taken::EmailReserved(until)) => {
            vec![("availableTime", until.to_string())]
        }
        Error::Precondition(Unmet::PasswordTooYoung(until)) => vec![("availableTime", until.to_string())],
        Error::Precondition(Unmet::UserLocked(cause)) => vec![("lockCause", cause.as_str().to_owned())],
        Error::Exhausted { limit: Limit::StrengthChecks, .. } => vec![("limit", "checks".to_owned())],
        Error::Exhausted { limit: Limit::Messages, .. } => vec![("limit", "messages".to_owned())],
        Error::Exhausted { limit: Limit::OperatorMessages, .. } => vec![("limit", "operator_messages".to_owned())],
        Error::Exhausted { limit: Limit::Resends, .. } => vec![("limit", "resends".to_owned())],
        Error::Exhausted { limit: Limit::Lane(lane), .. } => vec![("lane", (*lane).to_owned())],
        Error::QueryTooBroad { narrowing } => {
            let fields: Vec<&str> = narrowing.iter().map(|way| way.field()).collect();
            vec![("fields", fields.join(" "))]
        }
        Error::Unavailable(Outage::BreachList(_)) => vec![("storage", "breach_list".to_owned())],
        Error::Unavailable(Outage::Unconfirmed(_)) => vec![("outcome", "unknown".to_owned())],
        Error::Stale { resource, current } => {
            vec![("currentEtag", current.to_string()), ("resource", resource.as_str().to_owned())]
        }
        Error::CompressionUnsupported { encoding } => vec![("encoding", encoding.clone())],
        Error::Corrupt { resource, id, etag } => {
            let etag = etag.iter().map(|etag| ("etag", etag.to_string()));
            [("resource", resource.as_str().to_owned()), ("id", id.clone())].into_iter().chain(etag).collect()
        }
        _ => Vec::new(),
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn bad_request(violations: &Violations) -> BadRequest {
    let fitting = violations.iter().take(fitting(violations)).map(|violation| {
        let mut shown = FieldViolation::new(violation.field.as_str(), violation.description.as_str());
        violation.reason.as_str().clone_into(&mut shown.reason);
        shown
    });
    BadRequest::new(fitting.collect::<Vec<_>>())
}

/// Returns how many violations fit in a status.
fn fitting(violations: &Violations) -> usize {
    let mut room = MAX_VIOLATION_BYTES;
    violations
        .iter()
        .take_while(|violation| {
            let size = violation.field.len() + violation.description.len() + violation.reason.as_str().len();
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        })
        .count()
}

fn resource_info(resource: Resource, name: &str, error: &Error) -> ErrorDetail {
    ResourceInfo::new(resource.as_str(), name, "", error.to_string()).into()
}

fn subject(limit: Limit) -> &'static str {
    match limit {
        Limit::Source | Limit::StrengthChecks => "source",
        Limit::OperatorMessages => "operator",
        Limit::Account | Limit::Codes | Limit::SignIns | Limit::Messages | Limit::Resends => "account",
        Limit::Hashing | Limit::Lane(_) => "server",
    }
}

/// Replaces a status that tonic made by one of an [`Error`], if there is one for it. The metadata stays: with it tonic says
/// which compression the server accepts.
pub(super) fn translated(status: Status) -> Status {
    if error_of(&status).is_some() {
        return status;
    }
    let Some(error) = error_for(status.code(), status.message()) else { return status };
    let mut translated = Status::from(error);
    *translated.metadata_mut() = status.metadata().clone();
    translated
}

/// Returns the error for the code and the message of a status that tonic made.
fn error_for(code: Code, text: &str) -> Option<Error> {
    if text.starts_with(BROKEN_OFF) {
        return Some(Error::MessageMalformed);
    }
    Some(match code {
        Code::OutOfRange if text.starts_with(TOO_LARGE) => Error::RequestTooLarge,
        Code::Internal if text.starts_with(FLAGGED) => Error::CompressionUnnamed,
        Code::Internal if MALFORMED.iter().any(|prefix| text.starts_with(prefix)) => Error::MessageMalformed,
        Code::Unimplemented => match text.strip_prefix(COMPRESSED) {
            Some(rest) => Error::CompressionUnsupported { encoding: encoding_in(rest) },
            None => Error::MethodUnavailable,
        },
        // Only a watch of health ends so, at a stop.
        Code::Unavailable => Error::Unavailable(Outage::ShuttingDown),
        // OutOfRange: a response over the size limit of the service.
        Code::Internal | Code::Unknown | Code::OutOfRange => Error::internal(text.to_owned()),
        _ => return None,
    })
}

/// Returns the name of a compression, up to its closing quote. A client may send any bytes; only printable ones are repeated.
fn encoding_in(rest: &str) -> String {
    let name = rest.split('`').next().unwrap_or_default();
    name.chars().filter(char::is_ascii_graphic).take(MAX_ENCODING_BYTES).collect()
}

/// Encodes an error with its code, its text and all details.
pub fn status_of(error: &Error, request_id: &str) -> Status {
    let mut details = details(error);
    details.push(RequestInfo::new(request_id, "").into());
    Status::with_error_details_vec(code(error), error.to_string(), details)
}

/// Encodes the error of a status. A status without one keeps its code and message; the metadata stays.
pub(super) fn encoded(status: &Status, request_id: &str) -> Status {
    let unknown = || {
        let details = vec![RequestInfo::new(request_id, "").into()];
        Status::with_error_details_vec(status.code(), status.message(), details)
    };
    let mut encoded = error_of(status).map_or_else(unknown, |error| status_of(error, request_id));
    *encoded.metadata_mut() = status.metadata().clone();
    encoded
}

/// Returns whether the call was shed because the server is at capacity. In an overload there are thousands of these.
pub(super) fn is_shed(error: &Error) -> bool {
    matches!(error, Error::Exhausted { limit: Limit::Lane(_) | Limit::Hashing, .. })
}

#[cfg(test)]
mod tests;
