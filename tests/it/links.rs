//! Links by which users choose a password, confirm an address, or cancel what they did not ask for.

use std::time::Duration;

use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::reset_password_response::Secret;
use latchkey::proto::v1::{self, DeliveryKind, DeliveryState, EventType, UserFlag, UserState};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::links::{ADDRESS, bob, dead, reset, returned};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, is_full, refused};

#[tokio::test]
async fn a_reset_sends_a_link_that_changes_nothing_until_it_is_used() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    let session = h.signed_in("bob", PASSWORD).await;
    let answer = operator.reset_with(reset(None)).await.unwrap();
    let delivery = answer.delivery.expect("a delivery");
    assert_eq!((delivery.kind(), delivery.state()), (DeliveryKind::PasswordReset, DeliveryState::Queued));
    assert_eq!((delivery.address.as_str(), answer.secret), (ADDRESS, None));
    assert_eq!(answer.effects, Some(v1::Effects::default()));

    let mail = h.mail_of(&delivery).await;
    assert_eq!(mail.header("To"), ADDRESS);
    let (token, stranger) = (mail.token("reset"), h.stranger().await);
    let view = stranger.inspect(&token).await.unwrap();
    assert_eq!((view.kind(), view.username.as_str()), (DeliveryKind::PasswordReset, "bob"));
    assert_eq!(view.rules.unwrap().min_length, Some(15));
    session.client.who_am_i().await.expect("the session lives");
    stranger.tokens("bob", PASSWORD).await.expect("the password works");

    let done = stranger.choose(&token, OTHER_PASSWORD).await.unwrap();
    assert_eq!(done.sessions_revoked, 2);
    refused(session.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("the new password works");
    dead(stranger.choose(&token, PASSWORD).await);
    let completed = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::PasswordResetCompleted);
    assert_eq!(completed.count(), 1);
}

#[tokio::test]
async fn sec_003_a_token_is_not_stored_and_nothing_near_it_works() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let token = operator.link().await;
    let stored = h.query("SELECT count(*) FROM link WHERE ended_at IS NULL").await;
    assert_eq!(stored, ["1"]);
    let last = if token.ends_with('A') { "E" } else { "A" };
    let swapped = token.replace("lkl_", "lkt_");
    let near = [&token[..token.len() - 1], &token[4..], &format!("{token}A"), &swapped, ""];
    for wrong in near.into_iter().filter(|wrong| !wrong.is_empty()) {
        dead(stranger.inspect(wrong).await);
        dead(stranger.choose(wrong, OTHER_PASSWORD).await);
    }
    dead(stranger.inspect(&format!("{}{last}", &token[..token.len() - 1])).await);
    stranger.inspect(&token).await.expect("the link lives");
}

