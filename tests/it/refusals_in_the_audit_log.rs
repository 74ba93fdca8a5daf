//! Which refusals are recorded: only those of authenticated callers, because otherwise a flood would write one row per
//! call.

use std::time::Duration;

use latchkey::proto::v1::{ErrorReason, Event, EventOutcome, EventType};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Client, Harness, PASSWORD, refused};

/// The events recorded for a refused call.
async fn events_of(h: &Harness, client: &Client, method: &str, request: Value, code: Code, reason: &str) -> Vec<Event> {
    let operator = h.operator().await;
    let before = operator.events().await.len();
    refused(client.call(method, request).await, code, reason);
    operator.events().await.split_off(before)
}

/// A refused call, and the user that its event must name.
struct Case {
    client: Client,
    method: &'static str,
    request: Value,
    code: Code,
    reason: ErrorReason,
    target: &'static str,
}

async fn recorded_cases(h: &Harness) -> Vec<Case> {
    let bob = json!({"user": {"username": "bob"}});
    let root = json!({"user": {"username": "root"}});
    let ann = h.person("ann", &["helpdesk"]).await.client;
    let program = h.token(&["tokens.write", "users.read", "users.lock"]).await;
    let denied = |client: &Client, method, request: &Value, reason, target| Case {
        client: client.clone(),
        method,
        request: request.clone(),
        code: Code::PermissionDenied,
        reason,
        target,
    };
    let address = json!({"user": {"username": "bob"}, "temporaryPassword": {}, "unlock": true});
    let secret = json!({"user": {"username": "bob"}, "setPassword": {"password": PASSWORD}});
    let token = json!({"user": {"username": "bob"}, "name": "x", "scopes": ["users.read"]});
    let all: Vec<&str> = latchkey::domain::role::Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let mighty = h.token(&all).await;
    let mut cases = vec![
        denied(&h.user("bob").await.client, "UserAdmin/ListUsers", &json!({}), ErrorReason::ScopeMissing, ""),
        denied(&ann, "UserAdmin/ResetPassword", &secret, ErrorReason::ScopeMissing, "bob"),
        denied(&ann, "UserAdmin/LockUser", &root, ErrorReason::TargetOutranksCaller, "root"),
        denied(
            &ann,
            "UserAdmin/LockUser",
            &json!({"user": {"username": "ann"}}),
            ErrorReason::SelfActionForbidden,
            "ann",
        ),
        denied(&h.operator().await, "Auth/ListSessions", &json!({}), ErrorReason::UserRequired, ""),
        denied(&program, "Auth/ListSessions", &json!({}), ErrorReason::ApiTokenForbidden, ""),
        denied(&program, "UserAdmin/CreateApiToken", &token, ErrorReason::ApiTokenForbidden, "bob"),
        denied(&program, "UserAdmin/ResetPassword", &address, ErrorReason::ScopeMissing, ""),
        denied(&program, "UserAdmin/UpdateUser", &bob, ErrorReason::ScopeMissing, ""),
    ];
    cases.push(Case {
        client: mighty,
        method: "UserAdmin/LockUser",
        request: root,
        code: Code::FailedPrecondition,
        reason: ErrorReason::LastAdministrator,
        target: "root",
    });
    cases
}

#[tokio::test]
async fn what_a_known_caller_was_refused_is_recorded_once_with_its_reason() {
    let h = Harness::start().await;
    h.admin().await;
    for case in recorded_cases(&h).await {
        let reason = case.reason.as_str_name().trim_start_matches("ERROR_REASON_");
        let what = format!("{} {}: {reason}", case.method, case.request);
        let events = events_of(&h, &case.client, case.method, case.request, case.code, reason).await;
        let [event] = events.as_slice() else { panic!("{what}: {events:?}") };
        assert_eq!(event.r#type(), EventType::AccessDenied, "{what}");
        assert_eq!(event.reason(), case.reason, "{what}");
        assert_eq!(event.target_username, case.target, "{what}");
        assert_eq!(event.target_user_id.is_empty(), case.target.is_empty(), "{what}");
        assert_eq!(event.method, format!("latchkey.v1.{}", case.method), "{what}");
        let actor = event.actor.as_ref().expect("an actor");
        assert!(!actor.principal_id.is_empty() && !actor.name.is_empty(), "{what}");
        assert!(!event.request_id.is_empty(), "{what}");
        // Forbidden actions are denied; permitted actions that cannot be done are failures.
        let denied = case.code == Code::PermissionDenied;
        let outcome = if denied { EventOutcome::Denied } else { EventOutcome::Failed };
        assert_eq!(event.outcome(), outcome, "{what}");
    }
}

#[tokio::test]
async fn the_record_says_what_was_missing() {
    let h = Harness::start().await;
    h.admin().await;
    let ann = h.person("ann", &["auditor", "helpdesk"]).await.client;
    let scope = json!({"username": "eve"});
    let events = events_of(&h, &ann, "UserAdmin/CreateUser", scope, Code::PermissionDenied, "SCOPE_MISSING").await;
    assert_eq!(events[0].details.get("scope").map(String::as_str), Some("users.write"));
    let rank = json!({"user": {"username": "root"}});
    let events =
        events_of(&h, &ann, "UserAdmin/LockUser", rank, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER").await;
    let missing = events[0].details.get("missingScopes").map(String::as_str).unwrap_or_default();
    assert!(missing.contains("roles.write") && !missing.contains("users.read"), "{missing}");
}

#[tokio::test]
async fn what_strangers_try_missing_things_and_wrong_fields_are_not_recorded() {
    let h = Harness::start().await;
    let root = h.admin().await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    let bob = || json!({"username": "bob"});
    let nobody = || json!({"user": {"username": "nobody"}});
    let cases = [
        (&stranger, "UserAdmin/ListUsers", json!({}), Code::Unauthenticated, "CREDENTIALS_MISSING"),
        (&stranger.bearing("garbage"), "UserAdmin/ListUsers", json!({}), Code::Unauthenticated, "TOKEN_INVALID"),
        (&root.client, "UserAdmin/LockUser", nobody(), Code::NotFound, "USER_NOT_FOUND"),
        (&root.client, "UserAdmin/GetUser", nobody(), Code::NotFound, "USER_NOT_FOUND"),
        (&root.client, "UserAdmin/LockUser", json!({}), Code::InvalidArgument, "FIELD_INVALID"),
        (&root.client, "UserAdmin/LockUser", json!({"user": bob(), "etag": "\"99\""}), Code::Aborted, "ETAG_MISMATCH"),
        (&root.client, "UserAdmin/CreateUser", bob(), Code::AlreadyExists, "USERNAME_TAKEN"),
        (&root.client, "UserAdmin/ListUsers", json!({"pageToken": "x"}), Code::InvalidArgument, "PAGE_TOKEN_INVALID"),
    ];
    for (client, method, request, code, reason) in cases {
        let events = events_of(&h, client, method, request, code, reason).await;
        assert_eq!(events, [], "{method}: {reason}");
    }
    let operator = h.operator().await;
    let before = operator.events().await.len();
    let unknown = stranger.call_path("latchkey.v1.UserAdmin/Nonsense", Vec::new()).await;
    refused(unknown, Code::Unimplemented, "METHOD_UNAVAILABLE");
    h.clock.advance(Duration::from_mins(16));
    refused(root.client.call("UserAdmin/LockUser", nobody()).await, Code::Unauthenticated, "TOKEN_EXPIRED");
    assert_eq!(operator.events().await.len(), before);
}
