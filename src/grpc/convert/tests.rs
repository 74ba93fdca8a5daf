use super::*;
use crate::domain::audit::EventType;
use crate::domain::reason::Reason;
use crate::domain::violation::Violation;

const NOW: Timestamp = Timestamp::from_micros(1_795_594_353_000_000);

fn ada() -> v1::UserRef {
    v1::UserRef { r#ref: Some(v1::user_ref::Ref::Username("ada".to_owned())) }
}

/// Returns the invalid fields, each with its reason.
fn faults<T>(result: Result<T>) -> Vec<(String, &'static str)> {
    match result {
        Err(Error::InvalidInput(violations)) => {
            violations.into_iter().map(|Violation { field, reason, .. }| (field, reason.as_str())).collect()
        }
        _ => Vec::new(),
    }
}

fn told(pairs: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    pairs.iter().map(|(field, reason)| ((*field).to_owned(), *reason)).collect()
}

#[test]
fn every_wrong_field_is_named_at_once() {
    let request = v1::CreateUserRequest {
        username: "ada@example.com".to_owned(),
        kind: 77,
        email: "nobody".to_owned(),
        roles: vec!["viewer".to_owned(), "king".to_owned()],
        credential: Some(v1::create_user_request::Credential::Password(String::new())),
        idempotency_key: "retry-1".to_owned(),
        ..Default::default()
    };
    let expected = told(&[
        ("idempotency_key", "MALFORMED"),
        ("username", "MALFORMED"),
        ("kind", "UNKNOWN"),
        ("email", "MALFORMED"),
        ("roles[1]", "UNKNOWN"),
        ("password", "REQUIRED"),
    ]);
    assert_eq!(faults(users::create_user(request)), expected);
}

#[test]
fn a_service_is_created_without_a_password() {
    let request = v1::CreateUserRequest {
        username: "billing".to_owned(),
        kind: v1::UserKind::Service.into(),
        credential: Some(v1::create_user_request::Credential::TemporaryPassword(v1::TemporaryPassword::default())),
        ..Default::default()
    };
    assert_eq!(faults(users::create_user(request)), told(&[("temporary_password", "CONFLICT")]));
}

#[test]
fn a_user_must_be_named() {
    for nobody in [None, Some(v1::UserRef::default())] {
        let request = v1::GetUserRequest { user: nobody };
        assert_eq!(faults(users::show_user(request)), told(&[("user", "REQUIRED")]));
    }
    let empty = v1::user_ref::Ref::ExternalId(String::new());
    let request = v1::GetUserRequest { user: Some(v1::UserRef { r#ref: Some(empty) }) };
    assert_eq!(faults(users::show_user(request)), told(&[("user.external_id", "REQUIRED")]));
}

#[test]
fn absent_empty_and_set_are_three_things() -> Result<()> {
    let request = v1::UpdateUserRequest {
        user: Some(ada()),
        email: Some(String::new()),
        display_name: Some("Ada".to_owned()),
        ..Default::default()
    };
    let command = users::update_user(request)?;
    assert_eq!(command.email, Some(None));
    assert_eq!(command.locale, None);
    assert!(matches!(command.display_name, Some(Some(name)) if name.as_str() == "Ada"));
    Ok(())
}

#[test]
fn only_a_link_can_end_access_before_it_is_used() {
    let reset = |method| {
        faults(passwords::reset_password(v1::ResetPasswordRequest {
            user: Some(ada()),
            method,
            end_access_now: true,
            ..Default::default()
        }))
    };
    let password = v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword::default());
    assert_eq!(reset(None), []);
    assert_eq!(reset(Some(password)), told(&[("end_access_now", "CONFLICT")]));
}

#[test]
fn a_temporary_password_works_for_three_days_at_most() {
    let reset = |seconds, nanos| {
        let ttl = Some(prost_types::Duration { seconds, nanos });
        let method =
            v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword { ttl, ..Default::default() });
        faults(passwords::reset_password(v1::ResetPasswordRequest {
            user: Some(ada()),
            method: Some(method),
            ..Default::default()
        }))
    };
    let refused = told(&[("temporary_password.ttl", "OUT_OF_RANGE")]);
    assert_eq!(reset(72 * 3600, 0), []);
    for (seconds, nanos) in [(0, 0), (-1, 0), (72 * 3600, 1), (i64::MAX, 0), (i64::MIN, i32::MIN)] {
        assert_eq!(reset(seconds, nanos), refused, "{seconds} {nanos}");
    }
}

#[test]
fn a_lock_ends_in_the_future_if_at_all() {
    let lock = |end| {
        faults(users::lock_user(v1::LockUserRequest { user: Some(ada()), end: Some(end), ..Default::default() }, NOW))
    };
    let until = |seconds, nanos| v1::lock_user_request::End::UntilTime(prost_types::Timestamp { seconds, nanos });
    assert_eq!(lock(until(1_795_594_354, 0)), []);
    let refused = told(&[("until_time", "OUT_OF_RANGE")]);
    for (seconds, nanos) in [(1_795_594_353, 0), (0, 0), (i64::MAX, 0), (1_795_594_354, -1), (1_795_594_354, i32::MAX)]
    {
        assert_eq!(lock(until(seconds, nanos)), refused, "{seconds} {nanos}");
    }
}

#[test]
fn only_the_server_locks_for_inactivity_and_failed_sign_ins() {
    let lock =
        |cause| faults(users::lock_user(v1::LockUserRequest { user: Some(ada()), cause, ..Default::default() }, NOW));
    for cause in [v1::LockCause::Compromise, v1::LockCause::Deactivated, v1::LockCause::Operator] {
        assert_eq!(lock(cause.into()), []);
    }
    for cause in [v1::LockCause::Inactivity, v1::LockCause::FailedSignIns] {
        assert_eq!(lock(cause.into()), told(&[("cause", "CONFLICT")]));
    }
    assert_eq!(lock(6), told(&[("cause", "UNKNOWN")]));
}

#[test]
fn deleting_needs_an_etag() {
    let delete = |etag: &str| {
        faults(users::delete_user(v1::DeleteUserRequest {
            user: Some(ada()),
            etag: etag.to_owned(),
            ..Default::default()
        }))
    };
    assert_eq!(delete("\"7\""), []);
    assert_eq!(delete(""), told(&[("etag", "REQUIRED")]));
    assert_eq!(delete("7"), told(&[("etag", "MALFORMED")]));
}

#[test]
fn long_lists_are_refused_unread() {
    let ids = |count| {
        let filter = v1::UserFilter { user_ids: vec![String::new(); count], ..Default::default() };
        faults(users::list_users(v1::ListUsersRequest { filter: Some(filter), ..Default::default() }))
    };
    assert_eq!(ids(1001), told(&[("filter.user_ids", "TOO_MANY")]));
    assert_eq!(ids(1000).len(), 1000);
}

#[test]
fn the_request_without_its_key_is_what_a_retry_must_repeat() -> Result<()> {
    let request = |key: &str, note: &str| v1::ResetPasswordRequest {
        user: Some(ada()),
        method: Some(v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword::default())),
        idempotency_key: key.to_owned(),
        note: note.to_owned(),
        ..Default::default()
    };
    let body = |key: &str, note: &str| {
        let command = passwords::reset_password(request(key, note))?;
        Ok::<_, Error>(command.idempotency.map(|idempotency| idempotency.body.to_vec()))
    };
    let (one, two) = ("6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7", "00000000-0000-4000-8000-000000000000");
    assert_eq!(body(one, "lost phone")?, body(two, "lost phone")?);
    assert_ne!(body(one, "lost phone")?, body(one, "other")?);
    assert_eq!(body("", "")?, None);
    Ok(())
}

#[test]
fn an_instant_survives_its_message() {
    for micros in [0, 1, -1, 1_795_594_353_000_001, -62_135_596_800_000_000] {
        let at = Timestamp::from_micros(micros);
        assert_eq!(instant_of(stamp(at)), Some(at));
    }
}

#[test]
fn reasons_and_event_types_are_those_of_the_contract() {
    for reason in Reason::ALL {
        let name = format!("ERROR_REASON_{}", reason.as_str());
        assert!(v1::ErrorReason::from_str_name(&name).is_some(), "{name}");
    }
    for kind in EventType::ALL {
        let name = format!("EVENT_TYPE_{}", kind.as_str());
        assert!(v1::EventType::from_str_name(&name).is_some(), "{name}");
    }
    let known = |numbers: std::ops::Range<i32>, name: fn(i32) -> Option<&'static str>| {
        numbers.filter_map(name).filter(|name| !name.ends_with("_UNSPECIFIED")).count()
    };
    let reasons = known(0..1000, |n| v1::ErrorReason::try_from(n).ok().map(|known| known.as_str_name()));
    let kinds = known(0..1000, |n| v1::EventType::try_from(n).ok().map(|known| known.as_str_name()));
    assert_eq!((reasons, kinds), (Reason::ALL.len(), EventType::ALL.len()));
}
