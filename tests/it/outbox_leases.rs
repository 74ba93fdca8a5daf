//! The outbox: a message is leased while it is sent, so that a crash loses none, and neither a clock that is set nor another
//! server sends one twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use latchkey::proto::v1::{self, DeliveryState};

use crate::harness::actors::named;
use crate::harness::child::Site;
use crate::harness::database::TestDatabase;
use crate::harness::relay::{
    holding, is_set, message_id, once, once_seen, person, plain, users, with_patient_relay, with_relay,
};
use crate::harness::smtp::{Act, Certificate, SmtpServer, Step, Tls};
use crate::harness::{Harness, TestClock, eventually};

const HOUR: Duration = Duration::from_hours(1);

/// Where servers that send mail to this relay are started.
async fn site_with(relay: &SmtpServer) -> Site {
    let mut site = Site::new().await;
    let url = plain(relay);
    let variables = [("MAIL_TRANSPORT", "smtp"), ("MAIL_SMTP_URL", url.as_str()), ("MAIL_FROM", "id@example.org")];
    site.variables.extend(variables.map(|(name, value)| (format!("LATCHKEY_{name}"), value.to_owned())));
    site
}

/// On a database that servers share, another one would wait until the lease has ended.
async fn end_leases(database: &TestDatabase) {
    if database.is_shared() {
        database.query("UPDATE delivery SET next_attempt_at = 0 WHERE lease IS NOT NULL").await;
    }
}

#[tokio::test]
async fn sec_082_a_kill_at_any_step_loses_no_message() {
    for place in [
        "store.delivery_insert=return(kill)",
        "ResetPassword.committed=return(kill)",
        "store.delivery_claim=return(kill)",
        "outbox.committed=return(kill)",
        "store.delivery_mark=return(kill)",
    ] {
        let relay = SmtpServer::start(Tls::None).await;
        let site = site_with(&relay).await;
        let mut server = site.start(place).await;
        let request = v1::ResetPasswordRequest {
            user: Some(named("bob")),
            idempotency_key: "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7".to_owned(),
            ..Default::default()
        };
        let operator = server.operator().await;
        operator.create(person("bob")).await.expect("a user");
        let _ = operator.reset_with(request.clone()).await;
        server.is_killed().await;
        drop(server);

        let server = site.start("").await;
        end_leases(&site.database).await;
        let operator = server.operator().await;
        let sent = operator.reset_with(request).await.expect("the same call again").delivery.expect("a delivery");
        operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
        let mails = relay.accepted();
        assert!(!mails.is_empty() && mails.len() <= 2, "{place}: {}", mails.len());
        assert!(mails.iter().all(|mail| message_id(mail).contains(&sent.id)), "{place}");
        assert_eq!(operator.deliveries("bob").await.len(), 1, "{place}");
    }
}

#[tokio::test]
async fn sec_082_a_kill_in_any_phase_of_the_conversation_loses_no_message() {
    for step in [Step::Greeting, Step::Hello, Step::Mail, Step::Recipient, Step::Data, Step::Content, Step::Dot] {
        let (relay, is_reached) = once_seen(step, Act::Hang).await;
        let site = site_with(&relay).await;
        let mut server = site.start("").await;
        let operator = server.operator().await;
        operator.create(person("bob")).await.expect("a user");
        let sent = operator.sends_link("bob").await;
        is_set(&is_reached).await;
        server.kill();
        drop(server);

        let server = site.start("").await;
        end_leases(&site.database).await;
        let operator = server.operator().await;
        let done = operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
        assert_eq!((done.attempts, relay.accepted().len()), (2, 1), "{step:?}");
        assert!(relay.arrived().iter().all(|mail| message_id(mail).contains(&sent.id)), "{step:?}");
        assert_eq!(operator.deliveries("bob").await.len(), 1, "{step:?}");
    }
}

#[tokio::test]
async fn a_message_whose_attempt_a_stop_breaks_off_is_sent_by_the_next_server() {
    let relay = once(Step::Data, Act::Hang).await;
    let mut h = with_patient_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    let sent = operator.sends_link("bob").await;
    operator.delivery_in(&sent.id, DeliveryState::Sending).await;
    h.halt().await;
    end_leases(&h.database).await;
    let h = Box::pin(h.resume()).await;
    let done = h.operator().await.delivery_in(&sent.id, DeliveryState::Accepted).await;
    assert_eq!((done.attempts, relay.accepted().len()), (2, 1));
}

