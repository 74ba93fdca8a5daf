//! Unusable files and directories: the real binary exits with one clear message.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use latchkey::proto::v1;
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use tonic::Code;

use crate::database_faults::until_ready;
use crate::harness::daemon::Daemon;
use crate::harness::database::TestDatabase;
use crate::harness::transcript::{Ran, Shell};
use crate::harness::{Harness, PASSWORD, Refusal, eventually};

/// Runs a server that is expected to exit.
fn latchkeyd(shell: &Shell, args: &[&str]) -> Ran {
    let args = [args, &["--listen", "127.0.0.1:0", "--http-listen", "off"]].concat();
    let limited = [&["20", "latchkeyd"], args.as_slice()].concat();
    shell.feed("timeout", &limited, "")
}

/// Checks for one message with these parts, exit code 1, and no details meant for developers.
#[track_caller]
fn told(ran: &Ran, texts: &[&str]) {
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert_eq!(ran.stderr.matches("error: ").count(), 1, "{ran:?}");
    for text in texts {
        assert!(ran.stderr.contains(text), "{text:?} is not in {ran:?}");
    }
    for strange in ["panicked", "backtrace", "DbErr", "RuntimeErr", "Execution Error", "Connection Error", "c4nary"] {
        assert!(!ran.stderr.contains(strange), "{ran:?}");
    }
}

fn private_dir(shell: &Shell, name: &str) {
    std::fs::create_dir(shell.path(name)).expect("a directory");
    std::fs::set_permissions(shell.path(name), std::fs::Permissions::from_mode(0o700)).expect("a mode");
}

/// A data directory that a server has used.
fn used(shell: &Shell, name: &str) {
    Daemon::start(shell, &["--data-dir", name]).stop();
}

#[test]
fn a_data_directory_that_cannot_be_is_told() {
    let shell = Shell::default();
    std::fs::write(shell.path("file"), "precious").expect("a file");
    told(&latchkeyd(&shell, &["--data-dir", "file"]), &["cannot use file: "]);
    told(&latchkeyd(&shell, &["--data-dir", "file/below"]), &["cannot create file/below: "]);
    told(&latchkeyd(&shell, &["--data-dir", "/proc/latchkey"]), &["cannot create /proc/latchkey: "]);
    assert_eq!(std::fs::read_to_string(shell.path("file")).expect("a file"), "precious");
    latchkeyd_migrates(&shell, "new/and/deep");
}

fn latchkeyd_migrates(shell: &Shell, dir: &str) {
    shell.feed("latchkeyd", &["migrate", "--data-dir", dir], "").good();
}

