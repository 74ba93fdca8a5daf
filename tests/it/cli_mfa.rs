//! Second factors on the command line: signing in with one, setting one up, removing one.

use std::time::Duration;

use latchkey::proto::v1;

use crate::cli::{terminal, terminal_of};
use crate::harness::actors::named;
use crate::harness::factor::Authenticator;
use crate::harness::transcript::{Ran, Shell, blocks, steps};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

const CODE: &str = "Code of your authenticator, or a recovery code: ";
const FIRST: &str = "Code that the app shows: ";
const AGAIN: &str = "Wait for the next one:\n";

/// A user `ada` with an authenticator.
async fn enrolled(h: &Harness) -> Authenticator {
    h.enroll(&h.user("ada").await).await
}

/// Signs in with these lines as standard input.
fn login(h: &Harness, shell: &Shell, lines: &[&str]) -> Ran {
    shell.feed("latchkey", &["login", "ada", "--password-stdin", "--server", &h.url()], &lines.join("\n"))
}

/// A terminal on which `ada` is signed in with a code. The next code is a new one.
fn proved(h: &Harness, factor: &Authenticator) -> Shell {
    let shell = terminal(h);
    login(h, &shell, &[PASSWORD, &factor.shows(h, 0)]).good();
    h.next_code();
    shell
}

fn password_of(user: &str, h: &Harness) -> String {
    format!("Password of {user} at {}: ", h.address())
}

