//! Reauthenticate: the password again, in the same session.

use std::time::Duration;

use latchkey::proto::v1::{self, EventType};
use serde_json::Value;
use tonic::Code;

use crate::harness::calls::told;
use crate::harness::{Harness, PASSWORD, Person, at_once, refused};

/// The claim `auth_time` of an access token.
fn auth_time(access_token: &str) -> i64 {
    let payload = access_token.split('.').nth(1).expect("a payload");
    let json = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url");
    let claims: Value = serde_json::from_slice(&json).expect("claims");
    claims["auth_time"].as_i64().expect("a time")
}

/// The session of a person, as stored.
async fn session(h: &Harness, person: &Person) -> v1::Session {
    let all = h.operator().await.sessions_of(&person.name).await;
    all.into_iter().find(|session| session.id == person.tokens.session_id).expect("the session")
}

fn seconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.expect("a time").seconds
}

/// Signed in forty minutes ago, with a fresh access token.
async fn stale(h: &Harness, name: &str, roles: &[&str]) -> Person {
    let mut person = h.person(name, roles).await;
    for _ in 0..4 {
        h.clock.advance(Duration::from_mins(10));
        person.tokens = person.client.refresh(&person.tokens.refresh_token).await.expect("tokens");
    }
    person.client = person.client.bearing(&person.tokens.access_token);
    person
}

#[tokio::test]
async fn the_sign_in_of_the_same_session_is_recent_again_and_stays_so_through_refreshes() {
    let h = Harness::start().await;
    let root = stale(&h, "root", &["admin"]).await;
    h.create("ada", &["viewer"], PASSWORD).await;
    let before = session(&h, &root).await;
    refused(root.client.reset("ada").await, Code::Unauthenticated, "REAUTHENTICATION_REQUIRED");

    let tokens = root.client.reauthenticate(PASSWORD).await.expect("tokens");

    assert_eq!(tokens.session_id, root.tokens.session_id);
    let after = session(&h, &root).await;
    assert!(seconds(after.auth_time) >= seconds(before.auth_time) + 40 * 60, "{before:?} {after:?}");
    assert_eq!(after.create_time, before.create_time);
    assert_eq!(h.operator().await.sessions_of("root").await.len(), 1, "no other session was opened");
    assert_eq!(auth_time(&tokens.access_token), seconds(after.auth_time));
    let refreshed = root.client.refresh(&tokens.refresh_token).await.expect("tokens");
    assert_eq!(auth_time(&refreshed.access_token), seconds(after.auth_time));
    root.client.bearing(&tokens.access_token).reset("ada").await.expect("a reset");

    h.clock.advance(Duration::from_mins(14));
    let tokens = root.client.refresh(&refreshed.refresh_token).await.expect("tokens");
    root.client.bearing(&tokens.access_token).reset("ada").await.expect("still recent");
    h.clock.advance(Duration::from_mins(2));
    let answer = root.client.bearing(&tokens.access_token).reset("ada").await;
    refused(answer, Code::Unauthenticated, "REAUTHENTICATION_REQUIRED");
}

#[tokio::test]
async fn another_session_of_the_same_user_stays_as_old_as_it_was() {
    let h = Harness::start().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    let stolen = stale(&h, "root", &["admin"]).await;
    let own = h.signed_in("root", PASSWORD).await;
    own.client.reauthenticate(PASSWORD).await.expect("tokens");
    refused(stolen.client.reset("ada").await, Code::Unauthenticated, "REAUTHENTICATION_REQUIRED");
    own.client.reset("ada").await.expect("a reset");
}

#[tokio::test]
async fn a_lost_answer_leaves_the_refresh_token_good() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let tokens = bob.client.reauthenticate(PASSWORD).await.expect("an answer that the client does not get");
    assert_eq!(tokens.refresh_token, bob.tokens.refresh_token);
    h.clock.advance(Duration::from_mins(1));
    bob.client.refresh(&bob.tokens.refresh_token).await.expect("tokens");
}

#[tokio::test]
async fn it_is_a_use_of_the_session() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let mut tokens = root.tokens.clone();
    for _ in 0..3 {
        h.clock.advance(Duration::from_mins(4));
        tokens = root.client.bearing(&tokens.access_token).reauthenticate(PASSWORD).await.expect("tokens");
    }
    // Sessions of administrators end after fifteen idle minutes.
    h.clock.advance(Duration::from_mins(10));
    root.client.refresh(&tokens.refresh_token).await.expect("the session has not been idle for fifteen minutes");
}

