use super::*;
use crate::domain::lockout::LockCause;
use crate::domain::reason::Reason;
use crate::domain::role::{Scope, ScopeSet};
use crate::domain::time::Timestamp;
use crate::domain::user::Etag;
use crate::domain::violation::Fault;

fn reason(status: &Status) -> Option<Reason> {
    error_of(status).map(Error::reason)
}

fn info(status: &Status) -> ErrorInfo {
    status.get_details_error_info().unwrap_or_else(|| ErrorInfo::new("", "", HashMap::<String, String>::new()))
}

/// Encodes an error as it is sent.
fn sent(error: &Error) -> Status {
    status_of(error, "r-1")
}

fn value(error: &Error, key: &str) -> Option<String> {
    info(&sent(error)).metadata.get(key).cloned()
}

#[test]
fn error_info_stands_first_and_request_info_last() {
    let mut violations = Violations::of("user", Fault::Required, "must be set");
    violations.push("page_size", Fault::OutOfRange, "at least 0");
    let status = sent(&Error::InvalidInput(violations));

    let details = status.get_error_details_vec();
    let [ErrorDetail::ErrorInfo(info), ErrorDetail::BadRequest(bad), ErrorDetail::RequestInfo(request)] =
        details.as_slice()
    else {
        unreachable!("{details:?}")
    };
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("FIELD_INVALID", "latchkey.v1"));
    let fields: Vec<_> = bad.field_violations.iter().map(|one| (one.field.as_str(), one.reason.as_str())).collect();
    assert_eq!(fields, [("user", "REQUIRED"), ("page_size", "OUT_OF_RANGE")]);
    assert_eq!(request.request_id, "r-1");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[test]
fn what_varies_in_a_message_is_in_the_metadata() {
    let missing = ScopeSet::of(&[Scope::UsersLock, Scope::UsersReset]);
    let locked = Unmet::UserLocked(LockCause::Operator);
    let reserved = Taken::UsernameReserved(Timestamp::from_micros(1_795_594_353_000_000));
    let too_old = Unauthenticated::TooOld { max_auth_age: Duration::from_mins(15) };
    let corrupt = || Error::Corrupt { resource: Resource::User, id: "u1".to_owned(), etag: Some(Etag(7)) };
    for (error, key, expected) in [
        (Error::Denied(Denied::ScopeMissing(Scope::UsersLock)), "scope", "users.lock"),
        (Error::Denied(Denied::TargetOutranksCaller { missing }), "missingScopes", "users.lock users.reset"),
        (Error::Stale { resource: Resource::User, current: Etag(4) }, "currentEtag", "\"4\""),
        (Error::Stale { resource: Resource::Policy, current: Etag(4) }, "resource", "latchkey.v1.SignInPolicy"),
        (Error::Precondition(locked), "lockCause", "OPERATOR"),
        (Error::Unauthenticated(too_old), "maxAuthAgeSeconds", "900"),
        (Error::AlreadyExists(reserved), "availableTime", "2026-11-25T08:12:33Z"),
        (Error::no_user("user.username"), "field", "user.username"),
        (corrupt(), "resource", "latchkey.v1.User"),
        (corrupt(), "id", "u1"),
        (corrupt(), "etag", "\"7\""),
    ] {
        assert_eq!(value(&error, key).as_deref(), Some(expected), "{key}");
    }
}

#[test]
fn who_may_try_again_is_told_when() {
    let wait = Duration::from_secs(30);
    let throttled = sent(&Error::Exhausted { limit: Limit::Account, retry_after: wait });
    assert_eq!(throttled.get_details_retry_info().and_then(|info| info.retry_delay), Some(wait));
    assert!(throttled.get_details_quota_failure().is_some());
    let draining = sent(&Error::Unavailable(Outage::ShuttingDown));
    assert!(draining.get_details_retry_info().is_some());
    let too_large = sent(&Error::RequestTooLarge);
    assert!(too_large.get_details_retry_info().is_none());
}

#[test]
fn a_flood_of_violations_still_fits_into_headers() {
    let mut violations = Violations::new();
    for index in 0..1000 {
        violations.push(format!("filter.user_ids[{index}]"), Fault::Malformed, "an id has 26 symbols");
    }
    let status = sent(&Error::InvalidInput(violations));
    assert!(status.details().len() < 4096, "{}", status.details().len());
    let told = status.get_details_bad_request().map_or(0, |bad| bad.field_violations.len());
    let omitted = info(&status).metadata.get("violationsOmitted").cloned();
    assert_eq!(omitted, Some((1000 - told).to_string()));
}

#[test]
fn what_tonic_makes_itself_becomes_one_of_ours() {
    for (bare, expected) in [
        (Status::out_of_range("Error, decoded message length too large"), Reason::RequestTooLarge),
        (Status::out_of_range("Error, encoded message length too large"), Reason::Internal),
        (Status::unimplemented(""), Reason::MethodUnavailable),
        (Status::internal("failed to decode Protobuf message: LockUserRequest"), Reason::MessageMalformed),
        (Status::internal("Missing request message."), Reason::MessageMalformed),
        (Status::unimplemented("Content is compressed with `gzip` which isn't"), Reason::CompressionUnsupported),
        (Status::internal("something else"), Reason::Internal),
    ] {
        let status = translated(bare);
        assert_eq!(reason(&status), Some(expected));
    }
    assert_eq!(translated(Status::not_found("service not registered")).message(), "service not registered");
    for code in [Code::Internal, Code::Unknown, Code::Unavailable, Code::Cancelled] {
        let broken_off = translated(Status::new(code, "h2 protocol error: error reading a body from connection"));
        assert_eq!(reason(&broken_off), Some(Reason::MessageMalformed), "{code:?}");
    }
}

#[test]
fn no_source_reaches_the_caller() {
    let status: Status = Error::internal("password=hunter2 at /var/lib").into();
    let sent = encoded(&status, "r-1");
    let wire = format!("{} {:?}", sent.message(), String::from_utf8_lossy(sent.details()));
    assert!(!wire.contains("hunter2"), "{wire}");
    assert!(std::error::Error::source(&status).is_some());
}

#[test]
fn the_name_of_a_compression_is_repeated_only_as_far_as_it_is_short_and_printable() {
    for (sent, repeated) in [
        ("gzip", "gzip"),
        ("a\u{7f}b\nc\u{202e}d é", "abcd"),
        (&"x".repeat(1000), &"x".repeat(64)),
        ("", ""),
        ("a`b", "a"),
    ] {
        let bare = Status::unimplemented(format!("Content is compressed with `{sent}` which isn't supported"));
        let status = encoded(&translated(bare), "r-1");
        assert_eq!(info(&status).metadata.get("encoding").map(String::as_str), Some(repeated));
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

#[test]
fn what_tonic_says_in_the_metadata_is_kept() {
    let mut bare = Status::unimplemented("Content is compressed with `gzip` which isn't supported");
    bare.metadata_mut().insert("grpc-accept-encoding", tonic::metadata::MetadataValue::from_static("identity"));
    let sent = encoded(&translated(bare), "r-1");
    let accepted = sent.metadata().get("grpc-accept-encoding").map(|value| value.to_str());
    assert!(matches!(accepted, Some(Ok("identity"))), "{accepted:?}");
}
