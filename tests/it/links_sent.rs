//! Messages with a link or a password: to whom they are sent, how often, and what sends them again.

use std::time::Duration;

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::{self, DeliveryKind, DeliveryState, EventType, UserState};
use tonic::Code;

use crate::harness::links::{ADDRESS, bob, dead, reset, returned};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, eventually, refused};

#[tokio::test]
async fn an_invited_user_chooses_the_first_password() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let request = v1::CreateUserRequest {
        username: "grace".to_owned(),
        email: "grace@example.com".to_owned(),
        locale: "de-AT".to_owned(),
        credential: Some(Credential::Invite(v1::SendLink::default())),
        ..Default::default()
    };
    let created = operator.create(request).await.unwrap();
    assert_eq!(created.user.unwrap().state(), UserState::Pending);
    let mail = h.mail_of(&created.delivery.unwrap()).await;
    let token = mail.token("invite");
    assert_eq!(stranger.inspect(&token).await.unwrap().kind(), DeliveryKind::Invite);
    stranger.choose(&token, PASSWORD).await.expect("the first password");
    stranger.tokens("grace", PASSWORD).await.expect("tokens");

    let request = v1::CreateUserRequest {
        username: "linus".to_owned(),
        credential: Some(Credential::ReturnInvite(v1::ReturnLink::default())),
        ..Default::default()
    };
    let created = operator.create(request).await.unwrap();
    let Some(v1::create_user_response::Secret::InviteLink(url)) = created.secret else { panic!("no link") };
    stranger.choose(url.split_once("token=").unwrap().1, PASSWORD).await.expect("the first password");

    let request = v1::CreateUserRequest {
        username: "nobody".to_owned(),
        credential: Some(Credential::Invite(v1::SendLink::default())),
        ..Default::default()
    };
    refused(operator.create(request).await, Code::FailedPrecondition, "NO_DELIVERY_ADDRESS");
}

#[tokio::test]
async fn a_temporary_password_can_go_by_mail_and_stay_unseen() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let by_mail = |handover: v1::temporary_password::Handover| {
        reset(Some(Method::TemporaryPassword(v1::TemporaryPassword { handover: handover.into(), ttl: None })))
    };
    let answer = operator.reset_with(by_mail(v1::temporary_password::Handover::Mail)).await.unwrap();
    assert_eq!(answer.secret, None);
    let delivery = answer.delivery.unwrap();
    assert_eq!((delivery.kind(), delivery.expire_time), (DeliveryKind::TemporaryPassword, answer.expire_time));
    let mail = h.mail_of(&delivery).await;
    assert!(mail.text.contains("It works for 24 hours"), "{}", mail.text);
    let is_one = |word: &str| word.len() == 17 && word.split('-').all(|group| group.len() == 5);
    let password = mail.text.split_whitespace().find(|word| is_one(word)).expect("a password").to_owned();
    stranger.change_step("bob", &password).await.expect("a step");
    refused(operator.resend(&delivery.id).await, Code::FailedPrecondition, "DELIVERY_NOT_REPEATABLE");

    let answer = operator.reset_with(by_mail(v1::temporary_password::Handover::Both)).await.unwrap();
    assert!(answer.secret.is_some() && answer.delivery.is_some());
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_the_reason() {
    let h = Harness::with(|config| config.mail.transport = latchkey::config::Transport::Off).await;
    let operator = bob(&h).await;
    refused(operator.reset_with(reset(None)).await, Code::FailedPrecondition, "DELIVERY_DISABLED");
    let told = operator.reset_with(reset(None)).await.expect_err("a refusal").message().to_owned();
    assert!(told.contains("its operator can set mail.smtp.url"), "{told}");
    refused(operator.verification("bob").await, Code::FailedPrecondition, "DELIVERY_DISABLED");
    operator.reset_with(returned()).await.expect("a link needs no mail");
    let h = h.restart().await;
    drop(h);

    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let operator = h.operator().await;
    refused(operator.reset_with(reset(None)).await, Code::FailedPrecondition, "NO_DELIVERY_ADDRESS");
    refused(h.user("ada").await.client.reset_with(reset(None)).await, Code::PermissionDenied, "SCOPE_MISSING");
}

