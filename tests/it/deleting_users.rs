//! Deleting accounts, including those with a corrupt record.

use latchkey::proto::v1;
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, refused};

#[tokio::test]
async fn a_delete_requires_the_current_etag() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let refusal = refused(operator.delete("bob", "").await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["etag: REQUIRED"]);
    let refusal = refused(operator.delete("bob", "\"99\"").await, Code::Aborted, "ETAG_MISMATCH");
    let current = operator.user("bob").await.etag;
    assert_eq!(refusal.metadata("currentEtag"), current);
    refused(operator.delete("nobody", &current).await, Code::NotFound, "USER_NOT_FOUND");
    operator.delete("bob", &current).await.expect("a deletion");
    refused(operator.delete("bob", &current).await, Code::NotFound, "USER_NOT_FOUND");
}

#[tokio::test]
async fn everything_that_a_deleted_user_had_is_dead() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let bob = h.person("bob", &["viewer"]).await;
    h.signed_in("bob", PASSWORD).await;
    let secret = operator.api_token("bob", &["users.read"]).await;
    let program = bob.client.bearing(&secret);
    program.list(v1::ListUsersRequest::default()).await.expect("the token works");
    operator.require_change("bob").await.unwrap();
    let step = h.stranger().await.change_step("bob", PASSWORD).await.unwrap();

    let etag = operator.user("bob").await.etag;
    let answer = operator.delete("bob", &etag).await.unwrap();
    let effects = answer.effects.unwrap();
    assert_eq!(answer.user.unwrap().username, "bob");
    assert_eq!((effects.sessions_revoked, effects.api_tokens_revoked, effects.password_ended), (2, 1, true));
    assert!(effects.access_expire_time.is_some());

    let stranger = h.stranger().await;
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.refresh(&bob.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(program.list(v1::ListUsersRequest::default()).await, Code::Unauthenticated, "TOKEN_INVALID");
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(operator.get("bob").await, Code::NotFound, "USER_NOT_FOUND");
    for table in ["session", "ticket", "api_token", "user_role", "user_term", "familiar_place", "throttle"] {
        let rows = h.query(&format!("SELECT COUNT(*) FROM {table} WHERE user_id = '{}'", step_user(&bob))).await;
        assert_eq!(rows, ["0"], "{table}");
    }
    let rows = h.query(&format!("SELECT COUNT(*) FROM throttle WHERE account_id = '{}'", step_user(&bob))).await;
    assert_eq!(rows, ["0"], "budgets");
}

/// The `sub` of a user's token, by the username at sign-in.
fn step_user(person: &crate::harness::Person) -> String {
    let payload = person.tokens.access_token.split('.').nth(1).expect("a payload");
    let json = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url");
    let claims: serde_json::Value = serde_json::from_slice(&json).expect("claims");
    claims["sub"].as_str().expect("a subject").to_owned()
}

#[tokio::test]
async fn validate_only_deletes_nothing() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let bob = h.user("bob").await;
    let user = operator.user("bob").await;
    let request = v1::DeleteUserRequest {
        user: Some(named("bob")),
        etag: user.etag.clone(),
        validate_only: true,
        ..Default::default()
    };
    let answer = operator.user_admin().delete_user(request).await.unwrap().into_inner();
    assert_eq!(answer.effects.unwrap().sessions_revoked, 1);
    assert_eq!(operator.user("bob").await, user);
    bob.client.who_am_i().await.expect("the session lives");
}

/// Ways to corrupt a row of a user. The last one is a control character, which no name can contain.
const BROKEN: [&str; 5] =
    ["kind = 9", "labels = '{'", "roles = 'emperor'", "password_kind = 7", "display_name = '\u{7}'"];

/// The statement that corrupts bob's record in this way.
fn breaking(how: &str) -> String {
    format!(r#"UPDATE "user" SET {how} WHERE username = 'bob'"#)
}

#[tokio::test]
async fn a_broken_record_is_named_and_can_be_deleted() {
    for how in BROKEN {
        let h = Harness::start().await;
        let operator = h.operator().await;
        h.create("eve", &[], PASSWORD).await;
        let bob = h.user("bob").await;
        let id = operator.user("bob").await.id;
        h.sql(&breaking(how)).await;

        let refusal = refused(operator.get("bob").await, Code::DataLoss, "RECORD_CORRUPT");
        assert_eq!(refusal.metadata("resource"), "latchkey.v1.User", "{how}");
        assert_eq!(refusal.metadata("id"), id, "{how}");
        let etag = refusal.metadata("etag").to_owned();
        assert!(!etag.is_empty(), "{how}");
        operator.get("eve").await.expect("others are well");
        let others = operator.list(v1::ListUsersRequest::default()).await.expect("the others can be seen").users;
        assert_eq!(others.len(), 1);

        let stranger = h.stranger().await;
        refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        assert!(bob.client.who_am_i().await.is_err(), "{how}: a session of a broken record fails closed");
        assert!(stranger.refresh(&bob.tokens.refresh_token).await.is_err(), "{how}");
        refused(operator.lock("bob").await, Code::DataLoss, "RECORD_CORRUPT");
        refused(operator.reset("bob").await, Code::DataLoss, "RECORD_CORRUPT");

        let answer = operator.delete("bob", &etag).await.expect("a deletion");
        assert_eq!((answer.user, answer.effects.unwrap().sessions_revoked), (None, 1), "{how}");
        let listed = operator.list(v1::ListUsersRequest::default()).await.expect("a list").users;
        assert_eq!(listed.len(), 1);
        let deleted = operator.events().await.pop().unwrap();
        assert_eq!((deleted.r#type(), deleted.target_user_id), (v1::EventType::UserDeleted, id));
    }
}

#[tokio::test]
async fn only_somebody_with_every_scope_deletes_a_broken_record() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    h.sql(&breaking("roles = 'emperor'")).await;
    let etag = refused(operator.get("bob").await, Code::DataLoss, "RECORD_CORRUPT").metadata("etag").to_owned();
    let limited = h.token(&["users.delete", "users.read"]).await;
    refused(limited.delete("bob", &etag).await, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
    let denied = operator.events().await.pop().unwrap();
    assert_eq!(denied.r#type(), v1::EventType::AccessDenied);
    let admin = h.admin().await;
    admin.client.delete("bob", &etag).await.expect("an administrator may");
}

#[tokio::test]
async fn a_hash_that_cannot_be_verified_fails_the_sign_in_and_a_reset_mends_it() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let stranger = h.stranger().await;
    h.create("bob", &[], PASSWORD).await;
    for hash in ["", "nonsense", "$argon2id$v=19$m=4194304,t=9999,p=64$c2FsdHNhbHQ$c2FsdHNhbHQ"] {
        h.sql(&format!(r#"UPDATE "user" SET password_hash = '{hash}' WHERE username = 'bob'"#)).await;
        refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        let reset = operator.reset("bob").await.expect("a reset");
        stranger.change_step("bob", reset.shown()).await.expect("the new password works");
    }
}