/// Uses of one link at once.
const USES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_004_of_two_hundred_uses_of_a_link_at_once_one_wins() {
    let h = Harness::start().await;
    let operator = bob(&h).await;
    let replica = h.replica().await;
    let other = replica.as_ref().unwrap_or(&h);
    // Those on a local socket are not limited by their address, so they get as far as the account's turns to hash.
    let clients = [h.operator().await, other.operator().await, h.stranger().await, other.stranger().await];
    let rounds = if is_full() { 1000 } else { 50 };
    for round in 0..rounds {
        let token = operator.link().await;
        let password = |n: usize| format!("password {n} of round {round} c4nary");
        let ask = |n: usize| {
            let (client, token, password) = (&clients[n % clients.len()], &token, password(n));
            async move { client.choose(token, &password).await }
        };
        let answers = at_once((0..USES).map(ask)).await;
        let winners: Vec<usize> = (0..USES).filter(|n| answers[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for status in answers.into_iter().filter_map(Result::err) {
            let reason = Refusal::of(&status).reason;
            assert!(["TICKET_INVALID", "HASHING_SATURATED"].contains(&reason.as_str()), "{status:?}");
        }
        let winner = winners[0];
        clients[2].tokens("bob", &password(winner)).await.expect("the winner's password");
        let lost = clients[2].sign_in("bob", &password((winner + 1) % USES)).await;
        refused(lost, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        operator.unlock("bob").await.expect("no failures");
    }
    let completed = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::PasswordResetCompleted);
    assert_eq!(completed.count(), rounds);
}

#[tokio::test]
async fn sec_005_a_token_of_one_purpose_serves_no_other_and_stays_valid() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let mail = h.mail_of(&operator.mailed().await).await;
    let (link, cancel) = (mail.token("reset"), mail.token("cancel"));
    let request = v1::SendEmailVerificationRequest { user: Some(named("bob")), ..Default::default() };
    let sent = operator.user_admin().send_email_verification(request).await.unwrap().into_inner();
    let verify = h.mail_of(&sent.delivery.unwrap()).await.token("verify");
    dead(stranger.choose(&verify, OTHER_PASSWORD).await);
    dead(stranger.choose(&cancel, OTHER_PASSWORD).await);
    dead(stranger.verify(&link).await);
    dead(stranger.cancel(&link).await);
    dead(stranger.inspect(&cancel).await);
    assert_eq!(stranger.inspect(&verify).await.unwrap().kind(), DeliveryKind::EmailVerification);
    stranger.inspect(&link).await.expect("the link lives");
    stranger.verify(&verify).await.expect("the address is confirmed");
    dead(stranger.verify(&verify).await);
    stranger.choose(&link, OTHER_PASSWORD).await.expect("the link lives");
}

#[tokio::test]
async fn sec_006_no_call_before_spares_the_token() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let token = operator.link().await;
    let asks = async || {
        let request = v1::RequestPasswordResetRequest { login: "bob".to_owned(), ..Default::default() };
        stranger.auth().request_password_reset(request).await.expect("an answer");
    };
    let shows = async || drop(stranger.inspect(&token).await.expect("a view"));
    let tries = async || {
        let dry = v1::CompletePasswordResetRequest {
            link_token: token.clone(),
            new_password: OTHER_PASSWORD.to_owned(),
            second_factor: None,
            validate_only: true,
        };
        stranger.auth().complete_password_reset(dry).await.expect("a dry run");
    };
    let guess = format!("lkl_{}", "A".repeat(43));
    // Every order, and every part of it.
    for order in ["ast", "ats", "sat", "sta", "tas", "tsa"] {
        for call in order.chars() {
            match call {
                'a' => asks().await,
                's' => shows().await,
                _ => tries().await,
            }
            refused(stranger.choose("", OTHER_PASSWORD).await, Code::InvalidArgument, "FIELD_INVALID");
            dead(stranger.choose(&guess, OTHER_PASSWORD).await);
        }
    }
    stranger.tokens("bob", PASSWORD).await.expect("the password is as it was");
    stranger.choose(&token, OTHER_PASSWORD).await.expect("the token alone is enough");
}

#[tokio::test]
async fn sec_009_a_reset_makes_no_session() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let done = stranger.choose(&operator.link().await, OTHER_PASSWORD).await.expect("a choice");
    // Another field of the answer would not compile here.
    let v1::CompletePasswordResetResponse { sessions_revoked } = done;
    assert_eq!(sessions_revoked, 0);
    assert_eq!(h.query("SELECT count(*) FROM session").await, ["0"]);
    assert_eq!(h.query("SELECT count(*) FROM ticket").await, ["0"]);
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("the user signs in");
    assert_eq!(h.query("SELECT count(*) FROM session").await, ["1"]);
}

#[tokio::test]
async fn sec_007_looking_at_a_link_uses_nothing_up() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let token = operator.link().await;
    for _ in 0..50 {
        stranger.inspect(&token).await.expect("a view");
    }
    stranger.choose(&token, OTHER_PASSWORD).await.expect("the link lives");
}

