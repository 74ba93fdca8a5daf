//! How long events are kept, by class.

use std::time::Duration;

use latchkey::proto::v1::{EventClass, EventHorizon, EventType, ListEventsRequest};
use tonic::Code;

use crate::harness::transcript::Shell;
use crate::harness::{Harness, OTHER_PASSWORD, eventually, refused};

const DAY: Duration = Duration::from_hours(24);

async fn horizons(h: &Harness) -> Vec<EventHorizon> {
    let request = ListEventsRequest { page_size: 1, ..Default::default() };
    h.operator().await.audit().list_events(request).await.expect("events").into_inner().horizons
}

async fn kinds(h: &Harness) -> Vec<EventType> {
    h.operator().await.events().await.iter().map(latchkey::proto::v1::Event::r#type).collect()
}

/// An event of each class, all of them older than this.
async fn with_events(age: Duration) -> Harness {
    let h = Harness::start().await;
    h.user("bob").await;
    let answer = h.stranger().await.sign_in("nobody", OTHER_PASSWORD).await;
    refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!(kinds(&h).await, ALL);
    h.sql(&format!("UPDATE audit_event SET at = at - {}", age.as_micros())).await;
    h.sql("DELETE FROM event_horizon").await;
    h
}

const ALL: [EventType; 3] = [EventType::UserCreated, EventType::SignInSucceeded, EventType::SignInFailed];

/// Restarts the server after a time, and waits until it has swept.
async fn later(h: Harness, by: Duration) -> Harness {
    h.clock.advance(by);
    // Budgets are swept after events.
    h.sql("INSERT INTO row_budget (name, began_at, taken) VALUES ('old', 0, 0)").await;
    let h = Box::pin(h.restart()).await;
    let swept = async || h.query("SELECT name FROM row_budget WHERE name = 'old'").await.is_empty().then_some(());
    eventually("a sweep", swept).await;
    h
}

fn classes(horizons: &[EventHorizon], of: impl Fn(&EventHorizon) -> bool) -> Vec<EventClass> {
    horizons.iter().filter(|horizon| of(horizon)).map(EventHorizon::class).collect()
}

#[tokio::test]
async fn the_first_deletion_on_a_database_from_before_is_announced_and_waits_a_week() {
    let h = later(with_events(500 * DAY).await, Duration::ZERO).await;
    let announced = horizons(&h).await;
    let all = [EventClass::Administration, EventClass::SignIn, EventClass::Stranger];
    assert_eq!(classes(&announced, |horizon| horizon.deletion_time.is_some()), all);
    assert_eq!(classes(&announced, |horizon| horizon.complete_since_time.is_some()), []);
    let h = later(h, 6 * DAY).await;
    assert_eq!(kinds(&h).await, ALL, "nothing is deleted yet");

    let h = later(h, DAY).await;
    assert_eq!(kinds(&h).await, []);
    let deleted = horizons(&h).await;
    assert_eq!(classes(&deleted, |horizon| horizon.complete_since_time.is_some()), all);
    assert_eq!(classes(&deleted, |horizon| horizon.deletion_time.is_some()), []);
}

#[tokio::test]
async fn what_strangers_caused_goes_after_a_month_and_what_operators_did_stays() {
    let h = later(with_events(31 * DAY).await, Duration::ZERO).await;
    let h = later(h, 7 * DAY).await;
    assert_eq!(kinds(&h).await, [EventType::UserCreated, EventType::SignInSucceeded]);
    assert_eq!(classes(&horizons(&h).await, |_| true), [EventClass::Stranger]);
    let stranger = h.stranger().await;
    refused(stranger.sign_in("nobody", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let h = later(h, DAY).await;
    assert_eq!(kinds(&h).await.len(), 3, "what is younger stays");
}

#[tokio::test]
async fn a_retention_of_zero_keeps_events_for_ever() {
    let mut h = with_events(5_000 * DAY).await;
    h.config.retention.operators = Duration::ZERO;
    h.config.retention.sign_ins = Duration::ZERO;
    let h = later(h, Duration::ZERO).await;
    let h = later(h, 7 * DAY).await;
    assert_eq!(kinds(&h).await, [EventType::UserCreated, EventType::SignInSucceeded]);
    assert_eq!(classes(&horizons(&h).await, |_| true), [EventClass::Stranger]);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_deletes_nothing() {
    let h = later(with_events(Duration::ZERO).await, Duration::ZERO).await;
    let h = later(h, 1_000 * DAY).await;
    let announced = horizons(&h).await;
    assert_eq!(announced.iter().filter(|horizon| horizon.deletion_time.is_some()).count(), 3);
    h.clock.turn_back(1_000 * DAY);
    let h = later(h, DAY).await;
    assert_eq!(horizons(&h).await, [], "nothing waits any more");
    // A key was rotated meanwhile.
    assert_eq!(kinds(&h).await[..3], ALL);
}

#[tokio::test]
async fn more_old_events_than_one_statement_deletes_go_too() {
    let h = later(with_events(Duration::ZERO).await, Duration::ZERO).await;
    let columns = "class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, \
                   client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, \
                   details, method, request_id, sequence, digest";
    let numbers = (0..2_500).map(|number| format!("({number})")).collect::<Vec<_>>().join(", ");
    // Old by a day: no more than what a server that was off for a day deletes.
    let age = (31 * DAY).as_micros();
    h.sql(&format!(
        "INSERT INTO audit_event (id, at, {columns}) SELECT 'old-' || n.number, at - {age}, {columns} FROM audit_event \
         CROSS JOIN (WITH n (number) AS (VALUES {numbers}) SELECT number FROM n) AS n WHERE kind = 'SIGN_IN_FAILED'"
    ))
    .await;
    let h = later(h, Duration::ZERO).await;
    assert_eq!(h.query("SELECT COUNT(*) FROM audit_event").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_what_will_be_deleted_and_what_was() {
    let h = later(with_events(31 * DAY).await, Duration::ZERO).await;
    let latchkey = |h: &Harness, args: &[&str]| {
        let mut shell = Shell::default();
        shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
        shell.latchkey(args).good()
    };
    let status = latchkey(&h, &["status", "--local"]);
    assert!(status.contains("old events (strangers) will be deleted from"), "{status}");
    let list = latchkey(&h, &["audit", "list", "--local"]);
    assert!(!list.contains("older events were deleted"), "{list}");

    let h = later(h, 7 * DAY).await;
    let list = latchkey(&h, &["audit", "list", "--local"]);
    assert!(list.contains("older events were deleted: strangers before "), "{list}");
    let part = latchkey(&h, &["audit", "list", "--local", "--limit", "1"]);
    assert!(!part.contains("older events were deleted"), "the list goes on: {part}");
    let status = latchkey(&h, &["status", "--local"]);
    assert!(!status.contains("will be deleted"), "{status}");
}
