//! The outbox: what becomes of messages when the relay, the disk or this server fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::{self, DeliveryState, EventType, UserFlag};
use tokio::sync::Notify;

use crate::broken_files::SmallDisk;
use crate::harness::actors::named;
use crate::harness::child::Site;
use crate::harness::database::TestDatabase;
use crate::harness::smtp::{Act, Certificate, Received, SmtpServer, Step, Tls};
use crate::harness::transcript::Shell;
use crate::harness::{Client, Harness, PASSWORD, TestClock, eventually};

/// Creates users who have an address each, and returns the operator.
async fn users(h: &Harness, names: &[&str]) -> Client {
    let operator = h.operator().await;
    for name in names {
        operator.create(person(name)).await.expect("a user");
    }
    operator
}

fn person(name: &str) -> v1::CreateUserRequest {
    v1::CreateUserRequest {
        username: name.to_owned(),
        email: format!("{name}@example.com"),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    }
}

impl Client {
    /// Waits until the first attempt to send a message has ended.
    async fn attempted(&self, id: &str) -> v1::Delivery {
        eventually("the end of an attempt", || async {
            let now = self.delivery(id).await;
            (!matches!(now.state(), DeliveryState::Queued | DeliveryState::Sending)).then_some(now)
        })
        .await
    }

    async fn sends_link(&self, username: &str) -> v1::Delivery {
        let request = v1::ResetPasswordRequest { user: Some(named(username)), ..Default::default() };
        self.reset_with(request).await.expect("a reset").delivery.expect("a delivery")
    }
}

#[tokio::test]
async fn the_contents_of_a_message_are_wiped_once_it_has_its_last_state() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob"]).await;
    let delivery = operator.sends_link("bob").await;
    let sent = operator.delivery_in(&delivery.id, DeliveryState::Accepted).await;
    assert_eq!((sent.attempts, sent.relay.as_str(), sent.next_attempt_time), (1, "file", None));
    assert_eq!(h.query("SELECT count(contents) FROM delivery").await, ["0"]);
}

#[tokio::test]
async fn mail_that_cannot_be_written_is_tried_again_by_the_schedule() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob"]).await;
    let folder = h.dir().join("mail");
    // A file where the folder should be.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::write(&folder, "in the way").expect("a file");
    let delivery = operator.sends_link("bob").await;
    let waiting = operator.delivery_in(&delivery.id, DeliveryState::Retrying).await;
    assert_eq!(waiting.attempts, 1);
    assert!(!waiting.last_error.is_empty() && waiting.next_attempt_time.is_some(), "{waiting:?}");
    std::fs::remove_file(&folder).expect("no file");
    h.clock.advance(Duration::from_secs(12));
    let sent = operator.delivery_in(&delivery.id, DeliveryState::Accepted).await;
    assert_eq!((sent.attempts, sent.last_error.as_str()), (2, ""));
    let queue = operator.user_admin().get_mail_status(v1::GetMailStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((queue.waiting, queue.transport()), (0, v1::get_mail_status_response::Transport::File));
    assert!(queue.last_accepted_time.is_some());
}

#[tokio::test]
async fn a_message_whose_link_ends_before_it_goes_out_is_not_sent() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob", "ada"]).await;
    let folder = h.dir().join("mail");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::write(&folder, "in the way").expect("a file");
    let (cancelled, expired) = (operator.sends_link("bob").await, operator.sends_link("ada").await);
    for delivery in [&cancelled, &expired] {
        operator.delivery_in(&delivery.id, DeliveryState::Retrying).await;
    }
    operator.lock("bob").await.expect("a lock");
    operator.delivery_in(&cancelled.id, DeliveryState::Cancelled).await;
    // Both could be sent now.
    std::fs::remove_file(&folder).expect("no file");
    h.clock.advance(Duration::from_hours(13));
    operator.delivery_in(&expired.id, DeliveryState::Expired).await;
    assert_eq!(h.query("SELECT count(contents) FROM delivery").await, ["0"]);
    assert_eq!(h.mails().len(), 0);
}

