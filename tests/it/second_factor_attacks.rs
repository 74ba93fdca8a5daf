//! What an attacker tries against second factors: guesses, codes used twice, stolen sessions and tickets, and ways around.

use std::time::Duration;

use latchkey::proto::v1::{self, sign_in_progress::Step};
use serde_json::json;
use tonic::{Code, Response, Status};

use crate::harness::actors::named;
use crate::harness::factor::{Authenticator, recovery, totp};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, refused};

/// A server that blocks no source, and whose sessions outlive hours.
async fn patient() -> Harness {
    Harness::with(|config| {
        config.throttle.source_failures = 0;
        config.throttle.source_accounts = 0;
        config.token.access_ttl = Duration::from_hours(8);
        config.session.idle = Duration::from_hours(8);
        config.session.admin_idle = Duration::from_hours(8);
    })
    .await
}

/// A code that the authenticator shows at no time near now.
fn wrong(factor: &Authenticator, h: &Harness) -> v1::SecondFactorProof {
    let near: Vec<String> = (-25..=25).map(|steps| factor.shows(h, steps)).collect();
    let code = (0..100).map(|number| format!("{number:06}")).find(|code| !near.contains(code));
    totp(&code.expect("a code"))
}

async fn failures(h: &Harness) -> String {
    h.query("SELECT CAST(failures AS TEXT) FROM totp").await.join(" ")
}

fn is_rejected<T: std::fmt::Debug>(answer: Result<T, Status>) {
    refused(answer, Code::Unauthenticated, "SECOND_FACTOR_REJECTED");
}

fn is_dead<T: std::fmt::Debug>(answer: Result<T, Status>) {
    refused(answer, Code::Unauthenticated, "TICKET_INVALID");
}

impl Client {
    async fn choose_with(&self, link: &str, proof: Option<v1::SecondFactorProof>) -> Result<(), Status> {
        let request = v1::CompletePasswordResetRequest {
            link_token: link.to_owned(),
            new_password: OTHER_PASSWORD.to_owned(),
            second_factor: proof,
            validate_only: false,
        };
        self.auth().complete_password_reset(request).await.map(drop)
    }
}

/// The token of a link that an operator made for a user.
async fn link_of(h: &Harness, username: &str) -> String {
    let request = json!({"user": {"username": username}, "returnLink": {}});
    let answer = h.operator().await.call("UserAdmin/ResetPassword", request).await.expect("a link");
    answer["resetLink"].as_str().and_then(|url| url.split_once("token=")).expect("a token").1.to_owned()
}

