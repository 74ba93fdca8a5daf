//! Checking tokens: online with `IntrospectToken`, and offline with the public keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use latchkey::proto::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::http::HttpAnswer;
use crate::harness::{Client, Harness, PASSWORD, refused};

/// The introspection of a token.
async fn introspect(verifier: &Client, token: &str, audience: &str) -> v1::IntrospectTokenResponse {
    let request = v1::IntrospectTokenRequest { token: token.to_owned(), audience: audience.to_owned() };
    verifier.auth().introspect_token(request).await.expect("an answer").into_inner()
}

/// For an invalid token nothing else is disclosed.
async fn is_unknown(verifier: &Client, token: &str) -> bool {
    introspect(verifier, token, "").await == v1::IntrospectTokenResponse::default()
}

async fn verifier(h: &Harness) -> Client {
    let create = json!({"username": "billing", "kind": "USER_KIND_SERVICE", "roles": ["verifier"]});
    let operator = h.operator().await;
    operator.call("UserAdmin/CreateUser", create).await.expect("a service");
    h.stranger().await.bearing(&operator.api_token("billing", &["tokens.introspect"]).await)
}

/// Signs in for other audiences.
async fn token_for(h: &Harness, login: &str, audiences: &[&str]) -> Value {
    let request = json!({"login": login, "password": PASSWORD, "audiences": audiences});
    let answer = h.stranger().await.call("Auth/SignIn", request).await.expect("a sign-in");
    answer["progress"]["tokens"].clone()
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

#[tokio::test]
async fn a_good_access_token_is_told_with_what_it_allows_now() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    let ann = h.person("ann", &["helpdesk", "auditor"]).await;
    let known = introspect(&verifier, &ann.tokens.access_token, "").await;
    assert!(known.active);
    let user = h.operator().await.user("ann").await;
    assert_eq!((known.user_id.as_str(), known.username.as_str()), (user.id.as_str(), "ann"));
    assert_eq!(known.roles, ["auditor", "helpdesk"]);
    assert_eq!(known.scopes, ann.tokens.scopes);
    assert_eq!((known.audiences, known.app.as_str()), (vec!["latchkey".to_owned()], "latchkey"));
    assert_eq!((known.session_id, known.api_token_id), (ann.tokens.session_id, String::new()));
    assert_eq!(known.auth_methods, ["pwd"]);
    let at = |time: Option<prost_types::Timestamp>| time.expect("a time").seconds;
    assert_eq!(at(known.expire_time) - at(known.issue_time), 300);
    assert_eq!(at(known.expire_time), at(ann.tokens.access_expire_time));
    assert_eq!(at(known.auth_time), at(known.issue_time));
}

#[tokio::test]
async fn what_a_token_allows_follows_the_roles_of_its_user() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let operator = h.operator().await;
    let more = json!({"user": {"username": "ann"}, "addRoles": ["auditor"], "username": "anna"});
    operator.call("UserAdmin/UpdateUser", more).await.expect("a promotion");
    let known = introspect(&verifier, &ann.tokens.access_token, "").await;
    assert_eq!((known.username.as_str(), known.roles), ("anna", vec!["auditor".to_owned(), "helpdesk".to_owned()]));
    assert_eq!(known.scopes, ann.tokens.scopes, "a token does not grow");

    let fewer = json!({"user": {"username": "anna"}, "removeRoles": ["helpdesk"]});
    operator.call("UserAdmin/UpdateUser", fewer).await.expect("a demotion");
    assert!(is_unknown(&verifier, &ann.tokens.access_token).await, "losing a role ends sessions");
}

#[tokio::test]
async fn a_good_api_token_is_told_too() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    let operator = h.operator().await;
    h.create("ann", &["helpdesk", "auditor"], PASSWORD).await;
    let secret = operator.api_token("ann", &["users.lock", "audit.read"]).await;
    let demote = json!({"user": {"username": "ann"}, "removeRoles": ["auditor"]});
    operator.call("UserAdmin/UpdateUser", demote).await.expect("fewer roles");
    for audience in ["", "https://billing.example"] {
        let known = introspect(&verifier, &secret, audience).await;
        assert!(known.active);
        assert_eq!((known.username.as_str(), known.scopes), ("ann", vec!["users.lock".to_owned()]));
        assert_eq!(known.api_token_id, secret.split('_').nth(1).unwrap_or_default());
        assert_eq!((known.session_id.as_str(), known.app.as_str()), ("", ""));
        assert_eq!((known.audiences.len(), known.auth_time), (0, None));
    }
}

