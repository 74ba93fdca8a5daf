//! A database that is unavailable, slow, cut off, out of connections, locked or replaced: each call ends, none grants
//! access wrongly, readiness follows, and the server recovers by itself.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use latchkey::config::Database;
use latchkey::proto::v1;
use secrecy::ExposeSecret;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::actors::named;
use crate::harness::proxy::{Network, Proxy, address_of};
use crate::harness::transcript::Shell;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Person, Refusal, at_once, eventually, refused};

const WRONG: &str = "SignIn with a wrong password";

/// Longer than any call can take. Only a call that never ends exceeds it.
const FOREVER: Duration = Duration::from_secs(40);

/// A server that reaches its database through a proxy. `None` on SQLite, which has no connection.
async fn behind_proxy() -> Option<(Harness, Proxy)> {
    let Ok(url) = std::env::var("TEST_DATABASE_URL") else {
        eprintln!("skipped: there is no network before an embedded database; set TEST_DATABASE_URL");
        return None;
    };
    let proxy = Proxy::to(address_of(&url)).await;
    let h = Harness::with(|config| {
        if let Database::Postgres { url } = &mut config.database {
            *url = proxy.url(url.expose_secret()).into();
        }
    })
    .await;
    Some((h, proxy))
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOREVER, work).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

pub async fn until_ready(h: &Harness, ready: bool) {
    let status = if ready { 200 } else { 503 };
    eventually("readiness", || async { (h.http("/readyz").await.status == status).then_some(()) }).await;
    let channel = h.stranger().await.channel();
    let wanted = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", "latchkey.v1.Auth", "latchkey.v1.UserAdmin", "latchkey.v1.Audit"] {
        let ask = || async {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(channel.clone()).check(request).await.expect("a status").into_inner();
            (answer.status() == wanted).then_some(())
        };
        eventually("health", ask).await;
    }
}

/// Makes one call of each kind at once, all of which need the database. Returns how each ended.
async fn calls(h: &Harness, bob: &Person, service: &Client) -> Vec<(&'static str, Result<(), Status>)> {
    let (stranger, operator) = (h.stranger().await, h.operator().await);
    let (stranger, operator) = (&stranger, &operator);
    let introspect = v1::IntrospectTokenRequest { token: bob.tokens.access_token.clone(), ..Default::default() };
    let calls: Vec<(_, BoxFuture<'_, Result<(), Status>>)> = vec![
        ("SignIn", Box::pin(async { stranger.sign_in("bob", PASSWORD).await.map(drop) })),
        (WRONG, Box::pin(async { stranger.sign_in("bob", OTHER_PASSWORD).await.map(drop) })),
        ("RefreshTokens", Box::pin(async { stranger.refresh(&bob.tokens.refresh_token).await.map(drop) })),
        ("WhoAmI", Box::pin(async { bob.client.who_am_i().await.map(drop) })),
        ("IntrospectToken", Box::pin(async { service.auth().introspect_token(introspect).await.map(drop) })),
        ("LockUser", Box::pin(async { operator.lock("ann").await.map(drop) })),
        ("ResetPassword", Box::pin(async { operator.reset("eve").await.map(drop) })),
        ("ListUsers", Box::pin(async { operator.list(v1::ListUsersRequest::default()).await.map(drop) })),
        (
            "ListEvents",
            // By another caller than the other list: a caller reads one at a time.
            Box::pin(async { service.audit().list_events(v1::ListEventsRequest::default()).await.map(drop) }),
        ),
    ];
    at_once(calls.into_iter().map(|(what, call)| async move { (what, in_time(what, call).await) })).await
}

/// Returns whether it is one of the two expected errors for a database that does not answer.
pub fn is_outage(status: &Status) -> bool {
    let refusal = Refusal::of(status);
    let unavailable = (Code::Unavailable, "STORAGE_UNAVAILABLE");
    let late = (Code::DeadlineExceeded, "DEADLINE_PASSED");
    [unavailable, late].contains(&(refusal.code, refusal.reason.as_str()))
}

