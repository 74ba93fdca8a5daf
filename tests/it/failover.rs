//! PostgreSQL crashes, restarts, and fails over to a standby.

use std::future::Future;

use latchkey::config::Database;
use latchkey::crypto::SealKey;
use latchkey::environment::Environment;
use tonic::Code;

use crate::database_faults::{is_outage, until_ready};
use crate::harness::calls::Shown;
use crate::harness::cluster::Cluster;
use crate::harness::proxy::Proxy;
use crate::harness::{Harness, PASSWORD, at_once, eventually, refused};

/// A server on a separate PostgreSQL, behind a proxy that can be redirected.
async fn on(cluster: &Cluster) -> (Harness, Proxy) {
    let proxy = Proxy::to(&cluster.address).await;
    let h = Harness::with(|config| {
        config.database = Database::Postgres { url: proxy.url(&cluster.url()).into() };
        SealKey::create(&config.seal_key_file, &Environment::system()).expect("a seal key");
    })
    .await;
    (h, proxy)
}

/// A primary and its standby.
async fn pair() -> Option<(Cluster, Cluster)> {
    if std::env::var("TEST_DATABASE_URL").is_err() {
        eprintln!("skipped: an embedded database does not fail over; set TEST_DATABASE_URL");
        return None;
    }
    let first = Cluster::start()?;
    let second = first.standby().await;
    Some((first, second))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_reset_is_lost_when_the_database_crashes_and_when_it_fails_over() {
    let Some((first, second)) = pair().await else { return };
    let (h, proxy) = on(&first).await;
    let bob = h.user("bob").await;
    let names: Vec<String> = (0..20).map(|number| format!("u{number}")).collect();
    for name in &names {
        h.create(name, &[], PASSWORD).await;
    }

    // Without the standby no commit is acknowledged, because it could be lost.
    let operator = h.operator().await;
    second.kill();
    let refusal = refused(operator.reset("u0").await, Code::Unavailable, "STORAGE_UNAVAILABLE");
    assert_eq!(refusal.metadata("outcome"), "unknown", "{refusal:?}");
    second.resume();
    eventually("a reset", || async { operator.reset("u0").await.ok() }).await;

    // It crashes under load and restarts.
    let acknowledged = resets_while(&h, &names, async { first.kill() }).await;
    until_ready(&h, false).await;
    first.resume();
    until_ready(&h, true).await;
    check_resets(&h, acknowledged).await;

    // It crashes again, and the standby replaces it.
    let failover = async {
        first.kill();
        second.promote();
        proxy.lead_to(&second.address);
    };
    let acknowledged = resets_while(&h, &names, failover).await;
    eventually("an answer", || async { bob.client.who_am_i().await.ok() }).await;
    until_ready(&h, true).await;
    check_resets(&h, acknowledged).await;

    // The old primary restarts as a standby that receives no updates, so its data is outdated.
    first.follow(&second);
    first.resume();
    h.operator().await.lock("bob").await.expect("a lock, of which it may not have heard");
    proxy.lead_to(&first.address);
    proxy.cut();
    let asked = at_once((0..20).map(|_| bob.client.who_am_i())).await;
    for answer in asked {
        let status = answer.expect_err("bob is locked");
        assert!(is_outage(&status), "{status:?}");
    }
    until_ready(&h, false).await;
    proxy.lead_to(&second.address);
    until_ready(&h, true).await;
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
}

/// Resets all passwords while something happens. Returns the users whose reset was acknowledged, with the new
/// passwords.
async fn resets_while(h: &Harness, names: &[String], fault: impl Future<Output = ()>) -> Vec<(String, String)> {
    let operator = h.operator().await;
    let (begun, mut half_way) = tokio::sync::mpsc::unbounded_channel();
    let names = names.to_vec();
    let resets = tokio::spawn(async move {
        let mut answers = Vec::new();
        for name in names {
            let answer = operator.reset(&name).await;
            answers.push((name, answer));
            begun.send(()).expect("a listener");
        }
        answers
    });
    for _ in 0..5 {
        half_way.recv().await.expect("a reset");
    }
    fault.await;
    let mut acknowledged = Vec::new();
    for (name, answer) in resets.await.expect("an end") {
        match answer {
            Ok(answer) => acknowledged.push((name, answer.shown().to_owned())),
            Err(status) => assert!(is_outage(&status), "{status:?}"),
        }
    }
    acknowledged
}

async fn check_resets(h: &Harness, acknowledged: Vec<(String, String)>) {
    let stranger = h.stranger().await;
    for (name, password) in acknowledged {
        stranger.change_step(&name, &password).await.expect("the password that was told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_made_read_only_is_left_for_the_new_one() {
    let Some((first, second)) = pair().await else { return };
    let (h, proxy) = on(&first).await;
    h.create("bob", &[], PASSWORD).await;

    // A planned switchover: existing connections stay, and new ones lead to the new primary.
    first.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    first.execute("SELECT pg_reload_conf()").await;
    let operator = h.operator().await;
    let status = eventually("a refusal", || async { operator.lock("bob").await.err() }).await;
    refused(Err::<(), _>(status), Code::Unavailable, "STORAGE_UNAVAILABLE");
    until_ready(&h, false).await;
    second.promote();
    proxy.lead_to(&second.address);
    until_ready(&h, true).await;
    operator.lock("bob").await.expect("a lock");
}
