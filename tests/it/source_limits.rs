//! Limits on failures by source: one address, with any names.

use std::time::Duration;

use latchkey::proto::v1;
use tonic::Code;

use crate::harness::links::{ADDRESS, dead};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, refused};

async fn limited(failures: u32, accounts: u32) -> Harness {
    let h = Harness::with(|config| {
        config.throttle.source_failures = failures;
        config.throttle.source_accounts = accounts;
        // So many that no two of the names below share a row.
        config.throttle.unknown_names = 10_000_000;
    })
    .await;
    h.create("bob", &[], PASSWORD).await;
    h
}

async fn fail(client: &Client, number: usize) {
    let answer = client.sign_in(&format!("nobody{number}"), PASSWORD).await;
    refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn sec_028_thirty_failures_block_a_source_for_a_quarter_of_an_hour() {
    let h = limited(30, 0).await;
    let stranger = h.stranger().await;
    for number in 0..30 {
        fail(&stranger, number).await;
    }
    for (login, password) in [("bob", PASSWORD), ("bob", OTHER_PASSWORD), ("nobody", PASSWORD)] {
        let refusal = refused(stranger.sign_in(login, password).await, Code::ResourceExhausted, "RATE_LIMITED");
        assert!(refusal.retry_after().is_some_and(|wait| wait <= Duration::from_mins(15)));
    }
    let events = h.operator().await.events().await;
    let blocking: Vec<_> = events.iter().filter_map(|event| event.details.get("addressBlockedUntil")).collect();
    assert_eq!(blocking.len(), 1, "one event says that the address is blocked: {blocking:?}");
    h.operator().await.tokens("bob", PASSWORD).await.expect("the local socket has no source");
    h.clock.advance(Duration::from_mins(15));
    stranger.tokens("bob", PASSWORD).await.expect("the block is over");
}

#[tokio::test]
async fn a_right_password_that_is_hashed_while_its_source_is_blocked_is_refused() {
    let mut h = limited(1, 0).await;
    // A hash of ben takes long. That of eve was made before, and takes no time.
    h.create("eve", &[], PASSWORD).await;
    h.config.argon2.memory_kib = 32_768;
    h.config.argon2.iterations = 10;
    // So many that the share of a source is two.
    h.config.argon2.threads = Some(16);
    let h = h.restart().await;
    h.create("ben", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    let guess = async {
        let hashed = async || (h.metric("latchkey_hashes_in_flight").await == 1).then_some(());
        eventually("the hash of ben", hashed).await;
        stranger.sign_in("eve", OTHER_PASSWORD).await
    };
    let (right, wrong) = tokio::join!(stranger.sign_in("ben", PASSWORD), guess);
    refused(wrong, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(right, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn sec_028_failures_at_twenty_accounts_block_a_source() {
    let h = limited(0, 20).await;
    let stranger = h.stranger().await;
    for _ in 0..4 {
        fail(&stranger, 0).await;
    }
    for number in 1..20 {
        stranger.tokens("bob", PASSWORD).await.expect("nineteen are not too many");
        fail(&stranger, number).await;
    }
    refused(stranger.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn the_block_of_a_source_does_not_tell_that_a_username_and_an_address_are_one_account() {
    let h = limited(0, 20).await;
    let operator = h.operator().await;
    for name in ["ada", "eve"] {
        let email = format!("{name}@example.org");
        let request = v1::CreateUserRequest { username: name.to_owned(), email, ..Default::default() };
        operator.create(request).await.expect("an account");
    }
    let mut seen = Vec::new();
    for (at, address) in [("127.0.0.3", "ada@example.org"), ("127.0.0.4", "eve@example.org")] {
        let stranger = h.stranger_at(at).await;
        for number in 0..18 {
            fail(&stranger, number).await;
        }
        let mut reasons = Vec::new();
        for login in ["ada", address, "nobody"] {
            let answer = stranger.sign_in(login, PASSWORD).await;
            reasons.push(Refusal::of(&answer.expect_err("a refusal")).reason);
        }
        seen.push(reasons);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], ["CREDENTIALS_REJECTED", "CREDENTIALS_REJECTED", "RATE_LIMITED"]);
}

#[tokio::test]
async fn of_many_accounts_guessed_at_once_twenty_are_rejected_and_recorded() {
    let h = limited(30, 20).await;
    let stranger = h.stranger().await;
    let names: Vec<String> = (0..60).map(|number| format!("nobody{number}")).collect();
    let answers = at_once(names.iter().map(|name| stranger.sign_in(name, PASSWORD))).await;
    let rejected = |answer: &&Result<_, tonic::Status>| {
        answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated)
    };
    assert_eq!(answers.iter().filter(rejected).count(), 20);
    let events = h.operator().await.events().await;
    let failed = events.iter().filter(|event| event.r#type() == v1::EventType::SignInFailed).count();
    assert!((20..=21).contains(&failed), "20, and the first that is only counted: {failed}");
}

#[tokio::test]
async fn successes_do_not_count() {
    let h = limited(5, 5).await;
    let stranger = h.stranger().await;
    for _ in 0..12 {
        stranger.tokens("bob", PASSWORD).await.expect("an office signs in all morning");
    }
}

#[tokio::test]
async fn failures_are_forgotten_with_time() {
    let h = limited(3, 0).await;
    let stranger = h.stranger().await;
    for round in 0..3 {
        fail(&stranger, 10 * round).await;
        fail(&stranger, 10 * round + 1).await;
        h.clock.advance(Duration::from_mins(5));
    }
    stranger.tokens("bob", PASSWORD).await.expect("never three within five minutes");
}

#[tokio::test]
async fn dead_tickets_and_forged_tokens_count_too() {
    let h = limited(4, 0).await;
    let stranger = h.stranger().await;
    let bob = h.signed_in("bob", PASSWORD).await;
    let mut forged = bob.tokens.refresh_token.clone();
    forged.push('A');
    for _ in 0..2 {
        refused(stranger.complete("no ticket", OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
        refused(stranger.refresh(&forged).await, Code::Unauthenticated, "TOKEN_INVALID");
    }
    refused(stranger.complete("no ticket", OTHER_PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
    stranger.refresh(&bob.tokens.refresh_token).await.expect("strangers cannot stall live sessions");
    refused(bob.client.change_password(PASSWORD, OTHER_PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
    bob.client.who_am_i().await.expect("a signed-in user stays signed in");
    let failed = h.operator().await.events().await;
    let failed = failed.iter().filter(|event| event.r#type() == v1::EventType::SignInFailed).count();
    assert_eq!(failed, 4, "what is turned away is not recorded");
}

#[tokio::test]
async fn a_block_holds_across_restarts_and_replicas() {
    let h = limited(3, 0).await;
    let stranger = h.stranger().await;
    for number in 0..3 {
        fail(&stranger, number).await;
    }
    if let Some(other) = h.replica().await {
        let elsewhere = other.stranger().await;
        refused(elsewhere.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
        other.stop().await;
    }
    let h = h.restart().await;
    refused(h.stranger().await.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn a_blocked_source_uses_no_link() {
    let h = limited(3, 0).await;
    let operator = h.operator().await;
    operator.sets_address(ADDRESS).await;
    let mail = h.mail_of(&operator.mailed().await).await;
    let (link, cancel) = (mail.token("reset"), mail.token("cancel"));
    let verify = h.mail_of(&operator.verification("bob").await.unwrap()).await.token("verify");
    let stranger = h.stranger().await;
    for number in 0..3 {
        fail(&stranger, number).await;
    }
    refused(stranger.inspect(&link).await, Code::ResourceExhausted, "RATE_LIMITED");
    refused(stranger.verify(&verify).await, Code::ResourceExhausted, "RATE_LIMITED");
    refused(stranger.cancel(&cancel).await, Code::ResourceExhausted, "RATE_LIMITED");
    refused(stranger.choose(&link, OTHER_PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
    let other = h.stranger_at("127.0.0.9").await;
    other.verify(&verify).await.expect("a live link");
    other.choose(&link, OTHER_PASSWORD).await.expect("a live link");
}

#[tokio::test]
async fn a_link_that_was_never_issued_counts_against_its_source_and_one_that_was_used_does_not() {
    let h = limited(4, 0).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let used = operator.link().await;
    stranger.choose(&used, OTHER_PASSWORD).await.expect("a live link");
    for _ in 0..2 {
        dead(stranger.inspect(&used).await);
        dead(stranger.verify(&used).await);
        dead(stranger.choose(&used, PASSWORD).await);
    }
    let unknown = |prefix: &str| format!("{prefix}_{}", "A".repeat(43));
    dead(stranger.inspect(&unknown("lkl")).await);
    dead(stranger.verify(&unknown("lkl")).await);
    dead(stranger.cancel(&unknown("lkc")).await);
    dead(stranger.choose(&unknown("lkl"), PASSWORD).await);
    refused(stranger.inspect(&used).await, Code::ResourceExhausted, "RATE_LIMITED");
}
