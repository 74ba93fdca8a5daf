//! Operations: metrics, probes, public keys, health, request ids, and graceful shutdown.

use std::time::Duration;

use latchkey::proto::v1;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::actors::named;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, Refusal, eventually, refused};

const SERVICES: [&str; 4] = ["", "latchkey.v1.Audit", "latchkey.v1.Auth", "latchkey.v1.UserAdmin"];

#[tokio::test]
async fn metrics_count_what_happened_and_name_nobody() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    for _ in 0..5 {
        refused(stranger.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    refused(stranger.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    operator.lock("bob").await.unwrap();
    operator.unlock("bob").await.unwrap();
    operator.reset("bob").await.unwrap();
    let answer = h.http("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    for line in [
        r#"latchkey_rpc_total{method="latchkey.v1.Auth/SignIn",code="UNAUTHENTICATED",reason="CREDENTIALS_REJECTED"} 5"#,
        r#"latchkey_rpc_total{method="latchkey.v1.UserAdmin/LockUser",code="OK",reason=""} 1"#,
        r#"latchkey_hashes_total{kind="verify"} 5"#,
        r#"latchkey_hashes_total{kind="set"} 2"#,
        r#"latchkey_sign_ins_total{outcome="rejected"} 5"#,
        "latchkey_throttled_total 1",
        r#"latchkey_user_locks_total{cause="OPERATOR"} 1"#,
        "latchkey_password_resets_total 1",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line}\n{}", answer.body);
    }
    for name in ["latchkey_rpc_duration_seconds_count", "latchkey_hashing_seconds_count", "latchkey_hash_queue_length"]
    {
        assert!(answer.body.contains(name), "{name}\n{}", answer.body);
    }
    assert!(!answer.body.contains("bob") && !answer.body.contains("127.0.0.1"));
}

#[tokio::test]
async fn unknown_methods_are_counted_under_one_name() {
    let h = Harness::start().await;
    let mut grpc = tonic::client::Grpc::new(h.stranger().await.channel());
    for path in ["/latchkey.v1.Auth/Guess1", "/a/b", "/latchkey.v1.Nothing/SignIn"] {
        grpc.ready().await.expect("a connection");
        let codec = tonic_prost::ProstCodec::<v1::WhoAmIRequest, v1::WhoAmIResponse>::default();
        let request = tonic::Request::new(v1::WhoAmIRequest {});
        let answer = grpc.unary(request, http::uri::PathAndQuery::from_static(path), codec).await;
        refused(answer, Code::Unimplemented, "METHOD_UNAVAILABLE");
    }
    let text = h.http("/metrics").await.body;
    let line = r#"latchkey_rpc_total{method="unknown",code="UNIMPLEMENTED",reason="METHOD_UNAVAILABLE"} 3"#;
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(!text.contains("Guess1"));
}

#[tokio::test]
async fn a_stream_is_counted_when_it_ends_with_the_status_that_ended_it() {
    let h = Harness::start().await;
    let mut health = HealthClient::new(h.stranger().await.channel());
    let count = async |ending: &str| {
        let text = h.http("/metrics").await.body;
        let counted = format!(r#"latchkey_rpc_total{{method="grpc.health.v1.Health/Watch",{ending}}} 1"#);
        text.lines().any(|line| line == counted).then_some(())
    };
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("grpc-timeout", tonic::metadata::MetadataValue::from_static("300m"));
    let mut watch = health.watch(request).await.expect("a watch").into_inner();
    watch.message().await.expect("a status of health");
    refused(watch.message().await, Code::DeadlineExceeded, "DEADLINE_PASSED");
    assert!(count(r#"code="DEADLINE_EXCEEDED",reason="DEADLINE_PASSED""#).await.is_some());

    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    watch.message().await.expect("a status of health");
    drop(watch);
    eventually("the watch is counted", || count(r#"code="CANCELLED",reason="""#)).await;
    assert!(count(r#"code="OK",reason="""#).await.is_none(), "each watch is counted once");
}

#[tokio::test]
async fn probes_answer_and_unknown_paths_do_not() {
    let h = Harness::start().await;
    for (path, status, body) in
        [("/livez", 200, "ok\n"), ("/readyz", 200, "ready\n"), ("/", 404, ""), ("/users", 404, "")]
    {
        let answer = h.http(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    }
}

#[tokio::test]
async fn the_public_keys_are_the_same_over_http_and_grpc() {
    let h = Harness::start().await;
    let answer = h.http("/.well-known/jwks.json").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/jwk-set+json"));
    assert!(answer.head.contains("cache-control: max-age=300"));
    let told = h.stranger().await.auth().get_signing_keys(v1::GetSigningKeysRequest::default()).await.unwrap();
    let told = told.into_inner();
    assert_eq!(answer.body, told.jwks_json);
    let set: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(set["keys"][0]["kid"], told.keys[0].key_id.as_str());
    let members: Vec<&str> = set["keys"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"], "and no private one");
    assert_eq!(told.max_age.map(|age| age.seconds), Some(300));
    let known = v1::GetSigningKeysRequest { etag: told.etag.clone() };
    let again = h.stranger().await.auth().get_signing_keys(known).await.unwrap().into_inner();
    assert!(again.keys.is_empty() && again.etag == told.etag);
}

#[tokio::test]
async fn the_servers_request_id_comes_back_whatever_the_answer_and_whatever_the_client_sends() {
    let h = Harness::start().await;
    let operator = h.operator().await.with("x-request-id", "mine-1");
    h.create("bob", &[], PASSWORD).await;
    let request = |name: &str| v1::GetUserRequest { user: Some(named(name)) };
    let found = operator.user_admin().get_user(request("bob")).await.unwrap();
    let first = found.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert!(first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    let status = operator.user_admin().get_user(request("nobody")).await.unwrap_err();
    let second = status.metadata().get("x-request-id").unwrap().to_str().unwrap();
    assert_ne!(second, first, "each call has an id of its own");
    let refusal = Refusal::of(&status);
    assert_eq!(refusal.details.request_info().map(|info| info.request_id.as_str()), Some(second));
}

#[tokio::test]
async fn each_service_is_healthy_by_name() {
    let h = Harness::start().await;
    let mut health = HealthClient::new(h.stranger().await.channel());
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.expect("a status").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "latchkey.v1.Nothing".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_watch_of_an_unknown_service_says_so_and_stays_open() {
    let h = Harness::start().await;
    let mut health = HealthClient::new(h.stranger().await.channel());
    let request = HealthCheckRequest { service: "latchkey.v1.Nothing".to_owned() };
    let mut watch = health.watch(request).await.expect("a watch").into_inner();
    let first = watch.message().await.expect("a status").expect("a status");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    // It says nothing else until the server ends it.
    h.stop().await;
    refused(watch.message().await, Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn a_server_ends_in_order_while_somebody_watches_its_health() {
    let h = Harness::start().await;
    let socket = h.socket().to_owned();
    let channel = h.stranger().await.channel();
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request).await.expect("a watch").into_inner();
    let first = watch.message().await.expect("a status").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);

    // Far below the time after which calls are cut off.
    tokio::time::timeout(Duration::from_secs(20), h.stop()).await.expect("an end in order");
    let mut last = first.status();
    while let Ok(Some(told)) = watch.message().await {
        last = told.status();
    }
    assert_ne!(last, ServingStatus::Serving, "balancers were told");
    assert!(!socket.exists(), "the socket is gone");
    let mut auth = v1::auth_client::AuthClient::new(channel);
    assert!(auth.get_signing_keys(v1::GetSigningKeysRequest::default()).await.is_err());
}

#[tokio::test]
async fn a_sign_in_that_is_under_way_ends_before_the_server_does() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    let sign_ins = crate::harness::at_once((0..8).map(|_| stranger.sign_in("bob", PASSWORD)));
    let (answers, ()) = tokio::join!(sign_ins, async {
        // Let the calls reach the server.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        h.stop().await;
    });
    for answer in answers {
        if let Err(status) = answer {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
    }
}
