//! The outbox: which messages go out first, how many at a time, and over which connections.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use latchkey::proto::v1::{self, DeliveryState};

use crate::harness::relay::{busy, once, plain, users, with_patient_relay, with_relay};
use crate::harness::smtp::{Act, Certificate, SmtpServer, Step, Tls};
use crate::harness::{Harness, eventually};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn of_messages_to_one_address_that_are_due_together_one_is_sent_at_a_time() {
    let (relay, is_open) = busy(|step| (step == Step::Dot).then_some(Act::Hang)).await;
    let h = with_patient_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    for _ in 0..2 {
        let sent = operator.sends_link("bob").await;
        operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
    }
    is_open.store(true, Relaxed);
    h.clock.advance(HOUR);
    eventually("a mail at the relay", || async { (relay.arrived().len() == 1).then_some(()) }).await;
    let mut states: Vec<_> = operator.deliveries("bob").await.iter().map(v1::Delivery::state).collect();
    states.sort();
    assert_eq!(states, [DeliveryState::Sending, DeliveryState::Retrying]);
}

#[tokio::test]
async fn slow_recipients_hold_up_no_other() {
    let script = |now: Step, line: &str| (now == Step::Recipient && line.contains("tar")).then_some(Act::Hang);
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await;
    let h = with_relay(&relay).await;
    let tarpits: Vec<String> = (0..12).map(|n| format!("tar{n}")).collect();
    let names: Vec<&str> = tarpits.iter().map(String::as_str).chain(["ada", "bob"]).collect();
    let operator = users(&h, &names).await;
    let mut slow = Vec::new();
    for name in &tarpits {
        slow.push(operator.sends_link(name).await);
    }
    let first = operator.sends_link("ada").await;
    operator.delivery_in(&first.id, DeliveryState::Accepted).await;
    for sent in &slow {
        operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
    }
    // Now all twelve are known to be slow, and due again.
    h.clock.advance(Duration::from_secs(12));
    eventually("retries", || async {
        let sending = h.query("SELECT count(*) FROM delivery WHERE state = 2").await;
        (sending == ["8"]).then_some(())
    })
    .await;
    let second = operator.sends_link("bob").await;
    operator.delivery_in(&second.id, DeliveryState::Accepted).await;
}

#[tokio::test]
async fn an_attempt_that_lasts_gives_up_its_place() {
    let script = |now: Step, line: &str| (now == Step::Recipient && line.contains("tar")).then_some(Act::Hang);
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await;
    let h = Harness::with(|config| {
        config.mail.transport = latchkey::config::Transport::Smtp;
        config.mail.smtp.url = Some(plain(&relay).parse().expect("a URL"));
        config.mail.limits.slow_after = Duration::from_millis(100);
    })
    .await;
    let tarpits: Vec<String> = (0..30).map(|n| format!("tar{n}")).collect();
    let names: Vec<&str> = tarpits.iter().map(String::as_str).chain(["ada"]).collect();
    let operator = users(&h, &names).await;
    let is_sending = async |count: &str| {
        let sending = h.query("SELECT count(*) FROM delivery WHERE state = 2").await;
        (sending == [count]).then_some(())
    };
    for name in &tarpits[..16] {
        operator.sends_link(name).await;
    }
    eventually("sixteen attempts", || is_sending("16")).await;
    // Had one of them to end first, this would take a minute.
    let sent = operator.sends_link("ada").await;
    operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
    assert_eq!(is_sending("16").await, Some(()));

    for name in &tarpits[16..] {
        operator.sends_link(name).await;
    }
    eventually("all places", || is_sending("24")).await;
}