/// A server whose mail goes to this relay, in plain text on loopback, with limits that a test can wait for.
async fn with_relay(relay: &SmtpServer) -> Harness {
    with_relay_at(relay, &plain(relay), Duration::from_secs(2)).await
}

/// As `with_relay`, with limits that a test does not reach.
async fn with_patient_relay(relay: &SmtpServer) -> Harness {
    with_relay_at(relay, &plain(relay), Duration::from_mins(1)).await
}

async fn with_relay_at(relay: &SmtpServer, url: &str, limit: Duration) -> Harness {
    Harness::with(|config| {
        config.mail.transport = latchkey::config::Transport::Smtp;
        config.mail.smtp.url = Some(url.parse().expect("a URL"));
        config.mail.smtp.ca = Some(relay.ca.clone()).filter(|_| !url.ends_with("tls=none"));
        config.mail.limits.command = limit;
        config.mail.limits.dot = limit;
    })
    .await
}

fn plain(relay: &SmtpServer) -> String {
    format!("smtp://127.0.0.1:{}?tls=none", relay.address.port())
}

/// A relay that does one thing at one step the first time, and everything else right.
async fn once(step: Step, act: Act) -> SmtpServer {
    once_seen(step, act).await.0
}

/// As `once`, with a flag that is set when it is done.
async fn once_seen(step: Step, act: Act) -> (SmtpServer, Arc<AtomicBool>) {
    let is_done = Arc::<AtomicBool>::default();
    let seen = Arc::clone(&is_done);
    let script = move |now: Step, _: &str| (now == step && !is_done.swap(true, Relaxed)).then(|| act.clone());
    (SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await, seen)
}

/// Waits until a flag is set.
async fn is_set(flag: &AtomicBool) {
    eventually("the step", || async { flag.load(Relaxed).then_some(()) }).await;
}

fn message_id(mail: &Received) -> String {
    let line = mail.content.lines().find(|line| line.starts_with("Message-ID:"));
    line.expect("a Message-ID").to_owned()
}

#[tokio::test]
async fn sec_086_every_answer_of_the_relay_leads_to_the_state_that_is_true() {
    use DeliveryState::{Failed, Retrying, Unknown};
    let cases = [
        (Step::Greeting, Act::last_word("421 4.3.2 shutting down"), Retrying, "421"),
        (Step::Hello, Act::close(), Retrying, "closed"),
        (Step::Mail, Act::reply("451 4.3.0 try later"), Retrying, "451"),
        (Step::Mail, Act::reply("550 5.7.1 not you"), Retrying, "550"),
        (Step::Recipient, Act::reply("450 4.2.0 greylisted"), Retrying, "450"),
        (Step::Recipient, Act::reply("550 5.1.1 no such user"), Failed, "550 5.1.1"),
        (Step::Recipient, Act::Hang, Retrying, "no answer"),
        (Step::Recipient, Act::Endless, Retrying, ""),
        (Step::Data, Act::reply("451 4.3.0 no room"), Retrying, "451"),
        (Step::Dot, Act::reply("552 5.3.4 too big"), Failed, "552"),
        (Step::Dot, Act::reply("451 4.3.0 not now"), Retrying, "451"),
        (Step::Dot, Act::close(), Unknown, ""),
        (Step::Dot, Act::Hang, Unknown, ""),
    ];
    for (step, act, expected, words) in cases {
        let relay = once(step, act.clone()).await;
        let h = with_relay(&relay).await;
        let operator = users(&h, &["bob"]).await;
        let sent = operator.sends_link("bob").await;
        assert_eq!(sent.state(), DeliveryState::Queued, "the call does not wait for the relay");
        let seen = operator.attempted(&sent.id).await;
        assert_eq!(seen.state(), expected, "{step:?} {act:?}: {:?}", seen.last_error);
        assert!(seen.last_error.contains(words), "{step:?} {act:?}: {:?}", seen.last_error);
        assert_eq!((seen.attempts, seen.relay.as_str()), (1, relay.address.to_string().as_str()), "{step:?} {act:?}");
        assert_eq!(seen.next_attempt_time.is_some(), expected != Failed, "{step:?} {act:?}");
        if expected == Failed {
            assert_eq!(h.query("SELECT count(contents) FROM delivery").await, ["0"]);
            continue;
        }
        h.clock.advance(Duration::from_mins(5));
        let done = operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
        assert_eq!((done.attempts, done.last_error.as_str(), relay.accepted().len()), (2, "", 1), "{step:?} {act:?}");
    }
}

