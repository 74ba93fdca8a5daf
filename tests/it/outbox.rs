//! The outbox: what becomes of messages when the relay, the disk or this server fails.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::{self, DeliveryState, EventType, UserFlag};
use tokio::sync::Notify;

use crate::broken_files::SmallDisk;
use crate::harness::actors::named;
use crate::harness::relay::{
    is_set, message_id, once, once_seen, users, with_patient_relay, with_relay, with_relay_at,
};
use crate::harness::smtp::{Act, Certificate, SmtpServer, Step, Tls};
use crate::harness::transcript::Shell;
use crate::harness::{Harness, eventually};

const HOUR: Duration = Duration::from_hours(1);

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
        (Step::Recipient, Act::reply("554 5.7.1 <bob@example.com>: Relay access denied"), Retrying, "554 5.7.1"),
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
async fn only_what_mail_to_others_would_meet_too_is_a_failure_of_the_relay() {
    use latchkey::proto::v1::sign_in_finding::Code;
    for (step, reply, state, is_relays) in [
        (Step::Recipient, "550 5.1.2 no such host", DeliveryState::Failed, false),
        (Step::Recipient, "450 4.2.0 greylisted", DeliveryState::Retrying, false),
        (Step::Recipient, "554 5.7.1 Relay access denied", DeliveryState::Retrying, true),
        (Step::Mail, "451 4.3.0 try later", DeliveryState::Retrying, true),
    ] {
        let relay = SmtpServer::with(Tls::None, step, Act::reply(reply)).await;
        let h = with_relay(&relay).await;
        let names = ["bob", "ada", "eve"];
        let operator = users(&h, &names).await;
        for name in names {
            let sent = operator.sends_link(name).await;
            operator.delivery_in(&sent.id, state).await;
        }
        let status = operator.user_admin().get_mail_status(v1::GetMailStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.last_failure.contains(reply), status.last_failure_time.is_some()), (is_relays, is_relays));
        let request = v1::DiagnoseSignInRequest { user: Some(named("bob")), ..Default::default() };
        let told = operator.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner();
        let is_told = told.findings.iter().any(|finding| finding.code() == Code::MailUnavailable);
        assert_eq!(is_told, is_relays, "{reply}: {:?}", told.findings);

        h.clock.advance(HOUR);
        // A start measures the outbox.
        let h = h.restart().await;
        let waiting = if state == DeliveryState::Failed { 0 } else { 3 };
        eventually("a measurement", || async { (h.metric("latchkey_outbox_messages").await == waiting).then_some(()) })
            .await;
        let held_up = h.metric("latchkey_outbox_oldest_seconds").await;
        // The seconds that the test itself took are in it.
        assert_eq!(held_up / HOUR.as_secs(), u64::from(is_relays), "{reply}");
    }
}

#[tokio::test]
async fn sec_011_a_reset_is_answered_while_the_relay_holds_its_greeting() {
    let release = Arc::<Notify>::default();
    let (relay, is_reached) = once_seen(Step::Greeting, Act::Hold(Arc::clone(&release))).await;
    let h = with_patient_relay(&relay).await;
    let operator = users(&h, &["bob", "ada"]).await;
    let first = operator.sends_link("bob").await;
    is_set(&is_reached).await;
    // The relay greets only after these calls: had one waited for it, the test would stand still.
    assert_eq!(operator.delivery(&first.id).await.state(), DeliveryState::Sending);
    let second = operator.sends_link("ada").await;
    assert_eq!(second.state(), DeliveryState::Queued);
    let request = v1::RequestPasswordResetRequest { login: "bob".to_owned(), ..Default::default() };
    h.stranger().await.auth().request_password_reset(request).await.expect("an answer");
    assert_eq!(operator.delivery(&first.id).await.state(), DeliveryState::Sending);
    release.notify_one();
    for sent in [&first, &second] {
        operator.delivery_in(&sent.id, DeliveryState::Accepted).await;
    }
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

#[tokio::test]
async fn messages_and_links_go_after_ninety_days_but_no_message_that_still_waits() {
    let h = Harness::start().await;
    let operator = users(&h, &["bob"]).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        let delivery = operator.sends_link("bob").await;
        sent.push(operator.delivery_in(&delivery.id, DeliveryState::Accepted).await.id);
    }
    let [old, young, waiting] = &sent[..] else { panic!("three messages") };
    let old_age = Duration::from_hours(24 * 90).as_micros();
    let young_age = old_age - HOUR.as_micros();
    for (id, age) in [(old, old_age), (young, young_age), (waiting, old_age)] {
        h.sql(&format!("UPDATE link SET expires_at = created_at - {age} WHERE id = (SELECT link_id FROM delivery WHERE id = '{id}')"))
            .await;
        h.sql(&format!("UPDATE delivery SET created_at = created_at - {age} WHERE id = '{id}'")).await;
    }
    h.sql(&format!("UPDATE delivery SET state = 3, next_attempt_at = 9000000000000000 WHERE id = '{waiting}'")).await;
    // The job runs at every start.
    let h = Box::pin(h.restart()).await;
    let mut kept = [young.clone(), waiting.clone()];
    kept.sort();
    let swept = async || (h.query("SELECT id FROM delivery ORDER BY id").await == kept).then_some(());
    eventually("an end of old messages", swept).await;
    let swept = async || (h.query("SELECT count(*) FROM link").await == ["1"]).then_some(());
    eventually("an end of old links", swept).await;
}