#[tokio::test]
async fn a_rejected_password_leaves_the_link_as_it_is() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let token = operator.link().await;
    refused(stranger.choose(&token, "short").await, Code::InvalidArgument, "PASSWORD_REJECTED");
    let same = refused(stranger.choose(&token, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(same.violations(), ["new_password: REUSED"]);
    let (link_token, new_password) = (token.clone(), OTHER_PASSWORD.to_owned());
    let dry = v1::CompletePasswordResetRequest { link_token, new_password, second_factor: None, validate_only: true };
    stranger.auth().complete_password_reset(dry).await.expect("a dry run");
    stranger.choose(&token, OTHER_PASSWORD).await.expect("the link lives");
}

#[tokio::test]
async fn sec_012_a_lock_ends_links_but_one_for_failed_sign_ins_is_lifted_by_them() {
    let h = Harness::with(|config| config.throttle.lockout_threshold = 6).await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let token = operator.link().await;
    operator.lock("bob").await.expect("a lock");
    dead(stranger.choose(&token, OTHER_PASSWORD).await);
    operator.unlock("bob").await.expect("no lock");
    dead(stranger.choose(&token, OTHER_PASSWORD).await);
    stranger.tokens("bob", PASSWORD).await.expect("the password is as it was");

    let token = operator.link().await;
    while operator.user("bob").await.state() != UserState::Locked {
        let _ = stranger.sign_in("bob", OTHER_PASSWORD).await;
        h.clock.advance(Duration::from_mins(20));
    }
    stranger.choose(&token, OTHER_PASSWORD).await.expect("the link lives");
    assert_eq!(operator.user("bob").await.state(), UserState::Active);
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("tokens");
}

#[tokio::test]
async fn sec_013_what_changes_the_account_ends_its_links() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let session = h.signed_in("bob", PASSWORD).await;
    let by_change = operator.link().await;
    session.client.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a change");
    dead(stranger.inspect(&by_change).await);

    let by_address = operator.link().await;
    let moved = operator.sets_address("robert@example.com").await;
    assert_eq!(moved.effects.unwrap().links_revoked, 1);
    dead(stranger.inspect(&by_address).await);

    let by_reset = operator.link().await;
    let answer = operator.reset("bob").await.unwrap();
    assert_eq!(answer.effects.unwrap().links_revoked, 1);
    dead(stranger.inspect(&by_reset).await);

    let by_containment = operator.link().await;
    let answer = operator.contain("bob").await.unwrap();
    assert_eq!(answer.effects.unwrap().links_revoked, 1);
    dead(stranger.inspect(&by_containment).await);
}

#[tokio::test]
async fn sec_015_a_link_expires_by_the_clock_alone() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let token = operator.link().await;
    h.clock.advance(Duration::from_hours(12) - Duration::from_secs(1));
    stranger.inspect(&token).await.expect("the last second");
    h.clock.advance(Duration::from_secs(1));
    dead(stranger.inspect(&token).await);
    dead(stranger.choose(&token, OTHER_PASSWORD).await);
    let ttl = Some(prost_types::Duration { seconds: 73 * 3600, nanos: 0 });
    let too_long = operator.reset_with(reset(Some(Method::ReturnLink(v1::ReturnLink { ttl })))).await;
    assert_eq!(
        refused(too_long, Code::InvalidArgument, "FIELD_INVALID").violations(),
        ["return_link.ttl: OUT_OF_RANGE"]
    );
    // Only an invitation works for longer than a day.
    let ttl = Some(prost_types::Duration { seconds: 25 * 3600, nanos: 0 });
    let too_long = operator.reset_with(reset(Some(Method::SendLink(v1::SendLink { ttl })))).await;
    assert_eq!(refused(too_long, Code::InvalidArgument, "FIELD_INVALID").violations(), ["send_link.ttl: OUT_OF_RANGE"]);
}

#[tokio::test]
async fn a_user_shows_the_link_that_works_longest_until_it_is_used_or_over() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let etag = operator.user("bob").await.etag;
    let answer = operator.reset_with(reset(None)).await.unwrap();
    let (user, delivery) = (answer.user.unwrap(), answer.delivery.unwrap());
    let pending = user.pending_link.clone().expect("a pending link");
    assert_eq!((pending.kind(), &pending.delivery_id), (DeliveryKind::PasswordReset, &delivery.id));
    assert_eq!(pending.expire_time, answer.expire_time);
    assert!(user.flags.contains(&UserFlag::LinkPending.into()) && user.etag == etag, "{user:?}");
    assert_eq!(operator.user("bob").await, user);

    // One that works for a shorter time hides no longer one, but outlives it in turn.
    let ttl = Some(prost_types::Duration { seconds: 86_400, nanos: 0 });
    let longer = operator.reset_with(reset(Some(Method::ReturnLink(v1::ReturnLink { ttl })))).await.unwrap();
    operator.mailed().await;
    let shown = operator.user("bob").await.pending_link.expect("a pending link");
    assert_eq!((shown.expire_time, shown.delivery_id.as_str()), (longer.expire_time, ""));
    h.clock.advance(Duration::from_hours(24));
    let over = operator.user("bob").await;
    assert!(over.pending_link.is_none() && !over.flags.contains(&UserFlag::LinkPending.into()), "{over:?}");

    let token = operator.link().await;
    assert!(operator.user("bob").await.pending_link.is_some());
    stranger.choose(&token, OTHER_PASSWORD).await.expect("a live link");
    assert_eq!(operator.user("bob").await.pending_link, None);
    operator.link().await;
    let locked = operator.lock("bob").await.unwrap().user.unwrap();
    assert_eq!((locked.pending_link.clone(), &locked), (None, &operator.user("bob").await));
}

