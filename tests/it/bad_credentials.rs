//! Credentials, page tokens, etags and idempotency keys that are almost valid.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use latchkey::proto::v1::{self, auth_client::AuthClient};
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Status};

use crate::harness::calls::Shown as _;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, refused};

/// Variants with a defect: truncated, changed in one place, doubled, in the other case.
fn almost_valid(good: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for at in (1..good.len()).step_by(1 + good.len() / 40) {
        wrong.push(good[..at].to_owned());
        wrong.push(good[at..].to_owned());
        let mut changed = good.as_bytes().to_vec();
        changed[at] = if changed[at] == b'Q' { b'R' } else { b'Q' };
        wrong.push(String::from_utf8(changed).expect("ASCII"));
    }
    let swapped = |c: char| if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
    wrong.push(good.chars().map(swapped).collect());
    wrong.extend([format!("{good}{good}"), format!("{good}="), format!("{good}."), format!("{good}A"), "x".to_owned()]);
    wrong
}

/// Allowed reasons for refusing a call with an invalid credential.
#[track_caller]
fn is_refused<T: std::fmt::Debug>(answer: Result<T, Status>, reasons: &[&str]) {
    let refusal = Refusal::of(&answer.expect_err("a refusal"));
    assert!([Code::Unauthenticated, Code::InvalidArgument].contains(&refusal.code), "{refusal:?}");
    assert!(reasons.contains(&refusal.reason.as_str()), "{refusal:?}");
}

/// A credential or similar value, and a call that accepts it.
struct Kind {
    name: &'static str,
    good: String,
    reasons: &'static [&'static str],
    call: Box<dyn Fn(String) -> BoxFuture<'static, Result<(), Status>> + Send + Sync>,
}

/// Every kind of credential of one server. Each call returns whether the value was accepted, and does not use up an
/// invalid one.
async fn kinds(h: &Harness) -> Vec<Kind> {
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let root = h.admin().await;
    let api_token = operator.api_token("root", &["users.read"]).await;
    h.create("changer", &[], PASSWORD).await;
    operator.require_change("changer").await.expect("a demand");
    let ticket = stranger.change_step("changer", PASSWORD).await.expect("a step").ticket;
    h.create("newcomer", &[], PASSWORD).await;
    let temporary = operator.reset("newcomer").await.expect("a reset").shown().to_owned();
    let bearer = |client: Client| {
        move |text: String| -> BoxFuture<'static, Result<(), Status>> {
            let client = client.bearing(&text);
            Box::pin(async move { client.who_am_i().await.map(drop) })
        }
    };
    let app = stranger.clone();
    let as_app = move |text: String| -> BoxFuture<'static, Result<(), Status>> {
        let client = app.with("latchkey-app", &text);
        let request = v1::GetSigningKeysRequest::default();
        Box::pin(async move { client.auth().get_signing_keys(request).await.map(drop) })
    };
    let refresher = stranger.clone();
    let refresh = move |text: String| -> BoxFuture<'static, Result<(), Status>> {
        let client = refresher.clone();
        Box::pin(async move { client.refresh(&text).await.map(drop) })
    };
    let completer = stranger.clone();
    let complete = move |text: String| -> BoxFuture<'static, Result<(), Status>> {
        let (new_password, client) = (OTHER_PASSWORD.to_owned(), completer.clone());
        let request = v1::CompletePasswordChangeRequest { ticket: text, new_password, validate_only: true };
        Box::pin(async move { client.auth().complete_password_change(request).await.map(drop) })
    };
    let signer = stranger.clone();
    let sign_in = move |text: String| -> BoxFuture<'static, Result<(), Status>> {
        let client = signer.clone();
        Box::pin(async move { client.sign_in("newcomer", &text).await.map(drop) })
    };
    let tokens = root.tokens;
    let kind = |name, good, reasons, call| Kind { name, good, reasons, call };
    vec![
        kind("access token", tokens.access_token, &["TOKEN_INVALID"], Box::new(bearer(stranger.clone()))),
        kind("API token", api_token.clone(), &["TOKEN_INVALID"], Box::new(bearer(stranger))),
        kind("application", api_token, &["TOKEN_INVALID"], Box::new(as_app)),
        kind("refresh token", tokens.refresh_token, &["TOKEN_INVALID", "FIELD_INVALID"], Box::new(refresh)),
        kind("ticket", ticket, &["TICKET_INVALID", "FIELD_INVALID"], Box::new(complete)),
        kind("temporary password", temporary, &["CREDENTIALS_REJECTED", "FIELD_INVALID"], Box::new(sign_in)),
    ]
}