/// The recovery codes that were printed.
fn recovery_codes(printed: &str) -> Vec<String> {
    let is_code = |word: &&str| word.len() == 19 && word.split('-').all(|group| group.len() == 4);
    printed.split_whitespace().filter(is_code).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_asks_for_the_code_and_asks_again_after_a_wrong_one() {
    let h = Harness::start().await;
    let factor = enrolled(&h).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let (password, right) = (password_of("ada", &h), factor.shows(&h, 0));
    let spaced = format!("{} {}", &right[..3], &right[3..]);
    let answers = [(password.as_str(), PASSWORD), (CODE, "000000"), (CODE, ""), (CODE, spaced.as_str())];
    let (printed, code) = shell.type_at(&format!("latchkey login ada --server {}", h.address()), &answers);
    assert_eq!((printed.matches(AGAIN).count(), code), (1, 0), "{printed}");
    assert!(printed.contains("✔ signed in as ada at ") && printed.contains("next: latchkey whoami"), "{printed}");
    assert!(!printed.contains(&right) && !printed.contains(&spaced), "what is typed is not shown: {printed}");
    let listed = shell.latchkey(&["--local", "sessions", "list", "ada"]).good();
    assert!(listed.contains("pwd otp") && !listed.contains("mfa"), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_five_wrong_codes_a_sign_in_ends_and_the_next_one_says_how_long_to_wait() {
    let h = Harness::start().await;
    let factor = enrolled(&h).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let password = password_of("ada", &h);
    let wrong = (CODE, "000000");
    let answers = [(password.as_str(), PASSWORD), wrong, wrong, wrong, wrong, wrong];
    let (printed, code) = shell.type_at(&format!("latchkey login ada --server {}", h.address()), &answers);
    assert_eq!((printed.matches(CODE).count(), printed.matches(AGAIN).count(), code), (5, 4, 1), "{printed}");
    assert!(
        printed.contains(&format!(
            "hint: start again with `latchkey --server {} login ada`; if every code is",
            h.address()
        )),
        "{printed}"
    );
    login(&h, &shell, &[PASSWORD, &factor.shows(&h, 0)]).fails(
        1,
        "error: too many wrong codes; try again in …\n\n\
         hint: wait, then `latchkey … login ada`; an operator can lift the wait with `latchkey … users unlock ada`",
    );
    let shown = shell.latchkey(&["users", "show", "ada"]).good();
    assert!(shown.contains("10 recovery codes left; codes refused until "), "{shown}");
    let lifted = shell.latchkey(&["users", "unlock", "ada"]).good();
    assert!(lifted.contains("lifted  the throttle"), "{lifted}");
    login(&h, &shell, &[PASSWORD, &factor.shows(&h, 0)]).good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_standard_input_are_the_password_the_code_and_the_new_password() {
    let h = Harness::start().await;
    let factor = enrolled(&h).await;
    h.operator().await.require_change("ada").await.expect("a demand");
    let shell = terminal(&h);
    login(&h, &shell, &[PASSWORD, "000000"]).fails(
        1,
        "error: the code is wrong, or was used before; wait for the next one\n\n\
         hint: start again with `latchkey --server … login ada`; …",
    );
    login(&h, &shell, &[PASSWORD]).fails(2, "error: standard input ends before the code of the second factor");
    let signed_in = login(&h, &shell, &[PASSWORD, &factor.shows(&h, 0), OTHER_PASSWORD]);
    assert!(signed_in.stderr.contains("An operator asks you to change your password."), "{signed_in:?}");
    assert!(signed_in.good().contains("✔ signed in as ada at "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_code_signs_in_and_the_command_says_how_many_are_left() {
    let h = Harness::start().await;
    let factor = enrolled(&h).await;
    let shell = terminal(&h);
    let typed = factor.recovery_codes[0].to_uppercase().replace('-', " ");
    let signed_in = login(&h, &shell, &[PASSWORD, &typed]).good();
    assert!(signed_in.contains("! a recovery code signs in once; 9 recovery codes left\n"), "{signed_in}");
    assert!(signed_in.contains("next: latchkey mfa codes\n        for new recovery codes\n"), "{signed_in}");
    let listed = shell.latchkey(&["--local", "sessions", "list", "ada"]).good();
    assert!(listed.contains("pwd mfa"), "{listed}");
    let events = shell.latchkey(&["--local", "audit", "list", "--user", "ada"]).good();
    assert!(events.contains("✔ recovery code used, 9 left"), "{events}");
    assert!(events.contains("✔ password right, code outstanding"), "{events}");
    let as_json = ["login", "ada", "--password-stdin", "-o", "json", "--server", &h.url()];
    let answer = shell.feed("latchkey", &as_json, &format!("{PASSWORD}\n{}\n", factor.recovery_codes[1])).json();
    assert_eq!(answer["recoveryCodesLeft"], 8);
    assert!(answer["progress"]["tokens"]["accessToken"].is_string(), "{answer}");
}

/// The modules of a QR code on a terminal, true where dark, and whether every symbol had both colours.
fn modules(printed: &str) -> Vec<Vec<bool>> {
    let mut rows = Vec::new();
    for line in printed.lines().filter(|line| line.contains("\u{1b}[38;5;16;48;5;231m")) {
        let drawn = line.trim().strip_prefix("\u{1b}[38;5;16;48;5;231m").expect("both colours from the first symbol");
        let drawn = drawn.strip_suffix("\u{1b}[0m").expect("the terminal's own colours after the last");
        rows.push(drawn.chars().map(|symbol| matches!(symbol, '█' | '▀')).collect());
        rows.push(drawn.chars().map(|symbol| matches!(symbol, '█' | '▄')).collect());
    }
    rows
}

/// What a scanner reads.
fn scanned(shell: &Shell, modules: &[Vec<bool>]) -> String {
    const SCALE: usize = 6;
    let width = modules.first().map_or(0, Vec::len) * SCALE;
    let mut picture = format!("P5 {width} {} 255\n", modules.len() * SCALE).into_bytes();
    for row in modules {
        let pixels: Vec<u8> =
            row.iter().flat_map(|dark| std::iter::repeat_n(if *dark { 0 } else { 255 }, SCALE)).collect();
        (0..SCALE).for_each(|_| picture.extend_from_slice(&pixels));
    }
    std::fs::write(shell.path("code.pgm"), picture).expect("a picture");
    let read = shell.bash("zbarimg --quiet --raw code.pgm");
    String::from_utf8(read.stdout).expect("UTF-8").trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scanner_reads_the_code_on_the_terminal_and_the_first_code_finishes_the_set_up() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let other = h.signed_in("ada", PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    if !shell.has("script") || !shell.has("zbarimg") {
        return;
    }
    let enroll = "/usr/bin/env -u NO_COLOR TERM=xterm-256color latchkey mfa enroll --label desk";
    let mut factor = None;
    let (printed, code) = shell.converse(80, enroll, &[FIRST, FIRST], |printed| {
        if factor.is_none() {
            let uri = scanned(&shell, &modules(printed));
            assert!(uri.starts_with("otpauth://totp/latchkey:desk?secret="), "{uri:?}: {printed}");
            let secret = uri.split_once("?secret=").and_then(|(_, rest)| rest.split('&').next()).expect("a key");
            let shown = printed.replace("\u{1b}[2m", "").replace("\u{1b}[0m", "").replace(' ', "");
            assert!(shown.contains(&format!("key{secret}")), "the key can be typed, too: {printed}");
            factor = Some(Authenticator::with(secret, Vec::new()));
            return "000000".to_owned();
        }
        factor.as_ref().expect("an authenticator").shows(&h, 0)
    });
    assert_eq!((code, printed.matches("Is the clock of the phone right?").count()), (0, 1), "{printed}");
    assert!(printed.contains("your second factor is set up; 1 other session ended"), "{printed}");
    let codes = recovery_codes(&anstream::adapter::strip_str(&printed).to_string());
    assert_eq!(codes.len(), 10, "{printed}");
    other.client.who_am_i().await.expect_err("the other session has ended");
    h.next_code();
    let factor = factor.expect("an authenticator");
    login(&h, &shell, &[PASSWORD, &factor.shows(&h, 0)]).good();
    login(&h, &shell, &[PASSWORD, &codes[9]]).good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_code_can_be_drawn_the_key_is_printed_in_groups_and_five_wrong_codes_change_nothing() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    if !shell.has("script") {
        return;
    }
    let coloured = "/usr/bin/env -u NO_COLOR TERM=xterm-256color latchkey mfa enroll";
    for (columns, command) in
        [(100, "latchkey mfa enroll"), (100, &format!("{coloured} --no-qr") as &str), (40, coloured)]
    {
        let (printed, code) = shell.type_at_width(columns, command, &[(FIRST, "000000"); 5]);
        let printed = anstream::adapter::strip_str(&printed).to_string();
        let flowed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!((code, flowed.matches("Is the clock of the phone right?").count()), (1, 4), "{printed}");
        assert!(printed.contains("URI  otpauth://totp/latchkey:ada?secret=") && !printed.contains('█'), "{printed}");
        let key = printed.lines().find_map(|line| line.trim().strip_prefix("key")).expect("a key");
        assert!(key.split_whitespace().all(|group| group.len() == 4), "{printed}");
        assert!(!printed.contains("ticket"), "no user has to type it: {printed}");
        assert!(flowed.contains("hint: nothing was changed; let the phone set its clock by the"), "{printed}");
    }
    assert!(!h.operator().await.user("ada").await.second_factor_status.expect("a status").totp_enrolled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_the_set_up_has_two_halves_and_json_is_the_contracts_own() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let other = h.signed_in("ada", PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    let before = std::fs::read_to_string(shell.path("state/latchkey/login.json")).expect("a login");
    let begun = shell.latchkey(&["mfa", "enroll"]).good();
    assert!(begun.contains("next: latchkey mfa confirm --ticket-stdin\n        with the ticket and a code"), "{begun}");
    let begun = shell.latchkey(&["mfa", "enroll", "-o", "json"]).json();
    let field = |name: &str| begun[name].as_str().unwrap_or_else(|| panic!("no {name}: {begun}")).to_owned();
    let factor = Authenticator::with(&field("secret"), Vec::new());
    let confirm = |code: &str, output: &str| {
        let lines = format!("{}\n{code}\n", field("ticket"));
        shell.feed("latchkey", &["mfa", "confirm", "--ticket-stdin", "-o", output], &lines)
    };
    confirm("000000", "text").fails(
        1,
        "error: the code is wrong, or was used before; wait for the next one\n\n\
         hint: nothing was changed; let the phone set its clock by the network, and start again with `latchkey mfa enroll`",
    );
    let done = confirm(&factor.shows(&h, 0), "json").json();
    assert_eq!(done["recoveryCodes"].as_array().map(Vec::len), Some(10), "{done}");
    assert_eq!((&done["sessionsRevoked"], &done["secondFactorStatus"]["recoveryCodesLeft"]), (&1.into(), &10.into()));
    confirm(&factor.shows(&h, 0), "text").fails(1, "error: the ticket was used …\n\nhint: nothing was changed; …");
    other.client.who_am_i().await.expect_err("the other session has ended");
    let after = std::fs::read_to_string(shell.path("state/latchkey/login.json")).expect("a login");
    assert_ne!(before, after, "the stored login is renewed, so that services learn of the second factor");
    let me = shell.latchkey(&["whoami"]).good();
    assert!(me.contains("second factor  since ") && me.contains("10 recovery codes left"), "{me}");

    h.next_code();
    let again = shell.feed("latchkey", &["mfa", "codes", "--code-stdin"], &factor.shows(&h, 0)).good();
    let codes = recovery_codes(&again);
    assert_eq!(codes.len(), 10, "{again}");
    let columns = again.lines().filter(|line| recovery_codes(line).len() == 2).count();
    assert!(columns == 5 && again.contains("keep them where you keep your passport"), "{again}");
    assert!(codes.iter().all(|code| !done["recoveryCodes"].to_string().contains(code)), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_makes_new_recovery_codes_replaces_the_authenticator_and_removes_it() {
    let h = Harness::start().await;
    let factor = enrolled(&h).await;
    let shell = proved(&h, &factor);
    if !shell.has("script") {
        return;
    }
    shell.latchkey(&["mfa", "disable"]).fails(
        2,
        "This removes your second factor …\nerror: there is no terminal to ask for the code\n\nhint: use --code-stdin",
    );
    let (printed, code) = shell.type_at("latchkey mfa codes", &[(CODE, "000000"), (CODE, &factor.shows(&h, 0))]);
    let codes = recovery_codes(&printed);
    assert_eq!((printed.matches(AGAIN).count(), codes.len(), code), (1, 10, 0), "{printed}");
    let (printed, code) = shell.type_at("latchkey mfa enroll", &[(CODE, codes[0].as_str()), (FIRST, "\u{4}")]);
    assert!(code == 1 && printed.contains("URI  otpauth://totp/"), "a recovery code is enough: {printed}");
    let (printed, code) = shell.type_at("latchkey mfa disable", &[(CODE, codes[1].as_str())]);
    assert!(code == 0 && printed.contains("This removes your second factor and its recovery codes"), "{printed}");
    assert!(printed.contains("✔ your second factor is removed\n  undo: latchkey mfa enroll"), "{printed}");
    shell
        .latchkey(&["mfa", "disable"])
        .fails(1, "error: you have no second factor\n\nhint: set one up with `latchkey mfa enroll`");
    let ran = shell.feed("latchkey", &["mfa", "codes", "--code-stdin"], "123456");
    ran.fails(1, "error: you have no second factor\n\nhint: …");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_needs_a_code_whoever_asks_for_it() {
    let h = Harness::start().await;
    let factor = enrolled(&h).await;
    let shell = proved(&h, &factor);
    let passwd = |lines: &[&str]| shell.feed("latchkey", &["passwd", "--password-stdin"], &lines.join("\n"));
    passwd(&[PASSWORD, OTHER_PASSWORD]).fails(2, "error: standard input ends before the code of the second factor");
    passwd(&[PASSWORD, OTHER_PASSWORD, "000000"])
        .fails(1, "error: the code is wrong, …\n\nhint: each code works once; …");
    passwd(&[PASSWORD, OTHER_PASSWORD, &factor.shows(&h, 0)]).good();
    let request = v1::ResetPasswordRequest {
        user: Some(named("ada")),
        method: Some(v1::reset_password_request::Method::ReturnLink(v1::ReturnLink::default())),
        ..Default::default()
    };
    let secret = h.operator().await.reset_with(request).await.expect("a reset").secret;
    let Some(v1::reset_password_response::Secret::ResetLink(link)) = secret else { panic!("no link") };
    let reset = |lines: &[&str]| {
        let args = ["password", "reset", "--token-stdin", "--server", &h.url()];
        shell.feed("latchkey", &args, &lines.join("\n"))
    };
    reset(&[&link, PASSWORD]).fails(2, "error: standard input ends before the code of the second factor");
    if shell.has("script") {
        let answers = [
            ("Link, or its token: ", link.as_str()),
            ("New password: ", PASSWORD),
            ("Once more: ", PASSWORD),
            (CODE, "000000"),
            (CODE, &factor.recovery_codes[0]),
        ];
        let (printed, code) = shell.type_at(&format!("latchkey password reset --server {}", h.address()), &answers);
        assert_eq!((printed.matches(AGAIN).count(), code), (1, 0), "{printed}");
        assert!(
            printed.contains("It needs a code of your authenticator") && printed.contains("✔ your password is set")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recent_sign_in_is_proved_with_password_and_code() {
    let h = Harness::start().await;
    h.create("root", &["admin"], PASSWORD).await;
    let root = h.signed_in("root", PASSWORD).await;
    let factor = h.enroll(&root).await;
    let shell = terminal(&h);
    let lines = format!("{PASSWORD}\n{}\n", factor.shows(&h, 0));
    shell.feed("latchkey", &["login", "root", "--password-stdin", "--server", &h.url()], &lines).good();
    for _ in 0..2 {
        h.clock.advance(Duration::from_mins(10));
        shell.latchkey(&["whoami"]).good();
    }
    if !shell.has("script") {
        return;
    }
    let password = password_of("root", &h);
    let answers = [(password.as_str(), PASSWORD), (CODE, "000000"), (CODE, &factor.shows(&h, 0))];
    let (printed, code) = shell.type_at("latchkey users create eve --role viewer", &answers);
    assert!(code == 0 && printed.contains("✔ eve is created"), "{printed}");
    assert!(printed.starts_with("This needs a recent sign-in.\n") && printed.matches(AGAIN).count() == 1, "{printed}");
    let (printed, code) = shell.type_at("latchkey users create bob --role viewer", &[]);
    assert!(code == 0 && printed.starts_with("✔ bob is created"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whom_the_policy_asks_for_a_second_factor_is_told_and_then_sets_one_up_while_signing_in() {
    let h = Harness::start().await;
    h.create("ada", &["helpdesk"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let policy = |from: &str| {
        let set = ["--local", "policy", "set", "--second-factor", "helpdesk", "--from", from, "--yes"];
        shell.latchkey(&set).good()
    };
    policy("7d");
    let told = login(&h, &shell, &[PASSWORD]).good();
    assert!(told.contains("! from ") && told.contains(" on, this server asks you for a second factor\n"), "{told}");
    assert!(told.contains("next: latchkey mfa enroll"), "{told}");
    assert!(shell.latchkey(&["whoami"]).good().contains("second factor  none; asked for from "));
    let missing = shell.latchkey(&["--local", "mfa", "missing"]).good();
    assert!(missing.contains("  ada ") && !missing.contains("bob"), "{missing}");

    policy("now");
    let shown = shell.latchkey(&["--local", "users", "show", "ada"]).good();
    assert!(shown.contains("second factor  none: the next sign-in sets one up\n"), "{shown}");
    login(&h, &shell, &[PASSWORD]).fails(
        1,
        "error: this server asks for a second factor, and you have set up none\n\n\
         hint: sign in at a terminal: `latchkey --server … login ada`",
    );
    let (password, mut asked) = (password_of("ada", &h), 0);
    let sign_in = format!("latchkey login ada --server {}", h.address());
    let (printed, code) = shell.converse(100, &sign_in, &[&password, FIRST], |printed| {
        asked += 1;
        if asked == 1 {
            return PASSWORD.to_owned();
        }
        let (_, secret) = printed.split_once("?secret=").expect("a URI");
        Authenticator::with(secret.split('&').next().expect("a key"), Vec::new()).shows(&h, 0)
    });
    assert!(code == 0 && printed.contains("This server asks you for a second factor. Set up"), "{printed}");
    assert_eq!(recovery_codes(&printed).len(), 10, "{printed}");
    assert!(printed.contains("✔ signed in as ada at "), "{printed}");
    assert!(shell.latchkey(&["--local", "mfa", "missing"]).good().contains("no users"));
    h.next_code();
    let codes = recovery_codes(&printed);
    shell
        .feed("latchkey", &["mfa", "disable", "--code-stdin"], &codes[0])
        .fails(1, "This removes …\nerror: …\n\nhint: replace the authenticator with `latchkey mfa enroll`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_resets_and_contains_a_second_factor() {
    let h = Harness::start().await;
    h.create("root", &["operator"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    h.enroll(&h.signed_in("bob", PASSWORD).await).await;
    enrolled(&h).await;
    let shell = terminal_of(&h, "root");
    if !shell.has("script") {
        return;
    }
    for (mark, block) in blocks(include_str!("transcripts/second_factor.md"), &["console", "console terminal"]) {
        if mark == "console" {
            shell.play(&steps(&block));
        } else {
            for step in &steps(&block) {
                shell.play_at_terminal(step);
            }
        }
    }
    let events = h.operator().await.events().await;
    let reset = events.iter().find(|event| event.r#type() == v1::EventType::SecondFactorReset).expect("an event");
    assert_eq!(reset.note, "ticket 4711");
}