#[tokio::test]
async fn sec_031_a_code_works_once_on_all_replicas_and_never_after_a_newer_one() {
    let h = patient().await;
    h.create("ada", &[], PASSWORD).await;
    let address = v1::UpdateUserRequest {
        user: Some(named("ada")),
        email: Some("ada@example.org".to_owned()),
        ..Default::default()
    };
    h.operator().await.update(address).await.expect("an address");
    let factor = h.enroll(&h.signed_in("ada", PASSWORD).await).await;
    let replica = h.replica().await;
    let other = match &replica {
        Some(replica) => replica.stranger().await,
        None => h.stranger().await,
    };
    let clients = [h.stranger().await, other];
    let mut tickets = Vec::new();
    for number in 0..8 {
        tickets.push(clients[number % 2].factor_step("ada", PASSWORD).await.expect("a step").ticket);
    }
    // A user has no more tickets than that. The other calls bring the code together with the password.
    let code = factor.proof(&h);
    let answers = at_once((0..100).map(async |number: usize| match tickets.get(number) {
        Some(ticket) => clients[number % 2].prove(ticket, code.clone()).await,
        None => clients[number % 2].sign_in_with("ada", PASSWORD, code.clone()).await,
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    for status in answers.into_iter().filter_map(Result::err) {
        let reason = Refusal::of(&status).reason;
        assert!(["SECOND_FACTOR_REJECTED", "THROTTLED", "OVERLOADED"].contains(&reason.as_str()), "{reason}");
    }
    let operator = h.operator().await;
    operator.unlock("ada").await.expect("an end of the wait");
    let older = factor.proof(&h);
    h.next_code();
    clients[0].sign_in_with("ada", PASSWORD, factor.proof(&h)).await.expect("the newer one");
    is_rejected(clients[1].sign_in_with("ada", PASSWORD, older).await);
    let early = totp(&factor.shows(&h, 1));
    clients[1].sign_in_with("ada", PASSWORD, early).await.expect("the next one, a step early");
    is_rejected(clients[0].sign_in_with("ada", PASSWORD, factor.proof(&h)).await);
}

#[tokio::test]
async fn sec_031_a_clock_that_jumps_an_hour_makes_no_code_work_twice_and_a_recovery_code_helps() {
    let h = patient().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let stranger = h.stranger().await;
    h.clock.advance(Duration::from_hours(1));
    let later = factor.proof(&h);
    stranger.sign_in_with("ada", PASSWORD, later.clone()).await.expect("the codes follow the clock");
    h.clock.turn_back(Duration::from_hours(1));
    is_rejected(stranger.sign_in_with("ada", PASSWORD, later).await);
    is_rejected(stranger.sign_in_with("ada", PASSWORD, factor.proof(&h)).await);
    let code = recovery(&factor.recovery_codes[0]);
    stranger.sign_in_with("ada", PASSWORD, code).await.expect("a recovery code has no time");
}

#[tokio::test]
async fn sec_032_what_is_not_six_digits_is_a_wrong_code_and_counts() {
    let h = patient().await;
    let factor = h.enroll(&h.user("ada").await).await;
    while !factor.shows(&h, 0).starts_with('0') {
        h.next_code();
    }
    let (stranger, operator) = (h.stranger().await, h.operator().await);
    let code = factor.shows(&h, 0);
    let wide: String =
        code.bytes().map(|digit| char::from_u32(0xff10 + u32::from(digit - b'0')).expect("a digit")).collect();
    let forms = [
        format!(" {code}"),
        format!("{code} "),
        format!("{code}\n"),
        format!("{} {}", &code[..3], &code[3..]),
        wide,
        format!("+{}", &code[1..]),
        code[1..].to_owned(),
        format!("0{code}"),
        format!("{code}\u{0}"),
    ];
    for form in forms {
        is_rejected(stranger.sign_in_with("ada", PASSWORD, totp(&form)).await);
        assert_eq!(failures(&h).await, "1", "{form:?}");
        operator.unlock("ada").await.expect("forgotten");
        assert_eq!(failures(&h).await, "0");
    }
    stranger.sign_in_with("ada", PASSWORD, totp(&code)).await.expect("the code was not used up");
}

#[tokio::test]
async fn sec_033_many_challenges_at_once_share_five_guesses_and_the_wait_grows_until_an_unlock() {
    let h = patient().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let (stranger, operator) = (h.stranger().await, h.operator().await);
    let guess = wrong(&factor, &h);
    let answers = at_once((0..50).map(|_| stranger.sign_in_with("ada", PASSWORD, guess.clone()))).await;
    let reasons: Vec<String> =
        answers.iter().map(|answer| Refusal::of(answer.as_ref().expect_err("a guess")).reason).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "SECOND_FACTOR_REJECTED").count(), 5, "{reasons:?}");
    assert_eq!(failures(&h).await, "5");
    for proof in [factor.proof(&h), recovery(&factor.recovery_codes[0])] {
        let waits = stranger.sign_in_with("ada", PASSWORD, proof).await;
        refused(waits, Code::ResourceExhausted, "THROTTLED");
    }
    for seconds in [30, 60, 120] {
        let status = operator.user("ada").await.second_factor_status.expect("a status");
        assert!(status.codes_refused_until_time.is_some());
        h.clock.advance(Duration::from_secs(seconds - 15));
        refused(stranger.sign_in_with("ada", PASSWORD, guess.clone()).await, Code::ResourceExhausted, "THROTTLED");
        h.clock.advance(Duration::from_secs(15));
        is_rejected(stranger.sign_in_with("ada", PASSWORD, wrong(&factor, &h)).await);
    }
    operator.unlock("ada").await.expect("the end of the wait");
    stranger.sign_in_with("ada", PASSWORD, factor.proof(&h)).await.expect("a session");
    assert_eq!(failures(&h).await, "0");
}

#[tokio::test]
async fn sec_033_wrong_codes_of_all_acts_count_together_and_make_all_of_them_wait() {
    let h = patient().await;
    let person = h.user("ada").await;
    let (factor, ada, stranger) = (h.enroll(&person).await, person.client, h.stranger().await);
    let guess = || Some(wrong(&factor, &h));
    is_rejected(stranger.sign_in_with("ada", PASSWORD, wrong(&factor, &h)).await);
    is_rejected(ada.enroll(guess()).await);
    is_rejected(ada.disable(guess()).await);
    is_rejected(ada.regenerate(guess()).await);
    let again = v1::ReauthenticateRequest { password: PASSWORD.to_owned(), second_factor: guess() };
    is_rejected(ada.auth().reauthenticate(again).await);
    let waits = |answer: Result<(), Status>| {
        let refusal = refused(answer, Code::ResourceExhausted, "THROTTLED");
        assert!(refusal.retry_after().is_some(), "{refusal:?}");
    };
    let right = || Some(factor.proof(&h));
    waits(ada.enroll(right()).await.map(drop));
    waits(ada.disable(right()).await.map(drop));
    waits(ada.regenerate(right()).await.map(drop));
    waits(stranger.choose_with(&link_of(&h, "ada").await, right()).await);
    let again = v1::ReauthenticateRequest { password: PASSWORD.to_owned(), second_factor: right() };
    waits(ada.auth().reauthenticate(again).await.map(drop));
    h.clock.advance(Duration::from_secs(30));
    ada.regenerate(right()).await.expect("the wait is over");
}

#[tokio::test]
async fn sec_035_a_new_key_ends_with_the_fifth_wrong_code_and_leaves_the_old_one() {
    let h = patient().await;
    let person = h.user("ada").await;
    let (old, ada) = (h.enroll(&person).await, person.client);
    let started = ada.enroll(Some(old.proof(&h))).await.expect("an enrolment");
    let new = Authenticator::with(&started.secret, Vec::new());
    let confirm = async |code: v1::SecondFactorProof| {
        let Some(v1::second_factor_proof::Code::Totp(code)) = code.code else { panic!("a code of an app") };
        ada.auth().confirm_totp(v1::ConfirmTotpRequest { ticket: started.ticket.clone(), code }).await
    };
    for _ in 0..5 {
        is_rejected(confirm(wrong(&new, &h)).await);
    }
    is_dead(confirm(new.proof(&h)).await);
    assert_eq!(failures(&h).await, "0", "no code of the old one was wrong");
    h.next_code();
    h.stranger().await.sign_in_with("ada", PASSWORD, old.proof(&h)).await.expect("the old one works");
}

#[tokio::test]
async fn sec_033_a_ticket_ends_with_its_fifth_wrong_code() {
    let h = patient().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let (stranger, operator) = (h.stranger().await, h.operator().await);
    let ticket = stranger.factor_step("ada", PASSWORD).await.expect("a step").ticket;
    for _ in 0..5 {
        is_rejected(stranger.prove(&ticket, wrong(&factor, &h)).await);
    }
    operator.unlock("ada").await.expect("the end of the wait");
    is_dead(stranger.prove(&ticket, factor.proof(&h)).await);
    let ticket = stranger.factor_step("ada", PASSWORD).await.expect("a step").ticket;
    stranger.prove(&ticket, factor.proof(&h)).await.expect("the code was not used up");
}

#[tokio::test]
async fn sec_026_a_right_password_with_a_wrong_code_forgets_no_wrong_password() {
    let h = patient().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let stranger = h.stranger_at("127.0.0.7").await;
    let wrong_passwords = async |count: usize| {
        for _ in 0..count {
            let answer = stranger.sign_in("ada", OTHER_PASSWORD).await;
            refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        }
    };
    wrong_passwords(4).await;
    is_rejected(stranger.sign_in_with("ada", PASSWORD, wrong(&factor, &h)).await);
    stranger.factor_step("ada", PASSWORD).await.expect("a step");
    wrong_passwords(1).await;
    refused(stranger.sign_in("ada", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    h.clock.advance(Duration::from_mins(2));
    stranger.sign_in_with("ada", PASSWORD, factor.proof(&h)).await.expect("both are right");
    wrong_passwords(4).await;
    stranger.factor_step("ada", PASSWORD).await.expect("wrong passwords were forgotten");
}

#[tokio::test]
async fn sec_034_a_stolen_session_alone_changes_no_second_factor() {
    let h = patient().await;
    let ada = h.user("ada").await.client;
    h.clock.advance(Duration::from_mins(16));
    let old = |answer: Status| assert_eq!(Refusal::of(&answer).reason, "REAUTHENTICATION_REQUIRED");
    old(ada.enroll(None).await.expect_err("an old sign-in"));
    let person = h.signed_in("ada", PASSWORD).await;
    let (factor, ada) = (h.enroll(&person).await, person.client);
    h.clock.advance(Duration::from_mins(16));
    old(ada.enroll(Some(factor.proof(&h))).await.expect_err("an old sign-in"));
    old(ada.disable(Some(factor.proof(&h))).await.expect_err("an old sign-in"));
    old(ada.regenerate(Some(factor.proof(&h))).await.expect_err("an old sign-in"));
    refused(ada.reauthenticate(PASSWORD).await, Code::Unauthenticated, "SECOND_FACTOR_REQUIRED");
    let request = v1::ReauthenticateRequest { password: PASSWORD.to_owned(), second_factor: Some(factor.proof(&h)) };
    ada.auth().reauthenticate(request).await.expect("password and code");
    h.next_code();

    refused(ada.enroll(None).await, Code::Unauthenticated, "SECOND_FACTOR_REQUIRED");
    refused(ada.disable(None).await, Code::InvalidArgument, "FIELD_INVALID");
    refused(ada.regenerate(None).await, Code::InvalidArgument, "FIELD_INVALID");
    is_rejected(ada.enroll(Some(wrong(&factor, &h))).await);
    is_rejected(ada.disable(Some(wrong(&factor, &h))).await);
    is_rejected(ada.regenerate(Some(wrong(&factor, &h))).await);
    assert_eq!(failures(&h).await, "3");

    let stranger = h.stranger().await;
    let Ok(Step::Tokens(other)) = stranger.sign_in_with("ada", PASSWORD, factor.proof(&h)).await else {
        panic!("none")
    };
    let (ticket, link) =
        (stranger.factor_step("ada", PASSWORD).await.expect("a step").ticket, link_of(&h, "ada").await);
    h.next_code();
    ada.disable(Some(factor.proof(&h))).await.expect("an end");
    refused(stranger.bearing(&other.access_token).who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    is_dead(stranger.prove(&ticket, factor.proof(&h)).await);
    is_dead(stranger.choose_with(&link, None).await);
    ada.who_am_i().await.expect("the session goes on");
    assert!(matches!(stranger.sign_in("ada", PASSWORD).await, Ok(Step::Tokens(_))));
}

#[tokio::test]
async fn sec_035_a_key_that_was_not_confirmed_counts_for_nothing_and_dies_with_its_session() {
    let h = patient().await;
    let ada = h.user("ada").await.client;
    let confirm = async |started: &v1::EnrollTotpResponse| {
        let code = Authenticator::with(&started.secret, Vec::new()).shows(&h, 0);
        let request = v1::ConfirmTotpRequest { ticket: started.ticket.clone(), code };
        h.stranger().await.auth().confirm_totp(request).await.map(Response::into_inner)
    };
    let older = ada.enroll(None).await.expect("an enrolment");
    let newer = ada.enroll(None).await.expect("an enrolment");
    assert!(matches!(h.stranger().await.sign_in("ada", PASSWORD).await, Ok(Step::Tokens(_))));
    is_dead(confirm(&older).await);
    ada.auth().revoke_session(v1::RevokeSessionRequest::default()).await.expect("the end of the session");
    is_dead(confirm(&newer).await);
    assert!(h.query("SELECT user_id FROM totp").await.is_empty());
}

#[tokio::test]
async fn sec_035_a_key_that_was_moved_to_another_user_does_not_open() {
    let h = patient().await;
    let factors = [h.enroll(&h.user("ada").await).await, h.enroll(&h.user("bob").await).await];
    let of = |name: &str| format!(r#"user_id = (SELECT id FROM "user" WHERE username = '{name}')"#);
    let copy = "UPDATE totp SET sealed_key = (SELECT other.sealed_key FROM totp other WHERE other.";
    h.sql(&format!("{copy}{}) WHERE {}", of("ada"), of("bob"))).await;
    let stranger = h.stranger().await;
    for factor in &factors {
        let answer = stranger.sign_in_with("bob", PASSWORD, factor.proof(&h)).await;
        let refusal = Refusal::of(&answer.expect_err("a foreign key"));
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DataLoss, "RECORD_CORRUPT"));
    }
    stranger.sign_in_with("ada", PASSWORD, factors[0].proof(&h)).await.expect("ada has hers");
    let code = recovery(&factors[1].recovery_codes[0]);
    stranger.sign_in_with("bob", PASSWORD, code).await.expect("a recovery code needs no key");
    h.operator().await.reset_factor("bob").await.expect("a way out");
}

#[tokio::test]
async fn sec_036_a_recovery_code_works_once_at_once_and_typed_kindly_and_not_after_new_ones() {
    let h = patient().await;
    let person = h.user("ada").await;
    let factor = h.enroll(&person).await;
    let (stranger, operator) = (h.stranger().await, h.operator().await);
    let [first, second, third, ..] = &factor.recovery_codes[..] else { panic!("codes") };
    let proof = recovery(first);
    let answers = at_once((0..8).map(|_| stranger.sign_in_with("ada", PASSWORD, proof.clone()))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    operator.unlock("ada").await.expect("the end of the wait");
    let typed = recovery(&format!(" {} ", second.to_uppercase().replace('-', " ").replace('0', "O").replace('1', "l")));
    stranger.sign_in_with("ada", PASSWORD, typed).await.expect("a code from paper");
    let left = |user: v1::User| user.second_factor_status.expect("a status").recovery_codes_left;
    assert_eq!(left(operator.user("ada").await), 8);
    let codes = person.client.regenerate(Some(factor.proof(&h))).await.expect("new codes");
    assert_eq!((codes.len(), left(operator.user("ada").await)), (10, 10));
    is_rejected(stranger.sign_in_with("ada", PASSWORD, recovery(third)).await);
    stranger.sign_in_with("ada", PASSWORD, recovery(&codes[0])).await.expect("a new one");
}

#[tokio::test]
async fn sec_037_the_helpdesk_resets_passwords_but_no_second_factor() {
    let h = patient().await;
    h.enroll(&h.user("ada").await).await;
    let desk = h.person("desk", &["helpdesk"]).await.client;
    let before = h.operator().await.user("ada").await;
    let refusal = refused(desk.reset_factor("ada").await, Code::PermissionDenied, "SCOPE_MISSING");
    assert_eq!(refusal.metadata("scope"), "mfa.reset");
    let contain = json!({"user": {"username": "ada"}, "cause": "LOCK_CAUSE_COMPROMISE", "removeSecondFactors": true});
    refused(desk.call("UserAdmin/LockUser", contain).await, Code::PermissionDenied, "SCOPE_MISSING");
    assert_eq!(h.operator().await.user("ada").await, before);
    desk.reset("ada").await.expect("a reset");
    let operator = h.person("ops", &["operator"]).await;
    h.enroll(&operator).await;
    refused(operator.client.reset_factor("ops").await, Code::PermissionDenied, "SELF_ACTION_FORBIDDEN");
    operator.client.reset_factor("ada").await.expect("a reset");
}

#[tokio::test]
async fn sec_038_no_ticket_token_or_link_from_before_leads_around_a_second_factor() {
    let h = patient().await;
    let operator = h.operator().await;
    let (ada, other) = (h.user("ada").await, h.signed_in("ada", PASSWORD).await);
    let link = link_of(&h, "ada").await;
    operator.require_change("ada").await.expect("a demand");
    let stranger = h.stranger().await;
    let change = stranger.change_step("ada", PASSWORD).await.expect("a step").ticket;
    let factor = h.enroll(&ada).await;
    is_dead(stranger.complete(&change, OTHER_PASSWORD).await);
    is_dead(stranger.choose_with(&link, None).await);
    refused(stranger.refresh(&other.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    let device = v1::SignInRequest {
        login: "ada".to_owned(),
        password: PASSWORD.to_owned(),
        device_token: other.tokens.device_token.clone(),
        ..Default::default()
    };
    let step = stranger.auth().sign_in(device).await.expect("a step").into_inner().progress.and_then(|p| p.step);
    let Some(Step::SecondFactor(step)) = step else { panic!("a device token is no factor: {step:?}") };
    is_dead(stranger.complete(&step.ticket, OTHER_PASSWORD).await);
    let Ok(Step::PasswordChange(change)) = stranger.prove(&step.ticket, factor.proof(&h)).await else { panic!("none") };
    is_dead(stranger.prove(&change.ticket, factor.proof(&h)).await);
    operator.reset_factor("ada").await.expect("a reset");
    is_dead(stranger.complete(&change.ticket, OTHER_PASSWORD).await);
}

#[tokio::test]
async fn sec_008_a_link_needs_the_code_and_leaves_the_second_factor_as_it_is() {
    let h = patient().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let (stranger, link) = (h.stranger().await, link_of(&h, "ada").await);
    let key = h.query("SELECT CAST(enrolled_at AS TEXT) FROM totp").await;
    refused(stranger.choose_with(&link, None).await, Code::Unauthenticated, "SECOND_FACTOR_REQUIRED");
    is_rejected(stranger.choose_with(&link, Some(wrong(&factor, &h))).await);
    assert_eq!(failures(&h).await, "1");
    stranger.choose_with(&link, Some(factor.proof(&h))).await.expect("a new password");
    assert_eq!(h.query("SELECT CAST(enrolled_at AS TEXT) FROM totp").await, key);
    stranger.factor_step("ada", OTHER_PASSWORD).await.expect("the second factor is asked for");
}

#[tokio::test]
async fn sec_050_a_session_without_the_second_factor_of_its_user_is_not_enough_and_ends_with_its_refresh() {
    let h = patient().await;
    let ada = h.person("ada", &["admin"]).await;
    h.create("bob", &[], PASSWORD).await;
    let factor = h.enroll(&ada).await;
    // As a replica of the version before opens one.
    h.sql("UPDATE session SET second_factor = 0").await;
    h.clock.advance(Duration::from_secs(2));
    let etag = h.operator().await.user("bob").await.etag;
    refused(ada.client.delete("bob", &etag).await, Code::Unauthenticated, "SECOND_FACTOR_REQUIRED");
    let answer = ada.client.enroll(Some(factor.proof(&h))).await;
    refused(answer, Code::Unauthenticated, "SECOND_FACTOR_REQUIRED");
    let refreshed = h.stranger().await.refresh(&ada.tokens.refresh_token).await;
    refused(refreshed, Code::Unauthenticated, "SESSION_REVOKED");
}