#[tokio::test]
async fn a_diagnosis_tells_what_became_of_the_mail() {
    use latchkey::proto::v1::sign_in_finding::Code;
    let relay = once(Step::Recipient, Act::reply("550 5.1.2 no such host")).await;
    let h = with_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    let sent = operator.sends_link("bob").await;
    operator.delivery_in(&sent.id, DeliveryState::Failed).await;
    let diagnose = || async {
        let request = v1::DiagnoseSignInRequest { user: Some(named("bob")), ..Default::default() };
        operator.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner()
    };
    let told = diagnose().await;
    let finding = told.findings.iter().find(|finding| finding.code() == Code::DeliveryFailing).expect("a finding");
    assert!(finding.summary.contains("bob@example.com") && finding.summary.contains("550 5.1.2"), "{finding:?}");
    assert_eq!(finding.remedy_method, "latchkey.v1.UserAdmin/ResendDelivery");
    assert_eq!(told.deliveries.first().map(|delivery| delivery.id.as_str()), Some(sent.id.as_str()));
    let request = v1::ResendDeliveryRequest { delivery_id: sent.id, ..Default::default() };
    let again = operator.user_admin().resend_delivery(request).await.expect("at once").into_inner().delivery.unwrap();
    operator.delivery_in(&again.id, DeliveryState::Accepted).await;
    assert!(diagnose().await.findings.iter().all(|finding| finding.code() != Code::DeliveryFailing));
}

