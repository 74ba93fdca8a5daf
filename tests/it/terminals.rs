//! What is printed on terminals of different widths, to pipes, and by completions.

use latchkey::proto::v1;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::harness::actors::named;
use crate::harness::transcript::{Shell, blocks, steps};
use crate::harness::{Harness, PASSWORD};

const LONG: &str = "maximiliana.wintersberger-oeztuerk";
const SERVICE: &str = "svc-production-mailer";
const WIDTHS: [usize; 4] = [60, 80, 120, 200];

fn terminal(h: &Harness) -> Shell {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
    shell.reach(&h.address());
    shell
}

/// The columns that a line takes on a terminal.
fn columns(line: &str) -> usize {
    line.graphemes(true).map(UnicodeWidthStr::width).sum()
}

#[track_caller]
fn fits(printed: &str, width: usize) {
    for line in printed.lines() {
        assert!(columns(line) <= width, "{} columns of {width}: {line}\n{printed}", columns(line));
    }
}

/// A server with long names, names of several scripts, and tokens.
async fn populated() -> Harness {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let people = [
        (LONG, "Maximiliana Wintersberger-Öztürk von und zu Hohenstein"),
        ("zhang.wei", "张伟明（財務部 東京本社 第二営業所）"),
        ("ali", "علی\u{200c}رضا محمدی"),
        ("family", "👩\u{200d}👩\u{200d}👧 a name with pictures 👩🏽\u{200d}💻👩🏽\u{200d}💻👩🏽\u{200d}💻"),
    ];
    for (username, display_name) in people {
        h.create(username, &["helpdesk"], PASSWORD).await;
        let request = v1::UpdateUserRequest {
            user: Some(named(username)),
            display_name: Some(display_name.to_owned()),
            ..Default::default()
        };
        operator.user_admin().update_user(request).await.expect("a name");
    }
    let service = v1::CreateUserRequest {
        username: SERVICE.to_owned(),
        kind: v1::UserKind::Service.into(),
        roles: vec!["helpdesk".to_owned(), "auditor".to_owned()],
        ..Default::default()
    };
    operator.user_admin().create_user(service).await.expect("a service");
    for name in ["production notification mailer", "ci"] {
        let token = v1::CreateApiTokenRequest {
            user: Some(named(SERVICE)),
            name: name.to_owned(),
            scopes: ["audit.read", "sessions.read", "users.lock", "users.read"].map(str::to_owned).to_vec(),
            ..Default::default()
        };
        operator.user_admin().create_api_token(token).await.expect("a token");
    }
    h.signed_in(LONG, PASSWORD).await;
    h.signed_in(LONG, PASSWORD).await;
    operator.lock("ali").await.expect("a lock");
    let address = v1::UpdateUserRequest {
        user: Some(named(LONG)),
        email: Some("m.wintersberger-oeztuerk@department.example.com".to_owned()),
        ..Default::default()
    };
    operator.user_admin().update_user(address).await.expect("an address");
    let reset = v1::ResetPasswordRequest { user: Some(named(LONG)), ..Default::default() };
    operator.user_admin().reset_password(reset).await.expect("a link");
    h
}