#[tokio::test]
async fn sec_014_a_user_gets_ten_messages_an_hour_at_most() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    for _ in 0..10 {
        operator.mailed().await;
    }
    let refusal = refused(operator.reset_with(reset(None)).await, Code::ResourceExhausted, "RATE_LIMITED");
    assert!(refusal.retry_after().is_some());
    h.clock.advance(Duration::from_hours(1));
    operator.mailed().await;
}

#[tokio::test]
async fn what_strangers_ask_for_does_not_keep_an_operator_from_sending_a_link() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    let login = "bob".to_owned();
    let request = v1::RequestPasswordResetRequest { login, ..Default::default() };
    h.stranger().await.auth().request_password_reset(request).await.expect("an answer");
    eventually("a link for the stranger", || async { operator.deliveries("bob").await.pop() }).await;
    for _ in 0..10 {
        operator.mailed().await;
    }
    refused(operator.reset_with(reset(None)).await, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn a_message_is_sent_again_to_the_present_address() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let first = operator.mailed().await;
    let link = h.mail_of(&first).await.token("reset");
    let early = refused(operator.resend(&first.id).await, Code::ResourceExhausted, "RATE_LIMITED");
    assert!(early.retry_after().is_some());
    h.clock.advance(Duration::from_mins(1));
    let second = operator.resend(&first.id).await.unwrap();
    assert_eq!((second.resend_of.as_str(), second.address.as_str()), (first.id.as_str(), ADDRESS));
    let refused_again = refused(operator.resend(&first.id).await, Code::ResourceExhausted, "RATE_LIMITED");
    assert_eq!(
        refused_again.details.error_info().unwrap().metadata["limit"],
        "resends",
        "the second one may still arrive"
    );
    let again = h.mail_of(&second).await.token("reset");
    stranger.inspect(&link).await.expect("the first mail may still be read");
    stranger.inspect(&again).await.expect("a live link");

    operator.sets_address("robert@example.com").await;
    dead(stranger.inspect(&again).await);
    let third = operator.resend(&second.id).await.expect("at once, to another address");
    assert_eq!(third.address, "robert@example.com");
    stranger.choose(&h.mail_of(&third).await.token("reset"), OTHER_PASSWORD).await.expect("a live link");
    refused(operator.resend("00000000000000000000000000").await, Code::NotFound, "DELIVERY_NOT_FOUND");
}

#[tokio::test]
async fn cancelling_a_message_ends_its_link() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let delivery = operator.mailed().await;
    let link = h.mail_of(&delivery).await.token("reset");
    assert_eq!(operator.delivery(&delivery.id).await.link_end_time, None);
    let cancel = || async {
        let request = v1::CancelDeliveryRequest { delivery_id: delivery.id.clone(), note: "wrong person".to_owned() };
        operator.user_admin().cancel_delivery(request).await.expect("a cancellation").into_inner().delivery.unwrap()
    };
    let cancelled = cancel().await;
    assert_eq!(cancelled.state(), DeliveryState::Accepted, "it has gone out");
    assert!(cancelled.link_end_time.is_some(), "{cancelled:?}");
    assert_eq!(operator.deliveries("bob").await[0].link_end_time, cancelled.link_end_time);
    dead(stranger.inspect(&link).await);
    cancel().await;
    let cancelled = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::DeliveryCancelled);
    assert_eq!(cancelled.count(), 1);
}

#[tokio::test]
async fn a_notice_is_neither_cancelled_nor_sent_again() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    operator.reset("bob").await.expect("a reset");
    let notice = operator.deliveries("bob").await.remove(0);
    assert_eq!(notice.kind(), DeliveryKind::Notice);
    let request = v1::CancelDeliveryRequest { delivery_id: notice.id.clone(), ..Default::default() };
    let cancelled = operator.user_admin().cancel_delivery(request).await;
    refused(cancelled, Code::FailedPrecondition, "DELIVERY_NOT_REPEATABLE");
    refused(operator.resend(&notice.id).await, Code::FailedPrecondition, "DELIVERY_NOT_REPEATABLE");
}