#[tokio::test]
async fn a_user_to_whom_mail_failed_shows_it_until_mail_is_accepted_or_the_address_changes() {
    let exists = Arc::new(AtomicBool::new(false));
    let mailbox = exists.clone();
    let script = move |now: Step, line: &str| {
        let is_unknown = line.contains("wrong") && !mailbox.load(Relaxed);
        (now == Step::Recipient && is_unknown).then(|| Act::reply("550 5.1.1 no such user"))
    };
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await;
    let h = with_relay(&relay).await;
    let operator = users(&h, &["wrong", "right"]).await;
    let failed = |user: &v1::User| user.flags.contains(&UserFlag::MailFailed.into());
    let moves = |username: &'static str, email: &'static str| {
        let email = Some(email.to_owned());
        operator.update(v1::UpdateUserRequest { user: Some(named(username)), email, ..Default::default() })
    };
    for (name, end) in [("wrong", DeliveryState::Failed), ("right", DeliveryState::Accepted)] {
        let sent = operator.sends_link(name).await;
        operator.delivery_in(&sent.id, end).await;
    }
    assert!(failed(&operator.user("wrong").await) && !failed(&operator.user("right").await));
    let filter = v1::UserFilter { flags: vec![UserFlag::MailFailed.into()], ..Default::default() };
    let listed = v1::ListUsersRequest { filter: Some(filter), ..Default::default() };
    let listed = operator.list(listed).await.unwrap().users;
    assert_eq!(listed.iter().map(|user| user.username.as_str()).collect::<Vec<_>>(), ["wrong"]);

    // The message to the old address may have failed; the new one is another matter.
    assert!(!failed(&moves("wrong", "new@example.com").await.unwrap().user.unwrap()));
    assert!(failed(&moves("wrong", "wrong@example.com").await.unwrap().user.unwrap()));
    assert!(!failed(&moves("right", "wrong.too@example.com").await.unwrap().user.unwrap()));
    let sent = operator.sends_link("right").await;
    operator.delivery_in(&sent.id, DeliveryState::Failed).await;
    assert!(failed(&operator.user("right").await));
    exists.store(true, Relaxed);
    let again = operator.sends_link("right").await;
    operator.delivery_in(&again.id, DeliveryState::Accepted).await;
    assert!(!failed(&operator.user("right").await));
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
async fn a_message_that_the_relay_may_have_is_not_tried_again_once_it_is_cancelled() {
    let relay = SmtpServer::with(Tls::None, Step::Dot, Act::close()).await;
    let h = with_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    let sent = operator.sends_link("bob").await;
    assert!(operator.delivery_in(&sent.id, DeliveryState::Unknown).await.next_attempt_time.is_some());
    let request = v1::CancelDeliveryRequest { delivery_id: sent.id.clone(), ..Default::default() };
    operator.user_admin().cancel_delivery(request).await.expect("a cancellation");
    let now = operator.delivery(&sent.id).await;
    assert_eq!((now.state(), now.next_attempt_time), (DeliveryState::Unknown, None));
    assert_eq!(h.query("SELECT count(contents) FROM delivery").await, ["0"]);
}

#[tokio::test]
async fn mail_to_a_user_has_failed_if_a_try_was_given_up_and_none_to_that_address_was_accepted_since() {
    const ACCEPTED: &str = "state = 4, attempts = 1, address_key = 'bob@example.com'";
    const ELSEWHERE: &str = "state = 4, attempts = 1, address_key = 'old@example.com'";
    const FAILED: &str = "state = 5, attempts = 1, address_key = 'bob@example.com'";
    const EXPIRED: &str = "state = 6, attempts = 1, address_key = 'bob@example.com'";
    const UNTRIED: &str = "state = 6, attempts = 0, address_key = 'bob@example.com'";
    let h = Harness::start().await;
    let operator = users(&h, &["bob"]).await;
    let (earlier, later) = (operator.sends_link("bob").await.id, operator.sends_link("bob").await.id);
    for id in [&earlier, &later] {
        operator.delivery_in(id, DeliveryState::Accepted).await;
    }
    for (first, second, has_failed) in [
        (ACCEPTED, FAILED, true),
        (FAILED, ACCEPTED, false),
        (FAILED, ELSEWHERE, true),
        (ACCEPTED, EXPIRED, true),
        (EXPIRED, ACCEPTED, false),
        (ACCEPTED, UNTRIED, false),
    ] {
        for (id, at, is) in [(&earlier, 1, first), (&later, 2, second)] {
            h.sql(&format!("UPDATE delivery SET updated_at = {at}, {is} WHERE id = '{id}'")).await;
        }
        let flags = operator.user("bob").await.flags;
        assert_eq!(flags.contains(&UserFlag::MailFailed.into()), has_failed, "{first}, then {second}");
        let filter = v1::UserFilter { flags: vec![UserFlag::MailFailed.into()], ..Default::default() };
        let listed = v1::ListUsersRequest { filter: Some(filter), ..Default::default() };
        assert_eq!(operator.list(listed).await.unwrap().users.len(), usize::from(has_failed), "{first}, then {second}");
    }
}

#[tokio::test]
async fn sec_083_what_the_relay_may_have_is_sent_once_more_as_the_same_message() {
    let relay = SmtpServer::with(Tls::None, Step::Dot, Act::close()).await;
    let h = with_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    let sent = operator.sends_link("bob").await;
    operator.delivery_in(&sent.id, DeliveryState::Unknown).await;
    h.clock.advance(Duration::from_mins(5));
    eventually("the second attempt", || async {
        let now = operator.delivery(&sent.id).await;
        (now.attempts == 2 && now.next_attempt_time.is_none() && now.state() == DeliveryState::Unknown).then_some(())
    })
    .await;
    h.clock.advance(Duration::from_hours(2));
    let contents = relay.arrived();
    assert_eq!(contents.len(), 2);
    assert_eq!(message_id(&contents[0]), message_id(&contents[1]));
    assert_eq!(contents[0].content, contents[1].content);
}

#[tokio::test]
async fn slow_recipients_hold_up_no_other() {
    let script = |now: Step, line: &str| (now == Step::Recipient && line.contains("tar")).then_some(Act::Hang);
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await;
    let h = with_relay(&relay).await;
    let tarpits: Vec<String> = (0..8).map(|n| format!("tar{n}")).collect();
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
    // Now all eight are known to be slow, and due again.
    h.clock.advance(Duration::from_secs(12));
    eventually("retries", || async {
        let sending = h.query("SELECT count(*) FROM delivery WHERE state = 2").await;
        (sending == ["4"]).then_some(())
    })
    .await;
    let second = operator.sends_link("bob").await;
    operator.delivery_in(&second.id, DeliveryState::Accepted).await;
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

/// A relay that is busy until it is told otherwise, and then follows the script.
async fn busy(script: impl Fn(Step) -> Option<Act> + Send + Sync + 'static) -> (SmtpServer, Arc<AtomicBool>) {
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&is_open);
    let script = move |now: Step, _: &str| match now {
        Step::Greeting if !opened.load(Relaxed) => Some(Act::last_word("421 4.3.2 busy")),
        now => script(now),
    };
    (SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await, is_open)
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
        let h = with_relay(&relay).await;
        let operator = users(&h, &["bob"]).await;
        // They have one address, so they go out one after the other.
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
        for delivery in &sent {
            let accepted = operator.delivery_in(&delivery.id, DeliveryState::Accepted).await;
            assert_eq!(accepted.attempts, 2, "{case}");
        }
        assert_eq!((relay.connections() - before, relay.accepted().len()), (2, 3), "{case}");
    }
}

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

