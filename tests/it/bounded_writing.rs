//! What callers can make the server write, by doing the same thing over and over.

use std::time::Duration;

use latchkey::clock::Clock as _;
use latchkey::proto::v1::{Event, EventType, ListUsersRequest, RefreshTokensRequest};
use serde_json::json;
use tonic::Code;

use crate::harness::wire::{Wire, framed};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, eventually, refused};

const MINUTE: Duration = Duration::from_mins(1);
const FIVE_MINUTES: Duration = Duration::from_mins(5);

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

/// Sources are limited as by default.
async fn limited() -> Harness {
    let h = Harness::with(|config| {
        config.throttle.source_failures = 30;
        config.throttle.source_accounts = 20;
    })
    .await;
    h.create("bob", &[], PASSWORD).await;
    h
}

/// An application that states the address of the person it calls for.
async fn portal(h: &Harness) -> Client {
    let operator = h.operator().await;
    let create = json!({"username": "portal", "kind": "USER_KIND_SERVICE", "roles": ["app"]});
    operator.call("UserAdmin/CreateUser", create).await.expect("an application");
    let token = operator.api_token("portal", &["auth.proxy"]).await;
    h.stranger().await.with("latchkey-app", &token)
}

/// Sends a garbage refresh token from each of these addresses, and returns how many were answered as such.
async fn garbage(portal: &Client, addresses: impl IntoIterator<Item = String>) -> usize {
    let mut answered = 0;
    let addresses: Vec<String> = addresses.into_iter().collect();
    for some in addresses.chunks(20) {
        let clients = some.iter().map(|address| portal.with("latchkey-client-address", address));
        let clients: Vec<Client> = clients.collect();
        for answer in at_once(clients.iter().map(|client| client.refresh("garbage"))).await {
            let status = answer.expect_err("a refusal");
            answered += usize::from(status.code() == Code::Unauthenticated);
        }
    }
    answered
}

async fn rows(h: &Harness, table: &str) -> u64 {
    let rows = h.query(&format!("SELECT COUNT(*) FROM {table}")).await;
    rows[0].parse().expect("a number")
}

#[tokio::test]
async fn a_burst_from_one_address_is_recorded_up_to_the_limit_of_its_source() {
    let h = limited().await;
    let stranger = h.stranger().await;
    let burst = async || at_once((0..60).map(|_| stranger.refresh("garbage"))).await;
    let mut told = Vec::new();
    for answers in [burst().await, burst().await] {
        told.push(
            answers
                .iter()
                .filter(|answer| answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated))
                .count(),
        );
        assert!(answers.iter().all(Result::is_err));
    }
    assert_eq!(told, [30, 0], "what ends after the block learns nothing");
    let recorded = events(&h, EventType::SignInFailed).await;
    assert!((30..=31).contains(&recorded.len()), "30, and the first that is only counted: {}", recorded.len());
    assert_eq!(rows(&h, "source_failure").await, 30, "none after the one that blocked the source");
    assert_eq!(rows(&h, "source_block").await, 1);
    refused(stranger.refresh("garbage").await, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn strangers_who_give_up_their_calls_write_no_more_than_others() {
    let h = limited().await;
    let mut wires = Vec::new();
    for _ in 0..4 {
        wires.push(Wire::connect_from("127.0.0.9", &h.address()).await);
    }
    let body = framed(&RefreshTokensRequest { refresh_token: "garbage".to_owned(), ..Default::default() });
    let call = async |number: usize| {
        let headers = [("grpc-timeout", if number.is_multiple_of(2) { "1m" } else { "9m" })];
        wires[number % wires.len()].call("latchkey.v1.Auth/RefreshTokens", &headers, body.clone()).await
    };
    let (answers, _) = h.serves_others_during(at_once((0..160).map(call))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status.is_some())), "{answers:?}");
    // What the server began goes on. This ends behind it.
    let stranger = h.stranger_at("127.0.0.9").await;
    at_once((0..40).map(|_| stranger.refresh("garbage"))).await;
    refused(stranger.refresh("garbage").await, Code::ResourceExhausted, "RATE_LIMITED");
    assert!((30..=31).contains(&events(&h, EventType::SignInFailed).await.len()));
    assert_eq!(rows(&h, "source_failure").await, 30);
}

