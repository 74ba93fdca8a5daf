//! Locks for `COMPROMISE`, which contain an account that someone else may have taken over, and for `DEACTIVATED`, for leave.

use std::time::Duration;

use latchkey::clock::Clock;
use latchkey::domain::role::Scope;
use latchkey::proto::v1::lock_user_request::End;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::sign_in_progress::Step;
use latchkey::proto::v1::{
    self, ErrorReason, EventType, LockCause, SignInAbilityKind, SignInAbilityReason, UserKind, UserState,
};
use tonic::{Code, Status};

use crate::harness::actors::named;
use crate::harness::calls::{Shown, tokens_of};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Person, refused};

const THIRD_PASSWORD: &str = "yet another c4nary here";

/// A request to reset a password by a temporary one, and to lift a lock.
fn reset_and_unlock(name: &str) -> v1::ResetPasswordRequest {
    let method = Some(Method::TemporaryPassword(v1::TemporaryPassword::default()));
    v1::ResetPasswordRequest { user: Some(named(name)), method, unlock: true, ..Default::default() }
}

/// One of everything that a sign-in gives, or leads to.
struct Held {
    bob: Person,
    ticket: String,
    program: Client,
}

async fn held(h: &Harness) -> Held {
    let operator = h.operator().await;
    let bob = h.person("bob", &["viewer"]).await;
    let program = h.stranger().await.bearing(&operator.api_token("bob", &["users.read"]).await);
    operator.require_change("bob").await.expect("a demand");
    let ticket = h.stranger().await.change_step("bob", PASSWORD).await.expect("a step").ticket;
    operator.waive_change("bob").await.expect("no demand");
    Held { bob, ticket, program }
}