#[tokio::test]
async fn a_user_shows_whether_the_address_was_confirmed() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let shows = |user: &v1::User| (user.email_verified, user.flags.contains(&UserFlag::EmailUnverified.into()));
    assert_eq!(shows(&operator.user("bob").await), (false, true));
    let mail = h.mail_of(&operator.mailed().await).await;
    stranger.choose(&mail.token("reset"), OTHER_PASSWORD).await.expect("a live link");
    assert_eq!(shows(&operator.user("bob").await), (true, false));
    operator.mailed().await;
    let moved = operator.sets_address("robert@example.com").await.user.unwrap();
    assert_eq!((shows(&moved), moved.pending_link.clone()), ((false, true), None));
    assert_eq!(operator.user("bob").await, moved);
    let none = operator.sets_address("").await.user.unwrap();
    assert_eq!(shows(&none), (false, false));
}

#[tokio::test]
async fn sec_019_three_links_live_at_most_and_the_first_use_ends_all() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(operator.link().await);
        h.clock.advance(Duration::from_secs(1));
    }
    dead(stranger.inspect(&links[0]).await);
    for live in &links[1..] {
        stranger.inspect(live).await.expect("a live link");
    }
    stranger.choose(&links[2], OTHER_PASSWORD).await.expect("a live link");
    dead(stranger.inspect(&links[1]).await);
    dead(stranger.inspect(&links[3]).await);
}

#[tokio::test]
async fn a_link_in_the_mail_cancels_what_the_user_did_not_ask_for() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let mail = h.mail_of(&operator.mailed().await).await;
    let other = operator.link().await;
    let (link, cancel) = (mail.token("reset"), mail.token("cancel"));
    for _ in 0..2 {
        assert_eq!(stranger.cancel(&cancel).await.expect("a cancellation, and again").used_time, None);
    }
    dead(stranger.choose(&link, OTHER_PASSWORD).await);
    dead(stranger.choose(&other, OTHER_PASSWORD).await);
    stranger.tokens("bob", PASSWORD).await.expect("nothing else has changed");
    let cancelled = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::LinkCancelled);
    assert_eq!(cancelled.count(), 1);
}

#[tokio::test]
async fn a_cancellation_that_comes_too_late_is_told_to_the_user_and_to_operators() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let mails = [h.mail_of(&operator.mailed().await).await, h.mail_of(&operator.mailed().await).await];
    h.clock.advance(Duration::from_secs(5));
    stranger.choose(&mails[0].token("reset"), OTHER_PASSWORD).await.expect("an intruder's password");
    h.clock.advance(Duration::from_secs(5));
    // The link of the second mail ended by the use of the first one.
    for mail in [&mails[1], &mails[0], &mails[1]] {
        let told = stranger.cancel(&mail.token("cancel")).await.expect("an answer");
        let changed_at = operator.user("bob").await.password_status.expect("a status").change_time;
        assert!(told.used_time.is_some() && told.used_time == changed_at, "{told:?}");
    }
    let cancelled: Vec<_> =
        operator.events().await.into_iter().filter(|event| event.r#type() == EventType::LinkCancelled).collect();
    assert_eq!(cancelled.len(), 1, "{cancelled:#?}");
    let details = [("purpose", "PASSWORD_RESET"), ("linksRevoked", "0"), ("linkWasUsed", "true")];
    assert!(details.iter().all(|(name, value)| cancelled[0].details[*name] == *value), "{cancelled:#?}");

    let disowned = async || {
        let request = v1::DiagnoseSignInRequest { user: Some(named("bob")), ..Default::default() };
        let told = operator.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner();
        told.findings.into_iter().find(|finding| finding.code() == v1::sign_in_finding::Code::ResetDisowned)
    };
    let finding = disowned().await.expect("a finding");
    assert_eq!(finding.severity(), v1::sign_in_finding::Severity::Warning);
    assert_eq!(
        (finding.remedy_method.as_str(), finding.since_time),
        ("latchkey.v1.UserAdmin/LockUser", cancelled[0].time)
    );
    // Links that are newer are ended as well.
    operator.mailed().await;
    stranger.cancel(&mails[0].token("cancel")).await.expect("an answer");
    assert!(operator.user("bob").await.pending_link.is_none());
    // Another password is not the intruder's.
    operator.reset("bob").await.expect("a reset");
    assert_eq!(disowned().await, None);
}

