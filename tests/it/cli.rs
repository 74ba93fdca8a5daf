//! Sessions on the command line, played from transcripts, and shells for other tests.

use std::time::Duration;

use crate::harness::transcript::{Shell, blocks, steps};
use crate::harness::{Harness, PASSWORD};

/// A shell on the host of a server.
pub fn terminal(h: &Harness) -> Shell {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
    shell.reach(&h.address());
    shell
}

/// The same, signed in.
pub fn terminal_of(h: &Harness, user: &str) -> Shell {
    let shell = terminal(h);
    let signed_in = shell.feed("latchkey", &["login", user, "--password-stdin", "--server", &h.url()], PASSWORD);
    signed_in.good();
    shell
}

async fn play(transcript: &str) {
    play_on(&Harness::start().await, transcript);
}

fn play_on(h: &Harness, transcript: &str) {
    let shell = terminal(h);
    if shell.has("jq") {
        let blocks = blocks(transcript, &["console"]);
        let all: Vec<_> = blocks.iter().flat_map(|(_, block)| steps(block)).collect();
        assert!(all.len() > 10, "a transcript of {} commands", all.len());
        shell.play(&all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_made_found_changed_and_deleted() {
    play(include_str!("transcripts/accounts.md")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_reset_and_accounts_locked() {
    play(include_str!("transcripts/passwords_and_locks.md")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_told_why_somebody_cannot_sign_in() {
    // The throttle must outlast the commands that show it.
    let h = Harness::with(|config| config.throttle.initial = Duration::from_hours(1)).await;
    play_on(&h, include_str!("transcripts/diagnosis.md"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_sign_in_and_out() {
    play(include_str!("transcripts/signing_in.md")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_tokens_and_events_are_listed_and_ended() {
    play(include_str!("transcripts/sessions_and_tokens.md")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_security_officer_sees_whom_a_maximum_age_hits() {
    let h = Harness::start().await;
    for (name, days) in [("ada", 200), ("bob", 100), ("carl", 88)] {
        h.create(name, &[], PASSWORD).await;
        let old =
            format!("password_changed_at = password_changed_at - {}", Duration::from_hours(24 * days).as_micros());
        let created = format!("created_at = created_at - {}", Duration::from_hours(24 * 200).as_micros());
        h.sql(&format!(r#"UPDATE "user" SET {old}, {created} WHERE username = '{name}'"#)).await;
    }
    play_on(&h, include_str!("transcripts/policy.md"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_one_event() {
    let h = Harness::start().await;
    h.create("ada", &["helpdesk"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    h.create("carl", &[], PASSWORD).await;
    for (user, refused) in [("ada", "create"), ("bob", "create"), ("carl", "show")] {
        let shell = terminal_of(&h, user);
        assert_eq!(shell.latchkey(&["users", refused, "eve"]).code, 1);
        let denied = ["--local", "audit", "list", "--actor", user, "--type", "access-denied", "--output", "json"];
        let events = shell.latchkey(&denied).json();
        assert_eq!(events["events"].as_array().map(Vec::len), Some(1), "{events}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_who_was_made_to_change_a_password() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal(&h);
    shell.latchkey(&["users", "require-change", "ada"]).good();
    let halfway = shell.feed("latchkey", &["login", "ada", "--password-stdin", "--server", &h.url()], PASSWORD);
    assert_eq!(halfway.code, 1, "{halfway:?}");
    let events = shell.latchkey(&["audit", "list", "--user", "ada"]).good();
    assert!(events.contains("✔ password right, must be changed") && !events.contains("sign in succeeded"), "{events}");
}