#[tokio::test]
async fn slow_messages_that_wait_hide_no_other() {
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&is_open);
    let script = move |now: Step, line: &str| match now {
        Step::Greeting if !opened.load(Relaxed) => Some(Act::last_word("421 4.3.2 busy")),
        Step::Recipient if line.contains("tar") => Some(Act::Hang),
        _ => None,
    };
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await;
    let mut h = with_patient_relay(&relay).await;
    // More than the rows that are looked at, with eight of them in their places.
    let tarpits: Vec<String> = (0..48).map(|n| format!("tar{n}")).collect();
    let names: Vec<&str> = tarpits.iter().map(String::as_str).chain(["ada"]).collect();
    let operator = users(&h, &names).await;
    for name in &tarpits {
        let sent = operator.sends_link(name).await;
        operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
    }
    h.halt().await;
    h.sql("UPDATE delivery SET is_slow = TRUE, next_attempt_at = 1").await;
    is_open.store(true, Relaxed);
    let h = Box::pin(h.resume()).await;
    let operator = h.operator().await;
    eventually("the slow places", || async {
        let sending = h.query("SELECT count(*) FROM delivery WHERE state = 2").await;
        (sending == ["8"]).then_some(())
    })
    .await;
    let sent = operator.sends_link("ada").await;
    operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
}

#[tokio::test]
async fn messages_to_one_address_go_out_one_after_the_other() {
    let relay = once(Step::Recipient, Act::Hang).await;
    let h = with_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    let first = operator.sends_link("bob").await;
    operator.delivery_in(&first.id, DeliveryState::Sending).await;
    let second = operator.sends_link("bob").await;
    operator.delivery_in(&first.id, DeliveryState::Retrying).await;
    operator.delivery_in(&second.id, DeliveryState::Accepted).await;
    assert_eq!(relay.accepted().len(), 1);
}

#[tokio::test]
async fn a_burst_of_messages_shares_connections_which_end_with_it() {
    let (relay, is_open) = busy(|_| None).await;
    let h = with_relay(&relay).await;
    let names: Vec<String> = (0..30).map(|n| format!("user{n}")).collect();
    let operator = users(&h, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut sent = Vec::new();
    for name in &names {
        sent.push(operator.sends_link(name).await);
    }
    for delivery in &sent {
        operator.delivery_in(&delivery.id, DeliveryState::Retrying).await;
    }
    let before = relay.connections();
    is_open.store(true, Relaxed);
    h.clock.advance(Duration::from_secs(12));
    for delivery in &sent {
        operator.delivery_in(&delivery.id, DeliveryState::Accepted).await;
    }
    let opened = relay.connections() - before;
    assert!(opened <= 8, "{opened}");
    relay.is_left().await;
    assert_eq!(relay.lines().iter().filter(|line| *line == "QUIT").count(), opened);
    let mut recipients: Vec<String> = relay.accepted().into_iter().flat_map(|mail| mail.to).collect();
    recipients.sort();
    recipients.dedup();
    assert_eq!(recipients.len(), 30, "each got one mail");
}

/// Sends three mails to one address, so one after the other, once the relay is no longer busy. Returns the messages, and how many
/// connections they took.
async fn three_in_turn(relay: &SmtpServer, is_open: &AtomicBool) -> (Vec<v1::Delivery>, usize) {
    let h = with_relay(relay).await;
    let operator = users(&h, &["bob"]).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(operator.sends_link("bob").await);
    }
    for delivery in &sent {
        operator.delivery_in(&delivery.id, DeliveryState::Retrying).await;
    }
    let before = relay.connections();
    is_open.store(true, Relaxed);
    h.clock.advance(Duration::from_secs(12));
    let mut accepted = Vec::new();
    for delivery in &sent {
        accepted.push(operator.delivery_in(&delivery.id, DeliveryState::Accepted).await);
    }
    (accepted, relay.connections() - before)
}