#[tokio::test]
async fn end_access_now_ends_the_old_password_before_the_link_is_used() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let session = h.signed_in("bob", PASSWORD).await;
    let older = operator.link().await;
    let answer = operator.reset_with(v1::ResetPasswordRequest { end_access_now: true, ..returned() }).await.unwrap();
    let effects = answer.effects.unwrap();
    assert!(effects.password_ended);
    assert_eq!((effects.sessions_revoked, effects.links_revoked), (1, 1));
    let Some(Secret::ResetLink(url)) = answer.secret else { panic!("no link") };
    let token = url.split_once("token=").unwrap().1;
    refused(session.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    dead(stranger.inspect(&older).await);
    assert_eq!(stranger.inspect(token).await.unwrap().kind(), DeliveryKind::PasswordReset);
    refused(stranger.choose(token, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    stranger.choose(token, OTHER_PASSWORD).await.expect("the link lives");
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("tokens");
    let with_password = Some(Method::TemporaryPassword(v1::TemporaryPassword::default()));
    let both = operator.reset_with(v1::ResetPasswordRequest { end_access_now: true, ..reset(with_password) }).await;
    assert_eq!(refused(both, Code::InvalidArgument, "FIELD_INVALID").violations(), ["end_access_now: CONFLICT"]);
}

#[tokio::test]
async fn a_mailed_link_confirms_the_address_and_a_returned_one_does_not() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let verified = || async { h.query(r#"SELECT count(email_verified_at) FROM "user""#).await };
    stranger.choose(&operator.link().await, OTHER_PASSWORD).await.expect("a choice");
    assert_eq!(verified().await, ["0"]);
    let mail = h.mail_of(&operator.mailed().await).await;
    stranger.choose(&mail.token("reset"), PASSWORD).await.expect("a choice");
    assert_eq!(verified().await, ["1"]);
    operator.sets_address("robert@example.com").await;
    assert_eq!(verified().await, ["0"]);
}

#[tokio::test]
async fn a_password_chosen_with_a_link_ends_the_tickets_of_the_user_and_the_demand_to_change_it() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    operator.require_change("bob").await.expect("a demand");
    let token = operator.link().await;
    let ticket = stranger.change_step("bob", PASSWORD).await.expect("a step").ticket;
    let tickets = async || h.query("SELECT count(*) FROM sign_in_ticket").await;
    assert_eq!(tickets().await, ["1"]);
    stranger.choose(&token, OTHER_PASSWORD).await.expect("a choice");
    assert_eq!(tickets().await, ["0"]);
    dead(stranger.complete(&ticket, "a third c4nary of theirs").await);
    assert!(!operator.user("bob").await.flags.contains(&UserFlag::MustChange.into()));
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("no demand any more");
}

#[tokio::test]
async fn confirming_an_address_ends_the_other_links_and_messages_that_confirm_it_and_none_of_another_purpose() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let mut links = Vec::new();
    for _ in 0..2 {
        links.push(h.mail_of(&operator.verification("bob").await.unwrap()).await.token("verify"));
    }
    let reset = operator.link().await;
    let _ = std::fs::remove_dir_all(h.dir().join("mail"));
    // A file where the folder should be.
    std::fs::write(h.dir().join("mail"), "in the way").expect("a file");
    let (waiting, other) = (operator.verification("bob").await.unwrap(), operator.mailed().await);
    for delivery in [&waiting, &other] {
        operator.delivery_in(&delivery.id, DeliveryState::Retrying).await;
    }
    stranger.verify(&links[1]).await.expect("a confirmation");
    dead(stranger.inspect(&links[0]).await);
    stranger.inspect(&reset).await.expect("a live link");
    assert_eq!(operator.delivery(&waiting.id).await.state(), DeliveryState::Cancelled);
    assert_eq!(operator.delivery(&other.id).await.state(), DeliveryState::Retrying);
}

#[tokio::test]
async fn a_link_that_has_expired_is_not_counted_among_those_that_a_change_ends() {
    let h = Harness::start().await;
    let (operator, stranger) = (bob(&h).await, h.stranger().await);
    let cancel = h.mail_of(&operator.mailed().await).await.token("cancel");
    h.clock.advance(Duration::from_hours(12));
    stranger.cancel(&cancel).await.expect("nothing to end");
    let cancelled = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::LinkCancelled);
    assert_eq!(cancelled.count(), 0);
    operator.link().await;
    let moved = operator.sets_address("robert@example.com").await;
    assert_eq!(moved.effects.unwrap().links_revoked, 1);
}
