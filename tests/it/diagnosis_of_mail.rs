//! What a diagnosis says of a user whose mail does not arrive, and the steps that it proposes.

use std::time::Duration;

use latchkey::config::Transport;
use latchkey::proto::v1;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::temporary_password::Handover;

use crate::cli::terminal;
use crate::harness::actors::named;
use crate::harness::relay;
use crate::harness::smtp::{Act, SmtpServer, Step, Tls};
use crate::harness::transcript::Shell;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD};

const ADDRESS: &str = "bob@example.com";

/// A server whose mail goes to this relay, with bob.
async fn with_relay(relay: &SmtpServer) -> Harness {
    let h = relay::with_relay(relay).await;
    h.create("bob", &[], PASSWORD).await;
    with_address(&h.operator().await, ADDRESS).await;
    h
}

async fn with_address(operator: &Client, address: &str) {
    let request =
        v1::UpdateUserRequest { user: Some(named("bob")), email: Some(address.to_owned()), ..Default::default() };
    operator.user_admin().update_user(request).await.expect("an address");
}

/// Runs the command without blocking the thread on which the relay runs. Returns what it prints.
fn run(shell: &Shell, line: &str) -> String {
    tokio::task::block_in_place(|| shell.latchkey(&line.split(' ').collect::<Vec<_>>())).stdout
}