const HOUR: Duration = Duration::from_hours(1);

/// A relay that keeps the mail to `tar` until it is told to answer.
async fn holding() -> (SmtpServer, Arc<Notify>) {
    let release = Arc::<Notify>::default();
    let held = Arc::clone(&release);
    let script =
        move |now: Step, line: &str| (now == Step::Dot && line.contains("tar")).then(|| Act::Hold(Arc::clone(&held)));
    (SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await, release)
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

#[tokio::test]
async fn sec_085_over_a_bad_tls_nothing_is_sent_and_the_reason_is_kept() {
    for (tls, certificate, words) in [
        (Tls::None, Certificate::Good, "STARTTLS"),
        (Tls::Upgrade, Certificate::OfAnotherName, "another name"),
        (Tls::Upgrade, Certificate::Expired, "expired"),
        (Tls::Implicit, Certificate::OfAnotherAuthority, "CA"),
    ] {
        let relay = SmtpServer::scripted(tls, certificate, "HELP", |_, _| None).await;
        let scheme = if tls == Tls::Implicit { "smtps" } else { "smtp" };
        let url = relay.url(scheme, None);
        let h = with_relay_at(&relay, &url, Duration::from_secs(10)).await;
        let operator = users(&h, &["bob"]).await;
        let sent = operator.sends_link("bob").await;
        let waiting = operator.attempted(&sent.id).await;
        assert_eq!(waiting.state(), DeliveryState::Retrying, "{certificate:?}: {waiting:?}");
        assert!(waiting.last_error.contains(words), "{certificate:?}: {:?}", waiting.last_error);
        assert!(relay.arrived().is_empty() && !relay.lines().concat().contains("MAIL"), "{certificate:?}");
    }
}

#[tokio::test]
async fn mail_waits_while_the_relay_is_down_and_goes_out_when_it_is_back() {
    let relay = SmtpServer::start(Tls::None).await;
    let address = relay.address;
    let h = with_relay(&relay).await;
    let operator = users(&h, &["bob", "ada"]).await;
    relay.stop().await;
    let mut sent = Vec::new();
    for name in ["bob", "ada"] {
        let queued = operator.sends_link(name).await;
        let waiting = operator.delivery_in(&queued.id, DeliveryState::Retrying).await;
        assert_eq!((waiting.attempts, waiting.relay.as_str()), (1, address.to_string().as_str()));
        assert!(waiting.last_error.contains("refused"), "{waiting:?}");
        sent.push(queued);
    }
    let relay = SmtpServer::start_at(address);
    h.clock.advance(Duration::from_secs(12));
    for queued in &sent {
        assert_eq!(operator.delivery_in(&queued.id, DeliveryState::Accepted).await.attempts, 2);
    }
    assert_eq!(relay.accepted().len(), 2);
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
async fn a_message_that_is_cancelled_while_it_is_sent_says_what_became_of_it() {
    for (step, answers, state) in [
        (Step::Recipient, false, DeliveryState::Cancelled),
        (Step::Dot, false, DeliveryState::Unknown),
        (Step::Dot, true, DeliveryState::Accepted),
    ] {
        let release = Arc::<Notify>::default();
        let act = if answers { Act::Hold(Arc::clone(&release)) } else { Act::Hang };
        let (relay, is_reached) = once_seen(step, act).await;
        let h = with_relay(&relay).await;
        let operator = users(&h, &["bob"]).await;
        let sent = operator.sends_link("bob").await;
        is_set(&is_reached).await;
        let request = v1::CancelDeliveryRequest { delivery_id: sent.id.clone(), ..Default::default() };
        let answer = operator.user_admin().cancel_delivery(request).await.expect("a cancellation").into_inner();
        assert_eq!(answer.delivery.expect("a delivery").state(), DeliveryState::Sending);
        release.notify_one();
        let ended = operator.delivery_in(&sent.id, state).await;
        assert_eq!((ended.attempts, ended.next_attempt_time), (1, None), "{step:?}: {ended:?}");
        h.clock.advance(HOUR);
        assert_eq!(h.query("SELECT count(contents) FROM delivery").await, ["0"]);
        assert_eq!(relay.connections(), 1, "{step:?}");
    }
}

#[tokio::test]
async fn cancelling_a_password_that_is_being_sent_is_in_the_audit_log() {
    let (relay, is_reached) = once_seen(Step::Recipient, Act::Hang).await;
    let h = with_patient_relay(&relay).await;
    let operator = users(&h, &["bob"]).await;
    let handover = v1::temporary_password::Handover::Mail.into();
    let method = Some(Method::TemporaryPassword(v1::TemporaryPassword { handover, ttl: None }));
    let request = v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() };
    let sent = operator.reset_with(request).await.expect("a reset").delivery.expect("a delivery");
    is_set(&is_reached).await;
    let request = v1::CancelDeliveryRequest { delivery_id: sent.id, ..Default::default() };
    operator.user_admin().cancel_delivery(request).await.expect("a cancellation");
    let cancelled = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::DeliveryCancelled);
    assert_eq!(cancelled.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_waits_while_the_disk_is_read_only_or_full() {
    use std::io::Write as _;

    let shell = Shell::default();
    let path = shell.path("disk");
    std::fs::create_dir(&path).expect("a folder");
    let Some(disk) = SmallDisk::mount(&shell, &path) else { return };
    let folder = path.join("mail");
    std::fs::create_dir(&folder).expect("a folder");
    let h = Harness::with(|config| config.mail.dir.clone_from(&folder)).await;
    let operator = users(&h, &["bob"]).await;
    disk.remount(&shell, "ro");
    let sent = operator.sends_link("bob").await;
    let waiting = operator.delivery_in(&sent.id, DeliveryState::Retrying).await;
    assert!(waiting.last_error.contains("Read-only file system"), "{waiting:?}");
    disk.remount(&shell, "rw");
    let mut filler = std::fs::File::create(path.join("filler")).expect("a file");
    // A large piece would be refused as a whole and leave room.
    while filler.write_all(&[0; 1024]).is_ok() {}
    h.clock.advance(Duration::from_secs(12));
    eventually("the second attempt", || async {
        let now = operator.delivery(&sent.id).await;
        (now.attempts == 2 && now.last_error.contains("No space left")).then_some(())
    })
    .await;
    // An open file would keep its room.
    drop(filler);
    std::fs::remove_file(path.join("filler")).expect("room");
    h.clock.advance(Duration::from_secs(36));
    assert_eq!(operator.delivery_in(&sent.id, DeliveryState::Accepted).await.attempts, 3);
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
}
