//! The `latchkey` binary against a real server.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use latchkey::proto::DESCRIPTORS;
use latchkey::proto::v1;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::harness::transcript::{Shell, blocks, steps};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, log};

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

#[test]
fn a_server_that_is_not_there_is_exit_3_and_says_where_to_look() {
    let shell = Shell::default();
    shell.latchkey(&["status", "--server", "127.0.0.1:1"]).fails(
        3,
        "error: cannot reach 127.0.0.1:1: Connection refused (os error 111)\n\n\
         hint: check that latchkeyd is running there; --server or LATCHKEY_SERVER sets the address",
    );
    let nowhere = shell.path("nowhere.sock").display().to_string();
    shell.latchkey(&["users", "list", "--socket", &nowhere]).fails(
        3,
        "error: cannot reach …/nowhere.sock: No such file or directory (os error 2)\n\n\
         hint: check that latchkeyd is running here; --socket names its socket, --server another server",
    );
    std::fs::write(&nowhere, "").expect("a file");
    let file = shell.latchkey(&["users", "list", "--socket", &nowhere]);
    assert!(file.code == 3 && file.stderr.contains("it is not a socket"), "{file:?}");
}

#[test]
fn a_socket_that_was_only_found_is_used_if_it_is_ones_own() {
    let shell = Shell::default();
    std::fs::create_dir(shell.path("latchkey-data")).expect("a directory");
    let path = shell.path("latchkey-data/latchkey.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    if std::os::unix::fs::chown(&path, Some(998), None).is_err() {
        eprintln!("skipped: only root can give a socket away");
        return;
    }
    for found in [["status"].as_slice(), &["whoami", "--local"]] {
        shell.latchkey(found).fails(
            3,
            "error: cannot reach …/latchkey.sock: the socket was not named, and belongs to uid 998, not to you \
             (uid 0)\n\nhint: if this is the right server, name its socket: `--socket PATH`",
        );
    }
    listener.set_nonblocking(true).expect("a listener");
    assert!(listener.accept().is_err(), "there was no connection");
    // A socket given by name can belong to another user, but only to the one that listens there.
    let named = shell.latchkey(&["whoami", "--socket", &path.display().to_string()]);
    assert!(named.stderr.contains("the socket belongs to uid 998, but uid 0 listens there"), "{named:?}");
}

