//! Lists that take too long: they are stopped, and no other call waits for them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use latchkey::proto::v1::{self, UserFilter, UserOrder};
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::actors::named;
use crate::harness::refusal::reason_of;
use crate::harness::transcript::Shell;
use crate::harness::wire::{Wire, framed};
use crate::harness::{Client, Harness, PASSWORD, Refusal, at_once, eventually, refused};

/// Calls of the viewer at a time.
const SEARCHES: usize = 8;
/// Sign-ins, locks and health checks while they search.
const OTHERS: usize = 20;

/// Replaces a table by a view of it that never ends.
async fn make_endless(h: &Harness, table: &str) {
    h.sql(&format!(r#"ALTER TABLE "{table}" RENAME TO "{table}_stored""#)).await;
    let rows = if h.is_postgres() {
        format!(r#"SELECT * FROM "{table}_stored" WHERE pg_sleep(3600)::text = 'woken'"#)
    } else {
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
        format!(r#"{numbers} SELECT s.* FROM "{table}_stored" s, n WHERE n.i < 0"#)
    };
    h.sql(&format!(r#"CREATE VIEW "{table}" AS {rows}"#)).await;
}

/// A search in an order of its own, with a total. `v` matches the viewer and others.
fn search() -> v1::ListUsersRequest {
    v1::ListUsersRequest {
        filter: Some(UserFilter { text: "v".to_owned(), ..Default::default() }),
        order: UserOrder::CreateTimeDesc.into(),
        include_total: true,
        ..Default::default()
    }
}

/// Everybody, without a search.
fn everybody() -> v1::ListUsersRequest {
    v1::ListUsersRequest::default()
}

/// Searches again and again, and counts the answers by reason.
async fn search_until(stop: &AtomicBool, viewer: &Client, answers: &Mutex<BTreeMap<String, usize>>) {
    while !stop.load(Ordering::Relaxed) {
        let answer = viewer.list(search()).await.map_or_else(|status| reason_of(&status), |_| "found".to_owned());
        *answers.lock().expect("a lock").entry(answer).or_default() += 1;
    }
}

/// Searches again and again, each time with a deadline of a millisecond.
async fn give_up_until(stop: &AtomicBool, wire: &Wire, access_token: &str) {
    let bearer = format!("Bearer {access_token}");
    let headers = [("authorization", bearer.as_str()), ("grpc-timeout", "1m")];
    while !stop.load(Ordering::Relaxed) {
        let answer = wire.call("latchkey.v1.UserAdmin/ListUsers", &headers, framed(&search())).await;
        let status = answer.expect("an answer").status.expect("a status");
        assert_ne!(status.code(), Code::Ok, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_ins_locks_and_health_answer_each_time_while_a_viewer_searches_without_end() {
    let h = Harness::start().await;
    let viewer = h.person("viewer", &["viewer"]).await;
    let other = h.replica().await;
    let elsewhere = other.as_ref().unwrap_or(&h).stranger().await.bearing(&viewer.tokens.access_token);
    let viewers = [viewer.client.clone(), elsewhere];
    let helpdesk = h.person("helpdesk", &["helpdesk"]).await.client;
    for name in ["ada", "victim"] {
        h.create(name, &[], PASSWORD).await;
    }
    make_endless(&h, "user_term").await;
    let (stop, answers) = (AtomicBool::new(false), Mutex::default());
    // Two more hang up after a millisecond, each time.
    let mut wires = Vec::new();
    for from in ["127.0.0.8", "127.0.0.9"] {
        wires.push(Wire::connect_from(from, &h.address()).await);
    }
    let attack = futures_util::future::join(
        at_once((0..SEARCHES).map(|number| search_until(&stop, &viewers[number % 2], &answers))),
        at_once(wires.iter().map(|wire| give_up_until(&stop, wire, &viewer.tokens.access_token))),
    );
    let others = async {
        // Of the searches that wait for a turn of the viewer, those that were given up get it too, and have no answer.
        let was_stopped = || async { answers.lock().expect("a lock").contains_key("QUERY_TOO_BROAD").then_some(()) };
        eventually("a search was stopped", was_stopped).await;
        let stranger = h.stranger().await;
        for _ in 0..OTHERS {
            stranger.tokens("ada", PASSWORD).await.expect("a sign-in");
            helpdesk.lock("victim").await.expect("a lock");
            helpdesk.unlock("victim").await.expect("an unlock");
            let health = HealthClient::new(h.stranger().await.channel()).check(HealthCheckRequest::default()).await;
            assert_eq!(health.expect("an answer").into_inner().status(), ServingStatus::Serving);
            helpdesk.list(everybody()).await.expect("a list");
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(attack, others);
    let answers = answers.into_inner().expect("a lock");
    assert!(answers.get("QUERY_TOO_BROAD").is_some_and(|stopped| *stopped > 0), "{answers:?}");
    assert!(answers.keys().all(|reason| ["QUERY_TOO_BROAD", "OVERLOADED"].contains(&reason.as_str())), "{answers:?}");
    // The searches that were given up end first: each waits for two seconds at most.
    let list = async || viewer.client.list(everybody()).await.ok();
    let list = eventually("a list on a connection that was interrupted", list).await;
    assert_eq!(list.users.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_reads_one_list_at_a_time_even_after_hanging_up_and_others_read_meanwhile() {
    let h = Harness::with(|config| config.lists.time_limit = Duration::from_secs(20)).await;
    let viewer = h.person("viewer", &["viewer"]).await.client;
    let helpdesk = h.person("helpdesk", &["helpdesk"]).await.client;
    make_endless(&h, "user_term").await;
    let mut searches: FuturesUnordered<_> = (0..3).map(|_| viewer.list(search())).collect();
    for _ in 0..2 {
        let status = searches.next().await.expect("an answer").expect_err("a refusal");
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.reason.as_str(), refusal.metadata("lane")), ("OVERLOADED", "lists"));
        assert!(refusal.retry_after().is_some());
        helpdesk.list(everybody()).await.expect("a list of another caller");
    }
    // The third still runs. Nothing but the server knows of it after this.
    drop(searches);
    refused(viewer.list(everybody()).await, Code::ResourceExhausted, "OVERLOADED");
    helpdesk.list(everybody()).await.expect("a list of another caller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_list_is_stopped_at_the_time_limit_and_says_what_to_narrow() {
    let h = Harness::with(|config| config.lists.time_limit = Duration::from_millis(50)).await;
    let operator = h.operator().await;
    let vera = h.person("vera", &["viewer"]).await;
    operator.api_token("vera", &["users.read"]).await;
    for table in ["user_term", "audit_event", "session", "api_token"] {
        make_endless(&h, table).await;
    }
    let narrow = |answer: Result<(), tonic::Status>| {
        let refusal = refused(answer, Code::ResourceExhausted, "QUERY_TOO_BROAD");
        assert_eq!(refusal.retry_after(), None, "a retry rarely helps");
        refusal.metadata("fields").to_owned()
    };
    let users = operator.list(search()).await.map(drop);
    assert_eq!(narrow(users), "include_total order filter.text");
    let events = operator.audit().list_events(v1::ListEventsRequest::default()).await.map(drop);
    assert_eq!(narrow(events), "filter.time filter.targets");
    let filter = v1::EventFilter { targets: vec![vera.name.clone()], ..Default::default() };
    let request = v1::ListEventsRequest { filter: Some(filter), ..Default::default() };
    assert_eq!(narrow(operator.audit().list_events(request).await.map(drop)), "filter.time");
    let of_vera = v1::ListUserSessionsRequest { user: Some(named("vera")), include_ended: true, ..Default::default() };
    let sessions = operator.user_admin().list_user_sessions(of_vera).await.map(drop);
    assert_eq!(narrow(sessions), "include_ended page_size");
    let tokens = operator.user_admin().list_api_tokens(v1::ListApiTokensRequest::default()).await.map(drop);
    assert_eq!(narrow(tokens), "page_size");

    let mut shell = Shell::default();
    shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
    let list = shell.latchkey(&["--local", "users", "list", "v", "--order", "created", "--count"]);
    assert!(
        list.stderr.contains("leave out --count, or leave out --order, or give more letters of PREFIX"),
        "{list:?}"
    );
}

/// Adds users with a search term by SQL: `made…`, without a password.
async fn fill(h: &Harness, users: u32) {
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {users})");
    let id = "'00000000000000' || CAST(100000000000 + i AS TEXT)";
    let columns = "id, kind, username, labels, roles, password_kind, change_demanded, version, created_at, updated_at";
    h.sql(&format!(
        r#"{numbers} INSERT INTO "user" ({columns})
            SELECT {id}, 1, 'made' || CAST(i AS TEXT), '{{}}', '', 1, FALSE, 1, i, i FROM n"#
    ))
    .await;
    let terms = "INSERT INTO user_term (term, user_id, shared)";
    h.sql(&format!("{numbers} {terms} SELECT 'made' || CAST(i AS TEXT), {id}, 0 FROM n")).await;
}

async fn total(client: &Client, filter: UserFilter, order: UserOrder) -> (Option<i32>, bool) {
    let request = v1::ListUsersRequest {
        filter: Some(filter),
        order: order.into(),
        include_total: true,
        page_size: 1,
        ..Default::default()
    };
    let answer = client.list(request).await.expect("a list");
    (answer.total_size, answer.total_is_at_least)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_total_stops_at_ten_thousand_and_says_that_there_are_more() {
    let h = Harness::with(|config| config.lists.time_limit = Duration::from_mins(1)).await;
    let operator = h.operator().await;
    h.create("ada", &[], PASSWORD).await;
    fill(&h, 10_001).await;
    let text = |text: &str| UserFilter { text: text.to_owned(), ..Default::default() };
    let attention = UserFilter { needs_attention: true, ..Default::default() };
    let pending = UserFilter { states: vec![v1::UserState::Pending.into()], ..text("made") };
    let (natural, newest) = (UserOrder::Unspecified, UserOrder::CreateTimeDesc);
    for filter in [UserFilter::default(), text("made"), attention, pending] {
        for order in [natural, newest] {
            let counted = total(&operator, filter.clone(), order).await;
            assert_eq!(counted, (Some(10_000), true), "{filter:?} {order:?}");
        }
    }
    assert_eq!(total(&operator, text("made1000"), newest).await, (Some(3), false), "made1000, made10000, made10001");
    assert_eq!(total(&operator, text("ada"), natural).await, (Some(1), false));
    h.sql("DELETE FROM \"user\" WHERE username = 'made1'").await;
    assert_eq!(total(&operator, text("made"), natural).await, (Some(10_000), false));
    h.sql("DELETE FROM \"user\" WHERE username = 'made2'").await;
    assert_eq!(total(&operator, text("made"), newest).await, (Some(9_999), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_more_than_10_000() {
    let h = Harness::with(|config| config.lists.time_limit = Duration::from_mins(1)).await;
    fill(&h, 10_001).await;
    let mut shell = Shell::default();
    shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
    let list = shell.latchkey(&["--local", "users", "list", "made", "--count"]).good();
    assert!(list.contains("50 of more than 10 000 users; the others with --all"), "{list}");
    let list = shell.latchkey(&["--local", "users", "list", "--attention"]).good();
    assert!(list.contains("more than 10 000 users need attention; more than 10 000 cannot sign in"), "{list}");
    let status = shell.latchkey(&["--local", "status"]).good();
    assert!(status.contains("more than 10 000 of all kinds, more than 10 000 cannot sign in"), "{status}");
    let status = shell.latchkey(&["--local", "status", "--output", "json"]).json();
    assert_eq!(
        status["attention"],
        serde_json::json!({
            "all": 10_000, "cannotSignIn": 10_000, "locked": 0, "mustChange": 0, "throttled": 0,
            "atLeast": ["all", "cannotSignIn"]
        })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broad_text_in_an_order_of_its_own_lists_the_same_users_as_a_narrow_one() {
    let h = Harness::with(|config| config.lists.time_limit = Duration::from_mins(1)).await;
    let operator = h.operator().await;
    h.create("ada", &[], PASSWORD).await;
    fill(&h, 10_001).await;
    for (order, expected) in [
        (UserOrder::CreateTimeDesc, ["made10001", "made10000", "made9999"]),
        (UserOrder::Username, ["made1", "made10", "made100"]),
    ] {
        let mut found = Vec::new();
        let mut request = v1::ListUsersRequest {
            filter: Some(UserFilter { text: "made".to_owned(), ..Default::default() }),
            order: order.into(),
            page_size: 2,
            ..Default::default()
        };
        while found.len() < 3 {
            let page = operator.list(request.clone()).await.expect("a page");
            assert!(!page.users.is_empty());
            found.extend(page.users.into_iter().map(|user| user.username));
            request.page_token = page.next_page_token;
        }
        assert_eq!(found[..3], expected);
    }
}
