//! A failed sign-in reveals neither whether an account exists nor its state, by its answer or its cost.
//!
//! The tests compare everything that a client can see: code, message, details, and names of metadata.

use std::time::Duration;

use latchkey::proto::v1;
use tonic::{Code, Status};

use crate::harness::calls::Shown;
use crate::harness::dice::Dice;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, refused, rounds};

/// All parts of a refusal that a client can see.
fn bytes(status: &Status) -> (Code, String, Vec<u8>, Vec<String>) {
    let refusal = Refusal::of(status);
    let id = &refusal.details.request_info().expect("a request id").request_id;
    let details = status.details().windows(id.len()).position(|bytes| bytes == id.as_bytes()).map(|at| {
        let (before, after) = (&status.details()[..at], &status.details()[at + id.len()..]);
        [before, "?".repeat(id.len()).as_bytes(), after].concat()
    });
    let details = details.expect("the request id is among the details");
    let names = status.metadata().keys().map(|key| format!("{key:?}"));
    let mut names: Vec<String> = names.filter(|name| !name.contains("\"date\"")).collect();
    names.sort();
    (status.code(), status.message().to_owned(), details, names)
}

/// Creates an account in each state. Returns an expired temporary password.
async fn people(h: &Harness) -> String {
    let operator = h.operator().await;
    for name in ["wrong", "locked", "contained", "ended", "corrupt"] {
        h.create(name, &[], PASSWORD).await;
    }
    operator.lock("locked").await.unwrap();
    operator.contain("contained").await.unwrap();
    operator.contain("ended").await.unwrap();
    operator.unlock("ended").await.unwrap();
    let create = |username: &str, kind: v1::UserKind| {
        operator.create(v1::CreateUserRequest {
            username: username.to_owned(),
            kind: kind.into(),
            ..Default::default()
        })
    };
    create("pending", v1::UserKind::Person).await.unwrap();
    create("service", v1::UserKind::Service).await.unwrap();
    h.create("expired", &[], PASSWORD).await;
    let expired = operator.reset("expired").await.unwrap();
    h.clock.advance(Duration::from_hours(25));
    h.sql(r#"UPDATE "user" SET roles = 'emperor' WHERE username = 'corrupt'"#).await;
    expired.shown().to_owned()
}

#[tokio::test]
async fn every_failed_sign_in_gets_the_same_answer_after_the_same_work() {
    let h = Harness::start().await;
    let expired = people(&h).await;
    let stranger = h.stranger().await;
    let mut answers = Vec::new();
    for (login, password) in [
        ("nobody", PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("neither a name\nnor an address", PASSWORD),
        ("wrong", OTHER_PASSWORD),
        ("wrong", "c4nary with a \u{7} bell"),
        ("locked", PASSWORD),
        ("locked", OTHER_PASSWORD),
        ("contained", PASSWORD),
        ("ended", PASSWORD),
        ("pending", PASSWORD),
        ("service", PASSWORD),
        ("expired", &expired),
        ("expired", OTHER_PASSWORD),
        ("corrupt", PASSWORD),
    ] {
        let hashes = h.metric("latchkey_hashes_total").await;
        let status = stranger.sign_in(login, password).await.expect_err("a refusal");
        assert_eq!(h.metric("latchkey_hashes_total").await, hashes + 1, "{login}: one hash, neither less nor more");
        assert_eq!(Refusal::of(&status).reason, "CREDENTIALS_REJECTED", "{login}");
        answers.push((login, bytes(&status)));
    }
    for (login, answer) in &answers {
        assert_eq!(answer, &answers[0].1, "{login}");
    }
}

/// Locks, unlocks and resets one account repeatedly. Returns the number of passwords.
async fn change_repeatedly(operator: &Client, times: usize) -> u64 {
    let mut made = 0;
    for number in 0..times {
        match number % 4 {
            0 => drop(operator.lock("moving").await.expect("a lock")),
            1 => drop(operator.unlock("moving").await.expect("an unlock")),
            2 => drop(operator.require_change("moving").await.expect("a demand")),
            _ => {
                operator.reset("moving").await.expect("a reset");
                made += 1;
            }
        }
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_it_show_while_accounts_are_locked_unlocked_and_reset_at_the_same_moment() {
    const AT_ONCE: usize = 8;
    let h = Harness::with(|config| {
        config.throttle.threshold = 0;
        config.throttle.lockout_threshold = 0;
    })
    .await;
    h.create("moving", &[], PASSWORD).await;
    let expired = people(&h).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let tries = [
        ("nobody", PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("neither a name", PASSWORD),
        ("wrong", OTHER_PASSWORD),
        ("locked", PASSWORD),
        ("pending", PASSWORD),
        ("service", PASSWORD),
        ("expired", &expired),
        ("corrupt", PASSWORD),
        ("moving", OTHER_PASSWORD),
        ("moving", "never its c4nary"),
    ];
    let calls = rounds(1000) / AT_ONCE * AT_ONCE;
    let before = h.metric("latchkey_hashes_total").await;
    let strangers = async {
        let mut dice = Dice(99);
        let mut first = None;
        for _ in 0..calls / AT_ONCE {
            let chosen: Vec<_> = (0..AT_ONCE).filter_map(|_| dice.pick(&tries)).collect();
            let answers = chosen.iter().map(|(login, password)| stranger.sign_in(login, password));
            for (status, (login, _)) in at_once(answers).await.into_iter().zip(&chosen) {
                let answer = bytes(&status.expect_err("a refusal"));
                assert_eq!(&answer, first.get_or_insert_with(|| answer.clone()), "{login}");
            }
        }
    };
    let ((), made) = tokio::join!(strangers, change_repeatedly(&operator, calls / 5));
    let hashes = h.metric("latchkey_hashes_total").await - before;
    assert_eq!(hashes, u64::try_from(calls).expect("few") + made, "one hash a try, whichever user is named");
}

/// A refusal without the part that varies over time: the delay before a retry.
fn shape(refusal: &Refusal) -> (Code, String, String) {
    let masked = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "#").replace("##", "#");
    let mut details = refusal.details.clone();
    details.set_request_info("", "").set_retry_info(None);
    (refusal.code, masked(&refusal.message), masked(&format!("{details:?}")))
}

#[tokio::test]
async fn a_wait_says_nothing_about_name_or_password() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_mins(2)).await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    for login in ["bob", "nobody", "nobody@example.com"] {
        for _ in 0..5 {
            let answer = stranger.sign_in(login, OTHER_PASSWORD).await;
            refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        }
    }
    let waits = async |login: &str, password: &str| {
        refused(stranger.sign_in(login, password).await, Code::ResourceExhausted, "THROTTLED")
    };
    let known = waits("bob", PASSWORD).await;
    for (login, password) in [("bob", OTHER_PASSWORD), ("nobody", PASSWORD), ("nobody@example.com", PASSWORD)] {
        let other = waits(login, password).await;
        assert_eq!(shape(&other), shape(&known), "{login}");
    }
}
