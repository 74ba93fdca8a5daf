//! What the command line prints, for people and for machines, and what it never prints.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use latchkey::proto::DESCRIPTORS;
use latchkey::proto::v1;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::cli::{terminal, terminal_of};
use crate::harness::transcript::Shell;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, log};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_the_contracts_own() {
    let h = Harness::start().await;
    h.create("ada", &["helpdesk"], PASSWORD).await;
    let operator = h.operator().await;
    let shell = terminal(&h);

    let user = v1::GetUserResponse { user: Some(operator.user("ada").await), ..Default::default() };
    assert_eq!(shell.latchkey(&["users", "show", "ada", "--output", "json"]).json(), proto3(&user, "GetUserResponse"));
    let roles = operator.user_admin().list_roles(v1::ListRolesRequest {}).await.expect("roles").into_inner();
    assert_eq!(shell.latchkey(&["roles", "--output", "json"]).json(), proto3(&roles, "ListRolesResponse"));

    let locked =
        shell.latchkey(&["users", "lock", "ada", "--yes", "--output", "json", "--note", "zero\u{200b}width"]).good();
    assert!(locked.contains(r#""note": "zero\u200bwidth""#), "what cannot be seen is escaped as JSON has it: {locked}");
    let shown = shell.latchkey(&["users", "show", "ada"]).good();
    assert!(shown.contains(r"zero\u{200b}width"), "what cannot be seen is shown: {shown}");
    let refused = shell.latchkey(&["users", "reset", "ada", "--temporary-password", "--yes", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(&refused.stderr).expect("JSON");
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert_eq!(error["error"]["code"], "FAILED_PRECONDITION");
    assert_eq!(error["error"]["reason"], "USER_LOCKED");
    assert_eq!(error["error"]["metadata"]["lockCause"], "OPERATOR");
    assert!(error["error"]["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{error}");
    let wrong = shell.latchkey(&["users", "create", "A!", "--email", "x", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(&wrong.stderr).expect("JSON");
    let fields: Vec<_> = error["error"]["violations"].as_array().expect("violations").iter().collect();
    assert_eq!(
        fields.iter().map(|field| field["field"].as_str()).collect::<Vec<_>>(),
        [Some("username"), Some("email")]
    );
}

/// Uses reflection, so the code is independent of the types of the commands.
fn proto3<M: Message>(message: &M, name: &str) -> serde_json::Value {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let descriptor = pool.get_message_by_name(&format!("latchkey.v1.{name}")).expect("a message");
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).expect("the same");
    serde_json::to_value(message).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_are_one_list() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for number in 0..501 {
        let request = v1::CreateUserRequest { username: format!("user{number:03}"), ..Default::default() };
        operator.user_admin().create_user(request).await.expect("a user");
    }
    let shell = terminal(&h);
    let text = shell.latchkey(&["users", "list", "--all"]).good();
    assert_eq!(text.lines().filter(|line| line.contains("USER")).count(), 1, "one head for all pages");
    assert_eq!(text.lines().count(), 503);
    assert!(text.lines().last().is_some_and(|line| line.starts_with("  501 users ")), "{text}");

    let lines = shell.latchkey(&["users", "list", "--all", "--output", "json"]).good();
    let pages: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let sizes: Vec<_> = pages.iter().map(|page| page["users"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(sizes, [500, 1]);

    let first = shell.latchkey(&["users", "list", "--limit", "2", "--output", "json"]).json();
    let token = first["nextPageToken"].as_str().expect("a token");
    let second = shell.latchkey(&["users", "list", "--limit", "1", "--page-token", token, "--output", "json"]).json();
    assert_eq!(second["users"][0]["username"], "user002");

    let piped = shell.bash("set -o pipefail; latchkey users list --all | head -1");
    assert!(piped.status.success() && piped.stderr.is_empty(), "a reader that goes away is no error: {piped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_not_among_the_arguments() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal(&h);
    for wrong in
        [["users", "create", "eve", "--password", PASSWORD].as_slice(), &["login", "ada", "--password", PASSWORD]]
    {
        let refused = shell.latchkey(wrong);
        assert!(refused.code == 2 && refused.stderr.contains("unexpected argument '--password'"), "{refused:?}");
    }
    let mut command = shell.command("latchkey");
    command.args(["login", "ada", "--password-stdin", "--server", &h.url()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
    let proc = |file: &str| std::fs::read(format!("/proc/{}/{file}", child.id())).expect("a file of /proc");
    let (line, environment) = (proc("cmdline"), proc("environ"));
    assert!(!String::from_utf8_lossy(&line).contains("c4nary"));
    assert!(!String::from_utf8_lossy(&environment).contains("c4nary"));
    child.stdin.take().expect("an input").write_all(PASSWORD.as_bytes()).expect("a password");
    let mut printed = String::new();
    child.stdout.take().expect("an output").read_to_string(&mut printed).expect("text");
    assert!(child.wait().expect("an end").success());
    assert!(!log::has_secret(&printed), "no token is printed unless it is asked for: {printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_once() {
    let h = Harness::start().await;
    let shell = terminal(&h);
    let created = shell.latchkey(&["users", "create", "ada", "--temporary-password"]).good();
    let password = created.split_whitespace().find(|word| word.len() == 17 && word.contains('-')).expect("a password");
    assert_eq!(created.matches(password).count(), 1);
    for looking in [["users", "show", "ada"].as_slice(), &["users", "list"], &["audit", "list"]] {
        for output in ["text", "json"] {
            let shown = shell.latchkey(&[looking, &["--output", output]].concat()).good();
            assert!(!shown.contains(password) && !log::has_secret(&shown), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_call_that_is_shown_for_grpcurl_works() {
    let h = Harness::start().await;
    h.create("ada", &["operator"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    let mut shell = terminal_of(&h, "ada");
    if !shell.has("grpcurl") {
        return;
    }
    let lock = ["users", "lock", "bob", "--note", "it's a $TEST", "--show-grpcurl"];
    let shown = shell.latchkey(&lock).good();
    assert!(shown.contains("'authorization: Bearer ${LATCHKEY_TOKEN}'") && !log::has_secret(&shown), "{shown}");
    assert_eq!(h.operator().await.user("bob").await.state(), v1::UserState::Active, "it is shown and not made");
    shell.set("LATCHKEY_TOKEN", &h.signed_in("ada", PASSWORD).await.tokens.access_token);
    assert!(shell.bash(&shown).status.success(), "{shown}");
    assert_eq!(h.operator().await.user("bob").await.lock.expect("a lock").note, "it's a $TEST");

    let shown = shell.latchkey(&["--local", "users", "unlock", "bob", "--show-grpcurl"]).good();
    assert!(shell.bash(&shown).status.success(), "{shown}");
    assert_eq!(h.operator().await.user("bob").await.state(), v1::UserState::Active);

    let reset = ["users", "reset", "bob", "--set-password", "--password-stdin", "--show-grpcurl"];
    let shown = shell.feed("latchkey", &reset, OTHER_PASSWORD).good();
    assert!(shown.contains("<password>") && !shown.contains("c4nary"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_could_not_be_written_is_exit_1_and_says_how_to_get_another() {
    let h = Harness::start().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    let shell = terminal(&h);
    // The login is stored, so the other commands say as whom they act.
    let login = format!("echo {PASSWORD:?} | latchkey login bob --password-stdin -o json --server {}", h.address());
    let closed = |command: &str| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        shell.command("bash").args(["-c", command]).stdout(writer).output().expect("bash")
    };
    let full = |command: &str| shell.bash(&format!("{command} >/dev/full"));
    for (number, run) in [(1, &closed as &dyn Fn(&str) -> std::process::Output), (2, &full)] {
        for (command, said) in [
            (
                format!("latchkey --local users create eve{number} --temporary-password"),
                format!("eve{number} is created, but"),
            ),
            (
                format!("latchkey --local users create eva{number} --temporary-password -o json"),
                format!("eva{number} is created, but"),
            ),
            (
                "latchkey --local users reset ada --temporary-password -y".to_owned(),
                "the password of ada is reset, but".to_owned(),
            ),
            ("latchkey --local users reset ada --temporary-password -y -o json".to_owned(), "is lost".to_owned()),
            (
                "latchkey --local tokens create ada --name x --scope users.read".to_owned(),
                "hint: end it with".to_owned(),
            ),
            (login.clone(), "you are signed in, but the tokens".to_owned()),
        ] {
            let ran = run(&command);
            let printed = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.code() == Some(1) && printed.contains(&said), "{command}: {ran:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_device_is_an_error_and_a_closed_pipe_is_none() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal(&h);
    for command in
        ["users list", "users show ada -o json", "status", "roles", "completions bash", "--help", "users unlock ada"]
    {
        let full = shell.bash(&format!("latchkey {command} >/dev/full"));
        assert!(full.status.code() == Some(3) && !full.stderr.is_empty(), "{command}: {full:?}");
    }
    let locked = shell.bash("latchkey users lock ada --yes >/dev/full");
    let printed = String::from_utf8_lossy(&locked.stderr);
    assert!(printed.contains("hint: the server has done what you asked for"), "{printed}");
    let quiet = shell.bash("set -o pipefail; latchkey users unlock ada | true");
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
}

/// Whether a printed text proposes this command next.
fn proposes(shown: &str, command: &str) -> bool {
    shown.lines().any(|line| line.trim_end().ends_with(&format!("next: {command}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_command_is_one_that_helps_and_that_the_caller_may_use() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for (name, roles) in [("bob", &[][..]), ("root", &["admin"])] {
        h.create(name, roles, PASSWORD).await;
        operator.reset(name).await.expect("a reset");
    }
    operator.create(v1::CreateUserRequest { username: "carl".to_owned(), ..Default::default() }).await.expect("carl");
    h.stranger().await.sign_in("bob", OTHER_PASSWORD).await.expect_err("wrong");
    h.clock.advance(Duration::from_hours(25));
    operator.lock("carl").await.expect("a lock");
    let mut shell = Shell::default();
    shell.set("LATCHKEY_SERVER", &h.address());
    for (role, bob, carl, root) in [
        ("viewer", "sessions list bob", "sessions list carl", "sessions list root"),
        ("helpdesk", "users reset bob --temporary-password", "users unlock carl", "sessions list root"),
        ("auditor", "audit list --user bob", "audit list --user carl", "audit list --user root"),
        ("admin", "users reset bob --temporary-password", "users unlock carl", "users reset root --temporary-password"),
    ] {
        let name = format!("a.{role}");
        shell.set("LATCHKEY_TOKEN", &h.person(&name, &[role]).await.tokens.access_token);
        for (user, next) in [("bob", bob), ("carl", carl), ("root", root)] {
            let shown = shell.latchkey(&["users", "show", user]).good();
            assert!(proposes(&shown, &format!("latchkey {next}")), "{role}: {next}\n{shown}");
        }
        let shown = shell.latchkey(&["users", "show", "bob"]).good();
        assert!(shown.lines().nth(1).is_some_and(|line| line.contains("✖ cannot sign in: temporary password expired")));
        assert!(!shown.contains("at the next sign-in"), "there is none: {shown}");
        let has_failures = shown.contains("last failures") && shown.contains("password wrong, from 127.0.0.1");
        assert_eq!(has_failures, role == "helpdesk" || role == "admin", "{role}\n{shown}");
        if role != "auditor" {
            let may_end = role != "viewer";
            let sessions = shell.latchkey(&["sessions", "list", &name]).good();
            assert_eq!(proposes(&sessions, &format!("latchkey sessions revoke {name}")), may_end, "{sessions}");
            let tokens = shell.latchkey(&["tokens", "list"]).good();
            assert_eq!(tokens.contains("latchkey tokens create"), role == "admin", "{tokens}");
        }
    }
    operator.unlock("carl").await.expect("an unlock");
    let shown = shell.latchkey(&["users", "show", "carl"]).good();
    assert!(proposes(&shown, "latchkey users reset carl --temporary-password"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_those_who_need_attention_is_shown_with_the_number_of_all() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for name in ["ada", "bob", "carl", "dora"] {
        h.create(name, &[], PASSWORD).await;
    }
    operator.require_change("ada").await.expect("a requirement");
    operator.reset("bob").await.expect("a reset");
    h.clock.advance(Duration::from_hours(25));
    operator.lock("carl").await.expect("a lock");
    let mut shell = Shell::default();
    shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
    let listed = shell.latchkey(&["--local", "users", "list", "--attention"]).good();
    let names: Vec<&str> = listed.lines().skip(1).take(3).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["carl", "bob", "ada"], "{listed}");
    assert!(listed.contains("3 of 4 users need attention; 2 cannot sign in"), "{listed}");
    let status = shell.latchkey(&["--local", "status"]).good();
    assert!(status.contains("2 cannot sign in, 1 must change the password"), "{status}");
    let answer = shell.latchkey(&["--local", "status", "--output", "json"]).json();
    assert_eq!(
        answer["attention"],
        serde_json::json!({
            "all": 3, "cannotSignIn": 2, "locked": 1, "mustChange": 2, "throttled": 0
        })
    );
    let answer = shell.latchkey(&["--local", "users", "show", "bob", "--output", "json"]).json();
    assert_eq!(
        answer["user"]["signInAbility"],
        serde_json::json!({
            "kind": "SIGN_IN_ABILITY_KIND_NO",
            "reason": "SIGN_IN_ABILITY_REASON_TEMPORARY_PASSWORD_EXPIRED",
            "nextMethod": "latchkey.v1.UserAdmin/ResetPassword"
        })
    );
}
