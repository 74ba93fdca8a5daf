//! An operator requires a password change, or withdraws the requirement.

use latchkey::proto::v1::{self, PasswordChangeCause, UserFlag};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::{Shown, tokens_of};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, refused};

#[tokio::test]
async fn the_old_password_proves_who_the_user_is_and_must_be_changed() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let bob = h.user("bob").await;
    let answer = operator.require_change("bob").await.unwrap();
    assert!(answer.user.unwrap().flags.contains(&UserFlag::MustChange.into()));
    assert_eq!(answer.effects.unwrap().sessions_revoked, 0);
    bob.client.who_am_i().await.expect("sessions go on");
    bob.client.refresh(&bob.tokens.refresh_token).await.expect("and so do refreshes");

    let stranger = h.stranger().await;
    refused(stranger.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let step = stranger.change_step("bob", PASSWORD).await.unwrap();
    assert_eq!(step.cause(), PasswordChangeCause::Operator);
    let refusal = refused(stranger.complete(&step.ticket, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(refusal.violations(), ["new_password: REUSED"]);
    let answer = stranger.complete(&step.ticket, OTHER_PASSWORD).await.unwrap();
    assert_eq!(answer.sessions_revoked, 1);
    let tokens = tokens_of(answer.progress);
    stranger.bearing(&tokens.access_token).who_am_i().await.expect("a session");
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("no demand any more");
}

#[tokio::test]
async fn sessions_end_with_the_demand_if_the_operator_wants_it() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let bob = h.user("bob").await;
    let request =
        v1::RequirePasswordChangeRequest { user: Some(named("bob")), revoke_sessions: true, ..Default::default() };
    let answer = operator.user_admin().require_password_change(request).await.unwrap().into_inner();
    assert_eq!(answer.effects.unwrap().sessions_revoked, 1);
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
}

#[tokio::test]
async fn a_demand_can_be_waived() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    assert!(!operator.waive_change("bob").await.unwrap().changed, "nothing to waive");
    operator.require_change("bob").await.unwrap();
    let answer = operator.waive_change("bob").await.unwrap();
    assert!(answer.changed && !answer.user.unwrap().flags.contains(&UserFlag::MustChange.into()));
    h.stranger().await.tokens("bob", PASSWORD).await.expect("no demand");
}

#[tokio::test]
async fn a_temporary_password_has_to_be_changed_waived_or_not() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let reset = operator.reset("bob").await.unwrap();
    assert!(!operator.waive_change("bob").await.unwrap().changed);
    operator.require_change("bob").await.unwrap();
    let status = operator.user("bob").await.password_status.unwrap();
    assert_eq!(status.change_cause(), PasswordChangeCause::Temporary, "the strongest cause is shown");
    assert!(operator.waive_change("bob").await.unwrap().changed);
    h.stranger().await.change_step("bob", reset.shown()).await.expect("still a demand");
}

#[tokio::test]
async fn asking_twice_is_asking_once() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let first = operator.require_change("bob").await.unwrap();
    let second = operator.require_change("bob").await.unwrap();
    assert_eq!(first.user, second.user);
    assert_eq!((first.changed, second.changed), (true, false));
}

#[tokio::test]
async fn nothing_can_be_demanded_of_somebody_without_a_password() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.create(v1::CreateUserRequest { username: "bob".to_owned(), ..Default::default() }).await.unwrap();
    refused(operator.require_change("bob").await, Code::FailedPrecondition, "USER_PENDING");
    refused(operator.require_change("nobody").await, Code::NotFound, "USER_NOT_FOUND");
    refused(operator.waive_change("nobody").await, Code::NotFound, "USER_NOT_FOUND");
}

#[tokio::test]
async fn demands_are_bound_to_the_etag_that_was_read() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let etag = operator.user("bob").await.etag;
    let require = v1::RequirePasswordChangeRequest {
        user: Some(named("bob")),
        etag: etag.clone(),
        note: "leaked".to_owned(),
        ..Default::default()
    };
    operator.user_admin().require_password_change(require.clone()).await.expect("the current one");
    let refusal = refused(operator.user_admin().require_password_change(require).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(refusal.metadata("currentEtag"), operator.user("bob").await.etag);
    let waive = v1::WaivePasswordChangeRequest { user: Some(named("bob")), etag, ..Default::default() };
    refused(operator.user_admin().waive_password_change(waive).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(operator.events().await.pop().unwrap().note, "leaked");
}