#[tokio::test]
async fn a_wrong_password_counts_as_a_failed_sign_in_and_leaves_the_session_as_it_was() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_mins(2)).await;
    let bob = h.user("bob").await;
    let before = session(&h, &bob).await;
    for _ in 0..5 {
        refused(bob.client.reauthenticate("no c4nary of bob's").await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let waits = refused(bob.client.reauthenticate(PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    assert!(waits.retry_after().is_some_and(|wait| wait <= Duration::from_mins(2)));
    refused(h.stranger().await.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    bob.client.who_am_i().await.expect("the session lives");
    let after = session(&h, &bob).await;
    assert_eq!((after.auth_time, after.expire_time), (before.auth_time, before.expire_time));
    let events = h.operator().await.events().await;
    let failed: Vec<_> = events.iter().filter(|event| event.r#type() == EventType::SignInFailed).collect();
    assert_eq!(failed.len(), 5);
    assert_eq!(told(failed[0]), "SIGN_IN_FAILED FAILED PASSWORD_WRONG bob>bob");
    assert_eq!(failed[0].method, "latchkey.v1.Auth/Reauthenticate");

    h.clock.advance(Duration::from_mins(2));
    bob.client.reauthenticate(PASSWORD).await.expect("after the wait");
    for _ in 0..4 {
        refused(bob.client.reauthenticate("no c4nary of bob's").await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    h.stranger().await.tokens("bob", PASSWORD).await.expect("the earlier failures were forgotten");
}

#[tokio::test]
async fn its_event_is_a_sign_in_that_names_the_session() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    bob.client.reauthenticate(PASSWORD).await.expect("tokens");
    let events = h.operator().await.events().await;
    let event = events.last().expect("an event");
    assert_eq!(told(event), "SIGN_IN_SUCCEEDED SUCCEEDED bob>bob");
    assert_eq!(event.subject_id, bob.tokens.session_id);
    assert_eq!(event.details.get("step").map(String::as_str), Some("REAUTHENTICATION"));
    assert_eq!(event.method, "latchkey.v1.Auth/Reauthenticate");
}

#[tokio::test]
async fn a_locked_user_and_an_ended_session_cannot() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let other = h.signed_in("bob", PASSWORD).await;
    bob.client.auth().revoke_session(v1::RevokeSessionRequest::default()).await.expect("a sign-out");
    refused(bob.client.reauthenticate(PASSWORD).await, Code::Unauthenticated, "SESSION_REVOKED");
    h.operator().await.lock("bob").await.expect("a lock");
    refused(other.client.reauthenticate(PASSWORD).await, Code::Unauthenticated, "SESSION_REVOKED");
    h.operator().await.unlock("bob").await.expect("an unlock");
    refused(other.client.reauthenticate(PASSWORD).await, Code::Unauthenticated, "SESSION_REVOKED");
}

#[tokio::test]
async fn only_people_who_signed_in_prove_a_password_again() {
    let h = Harness::start().await;
    refused(h.operator().await.reauthenticate(PASSWORD).await, Code::PermissionDenied, "USER_REQUIRED");
    let program = h.token(&["users.read"]).await;
    refused(program.reauthenticate(PASSWORD).await, Code::PermissionDenied, "API_TOKEN_FORBIDDEN");
    refused(h.stranger().await.reauthenticate(PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_MISSING");
    let bob = h.user("bob").await;
    let refusal = refused(bob.client.reauthenticate("").await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["password: REQUIRED"]);
}

#[tokio::test]
async fn failures_count_against_the_source_and_a_blocked_source_cannot() {
    let h = Harness::with(|config| config.throttle.source_failures = 3).await;
    let bob = h.user("bob").await;
    for _ in 0..3 {
        refused(bob.client.reauthenticate("no c4nary of bob's").await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    refused(bob.client.reauthenticate(PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
    refused(h.stranger().await.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
    bob.client.who_am_i().await.expect("the session lives");
}

#[tokio::test]
async fn of_many_right_passwords_at_once_each_is_accepted_and_of_wrong_ones_the_budget_is_checked() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_mins(2)).await;
    let bob = h.user("bob").await;
    for answer in at_once((0..20).map(|_| bob.client.reauthenticate(PASSWORD))).await {
        assert_eq!(answer.expect("tokens").session_id, bob.tokens.session_id);
    }
    let wrong = at_once((0..20).map(|_| bob.client.reauthenticate("no c4nary of bob's"))).await;
    let verified = wrong.iter().filter(|answer| answer.as_ref().is_err_and(|s| s.code() == Code::Unauthenticated));
    assert_eq!(verified.count(), 5, "{wrong:?}");
}

#[tokio::test]
async fn a_proof_on_one_replica_counts_on_the_other() {
    let h = Harness::start().await;
    let Some(other) = h.replica().await else { return };
    h.create("ada", &["viewer"], PASSWORD).await;
    let root = stale(&h, "root", &["admin"]).await;
    let elsewhere = other.stranger().await.bearing(&root.tokens.access_token);
    refused(elsewhere.reset("ada").await, Code::Unauthenticated, "REAUTHENTICATION_REQUIRED");
    root.client.reauthenticate(PASSWORD).await.expect("tokens");
    elsewhere.reset("ada").await.expect("a reset");
    other.stop().await;
}
