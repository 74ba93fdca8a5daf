//! Throttles and locks after wrong passwords, by account. Limits by source are in `source_limits.rs`.

use std::time::Duration;

use latchkey::proto::v1::{self, EventType, LockCause, UserState};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::told;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, refused};

/// The first delay.
const FIRST: Duration = Duration::from_mins(2);

async fn wrong(client: &Client, login: &str) {
    refused(client.sign_in(login, OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

async fn waits(client: &Client, login: &str, password: &str) -> Refusal {
    refused(client.sign_in(login, password).await, Code::ResourceExhausted, "THROTTLED")
}

/// A server with the user bob, the operator and an anonymous client. The first delay is longer than a test takes.
async fn with_bob() -> (Harness, Client, Client) {
    let h = Harness::with(|config| config.throttle.initial = FIRST).await;
    let operator = h.operator().await;
    let request = v1::CreateUserRequest {
        username: "bob".to_owned(),
        email: "bob@example.com".to_owned(),
        credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(request).await.expect("bob");
    let stranger = h.stranger().await;
    (h, operator, stranger)
}

/// When bob's throttle ends, and how many failures led to it.
async fn wait_of(operator: &Client) -> Option<(i32, prost_types::Timestamp)> {
    let throttle = operator.user("bob").await.throttle?;
    Some((throttle.failures, throttle.until_time.expect("an end")))
}

async fn events_of(operator: &Client, kind: EventType) -> Vec<v1::Event> {
    operator.events().await.into_iter().filter(|event| event.r#type() == kind).collect()
}

#[tokio::test]
async fn from_the_fifth_wrong_password_on_each_doubles_the_wait() {
    let (h, operator, stranger) = with_bob().await;
    for _ in 0..4 {
        wrong(&stranger, "bob").await;
    }
    assert_eq!(wait_of(&operator).await, None);
    for (failures, wait) in [(5, 120_i64), (6, 240), (7, 480), (8, 960)] {
        wrong(&stranger, "bob").await;
        let (counted, until) = wait_of(&operator).await.expect("a wait");
        let began = events_of(&operator, EventType::ThrottleBegan).await.pop().expect("an event");
        let began_at = began.time.expect("a time");
        assert_eq!(counted, failures);
        // Events of one change are a microsecond apart.
        let nanos = |at: prost_types::Timestamp| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
        let apart = nanos(until) - nanos(began_at) - i128::from(wait) * 1_000_000_000;
        assert!(apart.abs() < 10_000, "{apart} ns");
        assert_eq!(began.details["failures"], failures.to_string());
        let refusal = waits(&stranger, "bob", PASSWORD).await;
        let told = refusal.retry_after().expect("when to come back");
        assert!(told <= Duration::from_secs(wait.unsigned_abs()), "{told:?}");
        h.clock.advance(Duration::from_secs(wait.unsigned_abs()));
    }
}

#[tokio::test]
async fn a_wait_is_never_longer_than_an_hour() {
    let (h, operator, stranger) = with_bob().await;
    for _ in 0..20 {
        wrong(&stranger, "bob").await;
        h.clock.advance(Duration::from_hours(1));
    }
    wrong(&stranger, "bob").await;
    let (_, until) = wait_of(&operator).await.expect("a wait");
    let began = events_of(&operator, EventType::ThrottleBegan).await.pop().expect("an event");
    assert_eq!(until.seconds - began.time.expect("a time").seconds, 3600);
}

/// Reasons of the failed sign-ins in the audit log, oldest first.
async fn reasons(operator: &Client) -> Vec<&'static str> {
    let failed = events_of(operator, EventType::SignInFailed).await;
    failed.iter().map(|event| event.reason().as_str_name().trim_start_matches("ERROR_REASON_")).collect()
}

#[tokio::test]
async fn a_spent_budget_does_not_tell_that_two_names_are_one_account() {
    let (h, operator, stranger) = with_bob().await;
    for login in ["bob", "nobody"] {
        for _ in 0..5 {
            wrong(&stranger, login).await;
        }
        waits(&stranger, login, PASSWORD).await;
    }
    // The address of bob, and one that no account has.
    let mut answers = Vec::new();
    for login in ["bob@example.com", "nobody@example.com"] {
        let mut seen = Vec::new();
        for password in [OTHER_PASSWORD, PASSWORD, OTHER_PASSWORD, OTHER_PASSWORD, PASSWORD, PASSWORD, OTHER_PASSWORD] {
            let before = h.metric("latchkey_hashes_total").await;
            let refusal = Refusal::of(&stranger.sign_in(login, password).await.expect_err("a refusal"));
            seen.push((refusal.reason, h.metric("latchkey_hashes_total").await - before));
        }
        answers.push(seen);
    }
    assert_eq!(answers[0], answers[1], "the same answers after the same work");
    let rejected =
        answers[0].iter().filter(|(reason, hashes)| reason == "CREDENTIALS_REJECTED" && *hashes == 1).count();
    assert_eq!(rejected, 5, "{answers:?}");
    let of_bob = |reason: &'static str, all: &[&str]| all.iter().filter(|is| **is == reason).count();
    let all = reasons(&operator).await;
    assert_eq!((of_bob("PASSWORD_WRONG", &all), of_bob("THROTTLED", &all)), (5, 5), "an operator sees why");
    let user = operator.user("bob").await;
    assert_eq!(user.sign_in_ability.expect("an answer").reason(), v1::SignInAbilityReason::Throttled);
    operator.unlock("bob").await.expect("an unlock");
    stranger.tokens("bob@example.com", PASSWORD).await.expect("an unlock ends the throttle of every name");
}

#[tokio::test]
async fn guesses_under_both_names_together_cost_no_more_than_the_account_allows() {
    let (_h, operator, stranger) = with_bob().await;
    for login in ["bob", "BOB", "bob@example.com", "Bob@EXAMPLE.com", "boB"] {
        wrong(&stranger, login).await;
    }
    for login in ["bob", "bob@example.com"] {
        refused(stranger.sign_in(login, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let all = reasons(&operator).await;
    assert_eq!(all.iter().filter(|reason| **reason == "PASSWORD_WRONG").count(), 5, "{all:?}");
}

#[tokio::test]
async fn an_unknown_name_shares_one_budget_in_either_case_as_a_known_one_does() {
    let (_h, _, stranger) = with_bob().await;
    for login in ["eve", "EVE", "Eve", "eVe", "evE"] {
        wrong(&stranger, login).await;
    }
    waits(&stranger, "EVe", PASSWORD).await;
    for login in ["e@example.com", "E@example.com", "e@EXAMPLE.com", "e@example.COM", "E@EXAMPLE.COM"] {
        wrong(&stranger, login).await;
    }
    waits(&stranger, "e@Example.com", PASSWORD).await;
}

#[tokio::test]
async fn trying_during_a_wait_neither_succeeds_nor_prolongs_it() {
    let (h, operator, stranger) = with_bob().await;
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    let before = wait_of(&operator).await;
    for _ in 0..5 {
        waits(&stranger, "bob", OTHER_PASSWORD).await;
        waits(&stranger, "bob", PASSWORD).await;
    }
    assert_eq!(wait_of(&operator).await, before);
    h.clock.advance(FIRST);
    stranger.tokens("bob", PASSWORD).await.expect("the wait is over");
}

#[tokio::test]
async fn a_right_password_forgets_the_wrong_ones() {
    let (_h, _, stranger) = with_bob().await;
    for _ in 0..3 {
        for _ in 0..4 {
            wrong(&stranger, "bob").await;
        }
        stranger.tokens("bob", PASSWORD).await.expect("no wait");
    }
}

#[tokio::test]
async fn wrong_passwords_are_forgotten_after_a_day() {
    let (h, operator, stranger) = with_bob().await;
    for _ in 0..2 {
        for _ in 0..4 {
            wrong(&stranger, "bob").await;
        }
        h.clock.advance(Duration::from_hours(24));
    }
    for _ in 0..4 {
        wrong(&stranger, "bob").await;
    }
    h.clock.advance(Duration::from_hours(23));
    wrong(&stranger, "bob").await;
    assert_eq!(wait_of(&operator).await.map(|(failures, _)| failures), Some(5), "the last was within a day");
}

#[tokio::test]
async fn an_unlock_ends_the_wait() {
    let (_h, operator, stranger) = with_bob().await;
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    let effects = operator.unlock("bob").await.unwrap().effects.unwrap();
    assert!(effects.throttle_cleared && !effects.lock_lifted);
    assert_eq!(wait_of(&operator).await, None);
    for _ in 0..4 {
        wrong(&stranger, "bob").await;
    }
    stranger.tokens("bob", PASSWORD).await.expect("failures were forgotten too");
    assert!(!operator.unlock("bob").await.unwrap().effects.unwrap().throttle_cleared);
}

#[tokio::test]
async fn a_wait_has_a_beginning_and_an_end_in_the_audit_log() {
    let (h, operator, stranger) = with_bob().await;
    let ended = || async {
        let ended = events_of(&operator, EventType::ThrottleEnded).await;
        (!ended.is_empty()).then_some(ended)
    };
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    assert_eq!(told(&events_of(&operator, EventType::ThrottleBegan).await[0]), "THROTTLE_BEGAN SUCCEEDED >bob");
    assert!(events_of(&operator, EventType::ThrottleEnded).await.is_empty());
    h.clock.advance(FIRST);
    let ended = eventually("the end of the wait, from a job", ended).await;
    assert_eq!(ended.iter().map(told).collect::<Vec<_>>(), ["THROTTLE_ENDED SUCCEEDED >bob"]);
}

#[tokio::test]
async fn every_wait_that_began_ends_once_however_it_ends() {
    let (h, operator, stranger) = with_bob().await;
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    h.clock.advance(FIRST);
    wrong(&stranger, "bob").await;
    h.clock.advance(2 * FIRST);
    stranger.tokens("bob", PASSWORD).await.expect("after the wait");
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    operator.unlock("bob").await.unwrap();
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    operator.reset("bob").await.unwrap();
    let began = events_of(&operator, EventType::ThrottleBegan).await.len();
    let ended = events_of(&operator, EventType::ThrottleEnded).await.len();
    assert_eq!((began, ended), (4, 4));
}

#[tokio::test]
async fn the_hundredth_wrong_password_locks_until_a_reset_or_an_unlock() {
    let h = Harness::with(|config| {
        config.throttle.initial = Duration::from_secs(1);
        config.throttle.max = Duration::from_secs(1);
    })
    .await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let bob = h.user("bob").await;
    for _ in 0..99 {
        wrong(&stranger, "bob").await;
        h.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(operator.user("bob").await.state(), UserState::Active);
    wrong(&stranger, "bob").await;
    let user = operator.user("bob").await;
    let lock = user.lock.clone().expect("a lock");
    assert_eq!((user.state(), lock.cause(), lock.expire_time), (UserState::Locked, LockCause::FailedSignIns, None));
    assert_eq!((lock.actor_id.as_str(), lock.note.as_str()), ("", ""));
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    let event = events_of(&operator, EventType::UserLocked).await.pop().expect("an event");
    assert_eq!(
        (told(&event).as_str(), event.details["lockCause"].as_str()),
        ("USER_LOCKED SUCCEEDED >bob", "FAILED_SIGN_INS")
    );
    h.clock.advance(Duration::from_hours(48));
    wrong(&stranger, "bob").await;
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    operator.unlock("bob").await.unwrap();
    stranger.tokens("bob", PASSWORD).await.expect("unlocked");
}

#[tokio::test]
async fn the_last_administrator_is_never_locked_by_wrong_passwords() {
    let h = Harness::with(|config| {
        config.throttle.threshold = 2;
        config.throttle.lockout_threshold = 3;
    })
    .await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let fail = async |times: usize| {
        for _ in 0..times {
            wrong(&stranger, "root").await;
            h.clock.advance(Duration::from_hours(1));
        }
    };
    h.create("root", &["admin"], PASSWORD).await;
    h.create("gone", &["admin"], PASSWORD).await;
    operator.lock("gone").await.unwrap();
    fail(6).await;
    assert_eq!(operator.user("root").await.state(), UserState::Active, "the other one could not act");
    stranger.tokens("root", PASSWORD).await.expect("the right password");

    operator.unlock("gone").await.unwrap();
    fail(3).await;
    assert_eq!(operator.user("root").await.state(), UserState::Locked);
}

#[tokio::test]
async fn a_lock_for_failed_sign_ins_can_have_an_end() {
    let h = Harness::with(|config| {
        config.throttle.lockout_threshold = 5;
        config.throttle.lockout_duration = Duration::from_mins(30);
    })
    .await;
    let stranger = h.stranger().await;
    h.create("bob", &[], PASSWORD).await;
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    h.clock.advance(Duration::from_secs(30 * 60 - 30));
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    h.clock.advance(Duration::from_hours(1));
    stranger.tokens("bob", PASSWORD).await.expect("the lock is over");
}

#[tokio::test]
async fn fifty_right_passwords_at_once_all_get_in() {
    let (_h, _, stranger) = with_bob().await;
    let answers = at_once((0..50).map(|_| stranger.sign_in("bob", PASSWORD))).await;
    for answer in answers {
        answer.expect("a step");
    }
}

#[tokio::test]
async fn two_hundred_wrong_passwords_at_once_cost_no_more_hashes_than_the_threshold() {
    let (h, operator, stranger) = with_bob().await;
    for login in ["bob", "nobody"] {
        let before = h.metric("latchkey_hashes_total").await;
        let answers = at_once((0..200).map(|_| stranger.sign_in(login, OTHER_PASSWORD))).await;
        let reasons: Vec<String> =
            answers.into_iter().map(|answer| Refusal::of(&answer.expect_err("a refusal")).reason).collect();
        let rejected = reasons.iter().filter(|reason| *reason == "CREDENTIALS_REJECTED").count();
        assert!(rejected <= 5, "{login}: {rejected} were looked at");
        let allowed = ["CREDENTIALS_REJECTED", "THROTTLED", "HASHING_SATURATED"];
        assert!(reasons.iter().all(|reason| allowed.contains(&reason.as_str())), "{login}: {reasons:?}");
        assert!(h.metric("latchkey_hashes_total").await - before <= 5, "{login}");
    }
    assert_eq!(wait_of(&operator).await.map(|(failures, _)| failures), Some(5));
}

#[tokio::test]
async fn spraying_unknown_names_fills_no_disk() {
    let h = Harness::with(|config| config.throttle.unknown_names = 4).await;
    let stranger = h.stranger().await;
    for number in 0..60 {
        let _ = stranger.sign_in(&format!("nobody{number}"), PASSWORD).await;
    }
    let rows: usize = h.query("SELECT COUNT(*) FROM throttle").await[0].parse().unwrap();
    // One for the name and one that makes the work the same as for an account.
    assert!((2..=8).contains(&rows), "{rows}");
}

#[tokio::test]
async fn a_threshold_of_zero_turns_waits_off() {
    let h = Harness::with(|config| config.throttle.threshold = 0).await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    for _ in 0..12 {
        wrong(&stranger, "bob").await;
    }
    stranger.tokens("bob", PASSWORD).await.expect("no wait");
}

#[tokio::test]
async fn a_wait_survives_a_restart_and_replicas_share_one_budget() {
    let (h, _, stranger) = with_bob().await;
    for _ in 0..3 {
        wrong(&stranger, "bob").await;
    }
    if let Some(other) = h.replica().await {
        let elsewhere = other.stranger().await;
        wrong(&elsewhere, "bob").await;
        wrong(&elsewhere, "bob").await;
        waits(&elsewhere, "bob", PASSWORD).await;
        waits(&stranger, "bob", PASSWORD).await;
        other.stop().await;
    } else {
        wrong(&stranger, "bob").await;
        wrong(&stranger, "bob").await;
    }
    let h = h.restart().await;
    waits(&h.stranger().await, "bob", PASSWORD).await;
    h.operator().await.delete("bob", &h.operator().await.user("bob").await.etag).await.expect("a deletion");
    let request = v1::GetUserRequest { user: Some(named("bob")) };
    refused(h.operator().await.user_admin().get_user(request).await, Code::NotFound, "USER_NOT_FOUND");
}

#[tokio::test]
async fn waits_of_unknown_names_do_not_prolong_the_waits_of_users() {
    let (h, operator, stranger) = with_bob().await;
    for _ in 0..5 {
        wrong(&stranger, "bob").await;
    }
    // More than one batch, all before bob's. And one that no rule can have caused, so it was written with a wrong
    // clock.
    for number in 0..450 {
        let row = format!("('n:{number}', 5, 0, 1, 1)");
        h.sql(&format!("INSERT INTO throttle (id, failures, pending, lease_expires_at, waits_until) VALUES {row}"))
            .await;
    }
    h.clock.advance(FIRST);
    let ended = || async { events_of(&operator, EventType::ThrottleEnded).await.pop() };
    let ended = eventually("the end of bob's wait", ended).await;
    assert_eq!(ended.target_username, "bob");
    let waiting = "SELECT COUNT(*) FROM throttle WHERE waits_until IS NOT NULL";
    eventually("all are over", || async { (h.query(waiting).await == ["0"]).then_some(()) }).await;

    h.sql("UPDATE throttle SET waits_until = 9000000000000000 WHERE user_id IS NOT NULL").await;
    eventually("a wait of centuries is over", || async { (h.query(waiting).await == ["0"]).then_some(()) }).await;
    stranger.tokens("bob", PASSWORD).await.expect("tokens");
}