impl Held {
    /// Fails if one of them still works.
    async fn is_dead(&self, h: &Harness) {
        let stranger = h.stranger().await;
        refused(self.bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
        refused(stranger.refresh(&self.bob.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
        refused(stranger.complete(&self.ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
        refused(self.program.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
        refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
}

#[tokio::test]
async fn a_containment_ends_everything_that_someone_else_may_hold_and_tells_each() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let held = held(&h).await;

    let answer = operator.contain("bob").await.expect("a containment");

    let effects = answer.effects.expect("effects");
    assert_eq!((effects.sessions_revoked, effects.tickets_revoked, effects.api_tokens_revoked), (1, 1, 1));
    assert!(effects.password_ended && effects.devices_forgotten && effects.access_expire_time.is_some());
    let user = answer.user.expect("a user");
    assert_eq!(
        (user.state(), user.lock.as_ref().map(v1::UserLock::cause)),
        (UserState::Locked, Some(LockCause::Compromise))
    );
    let status = user.password_status.as_ref().expect("a status");
    assert!(!status.password_set && status.end_time == user.update_time);
    assert_eq!(user, operator.user("bob").await);
    held.is_dead(&h).await;

    let events = operator.events().await;
    let event = events.iter().find(|event| event.r#type() == EventType::UserLocked).expect("an event");
    let detail = |name: &str| event.details.get(name).map_or("", String::as_str);
    assert_eq!(detail("lockCause"), "COMPROMISE");
    assert_eq!(["sessionsRevoked", "ticketsRevoked", "apiTokensRevoked"].map(detail), ["1", "1", "1"]);
    assert_eq!(["passwordEnded", "devicesForgotten"].map(detail), ["true", "true"]);
}

#[tokio::test]
async fn after_a_containment_an_unlock_alone_lets_nobody_in_and_a_reset_lets_the_user_in() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let held = held(&h).await;
    operator.contain("bob").await.expect("a containment");

    let unlocked = operator.unlock("bob").await.expect("an unlock").user.expect("a user");

    let ability = unlocked.sign_in_ability.as_ref().expect("an answer");
    assert_eq!((ability.kind(), ability.reason()), (SignInAbilityKind::No, SignInAbilityReason::PasswordEnded));
    assert_eq!(ability.next_method, "latchkey.v1.UserAdmin/ResetPassword");
    assert_eq!(unlocked.state(), UserState::Active, "never set and ended are two states");
    held.is_dead(&h).await;
    let failures = operator.events().await;
    let last = failures.iter().rev().find(|event| event.r#type() == EventType::SignInFailed).expect("a failure");
    assert_eq!(last.reason(), ErrorReason::PasswordEnded);
    refused(operator.require_change("bob").await, Code::FailedPrecondition, "PASSWORD_ENDED");

    let temporary = operator.reset("bob").await.expect("a reset");
    assert!(!temporary.effects.expect("effects").password_ended, "there was none left");
    let stranger = h.stranger().await;
    let ticket = stranger.change_step("bob", temporary.shown()).await.expect("a step").ticket;
    stranger.complete(&ticket, OTHER_PASSWORD).await.expect("a new password");
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("tokens");
    refused(held.program.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    assert_eq!(operator.user("bob").await.password_status.expect("a status").end_time, None);
}

#[tokio::test]
async fn a_password_that_was_ended_cannot_be_chosen_again() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.user("bob").await;
    operator.contain("bob").await.expect("a containment");
    let temporary = operator.reset_with(reset_and_unlock("bob")).await.expect("a reset");
    let stranger = h.stranger().await;
    let ticket = stranger.change_step("bob", temporary.shown()).await.expect("a step").ticket;
    let again = stranger.complete(&ticket, PASSWORD).await;
    let refusal = refused(again, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(refusal.violations(), ["new_password: REUSED"]);
    let signed_in = tokens_of(stranger.complete(&ticket, OTHER_PASSWORD).await.expect("the ticket lives").progress);

    let bob = stranger.bearing(&signed_in.access_token);
    let again =
        refused(bob.change_password(OTHER_PASSWORD, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(again.violations(), ["new_password: REUSED"]);
    bob.change_password(OTHER_PASSWORD, THIRD_PASSWORD).await.expect("any other one");

    // The temporary password of a second containment does not take its place.
    let temporary = operator.reset("bob").await.expect("a reset");
    operator.contain("bob").await.expect("a containment");
    refused(stranger.sign_in("bob", temporary.shown()).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let temporary = operator.reset_with(reset_and_unlock("bob")).await.expect("a reset");
    let ticket = stranger.change_step("bob", temporary.shown()).await.expect("a step").ticket;
    refused(stranger.complete(&ticket, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
}

#[tokio::test]
async fn a_deactivation_destroys_nothing_and_an_unlock_restores_everything_but_the_sessions() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let held = held(&h).await;
    let device = h.stranger().await.tokens("bob", PASSWORD).await.expect("tokens").device_token;

    let answer = operator.lock_for("bob", LockCause::Deactivated).await.expect("a lock");

    let effects = answer.effects.expect("effects");
    assert_eq!((effects.sessions_revoked, effects.api_tokens_revoked), (2, 0));
    assert!(!effects.password_ended && !effects.devices_forgotten);
    assert_eq!(answer.user.and_then(|user| user.lock).map(|lock| lock.cause()), Some(LockCause::Deactivated));
    held.is_dead(&h).await;

    operator.unlock("bob").await.expect("an unlock");
    held.program.who_am_i().await.expect("the API token works again");
    h.stranger().await.with_device("bob", PASSWORD, &device).await.expect("so does the password");
    refused(held.bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
}

#[tokio::test]
async fn a_containment_forgets_the_places_and_devices_of_an_intruder() {
    let h = Harness::with(|config| config.throttle.threshold = 3).await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let intruder = h.stranger_at("127.0.0.66").await;
    let device = intruder.tokens("bob", PASSWORD).await.expect("tokens").device_token;
    operator.contain("bob").await.expect("a containment");
    operator.unlock("bob").await.expect("an unlock");
    for _ in 0..3 {
        let answer = intruder.with_device("bob", PASSWORD, &device).await;
        refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let throttle = operator.user("bob").await.throttle.expect("a throttle");
    assert!(!throttle.includes_familiar_places, "the intruder's guesses count as a stranger's");
}

#[tokio::test]
async fn a_later_lock_of_any_cause_never_weakens_an_earlier_one() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let now = h.clock.now().as_micros() / 1_000_000;
    let causes = [LockCause::Compromise, LockCause::Deactivated, LockCause::Operator];
    let ends = [None, Some(now + 7200), Some(now + 3600)];
    let locks = || (0..causes.len()).flat_map(|cause| (0..ends.len()).map(move |end| (cause, end)));
    let request = |name: &str, (cause, end): (usize, usize)| {
        let end = ends[end].map(|seconds| End::UntilTime(prost_types::Timestamp { seconds, nanos: 0 }));
        v1::LockUserRequest { user: Some(named(name)), cause: causes[cause].into(), end, ..Default::default() }
    };
    let mut client = operator.user_admin();
    for (first, second) in locks().flat_map(|first| locks().map(move |second| (first, second))) {
        let name = format!("u{}{}.{}{}", first.0, first.1, second.0, second.1);
        let user = v1::CreateUserRequest { username: name.clone(), ..Default::default() };
        operator.create(user).await.expect("a user");
        let before = client.lock_user(request(&name, first)).await.expect("a lock").into_inner();
        let after = client.lock_user(request(&name, second)).await.expect("a lock").into_inner();
        let standing = after.user.and_then(|user| user.lock).expect("a lock");
        assert_eq!(standing.cause(), causes[first.0.min(second.0)], "{name}");
        assert_eq!(standing.expire_time.map(|end| end.seconds), ends[first.1.min(second.1)], "{name}");
        assert_eq!(after.earlier_lock, before.user.and_then(|user| user.lock), "{name}");
    }
}

#[tokio::test]
async fn a_containment_of_a_locked_account_still_ends_its_credentials_and_a_second_one_finds_none() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let held = held(&h).await;
    operator.lock("bob").await.expect("a lock");
    let effects = operator.contain("bob").await.expect("a containment").effects.expect("effects");
    assert_eq!((effects.sessions_revoked, effects.api_tokens_revoked, effects.password_ended), (0, 1, true));
    let ended = operator.user("bob").await.password_status.expect("a status").end_time;

    h.clock.advance(Duration::from_secs(1));
    let again = operator.contain("bob").await.expect("the same again");
    let effects = again.effects.expect("effects");
    assert_eq!((effects.api_tokens_revoked, effects.password_ended), (0, false));
    assert_eq!(again.user.and_then(|user| user.password_status).expect("a status").end_time, ended);
    held.is_dead(&h).await;
}

/// The calls that lift a lock.
async fn lift(client: &Client, name: &str) -> [Result<(), Status>; 2] {
    [client.reset_with(reset_and_unlock(name)).await.map(drop), client.unlock(name).await.map(drop)]
}

#[tokio::test]
async fn the_helpdesk_contains_and_deactivates_and_only_users_write_lifts_it() {
    let h = Harness::start().await;
    let (helpdesk, writer) = (h.person("helen", &["helpdesk"]).await, h.person("olga", &["operator"]).await);
    for (name, cause) in [("bob", LockCause::Compromise), ("cat", LockCause::Deactivated)] {
        h.create(name, &[], PASSWORD).await;
        helpdesk.client.lock_for(name, cause).await.expect("a lock at 3 a.m.");
        let before = writer.client.user(name).await;
        for answer in lift(&helpdesk.client, name).await {
            let refusal = refused(answer, Code::PermissionDenied, "SCOPE_MISSING");
            assert_eq!(refusal.metadata("scope"), "users.write");
        }
        assert_eq!(writer.client.user(name).await, before, "nothing was changed");
        for answer in lift(&writer.client, name).await {
            answer.expect("lifted");
        }
        assert_eq!(writer.client.user(name).await.lock, None);
    }
    // Without such a lock, the helpdesk is free to unlock, and over one that has ended.
    let hour = Some(End::Duration(prost_types::Duration { seconds: 3600, nanos: 0 }));
    let (user, cause) = (Some(named("cat")), LockCause::Deactivated.into());
    let request = v1::LockUserRequest { user, cause, end: hour, ..Default::default() };
    helpdesk.client.user_admin().lock_user(request).await.expect("a lock");
    h.clock.advance(Duration::from_secs(3601));
    let helpdesk = h.signed_in("helen", PASSWORD).await;
    helpdesk.client.unlock("cat").await.expect("an unlock");
}

#[tokio::test]
async fn a_reset_of_a_contained_or_deactivated_account_says_so_and_needs_unlock() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for (name, cause, said) in
        [("bob", LockCause::Compromise, "COMPROMISE"), ("cat", LockCause::Deactivated, "DEACTIVATED")]
    {
        h.create(name, &[], PASSWORD).await;
        operator.lock_for(name, cause).await.expect("a lock");
        let refusal = refused(operator.reset(name).await, Code::FailedPrecondition, "USER_LOCKED");
        assert_eq!(refusal.metadata("lockCause"), said);
        let reset = operator.reset_with(reset_and_unlock(name)).await.expect("a reset");
        assert_eq!(reset.lifted_lock.as_ref().map(v1::UserLock::cause), Some(cause));
        let step = h.stranger().await.sign_in(name, reset.shown()).await.expect("a step");
        assert!(matches!(step, Step::PasswordChange(_)));
    }
}

#[tokio::test]
async fn a_contained_service_gets_in_with_a_new_api_token_only() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let program = h.token(&["users.read"]).await;
    let effects = operator.contain("service").await.expect("a containment").effects.expect("effects");
    assert_eq!((effects.api_tokens_revoked, effects.password_ended, effects.devices_forgotten), (1, false, false));
    let user = operator.unlock("service").await.expect("an unlock").user.expect("a user");
    assert_eq!((user.kind(), user.state()), (UserKind::Service, UserState::Active));
    refused(program.get("service").await, Code::Unauthenticated, "SESSION_REVOKED");
    h.token(&["users.read"]).await.user("service").await;
}

#[tokio::test]
async fn a_pending_user_is_still_pending_after_a_containment() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.create(v1::CreateUserRequest { username: "bob".to_owned(), ..Default::default() }).await.expect("bob");
    let effects = operator.contain("bob").await.expect("a containment").effects.expect("effects");
    assert_eq!(effects, v1::Effects::default());
    assert_eq!(operator.unlock("bob").await.expect("an unlock").user.expect("a user").state(), UserState::Pending);
}

#[tokio::test]
async fn the_last_administrator_is_contained_on_the_host_only_and_does_not_count_without_a_password() {
    let h = Harness::start().await;
    let (root, ann) = (h.admin().await, h.person("ann", &["admin"]).await);
    let operator = h.operator().await;
    ann.client.contain("root").await.expect("two administrators are left with one");
    operator.unlock("root").await.expect("an unlock");
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let token = h.token(&all).await;
    refused(token.contain("ann").await, Code::FailedPrecondition, "LAST_ADMINISTRATOR");
    refused(token.lock_for("ann", LockCause::Deactivated).await, Code::FailedPrecondition, "LAST_ADMINISTRATOR");
    refused(ann.client.contain("ann").await, Code::PermissionDenied, "SELF_ACTION_FORBIDDEN");
    operator.contain("ann").await.expect("on the host");
    refused(root.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
}