/// A port at which another user listens. `None` if this process may not become another user.
#[cfg(target_os = "linux")]
fn foreign_listener(address: &str) -> Option<std::net::TcpListener> {
    let address = address.to_owned();
    // The user of this thread only.
    let listening = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(998)).ok()?;
        Some(std::net::TcpListener::bind(address).expect("a free port"))
    });
    listening.join().expect("a thread")
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_sent_to_another_user_who_listens_where_the_server_was() {
    let mut h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    shell.latchkey(&["whoami"]).good();
    let address = h.address();
    h.halt().await;
    let Some(listener) = foreign_listener(&address) else {
        eprintln!("skipped: only root can become another user");
        return;
    };
    listener.set_nonblocking(true).expect("a listener");
    let refused = shell.latchkey(&["whoami"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("the server was not named, and uid 998 listens there"), "{refused:?}");
    assert!(refused.stderr.contains("hint: if this is the right server, name it: `--server HOST:PORT`"), "{refused:?}");
    let mut sent = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        stream.set_nonblocking(false).expect("a stream");
        let _ = stream.read_to_end(&mut sent);
    }
    assert!(sent.is_empty(), "{} bytes were sent", sent.len());
    // A user who names the server takes the risk.
    let mut named = shell.command("latchkey");
    named.args(["whoami", "--server", &format!("http://{address}")]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut named = named.spawn().expect("a process");
    listener.set_nonblocking(false).expect("a listener");
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut begin = [0; 24];
    stream.read_exact(&mut begin).expect("the preface of HTTP/2");
    named.kill().expect("a process");
    named.wait().expect("an end");
    drop(stream);
}

#[test]
fn a_server_that_cannot_be_named_is_exit_2() {
    let shell = Shell::default();
    shell.latchkey(&["status", "--server", "https://id.example.org"]).fails(
        2,
        "error: \"https://id.example.org\" is not the address of a server\n\nhint: give it as https://host:port",
    );
    shell
        .latchkey(&["status", "--server", "a", "--socket", "b"])
        .fails(2, "error: --server and --socket cannot be used together");
    let json = shell.latchkey(&["status", "--server", "x", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!((json.code, error["error"]["code"].as_str()), (2, Some("USAGE")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_something_is_asked_before_and_no_is_exit_1() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    h.signed_in("ada", PASSWORD).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let (printed, code) = shell.type_at("latchkey users lock ada --for 2h", &[("[y/N] ", "n")]);
    let user = shell.bash("id -un").stdout;
    let user = String::from_utf8_lossy(&user).trim().to_owned();
    assert_eq!(code, 1, "{printed}");
    assert_eq!(
        printed,
        format!(
            "Lock ada?\n  ends   1 session, now\n  stops  signing in, and API tokens, for 2 h\n  stays  the password\n  \
             as     {user} (local)\nAre you sure? [y/N] n\nNothing was changed."
        )
    );
    let (printed, code) = shell.type_at("latchkey users delete ada", &[("[y/N] ", "")]);
    assert!(code == 1 && printed.contains("ends   the account, its password, 1 session and its API tokens, for good"));
    assert_eq!(h.operator().await.user("ada").await.state(), v1::UserState::Active);

    let (printed, code) = shell.type_at("latchkey users lock ada", &[("[y/N] ", "yes")]);
    assert!(code == 0 && printed.contains("✔ ada is locked\n  ended  1 session\n"), "{printed}");
    let (printed, code) = shell.type_at("latchkey users reset ada --temporary-password", &[]);
    assert_eq!(
        (printed.as_str(), code),
        (
            "error: the account is locked; unlock it first\n\n\
             hint: unlock it with `latchkey users unlock ada`, or reset with --unlock",
            1
        )
    );
    let (printed, code) = shell.type_at("latchkey users reset ada --temporary-password --unlock", &[("[y/N] ", "y")]);
    assert!(code == 0 && printed.contains("  lifts  the lock (locked by "), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containment_shows_what_will_end_asks_and_says_what_the_caller_can_do_next() {
    let h = Harness::start().await;
    h.create("helen", &["helpdesk"], PASSWORD).await;
    h.person("ada", &["viewer"]).await;
    h.operator().await.api_token("ada", &["users.read"]).await;
    let shell = terminal_of(&h, "helen");
    if !shell.has("script") {
        return;
    }
    let ends = "the password, 1 session, 1 API token, device tokens and familiar places";
    let question = format!(
        "Lock ada as compromised?\n  ends   {ends}, now and for good\n  \
         stops  signing in, until it is unlocked; to unlock it needs users.write\n  \
         stays  the account, its address and its roles\n  roles  viewer\n  as     helen at {}\n\
         Are you sure? [y/N] ",
        h.address()
    );
    let (printed, code) = shell.type_at("latchkey users contain ada", &[("[y/N] ", "n")]);
    assert_eq!((printed, code), (format!("{question}n\nNothing was changed."), 1));
    assert_eq!(h.operator().await.user("ada").await.state(), v1::UserState::Active);

    let (printed, code) = shell.type_at("latchkey users contain ada", &[("[y/N] ", "y")]);
    assert!(code == 0 && printed.contains(&format!("✔ ada is locked as compromised\n  ended  the old {}", &ends[4..])));
    assert!(printed.contains("next: latchkey sessions list ada --ended, for where from"), "{printed}");
    assert!(!printed.contains("audit list"), "the helpdesk cannot read the audit log: {printed}");
    let reset = "next: latchkey users reset ada --temporary-password --unlock";
    assert!(printed.contains(reset) && printed.contains("by an operator with users.write"), "{printed}");
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

#[test]
fn completions_and_manual_pages_are_made() {
    let shell = Shell::default();
    for (name, mark) in [("bash", "_latchkey()"), ("zsh", "#compdef latchkey"), ("fish", "--command latchkey")] {
        assert!(shell.latchkey(&["completions", name]).good().contains(mark), "{name}");
    }
    let parsed = shell.bash("latchkey completions bash > completions && bash -n completions");
    assert!(parsed.status.success(), "{parsed:?}");
    assert!(shell.latchkey(&["man"]).good().contains(".TH latchkey"));
    let directory = shell.path("man").display().to_string();
    shell.latchkey(&["man", "--dir", &directory]).good();
    assert!(shell.path("man/latchkey-users-reset.1").exists());
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands = commands(&Shell::default());
    for (command, help) in &commands {
        assert!(help.contains("Examples:"), "{command:?}: {help}");
    }
    assert!(commands.len() >= 28, "{} commands", commands.len());
}

/// All commands and groups of commands, with their help.
fn commands(shell: &Shell) -> Vec<(Vec<String>, String)> {
    let mut unseen = vec![Vec::<String>::new()];
    let mut seen = Vec::new();
    while let Some(command) = unseen.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = shell.latchkey(&arguments).good();
        let names =
            help.split_once("Commands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
        let names = names.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        unseen.extend(names.map(|name| command.iter().cloned().chain([name.to_owned()]).collect()));
        seen.push((command, help));
    }
    seen
}

/// Arguments with which each command calls the server.
const CALLS: &[(&str, &[&str])] = &[
    ("status", &[]),
    ("users list", &[]),
    ("users show", &["bob"]),
    ("users diagnose", &["bob", "--from", "192.0.2.7"]),
    ("users recover", &["bob"]),
    ("users create", &["bob"]),
    ("users history", &["bob"]),
    ("users invite", &["bob", "--email", "bob@example.com"]),
    ("users update", &["bob", "--remove-role", "helpdesk"]),
    ("users delete", &["bob"]),
    ("users lock", &["bob"]),
    ("users contain", &["bob"]),
    ("users unlock", &["bob"]),
    ("users reset", &["bob", "--temporary-password"]),
    ("users require-change", &["bob", "--end-sessions"]),
    ("users waive-change", &["bob"]),
    ("sessions list", &["bob"]),
    ("sessions revoke", &["bob"]),
    ("tokens create", &["bob", "--name", "x", "--scope", "users.read"]),
    ("tokens list", &[]),
    ("tokens revoke", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("roles", &[]),
    ("roles list", &[]),
    ("audit list", &[]),
    ("deliveries list", &[]),
    ("deliveries show", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("deliveries resend", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("deliveries cancel", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("deliveries watch", &[]),
    ("email verify", &["bob"]),
    ("email confirm", &["--token-stdin"]),
    ("password forgot", &["bob"]),
    ("password reset", &["--token-stdin"]),
    ("password cancel", &["--token-stdin"]),
    ("login", &["ada", "--password-stdin"]),
    ("logout", &[]),
    ("whoami", &[]),
    ("passwd", &["--password-stdin"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_takes_output_and_every_change_takes_yes() {
    let h = Harness::start().await;
    h.create("ada", &["admin"], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let changes = |method: &str| {
        let (service, name) = method.split_once('/').expect("a method");
        let service = pool.get_service_by_name(service).expect("a service");
        let method = service.methods().find(|method| method.name() == name).expect("a method");
        let level = method.options().get_field_by_name("idempotency_level").expect("a level").as_enum_number();
        level != Some(1)
    };
    let mut changing = 0;
    for (command, help) in commands(&shell) {
        let name = command.join(" ");
        let group = help.contains("Commands:\n") && name != "roles";
        if group || ["completions", "man"].contains(&name.as_str()) {
            continue;
        }
        let (_, arguments) = CALLS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}: no row"));
        let run = |flags: &[&str]| {
            let words: Vec<&str> = command.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
            let flags = [flags, &["--show-grpcurl"]].concat();
            shell.feed("latchkey", &[words, flags].concat(), &format!("{PASSWORD}\n{OTHER_PASSWORD}\n")).good()
        };
        let shown = run(&["-o", "json"]);
        let methods = shown.split_whitespace().filter(|word| word.starts_with("latchkey.v1.") && word.contains('/'));
        if methods.clone().any(changes) {
            changing += 1;
            run(&["--yes"]);
            run(&["-y"]);
        }
    }
    assert!(changing >= 15, "{changing} commands change something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_something_for_others_is_confirmed() {
    let h = Harness::start().await;
    h.create("bob", &["helpdesk"], PASSWORD).await;
    h.signed_in("bob", PASSWORD).await;
    let shell = terminal(&h);
    for ending in [
        ["sessions", "revoke", "bob"].as_slice(),
        &["tokens", "revoke", "01jq3m8d7hw4zk9x6c2v5b1n0t"],
        &["users", "update", "bob", "--remove-role", "helpdesk"],
        &["users", "require-change", "bob", "--end-sessions"],
        &["users", "lock", "bob"],
        &["users", "contain", "bob"],
        &["users", "delete", "bob"],
        &["users", "reset", "bob", "--temporary-password"],
    ] {
        let refused = shell.latchkey(ending);
        assert!(refused.code == 2 && refused.stderr.contains("hint: confirm with --yes"), "{ending:?}: {refused:?}");
    }
    if !shell.has("script") {
        return;
    }
    let (printed, code) = shell.type_at("latchkey sessions revoke bob", &[("[y/N] ", "n")]);
    assert!(code == 1 && printed.contains("End all sessions of bob?\n  ends   1 session\n"), "{printed}");
    let (printed, code) = shell.type_at("latchkey users update bob --remove-role helpdesk", &[("[y/N] ", "y")]);
    assert!(code == 0 && printed.contains("Take 1 role from bob?\n  roles  helpdesk\n"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_told_before_the_question() {
    let h = Harness::start().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    if !shell.has("script") {
        return;
    }
    for (command, scope) in [
        ("users delete bob", "users.delete"),
        ("users lock bob", "users.lock"),
        ("users reset bob", "users.reset"),
        ("users reset bob --set-password", "users.reset"),
        ("users update bob --remove-role helpdesk", "users.write"),
        ("users require-change bob --end-sessions", "users.reset"),
        ("sessions revoke bob", "sessions.revoke"),
        ("tokens revoke 01jq3m8d7hw4zk9x6c2v5b1n0t", "tokens.revoke"),
    ] {
        let (printed, code) = shell.type_at(&format!("latchkey {command}"), &[]);
        assert!(code == 1 && printed.contains(&format!("error: this needs the scope {scope}")), "{command}: {printed}");
        assert!(!printed.contains("[y/N]"), "{command}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_without_an_address_offers_a_temporary_password() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let (printed, code) = shell.type_at("latchkey users reset ada", &[("[y/N] ", "y")]);
    assert!(printed.contains("! the account has no e-mail address; set one, or choose another way\n"), "{printed}");
    assert!(code == 0 && printed.contains("Reset the password of ada by a temporary password?\n"), "{printed}");
    assert!(printed.contains("Shown once."), "{printed}");
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
