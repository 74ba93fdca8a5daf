//! The command line asks for the password again where a recent sign-in is needed.

use std::time::Duration;

use latchkey::proto::v1;

use crate::cli::{terminal, terminal_of};
use crate::harness::transcript::{Shell, blocks, steps};
use crate::harness::{Harness, PASSWORD};

/// A terminal whose user, an administrator named `root`, signed in forty minutes ago.
async fn stale_terminal(h: &Harness) -> Shell {
    h.create("root", &["admin"], PASSWORD).await;
    let shell = terminal_of(h, "root");
    for _ in 0..4 {
        h.clock.advance(Duration::from_mins(10));
        shell.latchkey(&["whoami", "--server", &h.url()]).good();
    }
    shell
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_recent_sign_in_asks_for_the_password_at_the_terminal_and_goes_on() {
    let h = Harness::start().await;
    h.create("ada", &["helpdesk"], PASSWORD).await;
    let shell = stale_terminal(&h).await;
    if !shell.has("script") {
        return;
    }
    for (mark, block) in blocks(include_str!("transcripts/recent_sign_in.md"), &["console", "console terminal"]) {
        if mark == "console" {
            shell.play(&steps(&block));
        } else {
            for step in steps(&block) {
                shell.play_at_terminal(&step);
            }
        }
    }
    let events = h.operator().await.events().await;
    let resets = events.iter().filter(|event| event.r#type() == v1::EventType::PasswordResetByOperator).count();
    assert_eq!(resets, 1, "the request was made once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_needs_a_recent_sign_in_asks_for_the_password() {
    let h = Harness::start().await;
    h.create("ada", &["helpdesk"], PASSWORD).await;
    let shell = stale_terminal(&h).await;
    if !shell.has("script") {
        return;
    }
    let prompt = format!("Password of root at {}: ", h.address());
    for command in [
        "users create eve --role viewer",
        "users update ada --add-role viewer",
        "users update ada --email ada@example.org",
        "users unlock ada",
        "users require-change ada",
        "users waive-change ada",
        "users reset ada --temporary-password --yes",
        "tokens create ada --name ci --scope users.read",
        "mfa reset ada --yes",
        "users delete ada --yes",
    ] {
        let (printed, code) = shell.type_at(&format!("latchkey {command}"), &[(&prompt, PASSWORD)]);
        assert!(code == 0 && printed.starts_with("This needs a recent sign-in.\n"), "{command}: {printed}");
        assert!(!printed.contains("c4nary"), "{printed}");
        for _ in 0..2 {
            h.clock.advance(Duration::from_mins(10));
            shell.latchkey(&["whoami"]).good();
        }
    }
    assert_eq!(h.operator().await.sessions_of("root").await.len(), 1, "the session has survived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_asked_for_again_and_changes_nothing() {
    let h = Harness::start().await;
    let shell = stale_terminal(&h).await;
    if !shell.has("script") {
        return;
    }
    let prompt = format!("Password of root at {}: ", h.address());
    let wrong = (prompt.as_str(), "a wrong c4nary");
    let (printed, code) = shell.type_at("latchkey users create eve --role viewer", &[wrong, wrong, wrong]);
    assert_eq!((printed.matches(&prompt).count(), printed.matches("Try again:").count(), code), (3, 2, 1), "{printed}");
    let refusal =
        "error: sign-in failed\n\nhint: nothing was changed; if you forgot the password, an operator can reset it";
    assert!(printed.ends_with(refusal) && !printed.contains("c4nary"), "{printed}");
    h.operator().await.get("eve").await.expect_err("no account");
    let (printed, code) =
        shell.type_at("latchkey users create eve --role viewer", &[wrong, (prompt.as_str(), PASSWORD)]);
    assert!(code == 0 && printed.contains("✔ eve is created"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_token_from_the_environment_the_way_to_a_recent_sign_in_is_only_told() {
    let h = Harness::start().await;
    h.create("ada", &["helpdesk"], PASSWORD).await;
    let root = h.admin().await;
    h.clock.advance(Duration::from_mins(12));
    let tokens = root.client.refresh(&root.tokens.refresh_token).await.expect("tokens");
    h.clock.advance(Duration::from_mins(4));
    let mut shell = terminal(&h);
    shell.set("LATCHKEY_TOKEN", &tokens.access_token);
    let unlock = ["users", "unlock", "ada", "--server", &h.url()];
    shell.latchkey(&unlock).fails(
        1,
        "error: this needs a sign-in within the last 15 minutes; authenticate again\n\n\
         hint: unset LATCHKEY_TOKEN and sign in with `latchkey --server … login`",
    );
    if shell.has("script") {
        let (printed, code) = shell.type_at(&format!("latchkey {}", unlock.join(" ")), &[]);
        assert!(code == 1 && printed.contains("hint: unset LATCHKEY_TOKEN"), "{printed}");
    }
}