#[tokio::test]
async fn a_message_that_was_cancelled_before_its_worker_crashed_is_not_sent_again() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob"]).await;
    let folder = h.dir().join("mail");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::write(&folder, "in the way").expect("a file");
    let sent = operator.sends_link("bob").await;
    operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
    // As a worker leaves it that has crashed.
    h.sql("UPDATE delivery SET state = 2, is_cancelled = TRUE").await;
    std::fs::remove_file(&folder).expect("no file");
    h.clock.advance(HOUR);
    let ended = operator.delivery_in(&sent.id, DeliveryState::Unknown).await;
    assert_eq!((ended.attempts, ended.next_attempt_time, h.mails().len()), (1, None, 0));
    assert_eq!(h.query("SELECT count(contents) FROM delivery").await, ["0"]);
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_or_back_during_an_attempt_has_nothing_sent_twice() {
    for is_ahead in [true, false] {
        let (relay, release) = holding().await;
        let h = with_patient_relay(&relay).await;
        let operator = users(&h, &["tar", "ada"]).await;
        let held = operator.sends_link("tar").await;
        eventually("the mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
        if is_ahead {
            h.clock.advance(HOUR);
        } else {
            h.clock.turn_back(HOUR);
        }
        // Its address is in use, so this one waits. If a lease had ended, it would be claimed with the next.
        let waiting = operator.sends_link("tar").await;
        let other = operator.sends_link("ada").await;
        operator.delivery_in(&other.id, DeliveryState::Accepted).await;
        let state = operator.delivery(&held.id).await;
        assert_eq!((state.state(), state.attempts), (DeliveryState::Sending, 1), "ahead: {is_ahead}");
        assert_eq!(operator.delivery(&waiting.id).await.state(), DeliveryState::Queued, "ahead: {is_ahead}");
        release.notify_one();
        operator.delivery_in(&held.id, DeliveryState::Accepted).await;
        release.notify_one();
        operator.delivery_in(&waiting.id, DeliveryState::Accepted).await;
        let ids = relay.arrived().iter().map(message_id).collect::<BTreeSet<_>>();
        assert_eq!((relay.arrived().len(), ids.len()), (3, 3), "ahead: {is_ahead}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_or_back_delays_a_retry_for_no_longer_than_that() {
    for is_ahead in [true, false] {
        let relay = once(Step::Recipient, Act::reply("450 4.2.0 greylisted")).await;
        let h = with_relay(&relay).await;
        let operator = users(&h, &["bob", "ada"]).await;
        let sent = operator.sends_link("bob").await;
        operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
        if is_ahead {
            h.clock.advance(HOUR);
        } else {
            h.clock.turn_back(HOUR);
        }
        let later = operator.sends_link("ada").await;
        operator.delivery_in(&later.id, DeliveryState::Accepted).await;
        if !is_ahead {
            assert_eq!(operator.delivery(&sent.id).await.attempts, 1, "it is not due");
            h.clock.advance(HOUR + Duration::from_secs(12));
        }
        let done = operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
        assert_eq!((done.attempts, relay.accepted().len()), (2, 2), "ahead: {is_ahead}");
    }
}

#[tokio::test]
async fn a_replica_whose_clock_is_wrong_sends_nothing_that_another_is_sending() {
    let (relay, release) = holding().await;
    let h = with_patient_relay(&relay).await;
    let ahead = Arc::<TestClock>::default();
    ahead.advance(HOUR);
    let Some(replica) = h.replica_at(ahead).await else { return };
    let operator = users(&h, &["tar", "ada"]).await;
    // Whichever claims it, the other one must not.
    let held = operator.sends_link("tar").await;
    eventually("the mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
    for server in [&replica, &h] {
        let other = server.operator().await.sends_link("ada").await;
        // Messages of the replica are due in an hour by the other clock, so the replica sends them.
        operator.delivery_in(&other.id, DeliveryState::Accepted).await;
    }
    assert_eq!(operator.delivery(&held.id).await.attempts, 1);
    release.notify_one();
    operator.delivery_in(&held.id, DeliveryState::Accepted).await;
    assert_eq!(relay.arrived().len(), 3);
}

/// What a worker may change of the only message.
const ROW: &str = "SELECT state || ' ' || attempts || ' ' || last_error || ' ' || relay || ' ' || next_attempt_at || ' ' || updated_at
    FROM delivery WHERE contents IS NOT NULL";

#[tokio::test]
async fn what_an_attempt_met_is_not_written_down_once_another_worker_has_taken_over() {
    for taken_over in [
        // Another worker has leased the message.
        "lease = contents",
        // It has also failed.
        "lease = NULL, state = 3",
    ] {
        let (relay, release) = holding().await;
        let mut h = with_patient_relay(&relay).await;
        let operator = users(&h, &["tar"]).await;
        operator.sends_link("tar").await;
        eventually("the mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
        h.sql(&format!("UPDATE delivery SET next_attempt_at = 9000000000000000, attempts = 2, {taken_over}")).await;
        let before = h.query(ROW).await;
        release.notify_one();
        // The stop waits for the end of the attempt.
        h.halt().await;
        assert_eq!((before.len(), h.query(ROW).await), (1, before), "{taken_over}");
    }
}

#[tokio::test]
async fn a_message_that_another_worker_has_taken_over_is_counted_by_that_worker_alone() {
    let (relay, release) = holding().await;
    let h = with_patient_relay(&relay).await;
    let operator = users(&h, &["tar"]).await;
    operator.sends_link("tar").await;
    eventually("the mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
    h.sql("UPDATE delivery SET next_attempt_at = 9000000000000000, lease = NULL, state = 3").await;
    // It waits until the attempt with its address has ended.
    let next = operator.sends_link("tar").await;
    release.notify_one();
    eventually("the next mail at the relay", || async { (relay.arrived().len() == 2).then_some(()) }).await;
    release.notify_one();
    operator.delivery_in(&next.id, DeliveryState::Accepted).await;
    assert_eq!(h.metric("latchkey_deliveries_total").await, 1);
}

#[tokio::test]
async fn a_restart_hurries_no_retry() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob", "ada"]).await;
    let folder = h.dir().join("mail");
    let _ = std::fs::remove_dir_all(&folder);
    // A file where the folder should be.
    std::fs::write(&folder, "in the way").expect("a file");
    let sent = operator.sends_link("bob").await;
    operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
    h.sql("UPDATE delivery SET next_attempt_at = 9000000000000000").await;
    std::fs::remove_file(&folder).expect("no file");
    let h = Box::pin(h.restart()).await;
    let operator = h.operator().await;
    let other = operator.sends_link("ada").await;
    operator.delivery_in(&other.id, DeliveryState::Accepted).await;
    let waiting = operator.delivery(&sent.id).await;
    assert_eq!((waiting.state(), waiting.attempts), (DeliveryState::Retrying, 1));
}

#[tokio::test]
async fn a_replica_whose_clock_is_ahead_takes_over_neither_a_message_nor_its_address() {
    let (relay, release) = holding().await;
    let h = with_patient_relay(&relay).await;
    let operator = users(&h, &["tar", "ada"]).await;
    let held = operator.sends_link("tar").await;
    eventually("the mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
    let waiting = operator.sends_link("tar").await;
    let ahead = Arc::<TestClock>::default();
    ahead.advance(HOUR);
    let Some(replica) = h.replica_at(ahead).await else { return };
    // By the other clock it is due in an hour, so the replica sends it.
    let other = replica.operator().await.sends_link("ada").await;
    operator.delivery_in(&other.id, DeliveryState::Accepted).await;
    assert_eq!(operator.delivery(&held.id).await.attempts, 1);
    assert_eq!(operator.delivery(&waiting.id).await.state(), DeliveryState::Queued);
    for delivery in [&held, &waiting] {
        release.notify_one();
        assert_eq!(operator.delivery_in(&delivery.id, DeliveryState::Accepted).await.attempts, 1);
    }
}

#[tokio::test]
async fn a_message_that_a_replica_is_sending_whose_clock_is_behind_is_not_taken_over() {
    let (relay, release) = holding().await;
    let h = with_patient_relay(&relay).await;
    let operator = users(&h, &["tar", "ada"]).await;
    h.clock.turn_back(HOUR);
    let held = operator.sends_link("tar").await;
    eventually("the mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
    let Some(replica) = h.replica_at(Arc::default()).await else { return };
    // By the clock that is behind it is due in an hour, so the replica sends it.
    let other = replica.operator().await.sends_link("ada").await;
    operator.delivery_in(&other.id, DeliveryState::Accepted).await;
    assert_eq!(operator.delivery(&held.id).await.attempts, 1);
    release.notify_one();
    operator.delivery_in(&held.id, DeliveryState::Accepted).await;
}

#[tokio::test]
async fn the_log_says_once_that_the_relay_begins_to_fail_and_once_that_it_works_again() {
    let is_open = Arc::<AtomicBool>::default();
    let opened = Arc::clone(&is_open);
    let script = move |now: Step, line: &str| match now {
        Step::Recipient if line.contains("wrong") => Some(Act::reply("550 5.1.1 no such user")),
        Step::Mail if !opened.load(Relaxed) => Some(Act::reply("550 5.7.1 <id@example.org> may not send")),
        _ => None,
    };
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await;
    let site = site_with(&relay).await;
    let server = site.start("").await;
    let operator = server.operator().await;
    let sends = async |name: &str, state: DeliveryState| {
        operator.create(person(name)).await.expect("a user");
        let sent = operator.sends_link(name).await;
        operator.delivery_in(&sent.id, state).await;
    };
    let logged = |words: &str| server.log().into_iter().filter(|line| line.contains(words)).collect::<Vec<_>>();
    for name in ["bob", "ada"] {
        sends(name, DeliveryState::Retrying).await;
    }
    is_open.store(true, Relaxed);
    sends("wrong", DeliveryState::Failed).await;
    for name in ["eve", "mallory"] {
        sends(name, DeliveryState::Accepted).await;
    }
    eventually("the line", || async { (!logged("mail goes out again").is_empty()).then_some(()) }).await;
    let (began, ended) = (logged("mail fails at the relay"), logged("mail goes out again"));
    assert_eq!((began.len(), ended.len()), (1, 1), "{began:?} {ended:?}");
    assert!(began[0].contains("WARN") && began[0].contains("at MAIL FROM: 550 5.7.1"), "{began:?}");
    assert!(!began[0].contains('@') && ended[0].contains("INFO"), "{began:?} {ended:?}");
}