#[tokio::test]
async fn two_replicas_record_a_burst_up_to_the_limit_of_its_source() {
    let h = limited().await;
    let Some(other) = h.replica().await else { return };
    let (here, there) = (h.stranger().await, other.stranger().await);
    let burst = (0..80).map(|number| if number % 2 == 0 { &here } else { &there }.refresh("garbage"));
    at_once(burst).await;
    assert!(events(&h, EventType::SignInFailed).await.len() <= 31);
    assert_eq!(rows(&h, "source_failure").await, 30);
    other.stop().await;
}

#[tokio::test]
async fn the_sources_of_a_network_share_its_budget() {
    let h = limited().await;
    let portal = portal(&h).await;
    // 130 sources in one /56.
    let sent = garbage(&portal, (0..130).map(|n| format!("2001:db8:1:1{n:02x}::1"))).await;
    assert_eq!(sent, 130, "no source is blocked because of others in its network");
    assert_eq!(events(&h, EventType::SignInFailed).await.len(), 120 + 1, "the first that exceeds it, and no more");
    // Another /56 of the same /48 has a budget of its own, until that of the /48 is spent.
    garbage(&portal, (0..16).flat_map(|n| (0..30).map(move |m| format!("2001:db8:1:{:x}::1", 0x2000 + 256 * n + m))))
        .await;
    let recorded = events(&h, EventType::SignInFailed).await.len();
    assert_eq!(recorded, 480 + 2, "those of the /48, and the first that exceeds each of two budgets");
    assert!(rows(&h, "row_budget").await <= 1 + 1 + 17 + 480 + 2, "a spent budget makes no more rows");
    assert_eq!(rows(&h, "event_count").await, 2);

    h.clock.advance(FIVE_MINUTES);
    garbage(&portal, ["2001:db8:1:1::1".to_owned()]).await;
    let all = closed(&h, EventType::SignInFailed, 130 + 480 + 1).await;
    assert_eq!(all.len(), 480 + 2 + 2 + 1, "a closing event for each count, and a new budget");
}

#[tokio::test]
async fn the_count_of_a_network_names_the_network_and_blames_no_address_in_it() {
    let h = limited().await;
    let portal = portal(&h).await;
    garbage(&portal, (0..120).map(|n| format!("10.1.2.{n}"))).await;
    let neighbour = portal.with("x-request-id", "of-a-neighbour");
    garbage(&neighbour, ["10.1.2.200".to_owned()]).await;
    garbage(&portal, (130..150).map(|n| format!("10.1.2.{n}"))).await;
    h.clock.advance(MINUTE);
    let all = closed(&h, EventType::SignInFailed, 120 + 1 + 20).await;
    let (closing, single): (Vec<_>, Vec<_>) = all.iter().partition(|event| event.details.contains_key("count"));
    let first = single.iter().find(|event| event.details.contains_key("network")).expect("the first beyond the budget");
    let [closing] = closing.as_slice() else { panic!("{closing:?}") };
    let address = |event: &Event| event.actor.as_ref().map(|actor| actor.client_address.clone()).unwrap_or_default();
    assert_eq!((calls_of(first), address(first).as_str()), (1, "10.1.2.200"));
    assert_eq!((calls_of(closing), address(closing).as_str()), (20, ""));
    assert_eq!(closing.details.get("network").map(String::as_str), Some("10.1.2.0/24"));
    assert_eq!((first.client_request_id.as_str(), closing.client_request_id.as_str()), ("of-a-neighbour", ""));
}

#[tokio::test]
async fn beyond_the_budget_of_a_network_or_of_all_failures_are_answered_and_no_longer_kept() {
    let h = limited().await;
    let portal = portal(&h).await;
    garbage(&portal, ["10.1.2.1".to_owned()]).await;
    assert_eq!(rows(&h, "source_failure").await, 1);
    for (name, most) in [("failures 10.1.0.0/16", 10_000), ("failures in all", 100_000)] {
        h.sql(&format!("UPDATE row_budget SET taken = {most} WHERE name = '{name}'")).await;
        assert_eq!(garbage(&portal, (0..5).map(|n| format!("10.1.3.{n}"))).await, 5);
        assert_eq!(rows(&h, "source_failure").await, 1, "{name}");
        h.sql(&format!("UPDATE row_budget SET taken = 1 WHERE name = '{name}'")).await;
    }
    garbage(&portal, ["10.1.3.9".to_owned()]).await;
    assert_eq!(rows(&h, "source_failure").await, 2);
}