async fn start() -> Harness {
    Harness::with(|config| config.throttle.threshold = 0).await
}

#[tokio::test]
async fn a_malformed_credential_is_rejected_and_has_no_effect() {
    let h = start().await;
    let kinds = kinds(&h).await;
    for kind in &kinds {
        let mut wrong = almost_valid(&kind.good);
        if kind.name == "temporary password" {
            // Case and hyphens are ignored there.
            let plain = |text: &str| text.replace('-', "").to_uppercase();
            wrong.retain(|text| plain(text) != plain(&kind.good));
            wrong.retain(|text| !text.ends_with(['=', '.']));
        }
        assert!(wrong.len() > 20, "{}", kind.name);
        for text in wrong {
            is_refused((kind.call)(text).await, kind.reasons);
        }
    }
    for kind in &kinds {
        (kind.call)(kind.good.clone()).await.unwrap_or_else(|error| panic!("{}: {error:?}", kind.name));
    }
}

#[tokio::test]
async fn a_credential_is_good_for_its_own_purpose_and_server_alone() {
    let (h, other) = (start().await, start().await);
    let (kinds, theirs) = (kinds(&h).await, kinds(&other).await);
    for kind in &kinds {
        for wrong in kinds.iter().chain(&theirs).filter(|wrong| wrong.good != kind.good) {
            let is_bearer = |kind: &Kind| ["access token", "API token", "application"].contains(&kind.name);
            let is_own = kinds.iter().any(|own| own.good == wrong.good);
            if is_own && is_bearer(kind) && is_bearer(wrong) && kind.name != "application" {
                continue;
            }
            is_refused((kind.call)(wrong.good.clone()).await, kind.reasons);
        }
    }
    for kind in kinds.iter().chain(&theirs) {
        (kind.call)(kind.good.clone()).await.unwrap_or_else(|error| panic!("{}: {error:?}", kind.name));
    }
}

async fn who_am_i_with(h: &Harness, headers: HeaderMap) -> Result<tonic::Response<v1::WhoAmIResponse>, Status> {
    let mut client = AuthClient::new(h.stranger().await.channel());
    client
        .who_am_i(Request::from_parts(MetadataMap::from_headers(headers), Extensions::default(), v1::WhoAmIRequest {}))
        .await
}

#[tokio::test]
async fn bytes_that_no_header_should_have_are_no_credential() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let good = format!("Bearer {}", root.tokens.access_token);
    let values: [&[u8]; 7] =
        [b"Bearer \xff\xfe", "Bearer tök\u{e9}n".as_bytes(), b"\x80", b"Bearer\ta", b"Bearer", b"", b"Bearer a,b c"];
    for value in values {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_bytes(value).expect("a header"));
        refused(who_am_i_with(&h, headers.clone()).await, Code::Unauthenticated, "TOKEN_INVALID");
        // Next to a valid one, it is invalid too.
        headers.append("authorization", HeaderValue::from_str(&good).expect("a header"));
        refused(who_am_i_with(&h, headers).await, Code::Unauthenticated, "TOKEN_INVALID");
    }
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&good.replace("Bearer", "bEARER")).expect("a header"));
    who_am_i_with(&h, headers.clone()).await.expect("the scheme has no case (RFC 9110, 11.1)");
    headers.insert("x-padding", HeaderValue::from_str(&"a".repeat(64 << 10)).expect("a header"));
    who_am_i_with(&h, headers).await.expect_err("more than the server takes in all headers");
    root.client.who_am_i().await.expect("the server goes on");
}

#[tokio::test]
async fn the_request_id_is_the_servers_and_a_clients_that_is_not_fit_for_a_log_is_left_out() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let good = format!("Bearer {}", root.tokens.access_token);
    for value in [&b"fit"[..], b"a\tb", b"\xff", b"", &[b'a'; 65], "a\u{202e}".as_bytes()] {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(&good).expect("a header"));
        headers.insert("x-request-id", HeaderValue::from_bytes(value).expect("a header"));
        let answer = who_am_i_with(&h, headers).await.expect("an answer");
        let id = answer.metadata().get("x-request-id").expect("an id").to_str().expect("text").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");

        let stranger = h.stranger().await;
        let mut request = tonic::Request::new(v1::SignInRequest {
            login: "nobody".to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        });
        request.metadata_mut().as_mut().insert("x-request-id", HeaderValue::from_bytes(value).expect("a header"));
        AuthClient::new(stranger.channel()).sign_in(request).await.expect_err("nobody signs in");
        let event = h.operator().await.events().await.pop().expect("an event");
        assert_eq!(event.client_request_id, if value == b"fit" { "fit" } else { "" }, "{value:?}");
    }
}