#[test]
fn a_database_file_that_is_none_is_told_and_left_as_it_is() {
    let shell = Shell::default();
    latchkeyd_migrates(&shell, "good");
    used(&shell, "good");
    let good = std::fs::read(shell.path("good/latchkey.db")).expect("a database");
    assert!(good.len() > 100_000, "all is in one file once the server has stopped");
    let noise: Vec<u8> = (0..=u8::MAX).map(|byte| byte.wrapping_mul(167)).cycle().take(8192).collect();
    let files: [(&str, &[u8], &str); 3] = [
        ("noise", &noise, "the file is not a database of SQLite; restore it from the backup"),
        ("truncated", &good[..good.len() / 3], "the database is damaged; stop the server and restore it"),
        ("half a page", &good[..5000], "the database is damaged; stop the server and restore it"),
    ];
    for (name, bytes, message) in files {
        let dir = name.replace(' ', "_");
        private_dir(&shell, &dir);
        let path = shell.path(&dir).join("latchkey.db");
        std::fs::write(&path, bytes).expect("a file");
        std::fs::copy(shell.path("good/seal.key"), shell.path(&dir).join("seal.key")).expect("a key");
        told(&latchkeyd(&shell, &["--data-dir", &dir]), &[message]);
        assert_eq!(std::fs::read(&path).expect("a file"), bytes, "{name}");
    }
    private_dir(&shell, "folder");
    private_dir(&shell, "folder/latchkey.db");
    told(&latchkeyd(&shell, &["--data-dir", "folder"]), &["folder/latchkey.db: Is a directory"]);
    private_dir(&shell, "locked");
    private_dir(&shell, "locked/lock");
    told(&latchkeyd(&shell, &["--data-dir", "locked"]), &["cannot lock locked/lock: Is a directory"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_of_another_program_is_left_alone() {
    let shell = Shell::default();
    private_dir(&shell, "theirs");
    let database = TestDatabase::File(shell.path("theirs/latchkey.db"));
    std::fs::write(shell.path("theirs/latchkey.db"), "").expect("a file");
    database.execute("CREATE TABLE \"user\" (name TEXT); INSERT INTO \"user\" VALUES ('ada')").await;
    told(&latchkeyd(&shell, &["--data-dir", "theirs"]), &["the database holds the tables of another program"]);
    assert_eq!(database.query("SELECT name FROM sqlite_master").await, ["user"]);
    assert_eq!(database.query("SELECT name FROM \"user\"").await, ["ada"]);
}

#[test]
fn a_seal_key_that_is_none_is_told() {
    let shell = Shell::default();
    used(&shell, "data");
    let key = shell.path("data/seal.key");
    let good = std::fs::read_to_string(&key).expect("a key");
    let upper = good.to_uppercase();
    let cases: [&[u8]; 8] = [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        b"latchkey-seal-key-1:",
        b"latchkey-seal-key-1:AAAA\n",
        b"latchkey-seal-key-1:not base64 at all, not at all, not at all\n",
        &good.as_bytes()[..good.len() - 5],
        upper.as_bytes(),
    ];
    for bytes in cases {
        std::fs::write(&key, bytes).expect("a file");
        let ran = latchkeyd(&shell, &["--data-dir", "data"]);
        told(&ran, &["data/seal.key does not hold a seal key; restore it from the backup"]);
        assert!(!ran.stderr.contains(&good[20..40]), "{ran:?}");
    }
    std::fs::remove_file(&key).expect("a file");
    private_dir(&shell, "data/seal.key");
    told(&latchkeyd(&shell, &["--data-dir", "data"]), &["data/seal.key does not hold a seal key"]);
    std::fs::remove_dir(&key).expect("a directory");
    std::os::unix::fs::symlink("seal.key", &key).expect("a link to itself");
    told(&latchkeyd(&shell, &["--data-dir", "data"]), &["the seal key ", "data/seal.key: "]);
}

#[test]
fn a_part_of_a_database_url_that_is_wrong_is_told_without_the_password() {
    let shell = Shell::default();
    let urls = [
        ("postgres://u:c4nary@127.0.0.1:1/d", "127.0.0.1:1: "),
        ("postgres://u:c4nary@127.0.0.1:1/d?sslmode=verify-full", "127.0.0.1:1: "),
        ("postgres://u:c4nary@nowhere.invalid/d", "nowhere.invalid:5432"),
        ("postgres://u:c4nary@127.0.0.1:1/d?sslmode=perhaps", "cannot be read"),
        ("postgres://u:c4nary@127.0.0.1:none/d", ""),
        ("postgres://", ""),
        ("mysql://u:c4nary@127.0.0.1/d", ""),
        ("sqlite:", ""),
    ];
    for (url, text) in urls {
        let ran = shell.feed("timeout", &["20", "latchkeyd", "migrate", "--check", "--database-url", url], "");
        // An empty host means the local socket of PostgreSQL; an empty file name means no database.
        assert_ne!(ran.code, 124, "{url}: {ran:?}");
        assert_ne!(ran.code, 0, "{url}: {ran:?}");
        if !text.is_empty() {
            told(&ran, &[text]);
        }
        assert!(!ran.stderr.contains("c4nary") && !ran.stderr.contains("panicked"), "{ran:?}");
    }
}

#[test]
fn a_postgresql_without_what_the_url_asks_for_is_told() {
    let shell = Shell::default();
    let Ok(url) = std::env::var("TEST_DATABASE_URL") else {
        eprintln!("skipped: set TEST_DATABASE_URL");
        return;
    };
    let base = url.split('?').next().unwrap_or_default();
    let (server, _) = base.rsplit_once('/').expect("a database");
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
    let cases = [
        (format!("{server}/there_is_no_such_database"), "database \"there_is_no_such_database\" does not exist"),
        (format!("postgres://there_is_no_such_user@{host}/postgres"), "there_is_no_such_user"),
        (format!("{base}?sslmode=require"), "TLS"),
    ];
    for (url, text) in cases {
        let ran = shell.feed("timeout", &["20", "latchkeyd", "migrate", "--check", "--database-url", &url], "");
        told(&ran, &[host, text]);
    }
}

/// A file system of a few megabytes, unmounted when dropped. Requires root.
pub struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    pub fn mount<'a>(shell: &Shell, path: &'a Path) -> Option<SmallDisk<'a>> {
        let done = shell.bash(&format!("mount -t tmpfs -o size=3m,mode=0700 tmpfs {}", path.display()));
        if !done.status.success() {
            eprintln!("skipped: a small disk can be made by root alone");
            return None;
        }
        Some(SmallDisk(path))
    }

    pub fn remount(&self, shell: &Shell, options: &str) {
        let done = shell.bash(&format!("mount -o remount,{options} {}", self.0.display()));
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0.display().to_string()]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_alone_and_ends_when_there_is_room() {
    let shell = Shell::default();
    std::fs::create_dir(shell.path("disk")).expect("a directory");
    let path = shell.path("disk");
    let Some(_disk) = SmallDisk::mount(&shell, &path) else { return };
    let h = Harness::with(|config| {
        config.database = latchkey::config::Database::Sqlite { path: path.join("latchkey.db") };
        config.seal_key_file = path.join("seal.key");
    })
    .await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let filler = path.join("filler");
    let _ = std::fs::write(&filler, vec![0; 8 << 20]);

    let create = |number: u32| {
        let labels = (0..32).map(|label| (format!("l{label}"), "v".repeat(256))).collect();
        let request = v1::CreateUserRequest { username: format!("u{number}"), labels, ..Default::default() };
        let operator = operator.clone();
        async move { operator.create(request).await }
    };
    // The write-ahead log has room until the file system is full too.
    let mut refused_at = 0;
    let mut made = 0;
    while refused_at < 5 {
        match create(made + refused_at).await {
            Ok(_) => made += 1,
            Err(status) => {
                let refusal = Refusal::of(&status);
                assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "STORAGE_UNAVAILABLE"));
                refused_at += 1;
            }
        }
        assert!(made < 1_000, "the disk is never full");
    }
    operator.get("bob").await.expect("reads go on");
    let status = h.stranger().await.sign_in("bob", PASSWORD).await;
    assert!(status.is_err_and(|status| status.code() == Code::Unavailable), "a sign-in is a write");
    // Whether it is ready meanwhile depends on whether a small change still fits.
    std::fs::remove_file(&filler).expect("a file");
    until_ready(&h, true).await;
    eventually("a write that works", || async { create(90_000).await.ok() }).await;
    h.stranger().await.sign_in("bob", PASSWORD).await.expect("well again");
    let database = TestDatabase::File(path.join("latchkey.db"));
    assert_eq!(database.query("PRAGMA integrity_check").await, ["ok"]);
    let users = database.query("SELECT COUNT(*) FROM \"user\"").await;
    assert_eq!(users, [(made + 2).to_string()], "what was acknowledged is there, and nothing else");
    h.stop().await;
}