#[tokio::test]
async fn a_link_that_serves_nothing_any_more_is_not_sent_again() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let request = v1::CreateUserRequest {
        username: "grace".to_owned(),
        email: "grace@example.com".to_owned(),
        credential: Some(Credential::Invite(v1::SendLink::default())),
        ..Default::default()
    };
    let invitation = operator.create(request).await.unwrap().delivery.unwrap();
    stranger.choose(&h.mail_of(&invitation).await.token("invite"), PASSWORD).await.expect("the first password");
    let verification = operator.verification("bob").await.unwrap();
    stranger.verify(&h.mail_of(&verification).await.token("verify")).await.expect("a confirmation");
    h.clock.advance(Duration::from_hours(1));
    for served in [&invitation, &verification] {
        refused(operator.resend(&served.id).await, Code::FailedPrecondition, "DELIVERY_NOT_REPEATABLE");
    }
}

#[tokio::test]
async fn a_link_is_sent_only_to_a_person_whom_no_operator_has_locked() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    let service = v1::CreateUserRequest {
        username: "service".to_owned(),
        email: "service@example.com".to_owned(),
        kind: v1::UserKind::Service.into(),
        ..Default::default()
    };
    operator.create(service).await.expect("a service");
    refused(operator.verification("service").await, Code::FailedPrecondition, "USER_IS_SERVICE");
    let earlier = operator.verification("bob").await.unwrap();
    operator.lock("bob").await.expect("a lock");
    h.clock.advance(Duration::from_hours(1));
    refused(operator.verification("bob").await, Code::FailedPrecondition, "USER_LOCKED");
    refused(operator.resend(&earlier.id).await, Code::FailedPrecondition, "USER_LOCKED");
    operator.unlock("bob").await.expect("no lock");
    operator.resend(&earlier.id).await.expect("a link");
}

#[tokio::test]
async fn a_message_that_is_sent_again_before_it_went_out_is_replaced_with_its_link() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    let folder = h.dir().join("mail");
    let _ = std::fs::remove_dir_all(&folder);
    // A file where the folder should be.
    std::fs::write(&folder, "in the way").expect("a file");
    let first = operator.mailed().await;
    operator.delivery_in(&first.id, DeliveryState::Retrying).await;
    h.clock.advance(Duration::from_mins(1));
    operator.resend(&first.id).await.expect("another message");
    assert_eq!(operator.delivery(&first.id).await.state(), DeliveryState::Cancelled);
    assert_eq!(h.query("SELECT count(*) FROM link WHERE ended_at IS NULL").await, ["1"]);
}

#[tokio::test]
async fn a_cancellation_from_a_mail_and_the_limit_of_links_are_of_one_purpose() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let verify = h.mail_of(&operator.verification("bob").await.unwrap()).await.token("verify");
    let mut cancel = String::new();
    for _ in 0..3 {
        h.clock.advance(Duration::from_secs(1));
        cancel = h.mail_of(&operator.mailed().await).await.token("cancel");
    }
    stranger.inspect(&verify).await.expect("a live link");
    let _ = std::fs::remove_dir_all(h.dir().join("mail"));
    std::fs::write(h.dir().join("mail"), "in the way").expect("a file");
    let waiting = operator.verification("bob").await.unwrap();
    operator.delivery_in(&waiting.id, DeliveryState::Retrying).await;
    stranger.cancel(&cancel).await.expect("a cancellation");
    stranger.inspect(&verify).await.expect("a live link");
    assert_eq!(operator.delivery(&waiting.id).await.state(), DeliveryState::Retrying);
}

