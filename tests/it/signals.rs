//! Signals to a running server, with the real binary.

use std::io::Write as _;
use std::net::TcpStream;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::certificates::Authority;
use crate::harness::daemon::Daemon;
use crate::harness::transcript::Shell;

fn send(daemon: &Daemon, signal: Signal) {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("a signal");
}

/// Starts a server with this configuration file, in a session without a terminal.
fn without_terminal(shell: &Shell) -> Daemon {
    Daemon::start_by(shell, "setsid", &["latchkeyd", "serve", "--config", "latchkey.toml"])
}

fn configure(shell: &Shell, text: &str) {
    std::fs::write(shell.path("latchkey.toml"), text).expect("a file");
}

#[cfg(target_os = "linux")]
#[test]
fn a_crash_leaves_no_core_dump() {
    let daemon = Daemon::start(&Shell::default(), &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("a process");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{line}");
    let (code, _) = daemon.stop();
    assert_eq!(code, Some(0));
}

#[test]
fn a_hangup_without_a_terminal_reloads_the_level_and_the_certificate_and_names_what_must_wait() {
    let shell = Shell::default();
    let authority = Authority::new("a CA");
    let issue = || authority.issue(&["localhost"], &shell.path("cert.pem"), &shell.path("key.pem"));
    issue();
    let tls = "[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
    configure(&shell, tls);
    let mut daemon = without_terminal(&shell);
    configure(&shell, &format!("{tls}[log]\nlevel = \"debug\"\n[session]\nidle = \"29m\"\n"));
    issue();
    send(&daemon, Signal::HUP);
    daemon.until("reloaded log.level");
    daemon.until("changed keys take effect at the next start");
    assert!(daemon.started.last().is_some_and(|line| line.contains("session.idle")), "{:?}", daemon.started);
    // The files are read beside the rest.
    if !daemon.started.iter().any(|line| line.contains("the TLS certificate was reloaded")) {
        daemon.until("the TLS certificate was reloaded");
    }
    // Only the new level shows such a line.
    let mut peer = TcpStream::connect(&daemon.address).expect("a connection");
    peer.write_all(b"this is no TLS\r\n").expect("a line");
    daemon.until("the TLS handshake failed");

    configure(&shell, &format!("{tls}[log]\nlevel = \"=\"\n"));
    send(&daemon, Signal::HUP);
    daemon.until("the configuration is faulty; nothing was reloaded");
    configure(&shell, tls);
    send(&daemon, Signal::HUP);
    daemon.until("reloaded log.level");
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn other_signals_do_not_end_the_server() {
    let shell = Shell::default();
    configure(&shell, "");
    let mut daemon = without_terminal(&shell);
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE] {
        send(&daemon, signal);
    }
    send(&daemon, Signal::HUP);
    daemon.until("reloaded");
    assert!(shell.latchkey(&["status"]).good().contains("● serving"));
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn a_hangup_of_the_terminal_stops_in_order_unless_it_is_ignored() {
    let shell = Shell::default();
    if !shell.has("script") {
        return;
    }
    configure(&shell, "http_listen = \"off\"\nlisten = \"127.0.0.1:0\"\n");
    // Each run has a log of its own: the next must not take the lines of the one before for its own.
    let serve = |prefix: &str, log: &str| {
        // The shell of the terminal signals its child once it serves, and shows how it ended.
        let line = format!(
            "{prefix} latchkeyd serve --config latchkey.toml >{log} 2>&1 & \
             until grep -q ' grpc=' {log}; do :; done; kill -HUP $!; {}",
            if prefix.is_empty() { "wait $!; echo exit $?" } else { "kill -0 $! && kill $!; wait $!; echo exit $?" }
        );
        let output = shell.command("script").args(["-qec", &line, "/dev/null"]).output().expect("a terminal");
        let log = std::fs::read_to_string(shell.path(log)).expect("a log");
        (String::from_utf8_lossy(&output.stdout).into_owned(), log)
    };
    let (shown, log) = serve("", "first.log");
    assert!(shown.contains("exit 0") && log.ends_with("stopped\n"), "{shown} {log}");
    let (shown, log) = serve("nohup", "second.log");
    assert!(shown.contains("exit 0") && log.ends_with("stopped\n") && !log.contains("reloaded"), "{shown} {log}");
}
