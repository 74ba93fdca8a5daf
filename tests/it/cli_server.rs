//! Which server the command line calls, and what it says if it cannot.

use std::io::Read as _;
use std::process::Stdio;

use crate::cli::terminal_of;
use crate::harness::transcript::Shell;
use crate::harness::{Harness, PASSWORD};

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