#[tokio::test]
async fn an_operator_sends_six_hundred_messages_an_hour_at_most_and_the_one_on_the_host_any_number() {
    let h = Harness::start().await;
    let local = bob(&h).await;
    let root = h.admin().await.client;
    root.mailed().await;
    local.mailed().await;
    for principal in h.query("SELECT DISTINCT requested_by FROM delivery").await {
        h.sql(&format!(
            "INSERT INTO delivery (id, user_id, letter, address, address_key, state, attempts, last_error, relay,
                created_at, updated_at, requested_by, contents_version, is_slow, was_unknown, is_cancelled)
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
            SELECT '{principal}' || i, (SELECT id FROM \"user\" WHERE username = 'root'), d.letter, 'a', 'a', 4, 1, '', '',
                d.created_at, d.created_at, '{principal}', 1, FALSE, FALSE, FALSE
            FROM n, (SELECT letter, created_at FROM delivery LIMIT 1) AS d"
        ))
        .await;
    }
    let error = root.reset_with(reset(None)).await.expect_err("six hundred");
    assert!(error.message().starts_with("too many messages by this operator; "), "{}", error.message());
    refused(Err::<(), _>(error), Code::ResourceExhausted, "RATE_LIMITED");
    refused(root.verification("bob").await, Code::ResourceExhausted, "RATE_LIMITED");
    let new = |username: &str, credential: Credential| v1::CreateUserRequest {
        username: username.to_owned(),
        email: format!("{username}@example.com"),
        credential: Some(credential),
        ..Default::default()
    };
    refused(
        root.create(new("grace", Credential::Invite(v1::SendLink::default()))).await,
        Code::ResourceExhausted,
        "RATE_LIMITED",
    );
    let by_mail = v1::TemporaryPassword { handover: v1::temporary_password::Handover::Mail.into(), ttl: None };
    refused(
        root.create(new("grace", Credential::TemporaryPassword(by_mail))).await,
        Code::ResourceExhausted,
        "RATE_LIMITED",
    );
    root.create(new("grace", Credential::ReturnInvite(v1::ReturnLink::default()))).await.expect("no message");
    root.reset_with(returned()).await.expect("no message");
    local.mailed().await;
}

#[tokio::test]
async fn sec_018_a_repeated_reset_sends_one_mail() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    let request =
        v1::ResetPasswordRequest { idempotency_key: "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7".to_owned(), ..reset(None) };
    let first = operator.reset_with(request.clone()).await.unwrap();
    let again = operator.reset_with(request).await.unwrap();
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.delivery.unwrap().id, again.delivery.unwrap().id);
    assert_eq!(operator.deliveries("bob").await.len(), 1);
    let dry = v1::ResetPasswordRequest { validate_only: true, ..reset(None) };
    assert_eq!(operator.reset_with(dry).await.unwrap().delivery, None);
    assert_eq!(operator.deliveries("bob").await.len(), 1);
}

#[tokio::test]
async fn sec_016_the_user_is_told_of_every_change_without_secrets() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let notices = || async {
        let of = operator.deliveries("bob").await.into_iter().filter(|sent| sent.kind() == DeliveryKind::Notice);
        of.map(|sent| sent.address).collect::<Vec<_>>()
    };
    let session = h.signed_in("bob", PASSWORD).await;
    session.client.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a change");
    assert_eq!(notices().await.len(), 1, "password changed");
    stranger.choose(&operator.link().await, PASSWORD).await.expect("a choice");
    assert_eq!(notices().await.len(), 2, "password changed by a link");
    operator.reset("bob").await.expect("a reset");
    assert_eq!(notices().await.len(), 3, "password reset");
    operator.sets_address("robert@example.com").await;
    let told = notices().await;
    assert!(told.len() == 5 && told.contains(&"robert@example.com".to_owned()), "both addresses are told: {told:?}");
    let to = async |address: &str| {
        let sent = operator.deliveries("bob").await;
        let latest = sent.iter().find(|sent| sent.address == address).expect("a notice");
        h.mail_of(latest).await.text
    };
    let (old, new) = (to(ADDRESS).await, to("robert@example.com").await);
    assert!(old.contains("Mail about it now goes to r"), "{old}");
    assert!(new.contains("Mail about it now goes to this address."), "{new}");
    operator.contain("bob").await.expect("a containment");
    assert_eq!(notices().await.first().map(String::as_str), Some("robert@example.com"));
    operator.contain("bob").await.expect("the same again");
    assert_eq!(notices().await.len(), 6, "a repeated containment is no news");
    for sent in operator.deliveries("bob").await {
        let mail = h.mail_of(&sent).await;
        assert!(!mail.text.contains("token=") && !mail.text.contains("c4nary"), "{}", mail.text);
    }
}
