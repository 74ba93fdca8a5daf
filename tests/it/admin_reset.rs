//! An operator resets a password; the user signs in with it and chooses a new one.

use std::time::Duration;

use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::{self, LockCause, PasswordChangeCause, UserFlag, UserState};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::{Shown, tokens_of};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, refused};

const KEY: &str = "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7";

fn to_temporary() -> v1::ResetPasswordRequest {
    let method = Some(Method::TemporaryPassword(v1::TemporaryPassword::default()));
    v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() }
}

fn to_chosen(password: &str) -> v1::ResetPasswordRequest {
    let method = Some(Method::SetPassword(v1::SetPassword { password: password.to_owned() }));
    v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() }
}

/// A server, the operator, an anonymous client, and the response to a reset of bob.
async fn after_reset() -> (Harness, Client, Client, String) {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let reset = operator.reset("bob").await.expect("a reset");
    let password = reset.shown().to_owned();
    (h, operator, stranger, password)
}

#[tokio::test]
async fn sec_018_a_reset_ends_the_old_password_and_everything_that_rested_on_it() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let bob = h.user("bob").await;
    h.signed_in("bob", PASSWORD).await;
    let stranger = h.stranger().await;
    operator.require_change("bob").await.unwrap();
    let step = stranger.change_step("bob", PASSWORD).await.unwrap();

    let answer = operator.reset("bob").await.unwrap();
    let effects = answer.effects.unwrap();
    assert_eq!((effects.sessions_revoked, effects.password_ended), (2, true));
    assert_eq!((effects.throttle_cleared, effects.lock_lifted), (false, false));
    assert!(effects.access_expire_time.is_some());

    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.refresh(&bob.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    let user = operator.user("bob").await;
    assert!(
        user.flags.contains(&UserFlag::TemporaryPassword.into()) && user.flags.contains(&UserFlag::MustChange.into())
    );
}