#[test]
fn a_disk_that_is_full_or_read_only_at_the_start_is_told() {
    let shell = Shell::default();
    std::fs::create_dir(shell.path("disk")).expect("a directory");
    let path = shell.path("disk");
    let Some(disk) = SmallDisk::mount(&shell, &path) else { return };
    let _ = std::fs::write(path.join("filler"), vec![0; 8 << 20]);
    let full = latchkeyd(&shell, &["--data-dir", "disk"]);
    assert_eq!(full.code, 1, "{full:?}");
    assert!(full.stderr.contains("full") || full.stderr.contains("No space left"), "{full:?}");
    std::fs::remove_file(path.join("filler")).expect("a file");
    used(&shell, "disk");
    disk.remount(&shell, "ro");
    told(&latchkeyd(&shell, &["--data-dir", "disk"]), &["Read-only file system"]);
    disk.remount(&shell, "rw");
    used(&shell, "disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_another_program_holds_is_unavailable_and_comes_back() {
    let h = Harness::start().await;
    if h.is_postgres() {
        return;
    }
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let holder = sea_orm::Database::connect(format!("{}?mode=rw", h.database_url())).await.expect("a connection");
    let held = sea_orm::TransactionTrait::begin_with_options(
        &holder,
        sea_orm::TransactionOptions {
            sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
            ..Default::default()
        },
    );
    let held = held.await.expect("a transaction that writes");
    let status = operator.lock("bob").await.expect_err("nobody else writes meanwhile");
    let refusal = Refusal::of(&status);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "STORAGE_UNAVAILABLE"), "{refusal:?}");
    operator.get("bob").await.expect("reads go on");
    held.rollback().await.expect("an end");
    eventually("a lock", || async { operator.lock("bob").await.ok() }).await;
}

