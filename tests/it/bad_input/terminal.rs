//! The same through the command line, whose messages must be printable on a terminal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use crate::harness::Harness;
use crate::harness::transcript::{Ran, Shell};

/// Runs `latchkey` with arguments that a shell cannot express.
fn latchkey(shell: &Shell, args: &[&[u8]]) -> Ran {
    let mut command = shell.command("latchkey");
    command.args(args.iter().map(|arg| OsString::from_vec(arg.to_vec())));
    Ran::of(&command.output().expect("a process"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_argument_is_told_without_showing_it() {
    let h = Harness::start().await;
    h.create("bob", &[], crate::harness::PASSWORD).await;
    let mut shell = Shell::default();
    shell.set("LATCHKEY_SOCKET", &h.socket().display().to_string());
    let wrong: &[&[u8]] = &[
        b"a\nb",
        b"a\x1b[31mb",
        "a\u{202e}b".as_bytes(),
        "a\u{9b}b".as_bytes(),
        b"",
        b" ",
        b"\xff\xfe",
        b"a\rb",
        &[b'a'; 70],
    ];
    for text in wrong {
        let calls: [&[&[u8]]; 6] = [
            &[b"users", b"create", text],
            &[b"users", b"show", text],
            &[b"users", b"lock", b"bob", b"--etag", text],
            &[b"users", b"update", b"bob", b"--username", text],
            &[b"tokens", b"revoke", text, b"--yes"],
            &[b"users", b"lock", text, b"--yes"],
        ];
        for call in calls {
            let ran = latchkey(&shell, call);
            assert!([1, 2].contains(&ran.code), "{call:?}: {ran:?}");
            assert!(ran.stdout.is_empty() && ran.stderr.starts_with("error: "), "{call:?}: {ran:?}");
            let strange = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
            assert!(!ran.stderr.contains(strange), "{call:?}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{call:?}: {ran:?}");
        }
    }
    assert_eq!(h.query("SELECT username FROM \"user\"").await, ["bob"]);
}
