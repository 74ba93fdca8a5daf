//! `latchkey users recover`, on a terminal and without one.

use latchkey::proto::v1;

use crate::cli::{terminal, terminal_of};
use crate::harness::actors::named;
use crate::harness::smtp::{Act, Certificate, SmtpServer, Step, Tls};
use crate::harness::transcript::Shell;
use crate::harness::{Client, Harness, PASSWORD};

/// The prompts, in their order.
const IS_IT: &str = "Is it this user? [y/N] ";
const TAKEN_OVER: &str = "a strange sign-in? [y/N] ";
const HAS_FACTOR: &str = "a recovery code? [Y/n] ";
const KNOWS: &str = "Does the user know the password? [Y/n] ";
const DO_IT: &str = "Do it? [y/N] ";
const SURE: &str = "Are you sure? [y/N] ";
const ADDRESS: &str = "The right address (Enter keeps it as it is): ";

/// Answers the prompts of `users recover` at a terminal, without blocking the thread on which the relay runs.
fn recover(shell: &Shell, user: &str, answers: &[(&str, &str)]) -> (String, i32) {
    tokio::task::block_in_place(|| shell.type_at(&format!("latchkey users recover {user} --note 4711"), answers))
}

/// A relay that knows no host but `corp.example`, and a server that sends through it.
async fn with_relay() -> (SmtpServer, Harness) {
    let script = |step: Step, line: &str| {
        let refused = step == Step::Recipient && !line.contains("corp.example");
        refused.then(|| Act::reply("550 5.1.2 no such host"))
    };
    let relay = SmtpServer::scripted(Tls::None, Certificate::Good, "AUTH PLAIN LOGIN", script).await;
    let url = format!("smtp://127.0.0.1:{}?tls=none", relay.address.port());
    let h = Harness::with(|config| {
        config.mail.transport = latchkey::config::Transport::Smtp;
        config.mail.smtp.url = Some(url.parse().expect("a URL"));
    })
    .await;
    (relay, h)
}

async fn with_address(operator: &Client, username: &str, email: &str) {
    let request =
        v1::UpdateUserRequest { user: Some(named(username)), email: Some(email.to_owned()), ..Default::default() };
    operator.user_admin().update_user(request).await.expect("an address");
}

/// The addresses to which links went, newest first, and whether the relay took them.
async fn sent(operator: &Client, username: &str) -> Vec<(String, bool)> {
    let mut sent = operator.deliveries(username).await;
    sent.retain(|sent| sent.kind() != v1::DeliveryKind::Notice);
    sent.into_iter().map(|sent| (sent.address.clone(), sent.state() == v1::DeliveryState::Accepted)).collect()
}

