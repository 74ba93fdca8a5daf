//! Deadlines of the client and the server, and what continues after them.

use latchkey::proto::v1;
use prost::Message as _;
use tonic::{Code, Status};

use crate::harness::actors::named;
use crate::harness::wire::{Answer, Wire, framed};
use crate::harness::{Harness, PASSWORD, Refusal, at_once, eventually, refused};

const LOCK: &str = "latchkey.v1.UserAdmin/LockUser";
const SIGN_IN: &str = "latchkey.v1.Auth/SignIn";
const WATCH: &str = "grpc.health.v1.Health/Watch";

fn lock_bob() -> Vec<u8> {
    framed(&v1::LockUserRequest { user: Some(named("bob")), ..Default::default() })
}

fn told(answer: Result<Answer, h2::Error>) -> Status {
    let answer = answer.expect("an answer, not a reset");
    assert_eq!(answer.http, 200);
    answer.status.expect("a status")
}

#[tokio::test]
async fn a_short_timeout_is_never_told_as_cancelled() {
    let h = Harness::start().await;
    let root = h.admin().await;
    h.create("bob", &[], PASSWORD).await;
    let bearer = format!("Bearer {}", root.tokens.access_token);
    let wires = at_once((0..4).map(|_| async { Wire::connect(&h.address()).await })).await;
    let held = h.hold_database().await;
    let answers = at_once((0..120).map(|number: usize| {
        let (wire, bearer) = (&wires[number % 4], &bearer);
        async move {
            let timeout = match number {
                // A call that certainly reaches the database.
                0 => "1S".to_owned(),
                _ if number.is_multiple_of(2) => format!("{}m", 1 + number % 50),
                _ => format!("{}u", 900 + number * 97),
            };
            let headers = [("authorization", bearer.as_str()), ("grpc-timeout", &timeout)];
            wire.call(LOCK, &headers, lock_bob()).await
        }
    }))
    .await;
    for answer in answers {
        let refusal = refused(Err::<(), _>(told(answer)), Code::DeadlineExceeded, "DEADLINE_PASSED");
        assert!(refusal.details.request_info().is_some_and(|info| info.request_id.len() == 32), "{refusal:?}");
        assert!(refusal.message.contains("may have been made anyway"), "{}", refusal.message);
    }
    held.release().await;
    // No client waits for these any more, but they complete.
    eventually("bob is locked", || async {
        let user = h.operator().await.user("bob").await;
        user.lock.is_some().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_database_that_stands_still_ends_no_call_in_an_internal_error() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let operator = h.operator().await;
    let held = h.hold_database().await;
    let refusal = Refusal::of(&operator.lock("bob").await.expect_err("a database that stands still"));
    let expected = ["DEADLINE_PASSED", "STORAGE_UNAVAILABLE"];
    assert!(expected.contains(&refusal.reason.as_str()), "{refusal:?}");
    held.release().await;
    eventually("it works again", || async { operator.unlock("bob").await.ok() }).await;
}

#[tokio::test]
async fn a_watch_ends_in_order_at_the_deadline_of_its_client() {
    let h = Harness::start().await;
    let wire = Wire::connect(&h.address()).await;
    let everything = framed(&tonic_health::pb::HealthCheckRequest::default());
    let answer = wire.call(WATCH, &[("grpc-timeout", "300m")], everything).await.expect("an answer");
    let first = tonic_health::pb::HealthCheckResponse::decode(&answer.body[5..]).expect("a status of health");
    assert_eq!(first.status(), tonic_health::ServingStatus::Serving.into(), "it was answered before");
    let status = answer.status.expect("a status");
    refused(Err::<(), _>(status), Code::DeadlineExceeded, "DEADLINE_PASSED");
}

#[tokio::test]
async fn a_call_without_a_body_ends_at_the_deadline() {
    let h = Harness::start().await;
    let wire = Wire::connect(&h.address()).await;
    let answer = wire.open(SIGN_IN, &[("grpc-timeout", "100m")]).await.answer().await;
    refused(Err::<(), _>(told(answer)), Code::DeadlineExceeded, "DEADLINE_PASSED");
    if std::env::var("TEST_FULL").is_ok_and(|value| value == "1") {
        // Ten seconds: the server's limit, if the client sets none or a later one.
        for headers in [&[][..], &[("grpc-timeout", "1H")]] {
            let answer = wire.open(SIGN_IN, headers).await.answer().await;
            refused(Err::<(), _>(told(answer)), Code::DeadlineExceeded, "DEADLINE_PASSED");
        }
    }
}