async fn survives_network(network: Network) {
    let Some((h, proxy)) = behind_proxy().await else { return };
    let (bob, service) = (h.user("bob").await, h.token(&["tokens.introspect", "audit.read"]).await);
    for name in ["ann", "eve"] {
        h.create(name, &[], PASSWORD).await;
    }
    let before = h.query("SELECT COUNT(*) FROM session").await;

    proxy.set(network).await;
    for (what, answer) in calls(&h, &bob, &service).await {
        let status = answer.expect_err(what);
        assert!(is_outage(&status), "{network:?}, {what}: {status:?}");
    }
    until_ready(&h, false).await;
    assert_eq!(h.http("/livez").await.status, 200, "it should not be restarted");
    fails_at_once(&h, &bob).await;
    // Calls that need no database still succeed.
    let keys = h.stranger().await.auth().get_signing_keys(v1::GetSigningKeysRequest::default()).await;
    assert_eq!(keys.expect("keys").into_inner().keys.len(), 1);
    assert_eq!(h.query("SELECT COUNT(*) FROM session").await, before, "there is no new session");
    if network == Network::Refused {
        tokio::task::block_in_place(|| status_says_why(&h));
    }

    proxy.set(Network::Well).await;
    until_ready(&h, true).await;
    for (what, answer) in calls(&h, &bob, &service).await {
        match answer {
            Err(status) if what == WRONG => {
                refused(Err::<(), _>(status), Code::Unauthenticated, "CREDENTIALS_REJECTED");
            }
            answer => answer.unwrap_or_else(|status| panic!("{what}: {status:?}")),
        }
    }
}

/// Makes so many calls one after another that they would take minutes if each waited for a connection.
async fn fails_at_once(h: &Harness, bob: &Person) {
    let stranger = h.stranger().await;
    let calls = async {
        for _ in 0..30 {
            let refusal = refused(bob.client.who_am_i().await, Code::Unavailable, "STORAGE_UNAVAILABLE");
            assert!(refusal.retry_after().is_some(), "{refusal:?}");
            refused(stranger.sign_in("bob", PASSWORD).await, Code::Unavailable, "STORAGE_UNAVAILABLE");
        }
    };
    in_time("a call while the database is known to be away", calls).await;
}