#[tokio::test]
async fn the_page_token_of_another_server_is_none() {
    let (h, other) = (Harness::start().await, Harness::start().await);
    let mut tokens = Vec::new();
    for server in [&h, &other] {
        server.create("ada", &[], PASSWORD).await;
        server.create("bob", &[], PASSWORD).await;
        let first = json!({"pageSize": 1});
        let page = server.operator().await.call("UserAdmin/ListUsers", first).await.expect("a page");
        tokens.push(page["nextPageToken"].clone());
    }
    let operator = h.operator().await;
    for method in ["UserAdmin/ListUsers", "UserAdmin/ListApiTokens", "Audit/ListEvents"] {
        let answer = operator.call(method, json!({"pageSize": 1, "pageToken": tokens[1]})).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    operator.call("UserAdmin/ListUsers", json!({"pageSize": 1, "pageToken": tokens[0]})).await.expect("one's own");
}

#[tokio::test]
async fn a_stale_etag_stops_every_method_that_takes_one() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let stale = operator.user("bob").await.etag;
    operator
        .call("UserAdmin/UpdateUser", json!({"user": {"username": "bob"}, "locale": "de"}))
        .await
        .expect("a change");
    let before = operator.user("bob").await;
    let methods = [
        ("UpdateUser", json!({"displayName": "Bob"})),
        ("DeleteUser", json!({})),
        ("LockUser", json!({})),
        ("UnlockUser", json!({})),
        ("ResetPassword", json!({"temporaryPassword": {}})),
        ("RequirePasswordChange", json!({})),
        ("WaivePasswordChange", json!({})),
        ("ResetSecondFactor", json!({})),
    ];
    let known: BTreeSet<&str> = methods.iter().map(|(method, _)| *method).collect();
    for (method, request) in &methods {
        for etag in [stale.as_str(), "\"0\"", "\"-1\"", "\"9223372036854775807\""] {
            let mut request = request.clone();
            request["user"] = json!({"username": "bob"});
            request["etag"] = json!(etag);
            let refusal =
                refused(operator.call(&format!("UserAdmin/{method}"), request).await, Code::Aborted, "ETAG_MISMATCH");
            assert_eq!(refusal.metadata("currentEtag"), before.etag, "{method}");
            assert_eq!(operator.user("bob").await, before, "{method}");
        }
    }
    let with_etag = crate::harness::raw::methods().into_iter().filter(|method| {
        method.parent_service().name() == "UserAdmin"
            && method.name() != "UpdateSignInPolicy"
            && method.input().get_field_by_name("etag").is_some()
    });
    assert_eq!(with_etag.map(|method| method.name().to_owned()).collect::<BTreeSet<_>>().len(), known.len());
}

#[tokio::test]
async fn an_idempotency_key_is_bound_to_caller_method_and_contents() {
    let h = Harness::start().await;
    let (operator, root) = (h.operator().await, h.admin().await.client);
    h.create("bob", &[], PASSWORD).await;
    let key = "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7";
    let create = |name: &str, key: &str| json!({"username": name, "idempotencyKey": key});
    let reset = |note: &str, key: &str| json!({"user": {"username": "bob"}, "temporaryPassword": {}, "note": note, "idempotencyKey": key});
    operator.call("UserAdmin/CreateUser", create("ada", key)).await.expect("a user");
    operator.call("UserAdmin/ResetPassword", reset("one", key)).await.expect("another method");
    let before = operator.user("bob").await;
    for (method, request) in
        [("UserAdmin/CreateUser", create("eve", key)), ("UserAdmin/ResetPassword", reset("two", &key.to_uppercase()))]
    {
        refused(operator.call(method, request).await, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(operator.user("bob").await, before);
    refused(operator.get("eve").await, Code::NotFound, "USER_NOT_FOUND");
    root.call("UserAdmin/CreateUser", create("carol", key)).await.expect("another caller");
    let again = operator.call("UserAdmin/CreateUser", create("ada", key)).await.expect("the same");
    assert_eq!(again["replayed"], Value::Bool(true));
}

#[tokio::test]
async fn of_ten_requests_at_once_with_one_key_and_different_contents_one_is_made() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let key = "00000000-0000-4000-8000-000000000000";
    let calls = (0..10).map(|number| {
        let operator = operator.clone();
        let request = json!({"username": format!("u{number}"), "idempotencyKey": key});
        async move { operator.call("UserAdmin/CreateUser", request).await }
    });
    let (made, lost): (Vec<_>, Vec<_>) = at_once(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for answer in lost {
        refused(answer, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(h.query("SELECT username FROM \"user\"").await.len(), 1);
}