/// The values of a field in JSON, wherever it is.
fn values(json: &serde_json::Value, field: &str, found: &mut Vec<String>) {
    match json {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == field => found.push(text.to_owned()),
                    _ => values(value, field, found),
                }
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| values(value, field, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_fits_its_terminal_and_no_identifier_is_cut() {
    let h = populated().await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let tables = [
        ("users list".to_owned(), "username"),
        ("users list --attention".to_owned(), "username"),
        (format!("sessions list {LONG}"), "id"),
        ("tokens list".to_owned(), "id"),
        ("audit list".to_owned(), "targetUsername"),
        ("deliveries list".to_owned(), "id"),
        (format!("users history {LONG}"), "targetUsername"),
        ("roles".to_owned(), "name"),
    ];
    for (table, field) in &tables {
        let words: Vec<&str> = table.split(' ').chain(["--output", "json"]).collect();
        let mut identifiers = Vec::new();
        values(&shell.latchkey(&words).json(), field, &mut identifiers);
        assert!(!identifiers.is_empty(), "{table}");
        for width in WIDTHS {
            let (printed, code) = shell.type_at_width(width, &format!("latchkey {table}"), &[]);
            assert_eq!(code, 0, "{printed}");
            fits(&printed, width);
            for identifier in &identifiers {
                assert!(printed.contains(identifier.as_str()), "{table}, {width}: {identifier} is cut:\n{printed}");
            }
        }
        let piped = shell.latchkey(&table.split(' ').collect::<Vec<_>>()).good();
        assert!(!piped.lines().any(|line| line.ends_with('\u{2026}')), "a pipe gets the whole: {piped}");
    }
    let piped = shell.latchkey(&["users", "list"]).good();
    assert!(piped.contains("von und zu Hohenstein") && piped.contains("SIGNED IN"), "{piped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_all_scripts_are_printed_as_they_are() {
    let h = populated().await;
    let shell = terminal(&h);
    let printed = shell.latchkey(&["users", "list"]).good();
    for name in ["علی\u{200c}رضا محمدی", "👩\u{200d}👩\u{200d}👧 a name", "张伟明（財務部"] {
        assert!(printed.contains(name), "{name}: {printed}");
    }
    // The columns after a wide name are aligned.
    let states: Vec<usize> = printed.lines().filter_map(|line| Some(columns(line.split_once(['●', '✖'])?.0))).collect();
    assert!(states.len() >= 5 && states.iter().all(|at| *at == states[0]), "{states:?}\n{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_errors_and_hints_fit_the_terminal() {
    let h = populated().await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    for command in [
        format!("users show {LONG}"),
        format!("users diagnose {LONG} --from 2001:db8:1:2:3:4:5:6"),
        "users diagnose ali".to_owned(),
        "users diagnose zhnag.wei".to_owned(),
        "whoami".to_owned(),
        "users show maximilana.wintersberger".to_owned(),
        "users list --kind x --state y".to_owned(),
        "audit list --type x".to_owned(),
        "status --server http://192.0.2.1:50051".to_owned(),
        format!("users unlock {LONG}"),
    ] {
        for width in WIDTHS {
            let (printed, _) = shell.type_at_width(width, &format!("latchkey {command}"), &[]);
            fits(&printed, width);
        }
    }
    let question = format!("latchkey users lock {LONG}");
    let (printed, code) = shell.type_at_width(60, &question, &[("[y/N] ", "n")]);
    assert_eq!(code, 1, "{printed}");
    fits(&printed, 60);
}

#[test]
fn every_help_fits_the_terminal_and_has_the_global_options_in_one_line() {
    let shell = Shell::default();
    if !shell.has("script") {
        return;
    }
    for command in [
        "",
        "status",
        "users",
        "users list",
        "users show",
        "users diagnose",
        "users recover",
        "users create",
        "users update",
        "users delete",
        "users lock",
        "users contain",
        "users unlock",
        "users reset",
        "users require-change",
        "users waive-change",
        "sessions list",
        "sessions revoke",
        "tokens list",
        "tokens create",
        "tokens revoke",
        "roles",
        "audit list",
        "deliveries list",
        "deliveries show",
        "deliveries resend",
        "deliveries cancel",
        "deliveries watch",
        "email verify",
        "email confirm",
        "password forgot",
        "password reset",
        "password cancel",
        "mfa",
        "mfa enroll",
        "mfa confirm",
        "mfa disable",
        "mfa codes",
        "mfa missing",
        "mfa reset",
        "login",
        "logout",
        "passwd",
        "completions",
        "man",
    ] {
        for width in [60, 80] {
            let (help, code) = shell.type_at_width(width, &format!("latchkey {command} --help"), &[]);
            assert_eq!(code, 0, "{help}");
            fits(&help, width);
            assert_eq!(help.matches("Global options: latchkey help options").count(), 1, "{help}");
            assert!(!help.contains("--tls-ca") && !help.contains("--socket"), "{help}");
            let most = match command {
                "" | "users" => 28,
                "audit list" => 36,
                _ if command.starts_with("users ") => 36,
                _ => 24,
            };
            assert!(width < 80 || help.lines().count() <= most, "{command}: {} lines\n{help}", help.lines().count());
        }
    }
    let options = shell.latchkey(&["help", "options"]).good();
    assert!(options.contains("--tls-ca") && options.contains("Exit codes:"), "{options}");
    assert_eq!(shell.latchkey(&["options"]).good(), options);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_narrow_terminal_shows_is_told_word_for_word() {
    let h = Harness::start().await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let transcript = include_str!("transcripts/narrow.md");
    let mut played = 0;
    for (mark, block) in blocks(transcript, &["console", "console 60", "console 80"]) {
        match mark.strip_prefix("console ") {
            None => shell.play(&steps(&block)),
            Some(columns) => {
                for step in steps(&block) {
                    shell.play_at_width(columns.parse().expect("a width"), &step);
                    played += 1;
                }
            }
        }
    }
    assert!(played >= 8, "{played} commands");
}

/// What bash is offered for the last word of a command line.
fn offered(shell: &Shell, line: &str) -> Vec<String> {
    let words = line.split(' ').count() - 1;
    let ask = format!(
        "_CLAP_IFS=' ' _CLAP_COMPLETE_INDEX={words} _CLAP_COMPLETE_COMP_TYPE=9 _CLAP_COMPLETE_SPACE=true \
         LATCHKEY_COMPLETE=bash latchkey -- {line}"
    );
    let answer = shell.bash(&ask);
    assert!(answer.status.success() && answer.stderr.is_empty(), "{line}: {answer:?}");
    String::from_utf8_lossy(&answer.stdout).split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_know_roles_scopes_states_and_users() {
    let h = populated().await;
    let shell = terminal(&h);
    let roles = shell.latchkey(&["roles", "--output", "json"]).json();
    let (mut names, mut scopes) = (Vec::new(), Vec::new());
    for role in roles["roles"].as_array().expect("roles") {
        names.push(role["name"].as_str().expect("a name").to_owned());
        let of_role = role["scopes"].as_array().expect("scopes").iter();
        scopes.extend(of_role.map(|scope| scope.as_str().expect("a scope").to_owned()));
    }
    scopes.sort_unstable();
    scopes.dedup();
    assert_eq!(offered(&shell, "latchkey users list --role ''"), names, "the roles of the server");
    assert_eq!(offered(&shell, "latchkey tokens create svc --scope ''"), scopes, "the scopes of the server");
    assert_eq!(offered(&shell, "latchkey users list --state p"), ["pending"]);
    assert_eq!(offered(&shell, "latchkey users show ma"), [LONG]);
    assert_eq!(offered(&shell, "latchkey audit list --user z"), ["zhang.wei"]);
    assert_eq!(offered(&shell, "latchkey users list --ser"), ["--server"], "hidden options too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_silent_without_a_server_and_write_no_event_without_the_right() {
    let h = populated().await;
    h.create("without.roles", &[], PASSWORD).await;
    let nowhere = Shell::default();
    assert!(offered(&nowhere, "latchkey --server 127.0.0.1:1 users show m").is_empty());
    assert!(offered(&nowhere, "latchkey --socket /nowhere.sock users show m").is_empty());
    let shell = crate::cli::terminal_of(&h, "without.roles");
    assert!(offered(&shell, "latchkey users show m").is_empty());
    let denied = ["--local", "audit", "list", "--type", "access-denied", "--output", "json"];
    assert!(shell.latchkey(&denied).json()["events"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistyped_name_is_answered_with_the_nearest() {
    let h = populated().await;
    let shell = terminal(&h);
    let hinted = |typed: &str| shell.latchkey(&["users", "show", typed]).stderr;
    assert!(hinted("maximilana.wintersberger").contains(&format!("hint: did you mean {LONG}?")));
    assert!(hinted("zhnag.wei").contains("hint: did you mean zhang.wei?"));
    assert!(hinted("lai").contains("hint: did you mean ali?"), "the first letter may be wrong");
    let none = hinted("qqqqqq");
    assert!(none.contains("no name is like it; `latchkey audit list --user qqqqqq`"), "{none}");
}
