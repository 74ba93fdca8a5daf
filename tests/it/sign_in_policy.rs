//! The policy that asks users for a second factor: for all, by role, from a date on.

use std::time::Duration;

use latchkey::clock::Clock;
use latchkey::proto::v1::{self, sign_in_progress::Step};
use tonic::{Code, Response, Status};

use crate::harness::actors::named;
use crate::harness::calls::told;
use crate::harness::factor::{Authenticator, totp};
use crate::harness::{Client, Harness, PASSWORD, refused};

fn roles(names: &[&str]) -> v1::SignInPolicy {
    let names = names.iter().map(ToString::to_string).collect();
    v1::SignInPolicy { second_factor_roles: Some(v1::RoleNames { names }), ..Default::default() }
}

fn everybody() -> v1::SignInPolicy {
    v1::SignInPolicy { second_factor_required: Some(true), ..Default::default() }
}

impl Client {
    async fn policy(&self, policy: v1::SignInPolicy) -> Result<v1::UpdateSignInPolicyResponse, Status> {
        let request =
            v1::UpdateSignInPolicyRequest { policy: Some(policy), include_impact: true, ..Default::default() };
        self.user_admin().update_sign_in_policy(request).await.map(Response::into_inner)
    }

    async fn enrollment_step(&self, login: &str) -> v1::EnrollmentStep {
        match self.sign_in(login, PASSWORD).await {
            Ok(Step::Enrollment(step)) => step,
            step => panic!("another step: {step:?}"),
        }
    }

    async fn enroll_by(&self, ticket: &str) -> Result<v1::EnrollTotpResponse, Status> {
        let request = v1::EnrollTotpRequest { ticket: ticket.to_owned(), ..Default::default() };
        self.auth().enroll_totp(request).await.map(Response::into_inner)
    }
}

