//! Mail and links on the command line.

use std::time::Duration;

use latchkey::proto::v1;

use crate::cli::{terminal, terminal_of};
use crate::harness::actors::named;
use crate::harness::relay;
use crate::harness::smtp::{Act, SmtpServer, Step, Tls};
use crate::harness::transcript::{Shell, blocks, steps};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

const ADDRESS: &str = "bob@example.com";

/// A server with a user who has an address.
async fn with_bob(h: &Harness) {
    h.create("bob", &[], PASSWORD).await;
    let request =
        v1::UpdateUserRequest { user: Some(named("bob")), email: Some(ADDRESS.to_owned()), ..Default::default() };
    h.operator().await.user_admin().update_user(request).await.expect("an address");
}

/// A server whose mail goes to this relay, with bob.
async fn with_relay(relay: &SmtpServer) -> Harness {
    let h = relay::with_relay(relay).await;
    with_bob(&h).await;
    h
}

/// Runs the command without blocking the thread on which the relay runs.
fn run(shell: &Shell, line: &str) -> crate::harness::transcript::Ran {
    tokio::task::block_in_place(|| shell.latchkey(&line.split(' ').collect::<Vec<_>>()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_sent_used_followed_and_sent_again() {
    let h = Harness::start().await;
    let shell = terminal(&h);
    if shell.has("jq") {
        let blocks = blocks(include_str!("transcripts/mail.md"), &["console"]);
        shell.play(&blocks.iter().flat_map(|(_, block)| steps(block)).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_the_relay_takes_is_exit_0_and_says_what_to_tell_the_user() {
    let relay = SmtpServer::start(Tls::None).await;
    let h = with_relay(&relay).await;
    let ran = run(&terminal(&h), "users reset bob --wait");
    let told = ran.good();
    assert!(told.starts_with(&format!("✔ a link by mail to {ADDRESS}, good until ")), "{told}");
    assert!(told.contains("\n  tell the user  open the link in the newest mail and choose a password"), "{told}");
    assert!(told.contains(&format!("\n✔ the mail to {ADDRESS} was accepted by 127.0.0.1:")), "{told}");
    let (accepted, told_at) = (told.find("✔ the mail to"), told.find("  tell the user"));
    assert!(accepted < told_at, "first whether it has gone out: {told}");
    let status = run(&terminal(&h), "status").good();
    assert!(status.contains("  mail       ● to a relay; last accepted "), "{status}");
    let diagnosis = run(&terminal(&h), "users diagnose bob").good();
    assert!(diagnosis.contains(&format!("✔ accepted: password reset to {ADDRESS} · ")), "{diagnosis}");
    assert!(diagnosis.contains("✔ database  ✔ server  ✔ mail\n"), "{diagnosis}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_the_relay_refuses_for_good_is_exit_1_with_its_words_and_the_remedy() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("550 5.1.1 no such user")).await;
    let h = with_relay(&relay).await;
    let shell = terminal(&h);
    let ran = run(&shell, "users reset bob --wait");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.starts_with(&format!("error: the reset is done, but its mail to {ADDRESS} failed: ")),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("550 5.1.1 no such user"), "{ran:?}");
    assert!(!ran.stdout.contains("tell the user"), "there is no mail to open: {ran:?}");
    assert!(ran.stderr.contains("`latchkey users update bob --email ADDRESS`; then `latchkey deliveries resend "));

    let listed = run(&shell, "deliveries list --state failed").good();
    assert!(listed.contains("✖ failed") && listed.contains("550 5.1.1 no such user"), "{listed}");
    let answer = run(&shell, "deliveries list --user bob --output json").json();
    let id = answer["deliveries"][0]["id"].as_str().expect("an id").to_owned();
    let shown = run(&shell, &format!("deliveries show {id}")).good();
    assert!(shown.contains("\n  last words ") && shown.contains("550 5.1.1 no such user"), "{shown}");
    assert!(
        shown.contains("  next: latchkey users update bob --email ADDRESS\n        if the address is wrong\n"),
        "{shown}"
    );
    assert!(shown.ends_with(&format!("  next: latchkey deliveries resend {id}\n")), "{shown}");
    assert_eq!(run(&shell, &format!("deliveries watch {id}")).code, 1);
    let history = run(&shell, "users history bob").good();
    assert!(history.contains(&format!("✖ failed: mail, password reset to {ADDRESS}")), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_is_still_under_way_is_exit_4_and_the_reset_is_done() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("451 4.7.1 try later")).await;
    let h = with_relay(&relay).await;
    let shell = terminal(&h);
    let ran = run(&shell, "users reset bob --wait=2s");
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.starts_with("error: the reset is done; its mail to bob@example.com is still under way"));
    assert!(ran.stderr.contains("hint: follow it with `latchkey deliveries watch "), "{ran:?}");
    assert!(ran.stdout.contains("  tell the user  open the link"), "{ran:?}");
    let diagnosis = run(&shell, "users diagnose bob").good();
    assert!(diagnosis.contains("  DO   1  Wait: it is tried again by itself, next "), "{diagnosis}");
    assert!(diagnosis.contains(" · next attempt ") && !diagnosis.contains("--email"), "{diagnosis}");
    let listed = run(&shell, "deliveries list").good();
    assert!(listed.contains("… retrying, next attempt "), "{listed}");
    let ran = run(&shell, "deliveries watch --for 1s");
    // The other one is the notice to the new address of the user.
    assert!(ran.code == 0 && ran.stdout.contains("  2 under way"), "{ran:?}");
    let ran = run(&shell, "users reset bob --wait=1s --output json");
    assert!(ran.code == 4 && ran.stderr.contains(r#""code":"UNDER_WAY""#), "{ran:?}");
    assert_eq!(serde_json::Deserializer::from_str(&ran.stdout).into_iter::<serde_json::Value>().count(), 2, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_relay_fails_a_mail_is_announced_with_a_warning() {
    let relay = SmtpServer::with(Tls::None, Step::Mail, Act::reply("451 4.3.0 try later")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    let sent = operator.sends_link("bob").await;
    operator.delivery_in(&sent.id, v1::DeliveryState::Retrying).await;
    for command in [
        "users reset bob",
        "users invite eve --email eve@example.com",
        "users create carl --email carl@example.com --invite",
        "email verify bob",
    ] {
        let told = run(&shell, command).good();
        let words = "! the last mail of the server failed ";
        assert!(told.contains(words) && told.contains(": 451 4.3.0 try later; this one is kept"), "{command}: {told}");
        assert!(!told.contains("tell the user") && told.contains("latchkey deliveries watch "), "{command}: {told}");
    }
    // A message that has not left cannot be in the spam folder.
    let told = run(&shell, &format!("deliveries resend {}", sent.id));
    assert!(
        told.stderr.contains("hint: it is still being sent; follow it with `latchkey deliveries show "),
        "{told:?}"
    );
    assert!(!told.stderr.contains("spam"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_is_called_by_its_name() {
    let relay = SmtpServer::start(Tls::None).await;
    let h = with_relay(&relay).await;
    let shell = terminal(&h);
    assert!(run(&shell, "deliveries list").good().contains("  notice: address changed  "));
    assert!(run(&shell, "users history bob").good().contains(&format!("mail, notice (address changed) to {ADDRESS}")));
    run(&shell, "users reset bob --wait").good();
    let answer = run(&shell, "deliveries list --user bob --output json").json();
    let names: Vec<_> =
        (0..2).map(|index| answer["deliveries"][index]["notice"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["", "address_changed"], "{answer}");
    let id = answer["deliveries"][0]["id"].as_str().expect("an id");
    let told = run(&shell, &format!("deliveries resend {id}"));
    assert!(told.stderr.contains("hint: ask the user to look for it, also in the spam folder"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_helps_a_mail_depends_on_what_it_met() {
    let wait = "It is tried again by itself, next ";
    let cases = [
        (Step::Mail, Act::reply("451 4.3.0 try later"), v1::DeliveryState::Retrying, wait, ""),
        (Step::Recipient, Act::reply("554 5.7.1 Relay access denied"), v1::DeliveryState::Retrying, wait, ""),
        (Step::Dot, Act::close(), v1::DeliveryState::Unknown, "if the user says that nothing came", "resend"),
    ];
    for (step, act, state, told, command) in cases {
        let relay = SmtpServer::with(Tls::None, step, act).await;
        let h = with_relay(&relay).await;
        let operator = h.operator().await;
        let invited = v1::CreateUserRequest {
            username: "grace".to_owned(),
            email: "grace@example.com".to_owned(),
            credential: Some(v1::create_user_request::Credential::Invite(v1::SendLink::default())),
            ..Default::default()
        };
        let sent = operator.create(invited).await.expect("an invitation").delivery.expect("a message");
        operator.delivery_in(&sent.id, state).await;
        let diagnosis = run(&terminal(&h), "users diagnose grace").good();
        let (steps, _) = diagnosis.split_once("  WHY").expect("why");
        assert!(steps.contains(told) && !steps.contains("--email") && !steps.contains("users reset"), "{diagnosis}");
        assert_eq!(steps.contains("latchkeyd mail test"), step != Step::Dot, "{diagnosis}");
        let resends = steps.contains(&format!("latchkey deliveries resend {}", sent.id));
        assert_eq!(resends, !command.is_empty(), "{diagnosis}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_its_user_cancelled_is_not_just_sent_again() {
    let h = Harness::start().await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    shell.latchkey(&["users", "invite", "grace", "--email", "grace@example.com"]).good();
    let sent = operator.deliveries("grace").await.remove(0);
    h.stranger().await.cancel(&h.mail_of(&sent).await.token("cancel")).await.expect("a cancellation");
    let told = shell.latchkey(&["users", "diagnose", "grace"]).good();
    let steps = "  DO   1  Speak with the user, who said that they did not ask for it, before you send another link.\n       \
                 2  latchkey users reset grace\n  \
                 WHY  ✖ Created without a password. The user cancelled the link in the newest mail, as not asked for · ";
    assert!(told.contains(steps), "{told}");
    assert!(told.contains(" · its link no longer works\n"), "{told}");
    shell.latchkey(&["users", "reset", "grace"]).good();
    let told = shell.latchkey(&["users", "diagnose", "grace"]).good();
    assert!(told.contains("✖ Created without a password · ") && !told.contains("Speak with"), "{told}");
    // An old link that was used says nothing about a password that was ended since.
    let sent = operator.deliveries("grace").await.remove(0);
    let mail = h.mail_of(&sent).await;
    h.stranger().await.choose(&mail.token("invite"), OTHER_PASSWORD).await.expect("a password");
    h.stranger().await.cancel(&mail.token("cancel")).await.expect("a cancellation that comes too late");
    let told = shell.latchkey(&["users", "diagnose", "grace"]).good();
    let steps = "  DO   1  latchkey users contain grace\n          if the password is not the user's\n";
    assert!(told.contains(steps) && told.contains("did not ask for the link by which the password was set"), "{told}");
    let told = shell.latchkey(&["users", "history", "grace"]).good();
    assert!(told.contains("✔ link cancelled, after one was used"), "{told}");
    operator.contain("grace").await.expect("a lock");
    let told = shell.latchkey(&["users", "diagnose", "grace"]).good();
    assert!(told.contains("none has been set since · ") && !told.contains("history"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_mailbox_or_of_the_message_is_not_blamed_on_the_address() {
    let spam = (
        Step::Dot,
        "554 5.7.1 looks like spam",
        "`latchkeyd mail test ADDRESS` with the server's --config explains",
        "latchkeyd mail test ADDRESS\n",
    );
    let big = (Step::Dot, "552 5.3.4 too big", spam.2, spam.3);
    let full = (
        Step::Recipient,
        "552 5.2.2 mailbox full",
        "hint: ask the user to put the mailbox in order",
        "if the user has an address that is",
    );
    for (step, answer, hint, next) in [spam, big, full] {
        let relay = SmtpServer::with(Tls::None, step, Act::reply(answer)).await;
        let h = with_relay(&relay).await;
        let shell = terminal(&h);
        let ran = run(&shell, "users reset bob --wait");
        assert!(ran.code == 1 && ran.stderr.contains(hint) && !ran.stderr.contains("is wrong"), "{ran:?}");
        let id = h.operator().await.deliveries("bob").await.remove(0).id;
        let shown = run(&shell, &format!("deliveries show {id}")).good();
        assert!(shown.contains(next) && !shown.contains("is wrong"), "{shown}");
        assert!(shown.ends_with(&format!("  next: latchkey deliveries resend {id}\n")), "{shown}");
        let diagnosis = run(&shell, "users diagnose bob").good();
        let first =
            if step == Step::Dot { "1  Ask the operator of the relay why" } else { "1  Ask the user to put the" };
        assert!(diagnosis.contains(first) && !diagnosis.contains("is wrong"), "{diagnosis}");
        assert!(diagnosis.contains(&format!("2  latchkey deliveries resend {id}\n")), "{diagnosis}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_waits_for_the_relay_is_not_announced_to_the_user() {
    let relay = SmtpServer::with(Tls::None, Step::Mail, Act::reply("451 4.3.0 try later")).await;
    let h = with_relay(&relay).await;
    let ran = run(&terminal(&h), "users reset bob --wait=2s");
    assert!(ran.code == 4 && !ran.stdout.contains("tell the user"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_may_have_gone_out_is_not_said_to_be_the_last() {
    let relay = SmtpServer::with(Tls::None, Step::Dot, Act::close()).await;
    let h = with_relay(&relay).await;
    let ran = run(&terminal(&h), "users reset bob --wait=3s");
    let told = format!("its mail to {ADDRESS} may have gone out, and is sent once more ");
    assert!(ran.code == 4 && ran.stderr.contains(&told), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_whose_link_still_works_did_not_go_out_for_want_of_time() {
    let relay = SmtpServer::with(Tls::None, Step::Recipient, Act::reply("451 4.7.1 try later")).await;
    let h = with_relay(&relay).await;
    let (operator, shell) = (h.operator().await, terminal(&h));
    run(&shell, "users reset bob --ttl 1m").good();
    let id = operator.deliveries("bob").await.remove(0).id;
    operator.delivery_in(&id, v1::DeliveryState::Retrying).await;
    h.clock.advance(Duration::from_secs(45));
    operator.delivery_in(&id, v1::DeliveryState::Expired).await;
    let diagnosis = run(&shell, "users diagnose bob").good();
    assert!(diagnosis.contains("did not go out, and no time was left for another attempt"), "{diagnosis}");
    h.clock.advance(Duration::from_secs(15));
    let diagnosis = run(&shell, "users diagnose bob").good();
    assert!(diagnosis.contains("did not go out before its link ended"), "{diagnosis}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_returned_is_handed_over_before_another_one_is_made() {
    let h = Harness::start().await;
    let shell = terminal(&h);
    shell.latchkey(&["users", "invite", "grace", "--email", "grace@example.com", "--return-link"]).good();
    let told = shell.latchkey(&["users", "diagnose", "grace"]).good();
    let steps = "  DO   1  Hand over the link that was returned to an operator, if the user has not got it.\n       \
                 2  latchkey users reset grace\n          if it is lost\n  WHY  ✖ Created without a password · ";
    assert!(told.contains(steps), "{told}");
    assert!(told.contains("! unused invitation, 3 d left, returned to an operator\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_comes_with_an_unlock_is_not_said_to_change_nothing() {
    let h = Harness::start().await;
    with_bob(&h).await;
    h.operator().await.lock("bob").await.expect("a lock");
    let told = terminal(&h).latchkey(&["users", "reset", "bob", "--unlock"]).good();
    assert!(told.contains("; nothing else changes until it is used\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_the_caller_may_not_take_says_by_an_operator_with_which_scope() {
    let h = Harness::start().await;
    with_bob(&h).await;
    h.create("hilda", &["helpdesk"], PASSWORD).await;
    h.operator().await.contain("bob").await.expect("a lock");
    let told = terminal_of(&h, "hilda").latchkey(&["users", "diagnose", "bob"]).good();
    let step = "2  latchkey users reset bob --unlock\n          by an operator with users.write\n";
    assert!(told.contains(step), "{told}");
    let told = terminal(&h).latchkey(&["users", "diagnose", "bob"]).good();
    assert!(told.contains("2  latchkey users reset bob --unlock\n  WHY"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_a_mail_is_followed_by_a_spinner_that_leaves_no_trace() {
    let relay = SmtpServer::start(Tls::None).await;
    let h = with_relay(&relay).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    for width in [60, 80] {
        let (printed, code) =
            tokio::task::block_in_place(|| shell.type_at_width(width, "latchkey users reset bob --wait", &[]));
        assert_eq!(code, 0, "{printed}");
        assert!(printed.contains(&format!("\r⠋ mail to {ADDRESS}: … ")), "{printed:?}");
        for line in printed.lines() {
            // What is left of a line is what stands behind the last return.
            let left = line.rsplit('\r').next().unwrap_or_default();
            assert!(!left.contains('⠋') && left.chars().count() <= width, "{width}: {line:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_used_at_a_terminal_and_never_shown() {
    let h = Harness::start().await;
    with_bob(&h).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let answer = shell.latchkey(&["users", "reset", "bob", "--return-link", "--output", "json"]).json();
    let link = answer["resetLink"].as_str().expect("a link").to_owned();
    let command = format!("latchkey password reset --server {}", h.url());
    let answers = [
        ("Link, or its token: ", link.as_str()),
        ("New password: ", "short c4nary"),
        ("New password: ", OTHER_PASSWORD),
        ("Once more: ", OTHER_PASSWORD),
    ];
    let (printed, code) = shell.type_at(&command, &answers);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("This is a link for bob, which works until "), "{printed}");
    assert!(printed.contains("✖ it is too short: at least 15 characters\n"), "{printed}");
    assert!(printed.contains("✔ your password is set\n"), "{printed}");
    assert!(!printed.contains("lkl_") && !printed.contains("c4nary"), "{printed}");
    h.signed_in("bob", OTHER_PASSWORD).await;
    let (printed, code) = shell.type_at(&command, &[("Link, or its token: ", link.as_str())]);
    assert!(code == 1 && !printed.contains("New password"), "a dead link is told before a password: {printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_mail_a_reset_names_the_temporary_password() {
    let h = Harness::with(|config| config.mail.transport = latchkey::config::Transport::Off).await;
    with_bob(&h).await;
    let shell = terminal(&h);
    let ran = shell.latchkey(&["users", "reset", "bob"]);
    assert!(
        ran.code == 1
            && ran.stderr.contains("hint: give a password with `latchkey users reset bob --temporary-password`\n"),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains("--email"), "{ran:?}");
    shell.latchkey(&["users", "create", "grace", "--email", "grace@example.com"]).good();
    let diagnosis = shell.latchkey(&["users", "diagnose", "grace"]).stdout;
    assert!(diagnosis.contains("  DO   1  latchkey users reset grace --temporary-password\n"), "{diagnosis}");
    let ran = shell.latchkey(&["users", "diagnose", "bob", "--from", "300.1.1.1"]);
    assert!(ran.stderr.contains("\n  --from: "), "{ran:?}");
    let ran = shell.latchkey(&["password", "forgot", "bad name !!", "--server", &h.url()]);
    assert!(ran.stderr.contains("\n  LOGIN: "), "{ran:?}");
    for reach in ["--local".to_owned(), format!("--socket {}", h.socket().display())] {
        let ran = shell.latchkey(&format!("{reach} users reset bob").split(' ').collect::<Vec<_>>());
        assert!(ran.stderr.contains(&format!("`latchkey {reach} users reset bob --temporary-password`")), "{ran:?}");
        let shown = shell.latchkey(&format!("{reach} users show bob").split(' ').collect::<Vec<_>>()).good();
        assert!(shown.contains(&format!("  next: latchkey {reach} audit list --user bob\n")), "{shown}");
    }
    assert!(shell.latchkey(&["status"]).good().contains("  mail       – off: no mail is sent\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_leaves_out_what_the_caller_may_not_read_and_writes_no_refusal() {
    let h = Harness::start().await;
    with_bob(&h).await;
    h.create("ada", &["viewer"], PASSWORD).await;
    h.signed_in("bob", PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    let told = shell.latchkey(&["users", "history", "bob"]).good();
    assert!(told.contains("● session began") && !told.contains("signed in"), "{told}");
    assert!(told.ends_with("! left out: events; it needs audit.read\n"), "{told}");
    let answer = shell.latchkey(&["users", "history", "bob", "--output", "json"]).json();
    assert!(answer["events"].is_null() && answer["sessions"].is_array(), "{answer}");
    let denied = ["--local", "audit", "list", "--type", "access-denied", "--output", "json"];
    assert!(shell.latchkey(&denied).json()["events"].as_array().is_none_or(Vec::is_empty));
}