#[tokio::test]
async fn a_connection_that_takes_no_further_mail_is_replaced_at_once() {
    let endings = [
        ("421", Act::last_word("421 4.7.0 no more mails on this connection")),
        ("452", Act::reply("452 4.5.3 no more mails on this connection")),
        ("closed", Act::close()),
        ("out of step", Act::Append(b"250 2.0.0 and another\r\n".to_vec())),
    ];
    for (case, ending) in endings {
        let mails = AtomicUsize::new(0);
        let script = move |now: Step| (now == Step::Mail && mails.fetch_add(1, Relaxed) == 1).then(|| ending.clone());
        let (relay, is_open) = busy(script).await;
        let (accepted, connections) = three_in_turn(&relay, &is_open).await;
        assert!(accepted.iter().all(|delivery| delivery.attempts == 2), "{case}: {accepted:?}");
        assert_eq!((connections, relay.accepted().len()), (2, 3), "{case}");
    }
}

#[tokio::test]
async fn a_connection_on_which_more_followed_the_answer_to_a_mail_is_not_used_again() {
    let more = b"421 4.7.0 no more mails on this connection\r\n".to_vec();
    let (relay, is_open) = busy(move |now| (now == Step::Dot).then(|| Act::Append(more.clone()))).await;
    let (accepted, connections) = three_in_turn(&relay, &is_open).await;
    for delivery in accepted {
        assert_eq!((delivery.attempts, delivery.relay_answer.as_str()), (2, "250 2.0.0 queued as 4711"));
    }
    assert_eq!((connections, relay.accepted().len()), (3, 3));
}

#[tokio::test]
async fn the_messages_that_have_been_due_longest_go_out_first() {
    let (relay, is_open) = busy(|step| (step == Step::Dot).then_some(Act::Hang)).await;
    let mut h = with_patient_relay(&relay).await;
    let names: Vec<String> = (10..22).map(|n| format!("user{n}")).collect();
    let operator = users(&h, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut sent = Vec::new();
    for name in &names {
        sent.push(operator.sends_link(name).await);
    }
    for delivery in &sent {
        operator.delivery_in(&delivery.id, DeliveryState::Retrying).await;
    }
    h.halt().await;
    // The later one was made, the longer it is due.
    for (number, delivery) in sent.iter().rev().enumerate() {
        h.sql(&format!("UPDATE delivery SET next_attempt_at = {number} WHERE id = '{}'", delivery.id)).await;
    }
    is_open.store(true, Relaxed);
    let _h = Box::pin(h.resume()).await;
    let eight = async || (relay.arrived().len() == 8).then(|| relay.arrived());
    let mut first: Vec<String> = eventually("eight mails", eight).await.into_iter().flat_map(|mail| mail.to).collect();
    first.sort();
    assert_eq!(first, names[4..].iter().map(|name| format!("<{name}@example.com>")).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_message_goes_to_an_address_that_another_worker_is_sending_to_until_its_lease_has_ended() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob", "ada"]).await;
    let folder = h.dir().join("mail");
    let _ = std::fs::remove_dir_all(&folder);
    // A file where the folder should be.
    std::fs::write(&folder, "in the way").expect("a file");
    let first = operator.sends_link("bob").await;
    operator.delivery_in(&first.id, DeliveryState::Retrying).await;
    // As another worker leaves it that is sending it.
    h.sql("UPDATE delivery SET state = 2, lease = contents, next_attempt_at = 9000000000000000").await;
    std::fs::remove_file(&folder).expect("no file");
    let (second, other) = (operator.sends_link("bob").await, operator.sends_link("ada").await);
    operator.delivery_in(&other.id, DeliveryState::Accepted).await;
    assert_eq!(operator.delivery(&second.id).await.state(), DeliveryState::Queued);
    assert_eq!(operator.delivery(&first.id).await.state(), DeliveryState::Sending);
    h.sql(&format!("UPDATE delivery SET next_attempt_at = 1 WHERE id = '{}'", first.id)).await;
    for (delivery, attempts) in [(&first, 2), (&second, 1)] {
        assert_eq!(operator.delivery_in(&delivery.id, DeliveryState::Accepted).await.attempts, attempts);
    }
}