#[tokio::test]
async fn a_user_whom_the_policy_asks_sets_up_an_authenticator_as_a_step_of_the_sign_in() {
    let h = Harness::start().await;
    let (ada, bob) = (h.person("ada", &["helpdesk"]).await, h.user("bob").await);
    let operator = h.operator().await;
    let changed = operator.policy(roles(&["helpdesk"])).await.expect("a policy");
    assert_eq!(changed.impact, Some(v1::PolicyImpact { second_factors_missing: 1, ..Default::default() }));

    let flagged = v1::ListUsersRequest {
        filter: Some(v1::UserFilter { flags: vec![v1::UserFlag::SecondFactorMissing.into()], ..Default::default() }),
        ..Default::default()
    };
    let missing = operator.list(flagged).await.expect("a list").users;
    assert_eq!(missing.iter().map(|user| user.username.as_str()).collect::<Vec<_>>(), ["ada"]);
    ada.client.who_am_i().await.expect("the session goes on until its refresh");
    refused(ada.client.refresh(&ada.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    bob.client.refresh(&bob.tokens.refresh_token).await.expect("it does not concern bob");

    let stranger = h.stranger().await;
    let step = stranger.enrollment_step("ada").await;
    refused(stranger.prove(&step.ticket, totp("000000")).await, Code::Unauthenticated, "TICKET_INVALID");
    let started = stranger.enroll_by(&step.ticket).await.expect("an enrolment");
    let authenticator = Authenticator::with(&started.secret, Vec::new());
    let request = v1::ConfirmTotpRequest { ticket: started.ticket, code: authenticator.shows(&h, 0) };
    let confirmed = stranger.auth().confirm_totp(request).await.expect("a confirmation").into_inner();
    assert_eq!(confirmed.recovery_codes.len(), 10);
    let Some(Step::Tokens(tokens)) = confirmed.progress.and_then(|progress| progress.step) else { panic!("no tokens") };
    let me = stranger.bearing(&tokens.access_token).who_am_i().await.expect("who I am");
    assert_eq!(me.session.expect("a session").auth_methods, ["pwd", "otp", "mfa"]);
    stranger.refresh(&tokens.refresh_token).await.expect("a session with a second factor goes on");
    let status = operator.user("ada").await.second_factor_status.expect("a status");
    assert!(status.required && status.totp_enrolled);

    h.next_code();
    let request = v1::DisableTotpRequest { second_factor: Some(authenticator.proof(&h)) };
    let disabled = stranger.bearing(&tokens.access_token).auth().disable_totp(request).await;
    refused(disabled, Code::FailedPrecondition, "SECOND_FACTOR_MANDATORY");
}

#[tokio::test]
async fn until_its_date_a_policy_is_only_announced() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let operator = h.operator().await;
    let from = h.clock.now().as_unix_seconds() + 3600;
    let from = prost_types::Timestamp { seconds: from, nanos: 0 };
    let policy = v1::SignInPolicy { second_factor_required_from_time: Some(from), ..everybody() };
    operator.policy(policy).await.expect("a policy");
    let stranger = h.stranger().await;
    let request = v1::SignInRequest { login: "ada".to_owned(), password: PASSWORD.to_owned(), ..Default::default() };
    let progress = stranger.auth().sign_in(request).await.expect("an answer").into_inner().progress.expect("progress");
    assert_eq!(progress.second_factor_required_from_time, Some(from));
    let Some(Step::Tokens(tokens)) = progress.step else { panic!("no tokens") };
    stranger.refresh(&tokens.refresh_token).await.expect("tokens");
    h.clock.advance(Duration::from_hours(1));
    stranger.enrollment_step("ada").await;
}

#[tokio::test]
async fn a_policy_is_audited_and_kept_from_locking_out_or_overwriting() {
    let h = Harness::start().await;
    let root = h.person("root", &["admin"]).await;
    refused(root.client.policy(everybody()).await, Code::FailedPrecondition, "SECOND_FACTOR_MISSING");
    let dry = v1::UpdateSignInPolicyRequest {
        policy: Some(roles(&["viewer", "helpdesk"])),
        validate_only: true,
        ..Default::default()
    };
    root.client.user_admin().update_sign_in_policy(dry).await.expect("a dry run");
    let read = || async {
        let answer = root.client.user_admin().get_sign_in_policy(v1::GetSignInPolicyRequest::default()).await;
        answer.expect("a policy").into_inner().policy.expect("a policy")
    };
    let before = read().await;
    assert_eq!(
        (before.second_factor_required, before.second_factor_roles),
        (Some(false), Some(v1::RoleNames::default()))
    );
    let stale = v1::UpdateSignInPolicyRequest {
        policy: Some(roles(&["viewer"])),
        etag: "\"7\"".to_owned(),
        ..Default::default()
    };
    let stale = root.client.user_admin().update_sign_in_policy(stale).await;
    let refusal = refused(stale, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(refusal.message, "the policy has changed since you read it; its etag is now \"1\"");
    assert_eq!(refusal.metadata("resource"), "latchkey.v1.SignInPolicy");
    root.client.policy(roles(&["viewer"])).await.expect("a policy");
    let events = h.operator().await.events().await;
    let event = events.iter().find(|event| event.r#type() == v1::EventType::PolicyUpdated).expect("an event");
    assert_eq!(event.details.get("after").map(String::as_str), Some("second factor: viewer"), "{}", told(event));
    let helpdesk = h.person("ada", &["helpdesk"]).await;
    refused(helpdesk.client.policy(roles(&[])).await, Code::PermissionDenied, "SCOPE_MISSING");
}

#[tokio::test]
async fn a_link_chooses_a_password_and_the_next_sign_in_enrols() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let operator = h.operator().await;
    operator.policy(everybody()).await.expect("a policy");
    let reset = operator.reset("ada").await.expect("a reset");
    let Some(v1::reset_password_response::Secret::TemporaryPassword(password)) = reset.secret else { panic!("none") };
    let stranger = h.stranger().await;
    let change = stranger.change_step("ada", &password).await.expect("a step");
    let done = stranger.complete(&change.ticket, PASSWORD).await.expect("a change");
    let Some(Step::Enrollment(step)) = done.progress.and_then(|progress| progress.step) else {
        panic!("no enrolment after the change")
    };
    stranger.enroll_by(&step.ticket).await.expect("an enrolment");
    operator
        .user_admin()
        .lock_user(v1::LockUserRequest { user: Some(named("ada")), ..Default::default() })
        .await
        .expect("a lock");
    refused(stranger.enroll_by(&step.ticket).await, Code::Unauthenticated, "TICKET_INVALID");
}

#[tokio::test]
async fn a_date_that_would_begin_nothing_is_refused() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let from = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    for whom in [v1::SignInPolicy::default(), roles(&[])] {
        let policy = v1::SignInPolicy { second_factor_required_from_time: from, ..whom };
        let refusal = refused(operator.policy(policy).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations(), ["policy.second_factor_required_from_time: CONFLICT"]);
    }
    operator.policy(v1::SignInPolicy { second_factor_required_from_time: from, ..everybody() }).await.expect("a date");
    let over = v1::SignInPolicy { second_factor_required: Some(false), ..Default::default() };
    let over = operator.policy(over).await.expect("an end").policy.expect("a policy");
    assert_eq!(over.second_factor_required_from_time, None, "the date of a policy that is over goes with it");
}
