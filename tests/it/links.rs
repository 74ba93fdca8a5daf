//! Links by which users choose a password, confirm an address, or cancel what they did not ask for.

use std::time::Duration;

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::reset_password_response::Secret;
use latchkey::proto::v1::{self, DeliveryKind, DeliveryState, EventType, UserFlag, UserState};
use tonic::{Code, Response, Status};

use crate::harness::actors::named;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, is_full, refused};

const ADDRESS: &str = "bob@example.com";

/// A person with an address and a password.
async fn bob(h: &Harness) -> Client {
    let operator = h.operator().await;
    let request = v1::CreateUserRequest {
        username: "bob".to_owned(),
        email: ADDRESS.to_owned(),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(request).await.expect("a user");
    operator
}

fn reset(method: Option<Method>) -> v1::ResetPasswordRequest {
    v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() }
}

fn returned() -> v1::ResetPasswordRequest {
    reset(Some(Method::ReturnLink(v1::ReturnLink::default())))
}

impl Client {
    /// The token of a link that the operator passes on.
    async fn link(&self) -> String {
        let answer = self.reset_with(returned()).await.expect("a link");
        let Some(Secret::ResetLink(url)) = answer.secret else { panic!("no link") };
        url.split_once("token=").expect("a token").1.to_owned()
    }

    async fn inspect(&self, token: &str) -> Result<v1::InspectLinkResponse, Status> {
        let request = v1::InspectLinkRequest { link_token: token.to_owned() };
        self.auth().inspect_link(request).await.map(Response::into_inner)
    }

    async fn choose(&self, token: &str, password: &str) -> Result<v1::CompletePasswordResetResponse, Status> {
        let (link_token, new_password) = (token.to_owned(), password.to_owned());
        let request =
            v1::CompletePasswordResetRequest { link_token, new_password, second_factor: None, validate_only: false };
        self.auth().complete_password_reset(request).await.map(Response::into_inner)
    }

    async fn cancel(&self, token: &str) -> Result<(), Status> {
        let request = v1::CancelLinkRequest { cancel_token: token.to_owned() };
        self.auth().cancel_link(request).await.map(|_| ())
    }

    async fn verify(&self, token: &str) -> Result<(), Status> {
        let request = v1::VerifyEmailRequest { link_token: token.to_owned() };
        self.auth().verify_email(request).await.map(|_| ())
    }

    async fn resend(&self, id: &str) -> Result<v1::Delivery, Status> {
        let request = v1::ResendDeliveryRequest { delivery_id: id.to_owned(), ..Default::default() };
        let answer = self.user_admin().resend_delivery(request).await?.into_inner();
        Ok(answer.delivery.expect("a delivery"))
    }

    /// Sends a link that confirms an address.
    async fn verification(&self, username: &str) -> Result<v1::Delivery, Status> {
        let request = v1::SendEmailVerificationRequest { user: Some(named(username)), ..Default::default() };
        let answer = self.user_admin().send_email_verification(request).await?.into_inner();
        Ok(answer.delivery.expect("a delivery"))
    }

    /// Sends a link by mail.
    async fn mailed(&self) -> v1::Delivery {
        self.reset_with(reset(None)).await.expect("a reset").delivery.expect("a delivery")
    }

    async fn sets_address(&self, address: &str) -> v1::UpdateUserResponse {
        let email = Some(address.to_owned());
        let request = v1::UpdateUserRequest { user: Some(named("bob")), email, ..Default::default() };
        self.update(request).await.expect("an update")
    }
}

fn dead<T: std::fmt::Debug>(answer: Result<T, Status>) {
    refused(answer, Code::Unauthenticated, "TICKET_INVALID");
}

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
    // Two thousand calls take some 10 s of processor time without optimisation.
    let rounds = if is_full() { 1000 } else { 10 };
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
    stranger.cancel(&cancel).await.expect("a cancellation");
    stranger.cancel(&cancel).await.expect("the same again");
    dead(stranger.choose(&link, OTHER_PASSWORD).await);
    dead(stranger.choose(&other, OTHER_PASSWORD).await);
    stranger.tokens("bob", PASSWORD).await.expect("nothing else has changed");
    let cancelled = operator.events().await.into_iter().filter(|e| e.r#type() == EventType::LinkCancelled);
    assert_eq!(cancelled.count(), 1);
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
    let cancel = || async {
        let request = v1::CancelDeliveryRequest { delivery_id: delivery.id.clone(), note: "wrong person".to_owned() };
        operator.user_admin().cancel_delivery(request).await.expect("a cancellation").into_inner().delivery.unwrap()
    };
    assert_eq!(cancel().await.state(), DeliveryState::Accepted, "it has gone out");
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
    refused(root.reset_with(reset(None)).await, Code::ResourceExhausted, "RATE_LIMITED");
    refused(root.verification("bob").await, Code::ResourceExhausted, "RATE_LIMITED");
    local.mailed().await;
}

#[tokio::test]
async fn a_repeated_reset_sends_one_mail() {
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
    assert_eq!(notices().await, [ADDRESS; 4], "the old address is told");
    operator.contain("bob").await.expect("a containment");
    assert_eq!(notices().await.first().map(String::as_str), Some("robert@example.com"));
    for sent in operator.deliveries("bob").await {
        let mail = h.mail_of(&sent).await;
        assert!(!mail.text.contains("token=") && !mail.text.contains("c4nary"), "{}", mail.text);
    }
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