#[tokio::test]
async fn an_access_token_is_good_for_its_audiences_only() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    h.create("ann", &["admin"], PASSWORD).await;
    let tokens = token_for(&h, "ann", &["https://billing.example", "https://mail.example"]).await;
    let token = text(&tokens, "accessToken");
    for (audience, active) in [
        ("", true),
        ("https://billing.example", true),
        ("https://mail.example", true),
        ("https://mail.example/", false),
        ("latchkey", false),
    ] {
        let known = introspect(&verifier, token, audience).await;
        assert_eq!(known.active, active, "{audience}");
        assert!(known.scopes.is_empty(), "no latchkey scope for another audience");
    }
    let own = h.signed_in("ann", PASSWORD).await.tokens.access_token;
    assert!(introspect(&verifier, &own, "latchkey").await.active);
    assert!(!introspect(&verifier, &own, "https://billing.example").await.active);
    let refusal = h.stranger().await.bearing(token).auth().who_am_i(v1::WhoAmIRequest {}).await;
    refused(refusal, Code::Unauthenticated, "TOKEN_INVALID");
}

#[tokio::test]
async fn latchkey_stands_alone_as_an_audience() {
    let h = Harness::start().await;
    h.create("ann", &["admin"], PASSWORD).await;
    let request = json!({"login": "ann", "password": PASSWORD, "audiences": ["latchkey", "https://billing.example"]});
    let refusal =
        refused(h.stranger().await.call("Auth/SignIn", request).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations().len(), 1, "{refusal:?}");
}

#[tokio::test]
async fn a_token_that_is_over_is_told_nothing_about() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    let operator = h.operator().await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let program = operator.api_token("ann", &["users.read"]).await;
    let access = &ann.tokens.access_token;

    operator.lock("ann").await.expect("a lock");
    assert!(is_unknown(&verifier, access).await && is_unknown(&verifier, &program).await, "locked");
    operator.unlock("ann").await.expect("an unlock");
    assert!(is_unknown(&verifier, access).await, "a lock ended the session");
    assert!(introspect(&verifier, &program, "").await.active, "and suspended the API token");

    let again = h.signed_in("ann", PASSWORD).await;
    again.client.auth().revoke_session(v1::RevokeSessionRequest::default()).await.expect("a sign-out");
    assert!(is_unknown(&verifier, &again.tokens.access_token).await, "signed out");

    let again = h.signed_in("ann", PASSWORD).await;
    assert!(introspect(&verifier, &again.tokens.access_token, "").await.active);
    h.clock.advance(Duration::from_secs(301));
    assert!(is_unknown(&verifier, &again.tokens.access_token).await, "expired");

    let id = program.split('_').nth(1).expect("an id").to_owned();
    let request = v1::RevokeApiTokenRequest { api_token_id: id, ..Default::default() };
    operator.user_admin().revoke_api_token(request).await.expect("its end");
    assert!(is_unknown(&verifier, &program).await, "revoked");

    let last = h.signed_in("ann", PASSWORD).await;
    let request =
        v1::DeleteUserRequest { user: Some(named("ann")), etag: operator.user("ann").await.etag, ..Default::default() };
    operator.user_admin().delete_user(request).await.expect("a deletion");
    assert!(is_unknown(&verifier, &last.tokens.access_token).await, "deleted");
    for other in [ann.tokens.refresh_token.as_str(), "garbage", "lka_", "a.b.c", "eyJ.."] {
        assert!(is_unknown(&verifier, other).await, "{other}");
    }
}

/// Checks a token as a service with only the JWK Set would. Returns its claims.
fn verify_offline(jwks: &Value, token: &str) -> Option<Value> {
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).ok();
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    let key = jwks["keys"].as_array()?.iter().find(|key| key["kid"] == header["kid"])?;
    assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA")));
    let public = UnparsedPublicKey::new(&ED25519, decode(key["x"].as_str()?)?);
    public.verify(signed.as_bytes(), &decode(signature)?).ok()?;
    serde_json::from_slice(&decode(claims)?).ok()
}