#[tokio::test]
async fn while_another_program_reads_the_database_no_server_starts_on_it() {
    let shell = Shell::default();
    latchkeyd_migrates(&shell, "data");
    let reader = TestDatabase::File(shell.path("data/latchkey.db")).connect().await;
    // Without anything in the write-ahead log there is nothing to checkpoint.
    reader.execute_unprepared("CREATE TABLE note (text TEXT)").await.expect("a change");
    let tx = reader.begin().await.expect("a transaction");
    tx.execute_unprepared("SELECT COUNT(*) FROM sealed_key").await.expect("a read");
    told(
        &latchkeyd(&shell, &["--data-dir", "data"]),
        &["the database cannot be used: data/latchkey.db: another program reads it", "start again when it has ended"],
    );
    tx.rollback().await.expect("an end");
    reader.close().await.expect("an end");
    used(&shell, "data");
}

#[test]
fn another_program_that_reads_the_database_and_closes_it_leaves_the_log_in_place() {
    let shell = Shell::default();
    if !shell.has("python3") {
        return;
    }
    let server = Daemon::start(&shell, &["--data-dir", "data"]);
    let log = || std::fs::metadata(shell.path("data/latchkey.db-wal")).expect("a log").ino();
    let before = log();
    // A program that closes the last connection to a database deletes the log. The lock of the server shows that it is not.
    let read = "import sqlite3; c = sqlite3.connect('data/latchkey.db'); c.execute('SELECT 1 FROM user').fetchall(); c.close()";
    shell.feed("python3", &["-c", read], "").good();
    assert_eq!(log(), before, "the server writes to a log that has no name");
    server.stop();
}

#[test]
fn a_database_of_two_names_has_one_server() {
    let shell = Shell::default();
    used(&shell, "data");
    private_dir(&shell, "link");
    std::os::unix::fs::symlink(shell.path("data/latchkey.db"), shell.path("link/latchkey.db")).expect("a link");
    std::fs::copy(shell.path("data/seal.key"), shell.path("link/seal.key")).expect("a key");
    let first = Daemon::start(&shell, &["--data-dir", "data"]);
    told(&latchkeyd(&shell, &["--data-dir", "link"]), &["another latchkeyd uses the database beside "]);
    first.stop();
    // Without the other process it serves, by either name.
    used(&shell, "link");

    private_dir(&shell, "hard");
    std::fs::hard_link(shell.path("data/latchkey.db"), shell.path("hard/latchkey.db")).expect("a link");
    told(&latchkeyd(&shell, &["--data-dir", "hard"]), &["it has another name, a hard link: remove one of the two"]);
    told(&latchkeyd(&shell, &["--data-dir", "data"]), &["it has another name, a hard link: remove one of the two"]);
    std::fs::remove_file(shell.path("hard/latchkey.db")).expect("a link");
    used(&shell, "data");
}
