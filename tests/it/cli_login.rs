//! Signing in on the command line, and the login that it keeps.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use latchkey::proto::v1;

use crate::cli::{terminal, terminal_of};
use crate::harness::actors::named;
use crate::harness::transcript::Shell;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_made_to_change_the_password_at_the_terminal() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let reset = h.operator().await.reset("ada").await.expect("a reset");
    let Some(v1::reset_password_response::Secret::TemporaryPassword(given)) = reset.secret else {
        panic!("no password");
    };
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let answers = [
        (format!("Password of ada at {}: ", h.address()), given.as_str()),
        ("New password: ".to_owned(), "short"),
        ("New password: ".to_owned(), OTHER_PASSWORD),
        ("Once more: ".to_owned(), "not the same"),
        ("New password: ".to_owned(), OTHER_PASSWORD),
        ("Once more: ".to_owned(), OTHER_PASSWORD),
    ];
    let answers: Vec<(&str, &str)> = answers.iter().map(|(prompt, answer)| (prompt.as_str(), *answer)).collect();
    let (printed, code) = shell.type_at(&format!("latchkey login ada --server {}", h.address()), &answers);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("This password was given to you by an operator."), "{printed}");
    assert!(printed.contains("✖ it is too short: at least 15 characters\n"), "{printed}");
    let (weak, strong) = ("strength  ████░░░░░░░░░░░░░░░░  very weak (0 of 4)\n", "strong (4 of 4)\n");
    assert!(printed.contains(weak) && printed.contains(strong) && printed.contains("better    "), "{printed}");
    assert!(printed.contains("The passwords differ. Try again:"), "{printed}");
    assert!(printed.contains("✔ signed in as ada at "), "{printed}");
    assert!(!printed.contains("c4nary") && !printed.contains(&given), "typed passwords are not shown: {printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_password_is_asked_for_twice() {
    let h = Harness::start().await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let twice = [("New password: ", PASSWORD), ("Once more: ", PASSWORD)];
    let (printed, code) = shell.type_at("latchkey users create ada --set-password --lasting", &twice);
    assert!(code == 0 && printed.contains("✔ ada is created") && !printed.contains("c4nary"), "{printed}");
    h.signed_in("ada", PASSWORD).await;
    let awaited = [("type the password and press Enter; it will be visible", PASSWORD)];
    let (printed, code) = shell.type_at("latchkey users create bob --password-stdin", &awaited);
    assert!(code == 0 && printed.contains("✔ bob is created"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_that_the_rules_refuse_is_asked_for_three_times_and_costs_no_try() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    if !shell.has("script") {
        return;
    }
    let words = "ada ada ada ada ada";
    let answers = [
        ("Current password: ", PASSWORD),
        ("New password: ", words),
        ("New password: ", words),
        ("New password: ", words),
    ];
    let before = h.metric("latchkey_hashes_total").await;
    let (printed, code) = shell.type_at("latchkey passwd", &answers);
    assert!(code == 1 && !printed.contains("Once more"), "{printed}");
    let refused = "✖ it is little more than names of the user or of the organisation\n";
    assert_eq!(printed.matches(refused).count(), 3, "{printed}");
    assert!(printed.ends_with("error: the rules refuse the new password"), "{printed}");
    assert_eq!(h.metric("latchkey_hashes_total").await, before, "nothing was sent to be set");
    let twice = [("Current password: ", PASSWORD), ("New password: ", OTHER_PASSWORD), ("Once more: ", OTHER_PASSWORD)];
    let (printed, code) = shell.type_at("latchkey passwd", &twice);
    assert!(code == 0 && printed.contains(" of 4)\n") && printed.contains("✔ your password is changed"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_strength_is_shown_where_standard_error_is_no_terminal() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    if !shell.has("script") {
        return;
    }
    let answers =
        [("Current password: ", PASSWORD), ("New password: ", OTHER_PASSWORD), ("Once more: ", OTHER_PASSWORD)];
    let (printed, code) = shell.type_at("bash -c 'latchkey passwd 2>told'", &answers);
    let told = std::fs::read_to_string(shell.path("told")).expect("a file");
    assert!(code == 0 && printed.contains("✔ your password is changed") && told.is_empty(), "{printed}\n---\n{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_login_is_renewed_by_one_process_at_a_time() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    let file = shell.path("state/latchkey/login.json");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().expect("a directory"))), (0o600, 0o700));
    let tokens = || std::fs::read_to_string(&file).expect("a login");
    let first = tokens();

    // Independent of the client's clock: the server finds the token expired.
    h.clock.advance(Duration::from_mins(10));
    let at_once = "for i in 1 2 3 4 5 6; do latchkey whoami & done; wait $(jobs -p)";
    let all = shell.bash(at_once);
    let printed = String::from_utf8_lossy(&all.stdout);
    assert_eq!(printed.matches("you are    ada").count(), 6, "{all:?}");
    assert_ne!(tokens(), first);

    let operator = h.operator().await;
    let request = v1::ListUserSessionsRequest { user: Some(named("ada")), ..Default::default() };
    let sessions = operator.user_admin().list_user_sessions(request).await.expect("sessions").into_inner().sessions;
    assert_eq!(sessions.len(), 1, "the session has survived");
    let metrics = h.http("/metrics").await.body;
    let renewals = metrics.lines().filter(|line| line.contains("rpc_total") && line.contains("RefreshTokens"));
    let renewals: Vec<&str> = renewals.collect();
    assert!(renewals.len() == 1 && renewals[0].ends_with(" 1"), "the first has renewed it for all: {renewals:?}");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = shell.latchkey(&["whoami"]);
    assert!(open.code != 0 && open.stderr.contains("login.json"), "a login that others can read: {open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_token_of_a_login_outlives_it_and_lets_the_owner_in_while_strangers_guess() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_mins(2)).await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    shell.latchkey(&["logout"]).good();
    let devices = shell.path("state/latchkey/devices.json");
    let first = std::fs::read_to_string(&devices).expect("a device token");
    assert!(first.contains("lkd_"), "it outlives the login");
    // As if the laptop were elsewhere.
    h.sql("DELETE FROM familiar_place").await;
    let stranger = h.stranger().await;
    for _ in 0..5 {
        stranger.sign_in("ada", OTHER_PASSWORD).await.expect_err("a guess");
    }
    let sign_in = || shell.feed("latchkey", &["login", "ada", "--password-stdin", "--server", &h.url()], PASSWORD);
    sign_in().good();
    assert_ne!(std::fs::read_to_string(&devices).expect("a device token"), first, "renewed");
    h.sql("DELETE FROM familiar_place").await;
    std::fs::remove_file(&devices).expect("the only device token");
    let refused = sign_in();
    assert!(refused.code != 0 && refused.stderr.contains("too many wrong passwords"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_login_says_how_to_sign_in_again() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    h.operator().await.lock("ada").await.expect("a lock");
    h.clock.advance(Duration::from_mins(10));
    shell.latchkey(&["whoami"]).fails(1, "error: …\n\nhint: sign in again with `latchkey login`…");
    // If the server is unreachable, the login is kept: only it can end the session.
    h.stop().await;
    shell.latchkey(&["logout"]).fails(
        3,
        "error: cannot reach …: Connection refused …\n\nhint: `latchkey logout --forget` forgets the login without ending its session",
    );
    assert!(shell.path("state/latchkey/login.json").exists());
    shell.latchkey(&["logout", "--forget"]).good();
    assert!(!shell.path("state/latchkey/login.json").exists());
}

#[test]
fn a_link_is_used_at_the_server_at_which_one_signs_in() {
    let commands: [&[&str]; 5] = [
        &["login", "ada", "--password-stdin"],
        &["password", "forgot", "ada"],
        &["password", "reset", "--token-stdin"],
        &["password", "cancel", "--token-stdin"],
        &["email", "confirm", "--token-stdin"],
    ];
    let shell = Shell::default();
    let mut set = Shell::default();
    set.set("LATCHKEY_SERVER", "127.0.0.1:7");
    let socket = shell.path("x.sock").display().to_string();
    let at_socket = format!("-unix {socket}");
    let settings: [(&Shell, &[&str], &str); 4] = [
        (&shell, &[], "127.0.0.1:50051"),
        (&set, &[], "127.0.0.1:7"),
        (&set, &["--server", "127.0.0.1:8"], "127.0.0.1:8"),
        (&shell, &["--socket", &socket], &at_socket),
    ];
    for (shell, flags, place) in settings {
        for command in commands {
            let words = [command, flags, &["--show-grpcurl"]].concat();
            let shown = shell.feed("latchkey", &words, &format!("{PASSWORD}\n{OTHER_PASSWORD}\n")).good();
            let before = shown.split(" latchkey.v1.").next().expect("a call");
            assert!(before.ends_with(place), "{words:?}: {shown}");
        }
    }
}