/// Runs `latchkey status` as the local operator.
fn status_says_why(h: &Harness) {
    let shell = Shell::default();
    let ran = shell.latchkey(&["--socket", &h.socket().to_string_lossy(), "status"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    for told in ["✖ not serving", "✖ the database cannot be used"] {
        assert!(ran.stdout.contains(told), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_lost_in_any_way_ends_all_calls_and_comes_back() {
    tokio::join!(
        survives_network(Network::Refused),
        survives_network(Network::Reset),
        survives_network(Network::Stalled),
        survives_network(Network::Slow(Duration::from_secs(9))),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_lead_nowhere_are_replaced_and_none_of_their_places_is_lost() {
    let Some((h, proxy)) = behind_proxy().await else { return };
    let bob = h.user("bob").await;
    // All connections are in use when the network fails, and the clients have gone.
    let clients = at_once((0..30).map(|_| h.stranger())).await;
    let work = at_once(clients.iter().map(|client| {
        let client = client.bearing(&bob.tokens.access_token);
        async move { tokio::time::timeout(Duration::from_secs(1), client.who_am_i()).await }
    }));
    let ((), _) = tokio::join!(async { proxy.set(Network::Stalled).await }, work);
    proxy.lose();
    proxy.set(Network::Well).await;

    eventually("an answer", || async { bob.client.who_am_i().await.ok() }).await;
    until_ready(&h, true).await;
    // A locked row blocks as many statements as there are connections.
    let held = hold(&h, "UPDATE \"user\" SET version = version WHERE username = 'bob'").await;
    let operator = h.operator().await;
    let waiting = at_once((0..20).map(|_| operator.lock("bob")));
    // Two connections may be in use for other work.
    let places = eventually("all places in use", || async {
        let sql = format!(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND client_port IN ({})",
            ports(&proxy)
        );
        let count: i64 = h.query(&sql).await[0].parse().expect("a number");
        (count >= 8).then_some(count)
    });
    let (answers, places) = tokio::join!(waiting, places);
    assert!(places <= 10, "{places}");
    for answer in answers {
        assert!(answer.as_ref().err().is_none_or(is_outage), "{answer:?}");
    }
    held.rollback().await.expect("an end");
    operator.lock("bob").await.expect("a lock");
}

/// A transaction of another client that holds a lock.
async fn hold(h: &Harness, statement: &str) -> sea_orm::DatabaseTransaction {
    use sea_orm::{ConnectionTrait, TransactionTrait};
    let connection = h.connect().await;
    let tx = connection.begin().await.expect("a transaction");
    tx.execute_unprepared(statement).await.expect("a statement that works");
    tx
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_whose_commit_was_not_confirmed_says_so_and_its_retry_finds_it() {
    let Some((h, proxy)) = behind_proxy().await else { return };
    h.create("bob", &[], PASSWORD).await;
    let operator = h.operator().await;
    let method = v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword::default());
    let request = v1::ResetPasswordRequest {
        user: Some(named("bob")),
        method: Some(method),
        idempotency_key: "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7".to_owned(),
        ..Default::default()
    };
    proxy.swallow_next_commit();
    let refusal = refused(operator.reset_with(request.clone()).await, Code::Unavailable, "STORAGE_UNAVAILABLE");
    assert_eq!(refusal.metadata("outcome"), "unknown");
    assert!(refusal.message.contains("may have been made"), "{refusal:?}");
    assert!(refusal.retry_after().is_some());

    let again = operator.reset_with(request).await.expect("the reset that was made");
    assert!(again.replayed, "{again:?}");
    let stranger = h.stranger().await;
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let resets = operator.events().await;
    let resets = resets.iter().filter(|event| event.r#type() == v1::EventType::PasswordResetByOperator).count();
    assert_eq!(resets, 1, "once, and audited once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_ended_fail_the_calls_on_them_and_are_replaced() {
    let Some((h, proxy)) = behind_proxy().await else { return };
    let bob = h.user("bob").await;
    for round in 0..10 {
        let work = at_once((0..20).map(|_| bob.client.who_am_i()));
        let end = async {
            if round % 2 == 0 {
                proxy.cut();
            } else {
                // SQLSTATE 57P01, as when a server shuts down.
                let ports = ports(&proxy);
                h.query(&format!(
                    "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE client_port IN ({ports})"
                ))
                .await;
            }
        };
        let (answers, ()) = tokio::join!(work, end);
        for answer in answers {
            assert!(answer.as_ref().err().is_none_or(is_outage), "{answer:?}");
        }
        eventually("an answer", || async { bob.client.who_am_i().await.ok() }).await;
    }
}

/// The source ports of the server's connections, as the database sees them.
fn ports(proxy: &Proxy) -> String {
    proxy.ports().iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_somebody_locks_end_calls_until_they_are_free() {
    let h = Harness::start().await;
    if !h.is_postgres() {
        return;
    }
    let bob = h.user("bob").await;
    let held = hold(&h, "LOCK TABLE \"user\" IN ACCESS EXCLUSIVE MODE").await;
    // More calls than connections: most of them wait for a connection.
    let stranger = h.stranger().await;
    let (readers, writers) = in_time("a call", async {
        tokio::join!(
            at_once((0..20).map(|_| bob.client.who_am_i())),
            at_once((0..20).map(|_| stranger.sign_in("bob", PASSWORD)))
        )
    })
    .await;
    for status in readers.into_iter().filter_map(Result::err).chain(writers.into_iter().filter_map(Result::err)) {
        assert!(is_outage(&status), "{status:?}");
    }
    held.rollback().await.expect("an end");
    eventually("an answer", || async { bob.client.who_am_i().await.ok() }).await;
    stranger.tokens("bob", PASSWORD).await.expect("tokens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fewer_connections_than_the_pool_wants_calls_wait_for_each_other() {
    let mut h = Harness::start().await;
    let Database::Postgres { url } = h.config.database.clone() else { return };
    let bob = h.user("bob").await;
    let schema = h.query("SELECT current_schema()").await.remove(0);
    let role = format!("few_{schema}");
    for statement in [
        format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 3"),
        format!("GRANT ALL ON SCHEMA {schema} TO {role}"),
        format!("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}"),
    ] {
        h.sql(&statement).await;
    }
    h.halt().await;
    let (_, place) = url.expose_secret().split_once('@').expect("a user");
    let url = format!("postgres://{role}@{place}");
    h.config.database = Database::Postgres { url: url.clone().into() };
    let h = h.resume().await;
    let bob = h.stranger().await.bearing(&bob.tokens.access_token);
    let held = hold(&h, "LOCK TABLE \"user\" IN ACCESS EXCLUSIVE MODE").await;
    let until_they_wait = async {
        let sql =
            format!("SELECT COUNT(*) FROM pg_stat_activity WHERE usename = '{role}' AND wait_event_type = 'Lock'");
        eventually("both connections wait", || async { (h.query(&sql).await == ["2"]).then_some(()) }).await;
        let another =
            sea_orm::Database::connect(&url).await.expect("one is left, to look why the others are of no use");
        another.close().await.expect("an end");
        held.rollback().await.expect("an end");
    };
    let calls = at_once((0..12).map(|_| bob.who_am_i()));
    let (answers, ()) = in_time("a call", Box::pin(async { tokio::join!(calls, until_they_wait) })).await;
    for answer in answers {
        answer.expect("a call waits for a connection, and not for one more");
    }
    h.stranger().await.tokens("bob", PASSWORD).await.expect("tokens");
    h.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_database_that_another_program_locks_refuses_changes_at_once_and_still_reads() {
    let h = Harness::start().await;
    if h.is_postgres() {
        return;
    }
    let (bob, service) = (h.user("bob").await, h.token(&["tokens.introspect", "audit.read"]).await);
    let held = hold(&h, "UPDATE user SET version = version").await;
    let stranger = h.stranger().await;
    let answers = in_time("a sign-in", at_once((0..5).map(|_| stranger.sign_in("bob", PASSWORD)))).await;
    for answer in answers {
        refused(answer, Code::Unavailable, "STORAGE_UNAVAILABLE");
    }
    until_ready(&h, false).await;
    assert_eq!(h.http("/livez").await.status, 200, "it should not be restarted");
    // So many changes that they would take minutes if each waited for the lock.
    let (operator, user) = (h.operator().await, named("bob"));
    let changes = async {
        for _ in 0..30 {
            let refusal = refused(stranger.sign_in("bob", PASSWORD).await, Code::Unavailable, "STORAGE_UNAVAILABLE");
            assert!(refusal.message.contains("accepts no changes"), "{refusal:?}");
            assert!(refusal.retry_after().is_some(), "{refusal:?}");
            refused(operator.lock("bob").await, Code::Unavailable, "STORAGE_UNAVAILABLE");
        }
    };
    in_time("a change while the database is known to accept none", changes).await;
    bob.client.who_am_i().await.expect("reads go on");
    operator.user_admin().get_user(v1::GetUserRequest { user: Some(user) }).await.expect("reads go on");
    // Also calls with API tokens, which otherwise record the last use.
    let request = v1::IntrospectTokenRequest { token: bob.tokens.access_token.clone(), ..Default::default() };
    service.auth().introspect_token(request).await.expect("an answer");
    held.rollback().await.expect("an end");
    until_ready(&h, true).await;
    stranger.tokens("bob", PASSWORD).await.expect("tokens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_database_that_is_moved_away_is_not_worked_with_until_it_is_back() {
    let h = Harness::start().await;
    let Database::Sqlite { path } = h.config.database.clone() else { return };
    let (bob, service) = (h.user("bob").await, h.token(&["tokens.introspect", "audit.read"]).await);
    for name in ["ann", "eve"] {
        h.create(name, &[], PASSWORD).await;
    }
    let kept = h.dir().join("kept.db");
    std::fs::rename(&path, &kept).expect("a move");
    until_ready(&h, false).await;
    for another in [false, true] {
        if another {
            std::fs::copy(&kept, &path).expect("a copy, as of a backup that somebody restores");
        }
        for (what, answer) in calls(&h, &bob, &service).await {
            assert!(answer.is_err(), "{what}");
            refused(answer, Code::Unavailable, "STORAGE_UNAVAILABLE");
        }
        until_ready(&h, false).await;
    }
    std::fs::rename(&kept, &path).expect("a move");
    until_ready(&h, true).await;
    bob.client.who_am_i().await.expect("well again");
    h.stranger().await.tokens("bob", PASSWORD).await.expect("tokens");
}
