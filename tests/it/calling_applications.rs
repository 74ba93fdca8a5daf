//! Applications that sign users in: `latchkey-app` identifies the application, `latchkey-client-address` the user's
//! address.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use latchkey::proto::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::raw::{methods, short_name};
use crate::harness::{Client, Harness, PASSWORD, Refusal, refused};

const APP: &str = "latchkey-app";
const CLIENT_ADDRESS: &str = "latchkey-client-address";

/// An application named `portal`, and the token by which it identifies itself.
async fn portal(h: &Harness, scopes: &[&str]) -> String {
    let operator = h.operator().await;
    let create = json!({"username": "portal", "kind": "USER_KIND_SERVICE", "roles": ["app"]});
    operator.call("UserAdmin/CreateUser", create).await.expect("an application");
    operator.api_token("portal", scopes).await
}

fn claims(access_token: &str) -> Value {
    let encoded = access_token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(encoded.as_bytes()).expect("base64url")).expect("JSON")
}

/// Signs bob in and returns the application and the address in the session, the token and the event.
async fn seen_as(h: &Harness, client: &Client) -> (String, String) {
    let tokens = client.tokens("bob", PASSWORD).await.expect("tokens");
    let bob = h.stranger().await.bearing(&tokens.access_token);
    let session = bob.auth().who_am_i(v1::WhoAmIRequest {}).await.expect("an answer").into_inner().session;
    let session = session.expect("a session");
    assert_eq!(claims(&tokens.access_token)["client_id"], json!(session.app));
    let events = h.operator().await.events().await;
    let event = events.iter().rev().find(|event| event.r#type() == v1::EventType::SignInSucceeded);
    let actor = event.and_then(|event| event.actor.clone()).expect("an actor");
    assert_eq!(actor.client_address, session.client_address);
    // The event names the calling application, and no application if there was none.
    assert_eq!(actor.app, if session.app == "latchkey" { "" } else { session.app.as_str() });
    (session.app, session.client_address)
}

fn as_seen(app: &str, address: &str) -> (String, String) {
    (app.to_owned(), address.to_owned())
}

#[tokio::test]
async fn a_proxy_is_believed_whom_it_speaks_for() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let token = portal(&h, &["auth.proxy"]).await;
    let app = h.stranger().await.with(APP, &token);
    assert_eq!(seen_as(&h, &app).await, as_seen("portal", "127.0.0.1"));
    assert_eq!(seen_as(&h, &app.with(CLIENT_ADDRESS, "192.0.2.7")).await, as_seen("portal", "192.0.2.7"));
    assert_eq!(seen_as(&h, &app.with(CLIENT_ADDRESS, "2001:db8::7")).await, as_seen("portal", "2001:db8::7"));
    assert_eq!(seen_as(&h, &app.with(CLIENT_ADDRESS, "::ffff:192.0.2.8")).await, as_seen("portal", "192.0.2.8"));
}

#[tokio::test]
async fn only_an_application_with_the_scope_can_state_a_client_address() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let token = portal(&h, &["tokens.introspect"]).await;
    for address in ["192.0.2.7", "nonsense", ""] {
        let stranger = h.stranger().await.with(CLIENT_ADDRESS, address);
        assert_eq!(seen_as(&h, &stranger).await, as_seen("latchkey", "127.0.0.1"));
        let app = stranger.with(APP, &token);
        assert_eq!(seen_as(&h, &app).await, as_seen("portal", "127.0.0.1"), "without the scope auth.proxy");
    }
}

#[tokio::test]
async fn a_proxy_that_says_it_wrongly_is_told_so() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let app = h.stranger().await.with(APP, &portal(&h, &["auth.proxy"]).await);
    let two = app.with(CLIENT_ADDRESS, "192.0.2.7").with(CLIENT_ADDRESS, "192.0.2.8");
    let mut wrong = vec![two];
    wrong.extend(["192.0.2.7:80", "192.0.2.7, 10.0.0.1", "localhost", ""].map(|a| app.with(CLIENT_ADDRESS, a)));
    for client in wrong {
        let refusal = refused(client.sign_in("bob", PASSWORD).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations().len(), 1);
        assert!(refusal.violations()[0].starts_with(CLIENT_ADDRESS), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_session_goes_on_in_the_name_of_the_application_that_opened_it() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let app = h.stranger().await.with(APP, &portal(&h, &["auth.proxy"]).await);
    let tokens = app.tokens("bob", PASSWORD).await.expect("tokens");
    let refreshed = h.stranger().await.refresh(&tokens.refresh_token).await.expect("tokens");
    assert_eq!(claims(&refreshed.access_token)["client_id"], "portal");
}

#[tokio::test]
async fn a_bad_application_is_an_error_in_every_method() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let operator = h.operator().await;
    let portal = portal(&h, &["auth.proxy"]).await;
    let short = json!({
        "user": {"username": "portal"}, "name": "short", "scopes": ["auth.proxy"], "ttl": "1800s",
    });
    let short = operator.call("UserAdmin/CreateApiToken", short).await.expect("a token");
    let expired = short["secret"].as_str().expect("a secret").to_owned();
    let revoked = operator.api_token("portal", &["auth.proxy"]).await;
    let id = revoked.split('_').nth(1).expect("an id");
    operator.call("UserAdmin/RevokeApiToken", json!({"apiTokenId": id})).await.expect("its end");
    h.clock.advance(Duration::from_secs(1801));
    let root = h.signed_in("root", &root.password).await;

    let wrong = |client: Client, token: &str, reason: &'static str| (client.with(APP, token), reason);
    let base = || [root.client.clone(), operator.clone()];
    let mut cases = Vec::new();
    for client in base() {
        cases.push(wrong(client.clone(), "", "TOKEN_INVALID"));
        cases.push(wrong(client.clone(), "garbage", "TOKEN_INVALID"));
        cases.push(wrong(client.clone(), &format!("Bearer {portal}"), "TOKEN_INVALID"));
        cases.push(wrong(client.clone(), &root.tokens.access_token, "TOKEN_INVALID"));
        cases.push(wrong(client.with(APP, &portal), &portal, "TOKEN_INVALID"));
        cases.push(wrong(client.clone(), &expired, "TOKEN_EXPIRED"));
        cases.push(wrong(client, &revoked, "SESSION_REVOKED"));
    }
    for method in methods() {
        for (client, reason) in &cases {
            let refusal = Refusal::of(&client.call_empty(&method).await.expect_err("a refusal"));
            let seen = (refusal.code, refusal.reason.as_str());
            assert_eq!(seen, (Code::Unauthenticated, *reason), "{}", short_name(&method));
        }
    }
    operator.lock("portal").await.expect("a lock");
    let app = h.stranger().await.with(APP, &portal);
    refused(app.sign_in("root", PASSWORD).await, Code::Unauthenticated, "SESSION_REVOKED");
}