#[tokio::test]
async fn a_token_is_verified_offline_with_the_keys_over_http() {
    let h = Harness::start().await;
    let ann = h.person("ann", &["viewer"]).await;
    let HttpAnswer { status, head, body } = h.http("/.well-known/jwks.json").await;
    assert!(status == 200 && head.contains("content-type: application/jwk-set+json"), "{head}");
    assert!(head.contains("cache-control: max-age=300") && head.contains("etag: \""), "{head}");
    let jwks: Value = serde_json::from_str(&body).expect("JSON");
    assert!(!body.contains("\"d\""), "a private key");

    let claims = verify_offline(&jwks, &ann.tokens.access_token).expect("a good signature");
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["username"]),
        (&json!("latchkey"), &json!(["latchkey"]), &json!("ann"))
    );
    assert_eq!((&claims["client_id"], &claims["amr"]), (&json!("latchkey"), &json!(["pwd"])));
    assert_eq!((&claims["roles"], &claims["sid"]), (&json!(["viewer"]), &json!(ann.tokens.session_id)));
    assert_eq!(claims["scope"], json!(ann.tokens.scopes.join(" ")));
    assert_eq!(claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(exp, iat)| exp - iat), Some(300));
    assert_eq!(claims.as_object().map(serde_json::Map::len), Some(14), "{claims}");

    let tampered = ann.tokens.access_token.replacen('.', ".A", 1);
    assert_eq!(verify_offline(&jwks, &tampered), None);
}

#[tokio::test]
async fn the_keys_over_grpc_are_the_same() {
    let h = Harness::start().await;
    let stranger = h.stranger().await;
    let keys = stranger.auth().get_signing_keys(v1::GetSigningKeysRequest::default()).await.expect("keys").into_inner();
    assert_eq!(keys.jwks_json, h.http("/.well-known/jwks.json").await.body);
    assert_eq!((keys.issuer.as_str(), keys.max_age.map(|age| age.seconds)), ("latchkey", Some(300)));
    let jwks: Value = serde_json::from_str(&keys.jwks_json).expect("JSON");
    for (key, jwk) in keys.keys.iter().zip(jwks["keys"].as_array().expect("a list")) {
        assert_eq!((key.key_id.as_str(), key.algorithm.as_str()), (text(jwk, "kid"), "EdDSA"));
        // RFC 8410: an Ed25519 SubjectPublicKeyInfo is a prefix of 12 bytes and the 32 bytes of the key.
        assert_eq!(key.public_key_der.len(), 44);
        assert_eq!(BASE64URL_NOPAD.encode(&key.public_key_der[12..]), text(jwk, "x"));
    }
    assert!(!keys.keys.is_empty());

    let known = v1::GetSigningKeysRequest { etag: keys.etag.clone() };
    let unchanged = stranger.auth().get_signing_keys(known).await.expect("an answer").into_inner();
    assert_eq!((unchanged.keys.len(), unchanged.jwks_json.as_str(), unchanged.etag), (0, "", keys.etag));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_of_a_token_ends_before_the_lock_has_returned() {
    let h = Harness::start().await;
    let (operator, verifier) = (h.operator().await, verifier(&h).await);
    for number in 0..20 {
        let person = h.user(&format!("u{number}")).await;
        let token = person.tokens.access_token.as_str();
        let (is_locked, was_active) = (AtomicBool::new(false), tokio::sync::Notify::new());
        let ask = async {
            loop {
                let began_locked = is_locked.load(Ordering::SeqCst);
                let is_active = introspect(&verifier, token, "").await.active;
                assert!(!(began_locked && is_active), "round {number}: active after the lock had returned");
                if began_locked {
                    return;
                }
                if is_active {
                    was_active.notify_one();
                }
            }
        };
        let lock = async {
            // From then on there is a cached entry.
            was_active.notified().await;
            operator.lock(&person.name).await.expect("a lock");
            is_locked.store(true, Ordering::SeqCst);
        };
        tokio::join!(ask, lock);
        refused(person.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    }
}