#[tokio::test]
async fn ipv4_networks_share_budgets_too() {
    let h = limited().await;
    let portal = portal(&h).await;
    assert_eq!(garbage(&portal, (0..130).map(|n| format!("10.1.2.{n}"))).await, 130);
    assert_eq!(events(&h, EventType::SignInFailed).await.len(), 120 + 1);
    garbage(&portal, (0..5).map(|n| format!("10.1.3.{n}"))).await;
    assert_eq!(events(&h, EventType::SignInFailed).await.len(), 120 + 1 + 5);
}

#[tokio::test]
async fn beyond_the_budget_known_and_unknown_names_write_alike() {
    let h = limited().await;
    let portal = portal(&h).await;
    garbage(&portal, (0..120).map(|n| format!("10.1.2.{n}"))).await;
    let client = portal.with("latchkey-client-address", "10.1.2.200");
    let mut written = Vec::new();
    for login in ["warm-up", "bob", "nobody", "bob@example.org"] {
        let before = (rows(&h, "audit_event").await, rows(&h, "source_failure").await, rows(&h, "event_count").await);
        refused(client.sign_in(login, OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        let after = (rows(&h, "audit_event").await, rows(&h, "source_failure").await, rows(&h, "event_count").await);
        written.push((after.0 - before.0, after.1 - before.1, after.2 - before.2));
    }
    assert_eq!(written[1..], [(0, 1, 0); 3], "they count against the source, and are recorded as a number");
}

#[tokio::test]
async fn a_lock_is_recorded_whatever_budget_is_spent() {
    let h = Harness::with(|config| {
        config.throttle.source_failures = 30;
        config.throttle.source_accounts = 0;
        config.throttle.threshold = 2;
        config.throttle.lockout_threshold = 2;
    })
    .await;
    h.create("bob", &[], PASSWORD).await;
    let portal = portal(&h).await;
    let client = portal.with("latchkey-client-address", "10.1.2.200");
    // Only failures from a familiar place lock.
    client.tokens("bob", PASSWORD).await.expect("tokens");
    garbage(&portal, (0..121).map(|n| format!("10.1.2.{n}"))).await;
    for _ in 0..2 {
        refused(client.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let locked = events(&h, EventType::UserLocked).await;
    assert_eq!(locked.iter().map(|event| event.target_username.as_str()).collect::<Vec<_>>(), ["bob"]);
    assert_eq!(events(&h, EventType::ThrottleBegan).await, [], "what exceeds the budget is counted");
}

#[tokio::test]
async fn a_clock_that_is_set_back_gives_no_new_budget() {
    let h = limited().await;
    let portal = portal(&h).await;
    garbage(&portal, (0..130).map(|n| format!("10.1.2.{n}"))).await;
    h.clock.turn_back(Duration::from_mins(10));
    garbage(&portal, (0..130).map(|n| format!("10.1.2.{n}"))).await;
    let recorded = events(&h, EventType::SignInFailed).await;
    let alone = recorded.iter().filter(|event| calls_of(event) == 1 && !event.details.contains_key("count")).count();
    assert!(alone <= 122, "{alone}");
}

#[tokio::test]
async fn operators_act_while_strangers_flood() {
    let h = limited().await;
    let portal = portal(&h).await;
    let flood = garbage(&portal, (0..400).map(|n| format!("10.1.{}.{}", n / 200, n % 200)));
    let (_, rounds) = h.serves_others_during(flood).await;
    assert_eq!(events(&h, EventType::UserLocked).await.len() as u64, rounds);
}

/// Inserts failures of a source, a thousand in each statement.
async fn insert_failures(h: &Harness, number: i64, at: i64) {
    for start in (0..number).step_by(1_000) {
        let row = |n: i64| format!("('swept-{at}-{n}', '192.0.2.1', 'n:0', {at})");
        let rows: Vec<String> = (start..number.min(start + 1_000)).map(row).collect();
        h.sql(&format!("INSERT INTO source_failure (id, source, account, at) VALUES {}", rows.join(", "))).await;
    }
}

#[tokio::test]
async fn a_sweep_goes_on_until_no_old_row_is_left() {
    let h = limited().await;
    let now = h.clock.now().as_micros();
    insert_failures(&h, 3_500, now - 1_200_000_000).await;
    insert_failures(&h, 10, now).await;
    let h = h.restart().await;
    let found = async || (rows(&h, "source_failure").await == 10).then_some(());
    Box::pin(h.serves_others_during(eventually("the end of the sweep", found))).await;
}