#[tokio::test]
async fn sec_017_a_temporary_password_leads_to_tokens_only_by_way_of_a_new_one() {
    let (h, operator, stranger, password) = after_reset().await;
    let step = stranger.change_step("bob", &password).await.unwrap();
    assert_eq!(step.cause(), PasswordChangeCause::Temporary);
    let rules = step.rules.unwrap();
    assert_eq!((rules.min_length, rules.max_length), (Some(15), Some(256)));
    assert!(operator.sessions_of("bob").await.is_empty(), "there is no session before the end");

    let answer = stranger.complete(&step.ticket, OTHER_PASSWORD).await.unwrap();
    let tokens = tokens_of(answer.progress);
    stranger.bearing(&tokens.access_token).who_am_i().await.expect("a session");
    assert_eq!(operator.user("bob").await.password_status.unwrap().temporary_expire_time, None);

    refused(stranger.complete(&step.ticket, PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    refused(stranger.sign_in("bob", &password).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    h.clock.advance(Duration::from_hours(24 * 30));
    h.stranger().await.tokens("bob", OTHER_PASSWORD).await.expect("the new password lasts");
}

#[tokio::test]
async fn case_hyphens_and_spaces_of_a_temporary_password_do_not_count() {
    let (_h, _, stranger, password) = after_reset().await;
    let bare = password.replace('-', "");
    let spaced: String = bare.chars().flat_map(|c| [c, ' ']).collect();
    for typed in [password.to_lowercase(), bare.clone(), spaced, password.replace('-', "\u{2013}")] {
        stranger.change_step("bob", &typed).await.expect("the same password");
    }
    for typed in [bare[1..].to_owned(), format!("{password}-2")] {
        refused(stranger.sign_in("bob", &typed).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
}

#[tokio::test]
async fn a_temporary_password_expires_and_so_does_its_ticket() {
    let (h, operator, stranger, password) = after_reset().await;
    h.clock.advance(Duration::from_mins(24 * 60 - 1));
    let step = stranger.change_step("bob", &password).await.expect("a minute left");
    let user = operator.user("bob").await;
    assert_eq!(step.expire_time, user.password_status.unwrap().temporary_expire_time, "no longer than the password");
    h.clock.advance(Duration::from_secs(61));
    refused(stranger.sign_in("bob", &password).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    let failed: Vec<_> = operator.events().await.iter().rev().take(2).map(v1::Event::reason).collect();
    assert_eq!(failed, [v1::ErrorReason::TicketInvalid, v1::ErrorReason::TemporaryPasswordExpired]);
}

#[tokio::test]
async fn a_ticket_lives_for_ten_minutes() {
    let (h, _, stranger, password) = after_reset().await;
    let step = stranger.change_step("bob", &password).await.unwrap();
    h.clock.advance(Duration::from_secs(601));
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    let step = stranger.change_step("bob", &password).await.expect("another one");
    h.clock.advance(Duration::from_secs(590));
    stranger.complete(&step.ticket, OTHER_PASSWORD).await.expect("within its time");
}

#[tokio::test]
async fn a_ttl_is_kept_and_has_its_limits() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let with = |seconds, nanos| {
        let ttl = Some(prost_types::Duration { seconds, nanos });
        v1::ResetPasswordRequest {
            method: Some(Method::TemporaryPassword(v1::TemporaryPassword { ttl, ..Default::default() })),
            ..to_temporary()
        }
    };
    let answer = operator.reset_with(with(60, 0)).await.unwrap();
    stranger.change_step("bob", answer.shown()).await.expect("in time");
    h.clock.advance(Duration::from_mins(1));
    refused(stranger.sign_in("bob", answer.shown()).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    operator.reset_with(with(72 * 3600, 0)).await.expect("the longest");
    for (seconds, nanos) in [(0, 0), (-1, 0), (72 * 3600, 1), (i64::MAX, 0), (1, -1), (1, 1_000_000_000)] {
        let refusal = refused(operator.reset_with(with(seconds, nanos)).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations(), ["temporary_password.ttl: OUT_OF_RANGE"], "{seconds} {nanos}");
    }
}

#[tokio::test]
async fn each_sign_in_replaces_the_ticket_of_the_one_before() {
    let (_h, _, stranger, password) = after_reset().await;
    let first = stranger.change_step("bob", &password).await.unwrap();
    let second = stranger.change_step("bob", &password).await.unwrap();
    refused(stranger.complete(&first.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    stranger.complete(&second.ticket, OTHER_PASSWORD).await.expect("the newest ticket");
}

#[tokio::test]
async fn a_rejected_new_password_burns_nothing() {
    let (_h, _, stranger, password) = after_reset().await;
    let step = stranger.change_step("bob", &password).await.unwrap();
    let typed_otherwise = password.to_lowercase().replace('-', "");
    for (new_password, rule) in [
        ("short c4nary", "TOO_SHORT"),
        (password.as_str(), "REUSED"),
        (typed_otherwise.as_str(), "REUSED"),
        ("c4nary with a \u{7} bell", "NOT_TEXT"),
    ] {
        let answer = stranger.complete(&step.ticket, new_password).await;
        let refusal = refused(answer, Code::InvalidArgument, "PASSWORD_REJECTED");
        assert_eq!(refusal.violations(), [format!("new_password: {rule}")]);
    }
    let request = v1::CompletePasswordChangeRequest {
        ticket: step.ticket.clone(),
        new_password: OTHER_PASSWORD.to_owned(),
        validate_only: true,
    };
    let checked = stranger.auth().complete_password_change(request).await.unwrap().into_inner();
    assert_eq!((checked.progress, checked.sessions_revoked), (None, 0));
    let again = stranger.change_step("bob", &password).await.expect("the temporary password is still good");
    stranger.complete(&again.ticket, OTHER_PASSWORD).await.expect("and so is a ticket");
}

#[tokio::test]
async fn sec_017_a_ticket_is_good_for_its_step_alone() {
    let (h, _, stranger, password) = after_reset().await;
    let step = stranger.change_step("bob", &password).await.unwrap();
    refused(stranger.bearing(&step.ticket).who_am_i().await, Code::Unauthenticated, "TOKEN_INVALID");
    refused(stranger.refresh(&step.ticket).await, Code::Unauthenticated, "TOKEN_INVALID");
    let eve = h.user("eve").await;
    for no_ticket in
        [&eve.tokens.refresh_token, &eve.tokens.access_token[..1000.min(eve.tokens.access_token.len())], "x"]
    {
        refused(stranger.complete(no_ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    }
    stranger.complete(&step.ticket, OTHER_PASSWORD).await.expect("the ticket itself");
}

#[tokio::test]
async fn a_lock_in_between_kills_the_ticket_for_good() {
    let (_h, operator, stranger, password) = after_reset().await;
    let step = stranger.change_step("bob", &password).await.unwrap();
    operator.lock("bob").await.unwrap();
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    operator.unlock("bob").await.unwrap();
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    stranger.change_step("bob", &password).await.expect("the temporary password is still good");
}

#[tokio::test]
async fn a_chosen_password_works_once_and_expires_after_three_days() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let refusal = refused(operator.reset_with(to_chosen("c4nary")).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(refusal.violations(), ["set_password.password: TOO_SHORT", "set_password.password: TOO_WEAK"]);
    let answer = operator.reset_with(to_chosen(OTHER_PASSWORD)).await.unwrap();
    assert_eq!(answer.secret, None);
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(
        stranger.sign_in("bob", &OTHER_PASSWORD.to_uppercase()).await,
        Code::Unauthenticated,
        "CREDENTIALS_REJECTED",
    );
    let step = stranger.change_step("bob", OTHER_PASSWORD).await.unwrap();
    refused(stranger.complete(&step.ticket, OTHER_PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    h.clock.advance(Duration::from_hours(72));
    refused(stranger.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn a_pending_user_gets_a_first_password() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.create(v1::CreateUserRequest { username: "bob".to_owned(), ..Default::default() }).await.unwrap();
    let answer = operator.reset("bob").await.unwrap();
    assert!(!answer.effects.unwrap().password_ended);
    assert_eq!(answer.user.as_ref().unwrap().state(), UserState::Active);
    h.stranger().await.change_step("bob", answer.shown()).await.expect("a way in");
}

#[tokio::test]
async fn a_service_has_no_password_to_reset() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let service =
        v1::CreateUserRequest { username: "bob".to_owned(), kind: v1::UserKind::Service.into(), ..Default::default() };
    operator.create(service).await.unwrap();
    refused(operator.reset("bob").await, Code::FailedPrecondition, "USER_IS_SERVICE");
    refused(operator.require_change("bob").await, Code::FailedPrecondition, "USER_IS_SERVICE");
}

#[tokio::test]
async fn an_operators_lock_stands_unless_the_reset_says_otherwise() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    operator.lock("bob").await.unwrap();
    let refusal = refused(operator.reset("bob").await, Code::FailedPrecondition, "USER_LOCKED");
    assert_eq!(refusal.metadata("lockCause"), "OPERATOR");
    operator.unlock("bob").await.unwrap();
    stranger.tokens("bob", PASSWORD).await.expect("nothing was changed by half");

    operator.lock("bob").await.unwrap();
    let answer = operator.reset_with(v1::ResetPasswordRequest { unlock: true, ..to_temporary() }).await.unwrap();
    assert!(answer.effects.unwrap().lock_lifted);
    stranger.change_step("bob", answer.shown()).await.expect("unlocked");
}

#[tokio::test]
async fn a_reset_lifts_a_lock_for_failed_sign_ins_and_the_wait() {
    let h = Harness::with(|config| {
        config.throttle.threshold = 3;
        config.throttle.lockout_threshold = 3;
    })
    .await;
    // Only failures from a familiar place lock.
    h.user("bob").await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for _ in 0..3 {
        refused(stranger.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let user = operator.user("bob").await;
    assert_eq!(user.lock.as_ref().map(v1::UserLock::cause), Some(LockCause::FailedSignIns));
    assert_eq!(user.throttle.map(|throttle| throttle.failures), Some(3));
    let answer = operator.reset("bob").await.unwrap();
    let effects = answer.effects.unwrap();
    assert!(effects.lock_lifted && effects.throttle_cleared);
    stranger.change_step("bob", answer.shown()).await.expect("at once");
}

#[tokio::test]
async fn sec_018_a_repeated_reset_with_the_same_key_resets_once() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let request = v1::ResetPasswordRequest { idempotency_key: KEY.to_owned(), ..to_temporary() };
    let answers = at_once((0..10).map(|_| operator.reset_with(request.clone()))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let shown: Vec<_> = answers.iter().filter(|answer| answer.secret.is_some()).collect();
    assert_eq!(shown.len(), 1);
    for replay in answers.iter().filter(|answer| answer.replayed) {
        assert_eq!((replay.expire_time, replay.effects), (shown[0].expire_time, shown[0].effects));
    }
    stranger.change_step("bob", shown[0].shown()).await.expect("the password that was shown");
    let other = v1::ResetPasswordRequest { note: "again".to_owned(), ..request.clone() };
    refused(operator.reset_with(other).await, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED");
    h.clock.advance(Duration::from_secs(24 * 3600 + 1));
    let anew = operator.reset_with(request).await.unwrap();
    assert!(!anew.replayed && anew.secret.is_some(), "the key is forgotten after a day");
}

#[tokio::test]
async fn validate_only_and_a_stale_etag_change_nothing() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let bob = h.user("bob").await;
    let before = operator.user("bob").await;
    let checked =
        operator.reset_with(v1::ResetPasswordRequest { validate_only: true, ..to_temporary() }).await.unwrap();
    assert_eq!((checked.secret, checked.effects.unwrap().sessions_revoked), (None, 1));
    let stale = v1::ResetPasswordRequest { etag: "\"99\"".to_owned(), ..to_temporary() };
    refused(operator.reset_with(stale).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(operator.user("bob").await, before);
    bob.client.who_am_i().await.expect("the session lives");
}

#[tokio::test]
async fn a_reset_without_a_method_is_by_a_mailed_link() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.user("bob").await;
    let unset = v1::ResetPasswordRequest { method: None, ..to_temporary() };
    refused(operator.reset_with(unset.clone()).await, Code::FailedPrecondition, "NO_DELIVERY_ADDRESS");
    let user = unset.user.clone();
    let update = v1::UpdateUserRequest { user, email: Some("bob@example.org".to_owned()), ..Default::default() };
    operator.update(update).await.expect("an address");
    let sent = operator.reset_with(unset).await.expect("a link").delivery.expect("a delivery");
    assert_eq!(sent.kind(), v1::DeliveryKind::PasswordReset);
}