/// The notes of the events of this type.
async fn notes(operator: &Client, kind: v1::EventType) -> Vec<String> {
    operator.events().await.into_iter().filter(|event| event.r#type() == kind).map(|event| event.note).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_went_astray_is_sent_again_to_the_right_address() {
    let (_relay, h) = with_relay().await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    if !shell.has("script") {
        return;
    }
    let invited = v1::CreateUserRequest {
        username: "grace".to_owned(),
        display_name: "Grace Hopper".to_owned(),
        email: "grace@copr.example".to_owned(),
        credential: Some(v1::create_user_request::Credential::Invite(v1::SendLink::default())),
        ..Default::default()
    };
    let invited = operator.create(invited).await.expect("an invitation").delivery.expect("a message");
    operator.delivery_in(&invited.id, v1::DeliveryState::Failed).await;
    let proposed = tokio::task::block_in_place(|| shell.latchkey(&["users", "diagnose", "grace"])).good();
    let steps = format!(
        "  DO   1  latchkey users update grace --email ADDRESS\n          if the address is wrong\n       \
         2  latchkey deliveries resend {}\n  WHY",
        invited.id
    );
    assert!(proposed.contains(&steps), "{proposed}");

    let answers = [
        (IS_IT, "y"),
        ("Which? [1-3, Enter skips] ", "1"),
        (ADDRESS, "grace@corp.example"),
        ("Which? [1-3, Enter skips] ", "7"),
        ("Which? [1-3, Enter skips] ", "1"),
    ];
    let (printed, code) = recover(&shell, "grace", &answers);
    assert_eq!(code, 0, "{printed}");
    for told in [
        "✖ Grace Hopper (grace) cannot sign in\n",
        "  address    grace@copr.example\n",
        "  last mail  ✖ failed, invitation to grace@copr.example\n",
        "! There is no choice 7.\n",
        "1. Have the user choose a new password\n  why  The invitation to grace@copr.example was refused: ",
        "  1  correct the address, then choose again\n  2  send the mail again, with a new link, to grace@copr.example\n",
        "✔ Grace Hopper (grace) is changed\n",
        "  1  send the mail again, with a new link, to grace@corp.example\n",
        "✔ the mail to grace@corp.example was accepted by ",
        "✔ Grace Hopper (grace) can sign in once the link is used\n  tell the user  open the link in the newest mail to \
         grace@corp.example,",
    ] {
        assert!(printed.contains(told), "{told}\n---\n{printed}");
    }
    assert!(!printed.contains("strange sign-in"), "there is no password to know: {printed}");
    assert_eq!(
        sent(&operator, "grace").await,
        [("grace@corp.example".to_owned(), true), ("grace@copr.example".to_owned(), false)]
    );
    assert_eq!(notes(&operator, v1::EventType::EmailChanged).await, ["4711"], "each step has the note");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_user_who_knows_the_password_is_unlocked_and_nothing_else_is_done() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    operator.lock("ada").await.expect("a lock");
    if !shell.has("script") {
        return;
    }
    let answers = [(IS_IT, "y"), (TAKEN_OVER, ""), (DO_IT, "y"), (KNOWS, "")];
    let (printed, code) = recover(&shell, "ada", &answers);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("1. Unlock the account\n  why  Locked by "), "{printed}");
    assert!(printed.contains("✔ ada can sign in again\n  lifted  the lock (locked by "), "{printed}");
    assert!(printed.contains("✔ ada can sign in\n  tell the user  sign in as ada with the password\n"), "{printed}");
    assert_eq!(printed.matches("next: ").count(), 1, "{printed}");
    h.signed_in("ada", PASSWORD).await;
    assert_eq!(notes(&operator, v1::EventType::UserUnlocked).await, ["4711"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspected_takeover_is_contained_before_a_password_is_read_out() {
    let (_relay, h) = with_relay().await;
    h.create("ada", &[], PASSWORD).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    with_address(&operator, "ada", "ada@corp.example").await;
    h.signed_in("ada", PASSWORD).await;
    if !shell.has("script") {
        return;
    }
    let answers = [(IS_IT, "y"), (TAKEN_OVER, "y"), (SURE, "y"), ("Which? [1-3, Enter skips] ", "3"), (SURE, "y")];
    let (printed, code) = recover(&shell, "ada", &answers);
    assert_eq!(code, 0, "{printed}");
    for told in [
        "Lock ada as compromised?\n",
        "✔ ada is locked as compromised\n  ended  the old password, 1 session, ",
        "  1  mail a link to ada@corp.example, if only the user reads that mailbox\n",
        "Reset the password of ada by a temporary password?\n",
        "✔ ada can sign in, then must change the password\n  tell the user  sign in as ada with the temporary password, ",
        "  next: latchkey audit list --actor ada\n        for what was done in its name\n",
        "  next: latchkey sessions list ada --ended\n        for where from\n",
    ] {
        assert!(printed.contains(told), "{told}\n---\n{printed}");
    }
    let user = operator.user("ada").await;
    assert!(user.lock.is_none() && user.password_status.is_some_and(|status| status.change_required));
    assert_eq!(notes(&operator, v1::EventType::UserLocked).await, ["4711"]);
    assert_eq!(notes(&operator, v1::EventType::PasswordResetByOperator).await, ["4711"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_phone_is_answered_by_removing_the_second_factor_and_a_found_one_by_nothing() {
    let h = Harness::start().await;
    h.enroll(&h.user("ada").await).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    if !shell.has("script") {
        return;
    }
    let (printed, code) = recover(&shell, "ada", &[(IS_IT, "y"), (TAKEN_OVER, ""), (HAS_FACTOR, ""), (KNOWS, "")]);
    let tell = "tell the user  sign in as ada with the password and a code of the authenticator, or a";
    assert!(code == 0 && printed.contains(tell), "{printed}");
    assert!(operator.user("ada").await.second_factor_status.is_some_and(|status| status.totp_enrolled));
    let answers = [(IS_IT, "y"), (TAKEN_OVER, ""), (HAS_FACTOR, "n"), (SURE, "y"), (KNOWS, "")];
    let (printed, code) = recover(&shell, "ada", &answers);
    assert_eq!(code, 0, "{printed}");
    for told in [
        "1. Remove the second factor, which is lost\n",
        "Remove the second factor of ada?\n",
        "✔ the second factor of ada is removed\n  ended  1 session, the second factor and its recovery codes\n",
        "✔ ada can sign in, then must change the password\n  tell the user  sign in as ada with the password, then change",
    ] {
        assert!(printed.contains(told), "{told}\n---\n{printed}");
    }
    assert_eq!(notes(&operator, v1::EventType::SecondFactorReset).await, ["4711"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_password_is_answered_with_a_link_that_is_followed() {
    let (_relay, h) = with_relay().await;
    h.create("ada", &[], PASSWORD).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    with_address(&operator, "ada", "ada@copr.example").await;
    if !shell.has("script") {
        return;
    }
    // The notice to the new address is refused before.
    let notice = operator.deliveries("ada").await.remove(0);
    operator.delivery_in(&notice.id, v1::DeliveryState::Failed).await;
    // The mail fails, the operator is told, and the next round offers to correct the address.
    let answers = [
        (IS_IT, "y"),
        (TAKEN_OVER, "n"),
        (KNOWS, "n"),
        ("Which? [1-3, Enter skips] ", "2"),
        ("Which? [1-3, Enter skips] ", "1"),
        (ADDRESS, "ada@corp.example"),
        ("Which? [1-3, Enter skips] ", "1"),
    ];
    let (printed, code) = recover(&shell, "ada", &answers);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("! the reset is done, but its mail to ada@copr.example failed: "), "{printed}");
    assert!(printed.contains("✔ ada can sign in once the link is used\n"), "{printed}");
    h.signed_in("ada", PASSWORD).await;
    assert_eq!(
        sent(&operator, "ada").await,
        [("ada@corp.example".to_owned(), true), ("ada@copr.example".to_owned(), false)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_changed_for_a_caller_who_is_not_the_user() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    operator.lock("ada").await.expect("a lock");
    if !shell.has("script") {
        return;
    }
    let etag = operator.user("ada").await.etag;
    for answer in ["n", ""] {
        let (printed, code) = recover(&shell, "ada", &[(IS_IT, answer)]);
        assert!(code == 1 && printed.ends_with("Nothing was changed."), "{printed}");
    }
    // What is skipped still stands in the way.
    let (printed, code) = recover(&shell, "ada", &[(IS_IT, "y"), (TAKEN_OVER, "n"), (DO_IT, "n")]);
    assert!(code == 1 && printed.contains("\n  HELPS  Unlock the account.\n"), "{printed}");
    assert!(!printed.contains("tell the user"), "{printed}");
    assert_eq!(operator.user("ada").await.etag, etag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_the_caller_may_not_take_is_named_and_not_tried() {
    let h = Harness::start().await;
    h.create("vera", &["viewer"], PASSWORD).await;
    h.create("ada", &[], PASSWORD).await;
    h.operator().await.contain("ada").await.expect("a lock");
    let shell = terminal_of(&h, "vera");
    if !shell.has("script") {
        return;
    }
    let (printed, code) = recover(&shell, "ada", &[(IS_IT, "y")]);
    assert!(code == 1 && printed.contains("! This needs the scope users.reset: ask an operator who has it.\n"));
    let denied = ["--local", "audit", "list", "--type", "access-denied", "--output", "json"];
    assert!(shell.latchkey(&denied).json()["events"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_the_commands_are_printed_in_their_order() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    let recover = |more: &[&str]| shell.latchkey(&[&["users", "recover", "ada"], more].concat());
    let ran = recover(&[]);
    assert!(ran.code == 0 && ran.stdout.contains("DO   1  Make sure that it is the user: call back"), "{ran:?}");
    operator.contain("ada").await.expect("a lock");
    let ran = recover(&[]);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str(), ran.code),
        (
            "✖ ada cannot sign in\n  \
             DO   1  Speak with the user first, by a way that an intruder does not control.\n       \
             2  latchkey users reset ada --temporary-password --unlock\n",
            "",
            1
        )
    );
    let ran = recover(&["--output", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((ran.code, answer["verdict"].as_str()), (1, Some("SIGN_IN_VERDICT_CANNOT")));
    let ran = shell.latchkey(&["users", "recover", "adda"]);
    assert!(ran.code == 1 && ran.stdout.contains("there is no user adda"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checklist_fits_a_narrow_terminal() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    with_address(&operator, "ada", "ada.lovelace@analytical-engines.example.com").await;
    operator.lock("ada").await.expect("a lock");
    if !shell.has("script") {
        return;
    }
    let answers = [("[y/N] ", "y"), ("[y/N] ", "n"), ("[y/N] ", "y"), ("[Y/n] ", "n"), ("skips] ", "1")];
    let (printed, code) = shell.type_at_width(60, "latchkey users recover ada", &answers);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("! the mail with the link was written to a file on"), "{printed}");
    for line in printed.lines() {
        let left = line.rsplit('\r').next().unwrap_or_default();
        assert!(left.chars().count() <= 60, "{line}\n{printed}");
    }
}
