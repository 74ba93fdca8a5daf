//! What callers can make the server write, by doing the same thing over and over.

use std::time::Duration;

use latchkey::proto::v1::{Event, EventType, ListUsersRequest};
use tonic::Code;

use crate::harness::{Client, Harness, at_once, eventually, refused};

const MINUTE: Duration = Duration::from_mins(1);

async fn denied(client: &Client, calls: usize) {
    let list = || client.list(ListUsersRequest::default());
    for answer in at_once((0..calls).map(|_| list())).await {
        refused(answer, Code::PermissionDenied, "SCOPE_MISSING");
    }
}

async fn events(h: &Harness, kind: EventType) -> Vec<Event> {
    let events = h.operator().await.events().await;
    events.into_iter().filter(|event| event.r#type() == kind).collect()
}

/// How many calls each event stands for: 1, or the count of an event that closes a minute.
fn calls_of(event: &Event) -> u64 {
    event.details.get("count").map_or(1, |count| count.parse().expect("a number"))
}

fn calls(events: &[Event]) -> Vec<u64> {
    events.iter().map(calls_of).collect()
}

/// Waits for the job that closes counts, until the events stand for this many calls.
async fn closed(h: &Harness, kind: EventType, expected: u64) -> Vec<Event> {
    let found = async || {
        let events = events(h, kind).await;
        (calls(&events).iter().sum::<u64>() == expected).then_some(events)
    };
    eventually("the closing event", found).await
}

#[tokio::test]
async fn a_caller_who_is_denied_over_and_over_makes_two_events_a_minute() {
    let h = Harness::start().await;
    let bob = h.user("bob").await.client;
    denied(&bob, 40).await;
    assert_eq!(calls(&events(&h, EventType::AccessDenied).await), [1], "the first is recorded at once");
    h.clock.advance(MINUTE);
    let events = closed(&h, EventType::AccessDenied, 40).await;
    let [first, closing] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(calls_of(closing), 39);
    assert!(closing.details.contains_key("lastTime"), "{closing:?}");
    let (by_first, by_closing) = (first.actor.as_ref().expect("an actor"), closing.actor.as_ref().expect("an actor"));
    assert_eq!(by_first.principal_id, by_closing.principal_id);
    assert_eq!((first.reason, &first.method), (closing.reason, &closing.method));
    assert_eq!(h.query("SELECT COUNT(*) FROM event_count").await, ["0"], "nothing is left of a minute that is over");
}

#[tokio::test]
async fn a_denial_after_a_minute_closes_the_minute_and_is_recorded_itself() {
    let h = Harness::start().await;
    let bob = h.user("bob").await.client;
    for _ in 0..3 {
        denied(&bob, 5).await;
        h.clock.advance(MINUTE);
    }
    let events = closed(&h, EventType::AccessDenied, 15).await;
    assert_eq!(calls(&events), [1, 4, 1, 4, 1, 4]);
}

#[tokio::test]
async fn denials_of_another_kind_or_of_another_caller_are_counted_apart() {
    let h = Harness::start().await;
    let (bob, eve) = (h.user("bob").await.client, h.user("eve").await.client);
    denied(&bob, 2).await;
    denied(&eve, 2).await;
    for _ in 0..2 {
        refused(bob.get("bob").await, Code::PermissionDenied, "SCOPE_MISSING");
    }
    let events = events(&h, EventType::AccessDenied).await;
    let of_whom = |event: &Event| (event.actor.clone().unwrap_or_default().name, event.method.clone());
    let (list, get) = ("latchkey.v1.UserAdmin/ListUsers".to_owned(), "latchkey.v1.UserAdmin/GetUser".to_owned());
    let expected = [("bob".to_owned(), list.clone()), ("eve".to_owned(), list), ("bob".to_owned(), get)];
    assert_eq!(events.iter().map(of_whom).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn two_replicas_count_denials_together() {
    let h = Harness::start().await;
    let Some(other) = h.replica().await else { return };
    let bob = h.user("bob").await;
    let elsewhere = other.stranger().await.bearing(&bob.tokens.access_token);
    futures_util::join!(denied(&bob.client, 20), denied(&elsewhere, 20));
    assert_eq!(calls(&events(&h, EventType::AccessDenied).await), [1]);
    h.clock.advance(MINUTE);
    let events = closed(&h, EventType::AccessDenied, 40).await;
    assert_eq!(calls(&events), [1, 39], "one replica closes the count");
    other.stop().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_loses_no_count() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    h.clock.advance(Duration::from_secs(200));
    denied(&bob.client, 3).await;
    h.clock.turn_back(Duration::from_secs(200));
    denied(&bob.client, 3).await;
    let events = closed(&h, EventType::AccessDenied, 6).await;
    let alone = calls(&events).iter().filter(|calls| **calls == 1).count();
    assert!((1..=2).contains(&alone) && events.len() <= 3, "{:?}", calls(&events));
}

#[tokio::test]
async fn calls_that_are_given_up_write_no_more_than_others() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let hurried = (0..60).map(|_| async {
        let mut request = tonic::Request::new(ListUsersRequest::default());
        request.set_timeout(Duration::from_millis(1));
        let _ = bob.client.user_admin().list_users(request).await;
    });
    at_once(hurried).await;
    // The connection may have been closed, because a client that cancels every call floods.
    denied(&h.stranger().await.bearing(&bob.tokens.access_token), 1).await;
    assert_eq!(calls(&events(&h, EventType::AccessDenied).await), [1]);
}