/// The steps that a diagnosis of the user proposes, on one line.
fn steps(shell: &Shell, user: &str) -> String {
    let told = run(shell, &format!("users diagnose {user}"));
    let (before, _) = told.split_once("  WHY").expect("why");
    let (_, steps) = before.split_once("  DO ").expect("steps");
    steps.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sends a temporary password by mail, and waits for the state of the mail.
async fn mail_password(operator: &Client, state: v1::DeliveryState) -> v1::Delivery {
    let handover = Handover::Mail.into();
    let method = Some(Method::TemporaryPassword(v1::TemporaryPassword { handover, ttl: None }));
    let request = v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() };
    let sent = operator.reset_with(request).await.expect("a reset").delivery.expect("a message");
    operator.delivery_in(&sent.id, state).await;
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_password_that_never_reached_the_user_is_reset_again_and_not_used() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("550 5.1.1 no such user")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    mail_password(&operator, v1::DeliveryState::Failed).await;
    let told = run(&shell, "users diagnose bob");
    assert!(
        told.starts_with("✖ bob can sign in only with a temporary password that never reached the user\n"),
        "{told}"
    );
    assert!(told.contains("  WHY  ! The temporary password never reached the user: the mail to bob@"), "{told}");
    let address = "1 latchkey users update bob --email ADDRESS if the address is wrong ";
    assert_eq!(steps(&shell, "bob"), format!("{address}2 latchkey users reset bob"));
    let ran = tokio::task::block_in_place(|| shell.latchkey(&["users", "recover", "bob"]));
    assert!(ran.code == 1 && !ran.stdout.contains("The user signs in"), "{ran:?}");
    let line = ["users", "reset", "bob", "--temporary-password", "--mail", "--yes", "--wait"];
    let ran = tokio::task::block_in_place(|| shell.latchkey(&line));
    let hint = "`latchkey users update bob --email ADDRESS`; then `latchkey users reset bob`";
    assert!(ran.stderr.contains(hint), "{ran:?}");

    // With another address, only another password is missing.
    with_address(&operator, "bob@example.org").await;
    assert_eq!(steps(&shell, "bob"), "1 latchkey users reset bob");
    // A password that an operator has seen is handed over.
    operator.reset("bob").await.expect("a reset");
    let told = run(&shell, "users diagnose bob");
    assert!(told.starts_with("▲ bob can sign in, then must change the password\n"), "{told}");
    assert!(!told.contains("never reached"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_password_whose_mail_waits_or_was_cancelled_has_not_arrived() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("451 4.7.1 try later")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    let sent = mail_password(&operator, v1::DeliveryState::Retrying).await;
    let told = run(&shell, "users diagnose bob");
    assert!(told.contains("  DO   1  Wait: it is tried again by itself, next "), "{told}");
    assert!(told.contains("  WHY  ! The temporary password has not arrived yet: "), "{told}");
    run(&shell, &format!("deliveries cancel {} --yes", sent.id));
    assert_eq!(steps(&shell, "bob"), "1 latchkey users reset bob");
    // A link that is on its way is the way in, until it fails, too.
    run(&shell, "users reset bob");
    let link = operator.deliveries("bob").await.remove(0);
    operator.delivery_in(&link.id, v1::DeliveryState::Retrying).await;
    let told = steps(&shell, "bob");
    assert!(told.starts_with("1 Wait: ") && !told.contains("users reset"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_no_mail_any_more_proposes_no_mail() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("550 5.1.1 no such user")).await;
    let mut h = with_relay(&relay).await;
    run(&terminal(&h), "users reset bob");
    let sent = h.operator().await.deliveries("bob").await.remove(0);
    h.operator().await.delivery_in(&sent.id, v1::DeliveryState::Failed).await;
    assert!(steps(&terminal(&h), "bob").contains("deliveries resend"));
    h.config.mail.transport = Transport::File;
    h = h.restart().await;
    run(&terminal(&h), "users invite grace --email grace@example.com");
    let sent = h.operator().await.deliveries("grace").await.remove(0);
    h.operator().await.delivery_in(&sent.id, v1::DeliveryState::Accepted).await;
    assert!(steps(&terminal(&h), "grace").contains("deliveries resend"));

    h.config.mail.transport = Transport::Off;
    h = h.restart().await;
    let shell = terminal(&h);
    assert_eq!(steps(&shell, "grace"), "1 latchkey users reset grace --temporary-password");
    assert_eq!(steps(&shell, "bob"), "1 latchkey users reset bob --temporary-password if the password is forgotten");
    let told = run(&shell, "users recover grace");
    assert!(told.contains("2  latchkey users reset grace --temporary-password\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_the_user_disowns_is_contained_before_anything_else_is_done() {
    let h = Harness::start().await;
    let (operator, stranger, shell) = (h.operator().await, h.stranger().await, terminal(&h));
    h.create("bob", &[], PASSWORD).await;
    with_address(&operator, ADDRESS).await;
    run(&shell, "users reset bob");
    let mail = h.mail_of(&operator.deliveries("bob").await.remove(0)).await;
    stranger.choose(&mail.token("reset"), OTHER_PASSWORD).await.expect("an intruder's password");
    h.clock.advance(Duration::from_secs(1));
    stranger.cancel(&mail.token("cancel")).await.expect("a cancellation that comes too late");
    operator.lock("bob").await.expect("a lock");
    let contain = "1 latchkey users contain bob if the password is not the user's ";
    assert_eq!(steps(&shell, "bob"), format!("{contain}2 latchkey users unlock bob"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_refused_a_notice_is_corrected_before_a_link_is_sent_there() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("550 5.1.1 no such user")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    operator.contain("bob").await.expect("a lock");
    let notice = operator.deliveries("bob").await.remove(0);
    operator.delivery_in(&notice.id, v1::DeliveryState::Failed).await;
    let told = run(&shell, "users diagnose bob");
    assert!(told.contains("! A notice to bob@example.com was refused: ") && !told.contains("✔ mail"), "{told}");
    let steps_of_bob = steps(&shell, "bob");
    let (_, rest) = steps_of_bob.split_once("2 ").expect("two steps");
    let expected =
        "latchkey users update bob --email ADDRESS if the address is wrong 3 latchkey users reset bob --unlock";
    assert!(steps_of_bob.starts_with("1 Speak with the user first") && rest == expected, "{steps_of_bob}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmation_of_the_address_that_failed_has_a_remedy() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("550 5.1.1 no such user")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    let request = v1::SendEmailVerificationRequest { user: Some(named("bob")), ..Default::default() };
    let sent = operator.user_admin().send_email_verification(request).await.expect("a message").into_inner();
    let id = sent.delivery.expect("a message").id;
    operator.delivery_in(&id, v1::DeliveryState::Failed).await;
    let address = "1 latchkey users update bob --email ADDRESS if the address is wrong ";
    assert_eq!(steps(&shell, "bob"), format!("{address}2 latchkey deliveries resend {id}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_refuses_everything_is_tested_once() {
    let relay = SmtpServer::with(Tls::None, Step::Mail, Act::reply("451 4.3.0 try later")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    for _ in 0..3 {
        run(&shell, "users reset bob");
        let sent = operator.deliveries("bob").await.remove(0);
        operator.delivery_in(&sent.id, v1::DeliveryState::Retrying).await;
        h.clock.advance(Duration::from_secs(1));
    }
    let told = run(&shell, "users diagnose bob");
    assert!(told.contains("! No mail goes out: "), "{told}");
    assert_eq!(steps(&shell, "bob").matches("latchkeyd mail test").count(), 1, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_where_the_password_was_set_is_not_one_of_a_sign_in() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_hours(1)).await;
    let (operator, stranger, shell) = (h.operator().await, h.stranger().await, terminal(&h));
    run(&shell, "users invite grace --email grace@example.com");
    let mail = h.mail_of(&operator.deliveries("grace").await.remove(0)).await;
    stranger.choose(&mail.token("invite"), OTHER_PASSWORD).await.expect("a password");
    for _ in 0..5 {
        stranger.sign_in("grace", PASSWORD).await.unwrap_err();
    }
    let told = run(&shell, "users diagnose grace");
    assert!(told.contains("✖ Sign-ins from places where the user has set the password are throttled"), "{told}");
    assert!(!told.contains("signed in before"), "{told}");
}
