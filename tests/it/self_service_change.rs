//! Users change their own password.

use std::time::Duration;

use latchkey::proto::v1;
use tonic::Code;

use crate::harness::calls::told;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, refused};

#[tokio::test]
async fn a_change_ends_all_sessions_but_the_one_that_made_it() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let elsewhere = h.signed_in("bob", PASSWORD).await;
    let answer = bob.client.change_password(&bob.password, OTHER_PASSWORD).await.unwrap();
    assert_eq!(answer.sessions_revoked, 1);
    bob.client.who_am_i().await.expect("this session goes on");
    let stranger = h.stranger().await;
    stranger.refresh(&bob.tokens.refresh_token).await.expect("and so does its refresh token");
    refused(elsewhere.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.refresh(&elsewhere.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    stranger.tokens(&bob.name, OTHER_PASSWORD).await.expect("the new password");
}

#[tokio::test]
async fn sec_060_a_wrong_current_password_counts_as_a_failed_sign_in() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_mins(2)).await;
    let bob = h.user("bob").await;
    for _ in 0..5 {
        let answer = bob.client.change_password("no c4nary of bob's", OTHER_PASSWORD).await;
        refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let waits =
        refused(bob.client.change_password(PASSWORD, OTHER_PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    assert!(waits.retry_after().is_some_and(|wait| wait <= Duration::from_mins(2)));
    refused(h.stranger().await.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    let failed = h.operator().await.events().await;
    let failed: Vec<_> = failed.iter().filter(|event| event.r#type() == v1::EventType::SignInFailed).collect();
    assert_eq!(failed.len(), 5);
    assert_eq!(told(failed[0]), "SIGN_IN_FAILED FAILED PASSWORD_WRONG bob>bob");
    assert_eq!(failed[0].method, "latchkey.v1.Auth/ChangePassword");

    h.clock.advance(Duration::from_mins(2));
    bob.client.change_password(PASSWORD, OTHER_PASSWORD).await.expect("after the wait");
    h.stranger().await.tokens("bob", OTHER_PASSWORD).await.expect("failures are forgotten");
}

#[tokio::test]
async fn a_bad_new_password_is_rejected_and_nothing_changes() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    for (new_password, rules) in [
        ("c4nary", &["TOO_SHORT", "TOO_WEAK"][..]),
        (PASSWORD, &["REUSED"]),
        ("c4nary with a \u{7} bell", &["NOT_TEXT"]),
    ] {
        let answer = bob.client.change_password(PASSWORD, new_password).await;
        let refusal = refused(answer, Code::InvalidArgument, "PASSWORD_REJECTED");
        let expected: Vec<String> = rules.iter().map(|rule| format!("new_password: {rule}")).collect();
        assert_eq!(refusal.violations(), expected);
    }
    let refusal = refused(bob.client.change_password("", "").await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["current_password: REQUIRED", "new_password: REQUIRED"]);
    h.stranger().await.tokens("bob", PASSWORD).await.expect("the old password");
}

#[tokio::test]
async fn a_rejected_new_password_is_no_failed_sign_in() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    for _ in 0..12 {
        refused(bob.client.change_password(PASSWORD, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    }
    bob.client.change_password(PASSWORD, OTHER_PASSWORD).await.expect("no wait");
}

#[tokio::test]
async fn validate_only_proves_the_current_password_and_changes_nothing() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let elsewhere = h.signed_in("bob", PASSWORD).await;
    let before = h.operator().await.user("bob").await;
    let check = |current: &str| {
        let request = v1::ChangePasswordRequest {
            current_password: current.to_owned(),
            new_password: OTHER_PASSWORD.to_owned(),
            second_factor: None,
            validate_only: true,
        };
        let mut auth = bob.client.auth();
        async move { auth.change_password(request).await }
    };
    assert_eq!(check(PASSWORD).await.unwrap().into_inner().sessions_revoked, 0);
    refused(check("no c4nary of bob's").await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!(h.operator().await.user("bob").await, before);
    elsewhere.client.who_am_i().await.expect("other sessions live");
}

#[tokio::test]
async fn only_people_who_signed_in_change_a_password() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    refused(operator.change_password(PASSWORD, OTHER_PASSWORD).await, Code::PermissionDenied, "USER_REQUIRED");
    let program = h.token(&["users.read"]).await;
    refused(program.change_password(PASSWORD, OTHER_PASSWORD).await, Code::PermissionDenied, "API_TOKEN_FORBIDDEN");
    let stranger = h.stranger().await;
    refused(stranger.change_password(PASSWORD, OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_MISSING");
}

#[tokio::test]
async fn a_change_answers_an_operators_demand() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    h.operator().await.require_change("bob").await.unwrap();
    bob.client.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a change");
    h.stranger().await.tokens("bob", OTHER_PASSWORD).await.expect("no demand any more");
}
