//! What an hour of ill will costs in rows and bytes of the database, at the default limits. SECURITY.md has the figures. By
//! default a test attacks for less than an hour and with fewer calls; `TEST_FULL=1` measures all of it.

use std::time::Duration;

use serde_json::json;

use crate::harness::raw::{methods, short_name};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, is_full};

/// A server with the limits by source that it has by default.
async fn server() -> Harness {
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

async fn number(h: &Harness, query: &str) -> u64 {
    h.query(query).await[0].parse().expect("a number")
}

async fn rows(h: &Harness, table: &str) -> u64 {
    number(h, &format!("SELECT COUNT(*) FROM {table}")).await
}

/// Bytes of all tables and indexes.
async fn bytes(h: &Harness) -> u64 {
    if h.is_postgres() {
        // PostgreSQL adds up to 4 MB to a table at once while several connections wait to add a page.
        let tables = "SELECT string_agg(quote_ident(relname), ', ') FROM pg_class \
                      WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace";
        h.sql(&format!("VACUUM FULL {}", h.query(tables).await.concat())).await;
    }
    let query = if h.is_postgres() {
        "SELECT CAST(SUM(pg_total_relation_size(c.oid)) AS BIGINT) FROM pg_class c JOIN pg_namespace n \
         ON n.oid = c.relnamespace WHERE n.nspname = current_schema() AND c.relkind = 'r'"
    } else {
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    };
    number(h, query).await
}

/// What an attack has written.
#[derive(Debug)]
struct Cost {
    minutes: u64,
    events: u64,
    failures: u64,
    blocks: u64,
    budgets: u64,
    counts: u64,
    throttles: u64,
    bytes: u64,
}

impl Cost {
    async fn now(h: &Harness) -> Cost {
        Cost {
            minutes: 0,
            events: rows(h, "audit_event").await,
            failures: rows(h, "source_failure").await,
            blocks: rows(h, "source_block").await,
            budgets: rows(h, "row_budget").await,
            counts: rows(h, "event_count").await,
            throttles: rows(h, "throttle").await,
            bytes: bytes(h).await,
        }
    }

    /// Attacks each minute of a time, and returns what that wrote.
    async fn of(h: &Harness, minutes: u64, mut attack: impl AsyncFnMut(u64)) -> Cost {
        let before = Cost::now(h).await;
        for minute in 0..minutes {
            attack(minute).await;
            h.clock.advance(Duration::from_mins(1));
        }
        let after = Cost::now(h).await;
        let cost = Cost {
            minutes,
            events: after.events - before.events,
            failures: after.failures - before.failures,
            blocks: after.blocks - before.blocks,
            budgets: after.budgets - before.budgets,
            counts: after.counts - before.counts,
            throttles: after.throttles - before.throttles,
            bytes: after.bytes.saturating_sub(before.bytes),
        };
        eprintln!("{cost:?}");
        cost
    }
}

/// Fails once in each way in which a stranger can.
async fn fail(client: &Client, name: u64) {
    let login = format!("nobody{name}");
    let _ = futures_util::join!(
        client.refresh("garbage"),
        client.complete("no ticket", OTHER_PASSWORD),
        client.sign_in(&login, OTHER_PASSWORD),
        client.sign_in("bob", OTHER_PASSWORD),
    );
}

#[tokio::test]
async fn a_stranger_at_one_address_writes_little() {
    let h = server().await;
    let client = portal(&h).await.with("latchkey-client-address", "192.0.2.7");
    let minutes = if is_full() { 60 } else { 6 };
    let cost = Cost::of(&h, minutes, async |minute| {
        at_once((0..20).map(|number| fail(&client, 100 * minute + number))).await;
    })
    .await;
    // 30 failures in a quarter of an hour, each with up to two events of a throttle.
    let quarters = minutes.div_ceil(15);
    assert!(cost.failures <= 30 * quarters, "{cost:?}");
    assert!(cost.events <= 3 * 32 * quarters, "{cost:?}");
    assert!(cost.blocks + cost.budgets + cost.counts <= 16, "{cost:?}");
    assert!(cost.bytes * 60 / cost.minutes < 5_000_000, "{cost:?}");
}

#[tokio::test]
async fn a_stranger_with_a_network_writes_what_its_budget_permits() {
    let h = server().await;
    let portal = portal(&h).await;
    let (minutes, sources) = if is_full() { (10, 600) } else { (6, 60) };
    let cost = Cost::of(&h, minutes, async |minute| {
        for chunk in 0..sources / 20 {
            // Each in another /56 than the one before.
            let address =
                |number: u64| format!("2001:db8:1:{:x}::1", 257 * (minute * sources + chunk * 20 + number) % 65_536);
            let clients: Vec<_> =
                (0..20).map(|number| portal.with("latchkey-client-address", &address(number))).collect();
            at_once(
                clients.iter().zip(0..).map(|(client, number)| fail(client, sources * minute + 20 * chunk + number)),
            )
            .await;
        }
    })
    .await;
    let windows = minutes.div_ceil(5) + 1;
    // Of each failure within the budget up to three events; of others one or two a minute for each method and network.
    assert!(cost.events <= windows * 480 * 3 + minutes * 2 * 3 * 4, "{cost:?}");
    assert!(cost.failures <= windows * 10_000, "{cost:?}");
    assert!(cost.bytes * 60 / cost.minutes < 200_000_000, "{cost:?}");
}

#[tokio::test]
async fn a_user_without_a_role_writes_two_events_a_minute_of_each_kind() {
    let h = server().await;
    h.create("eve", &[], PASSWORD).await;
    let tried: Vec<String> = methods().iter().map(short_name).filter(|name| !name.starts_with("Auth/")).collect();
    let minutes = if is_full() { 60 } else { 5 };
    let cost = Cost::of(&h, minutes, async |_| {
        let client =
            h.stranger().await.bearing(&h.stranger().await.tokens("eve", PASSWORD).await.expect("tokens").access_token);
        let calls = tried.iter().flat_map(|name| (0..3).map(|_| client.call(name, json!({}))));
        at_once(calls).await;
    })
    .await;
    let kinds = u64::try_from(tried.len()).expect("a number");
    // Each minute also has a sign-in, which may end an old session.
    assert!(cost.events <= minutes * (2 * kinds + 2), "{cost:?}");
    assert!(cost.events >= minutes * kinds, "{cost:?}");
    assert!(cost.bytes * 60 / cost.minutes < 5_000_000, "{cost:?}");
}

#[tokio::test]
async fn an_owner_who_signs_in_without_end_writes_little() {
    let h = Harness::with(|config| config.session.sign_ins_per_minute = 60).await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    let cost = Cost::of(&h, 1, async |_| {
        for _ in 0..20 {
            at_once((0..20).map(|_| stranger.sign_in("bob", PASSWORD))).await;
        }
    })
    .await;
    // Each sign-in beyond the tenth session also ends one. What the limit permits later in the hour is the same again for each.
    assert!(cost.events <= 2 * (300 + 60), "{cost:?}");
    assert!(cost.bytes * (300 + 59 * 60) / 300 < 20_000_000, "{cost:?}");
    assert_eq!(number(&h, "SELECT COUNT(*) FROM session WHERE ended_at IS NULL").await, 10);
}

#[tokio::test]
async fn reads_and_token_checks_write_no_row_and_acts_one_event_each() {
    let h = server().await;
    let (viewer, helper) = (h.person("viewer", &["viewer", "auditor"]).await, h.person("helper", &["helpdesk"]).await);
    let service = h.token(&["tokens.introspect"]).await;
    let reads = Cost::of(&h, 1, async |_| {
        for method in ["UserAdmin/ListUsers", "UserAdmin/ListRoles", "Audit/ListEvents"] {
            viewer.client.call(method, json!({})).await.expect("an answer");
        }
        let token = viewer.tokens.access_token.clone();
        service.call("Auth/IntrospectToken", json!({"token": token})).await.expect("an answer");
    })
    .await;
    assert_eq!((reads.events, reads.failures, reads.counts), (0, 0, 0), "{reads:?}");
    let acts = Cost::of(&h, 1, async |_| {
        for _ in 0..50 {
            helper.client.lock("bob").await.expect("a lock");
            helper.client.unlock("bob").await.expect("an unlock");
        }
    })
    .await;
    assert_eq!(acts.events, 100, "{acts:?}");
    assert!(acts.bytes / 100 < 2_000, "{acts:?}");
}
