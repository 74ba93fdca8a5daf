//! `latchkeyd breach-list` and a server with a list, with the real binary.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Instant;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use latchkey::breach_list::BreachList;
use rustix::process::{Pid, Signal, kill_process};

use crate::broken_files::SmallDisk;
use crate::harness::daemon::Daemon;
use crate::harness::http;
use crate::harness::transcript::{Ran, Shell};

const MILLION: u32 = 1_000_000;

type Sha1 = [u8; 20];

fn sha1(text: &str) -> Sha1 {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref().try_into().expect("20 bytes")
}

/// The SHA-1 of a password, as a line of the input has it.
pub fn hex_of(password: &str) -> String {
    hex(&sha1(password))
}

fn hex(hash: &[u8]) -> String {
    data_encoding::HEXUPPER.encode(hash)
}

/// The hashes of the passwords `0`, `1` and so on, in order.
fn hashes(count: u32) -> Vec<Sha1> {
    let mut hashes: Vec<Sha1> = (0..count).map(|number| sha1(&number.to_string())).collect();
    hashes.sort_unstable();
    hashes
}

fn lines(hashes: &[Sha1]) -> String {
    hashes.iter().fold(String::with_capacity(43 * hashes.len()), |mut text, hash| {
        let _ = writeln!(text, "{}:3", hex(hash));
        text
    })
}

/// A million lines, which several tests read.
static LINES: LazyLock<String> = LazyLock::new(|| lines(&hashes(MILLION)));

fn breach_list(shell: &Shell, args: &[&str]) -> Ran {
    shell.feed("latchkeyd", &[&["breach-list"], args].concat(), "")
}

fn write(shell: &Shell, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = shell.path(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, text).expect("a file");
    path
}

/// Builds a list of a text, and returns what was printed.
fn built(shell: &Shell, list: &str, text: &str) -> String {
    write(shell, "input.txt", text);
    breach_list(shell, &["build", "--out", list, "input.txt"]).good()
}

/// The digest that `build`, `verify` and `info` print.
fn digest_in(text: &str) -> &str {
    let (_, rest) = text.split_once("digest").expect("a digest");
    let digest = rest.trim_start_matches([':', ' ']).split_whitespace().next().expect("a digest");
    assert_eq!(digest.len(), 64, "{text}");
    digest
}

/// The files of a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder");
    names.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

#[test]
fn a_million_hashes_are_found_and_few_others() {
    let shell = Shell::default();
    let told = built(&shell, "leaked.list", &LINES);
    assert!(told.starts_with("✔ wrote leaked.list: 1000000 passwords, 0 duplicates dropped, "), "{told}");
    let path = shell.path("leaked.list");
    let next = format!("start latchkeyd with LATCHKEY_PASSWORD_BREACH_LIST={}", path.display());
    assert!(told.contains(&next), "{told}");
    let list = BreachList::open(&path).expect("a list");
    let length = fs::metadata(&path).expect("a file").len();
    assert!(length < 2_400_000, "{length} bytes are more than 2.4 a password");
    let found = |numbers: std::ops::Range<u32>| {
        let contained = |number: &u32| list.contains(&number.to_string()).expect("an answer");
        numbers.filter(contained).count()
    };
    assert_eq!(found(0..MILLION), 1_000_000, "none is missed");
    // 17.5 are promised; four standard deviations more are hardly ever seen.
    let wrong = found(MILLION..2 * MILLION);
    assert!(wrong <= 34, "{wrong} of a million others were taken for leaked");

    // Order does not matter.
    let mut backwards: Vec<&str> = LINES.lines().collect();
    backwards.reverse();
    let again = built(&shell, "backwards.list", &backwards.join("\r\n").to_lowercase());
    assert_eq!(digest_in(&again), digest_in(&told));
    let info = breach_list(&shell, &["info", "leaked.list"]).good();
    assert!(info.contains("passwords:     1000000\nminimum count: 1\nbuilt:         20"), "{info}");
    assert!(info.contains(&format!("bytes:         {length}\nshards:        4\n")), "{info}");
    let verified = breach_list(&shell, &["verify", "leaked.list"]).good();
    assert!(verified.starts_with("✔ leaked.list is good: 1000000 passwords, digest "), "{verified}");
    assert!([&info, &verified].iter().all(|text| digest_in(text) == digest_in(&told)));
}

#[test]
fn a_build_shows_its_progress_on_a_terminal_alone() {
    let shell = Shell::default();
    if !shell.has("script") {
        return;
    }
    write(&shell, "input.txt", lines(&hashes(1_000)));
    let (shown, code) = shell.type_at("latchkeyd breach-list build --out leaked.list input.txt", &[]);
    assert!(code == 0 && shown.contains("\rreading 100 %\u{1b}[K") && shown.contains("\r\u{1b}[K✔ wrote"), "{shown:?}");
    let piped = breach_list(&shell, &["build", "--out", "leaked.list", "input.txt"]);
    assert_eq!(piped.stderr, "");
}

#[test]
fn a_folder_of_range_files_gives_the_same_list_as_one_file() {
    let shell = Shell::default();
    let hashes: Vec<Sha1> = hashes(500_000).into_iter().filter(|hash| hash[0] == 0xA7).collect();
    let plain = built(&shell, "plain.list", &lines(&hashes));
    for range in hashes.chunk_by(|a, b| hex(a)[..5] == hex(b)[..5]) {
        // The last line is padding, which the service adds on request.
        let mut text = String::new();
        for (hash, count) in range.iter().map(|hash| (*hash, 1)).chain([(sha1("padding"), 0)]) {
            let _ = write!(text, "{}:{count}\r\n", &hex(&hash)[5..]);
        }
        write(&shell, &format!("ranges/{}.txt", &hex(&range[0])[..5]), text);
    }
    let ranges = breach_list(&shell, &["build", "--out", "ranges.list", "ranges"]).good();
    assert_eq!(digest_in(&ranges), digest_in(&plain));
    assert!(ranges.contains("range files are missing: the download is not complete"), "{ranges}");
    let both = breach_list(&shell, &["build", "--out", "both.list", "input.txt", "ranges"]).good();
    assert_eq!(digest_in(&both), digest_in(&plain));
    let duplicates = format!("{} duplicates dropped", hashes.len());
    assert!(both.contains(&duplicates) && plain.contains(" 0 duplicates dropped"), "{both}");
    let rare = breach_list(&shell, &["build", "--out", "rare.list", "--min-count", "2", "ranges", "input.txt"]).good();
    assert_eq!(digest_in(&rare), digest_in(&plain), "the file says 3");
    assert!(rare.contains(&format!("{} were leaked fewer than 2 times and are left out", hashes.len())), "{rare}");
}

#[test]
fn other_input_is_refused_with_its_line_and_the_old_list_stays() {
    let shell = Shell::default();
    built(&shell, "leaked.list", &lines(&hashes(100)));
    let before = fs::read(shell.path("leaked.list")).expect("a list");
    write(&shell, "ntlm.txt", format!("{}\n{}:2\n", hex(&sha1("x")), &hex(&sha1("x"))[..32]));
    let build = |input: &str| breach_list(&shell, &["build", "--out", "leaked.list", input]);
    build("ntlm.txt").fails(1, "error: ntlm.txt:2: this is an NTLM hash; download the SHA-1 hashes instead");
    write(&shell, "plain.txt", "correct horse battery staple\n");
    build("plain.txt").fails(1, "error: plain.txt:1: expected the 40 hexadecimal digits of a SHA-1, …");
    build("none.txt").fails(1, "error: cannot read none.txt: No such file or directory …");
    let mistaken = breach_list(&shell, &["build", "--out", "input.txt", "input.txt"]);
    mistaken.fails(1, "error: input.txt is not a list of leaked passwords and is not replaced; choose another …");
    assert_eq!(breach_list(&shell, &["build", "--out", "leaked.list"]).code, 2);
    assert_eq!(breach_list(&shell, &["build", "--out", "leaked.list", "--min-count", "0", "input.txt"]).code, 2);
    assert_eq!(fs::read(shell.path("leaked.list")).expect("a list"), before);
    assert!(!names(&shell.path("")).iter().any(|name| name.contains("building")));
}

#[test]
fn a_damaged_list_is_told_by_verify_and_stops_the_start() {
    let shell = Shell::default();
    built(&shell, "good.list", &lines(&hashes(1_000)));
    let good = fs::read(shell.path("good.list")).expect("a list");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        bytes
    };
    let of_version_2 = [&good[..16], &2_u32.to_le_bytes(), &good[20..]].concat();
    let cases: [(&str, &[u8], &str); 6] = [
        (
            "cut.list",
            &good[..good.len() - 1],
            "the list of leaked passwords cut.list has … bytes instead of …; copy or build it again",
        ),
        (
            "head.list",
            &flipped(40),
            "the list of leaked passwords head.list is damaged in its header; copy or build it again",
        ),
        (
            "later.list",
            &of_version_2,
            "later.list is a list of leaked passwords of version 2, but this latchkeyd reads version 1; …",
        ),
        ("empty.list", b"", "empty.list is not a list of leaked passwords; make one with: latchkeyd breach-list build"),
        ("text.list", LINES.as_bytes(), "text.list is not a list of leaked passwords; …"),
        ("none.list", b"", "cannot read the list of leaked passwords none.list: No such file or directory …"),
    ];
    for (name, bytes, message) in cases {
        write(&shell, name, bytes);
        if name == "none.list" {
            fs::remove_file(shell.path(name)).expect("a file");
        }
        for command in ["verify", "info"] {
            breach_list(&shell, &[command, name]).fails(1, &format!("error: {message}"));
        }
        let set = format!("password.breach_list={name}");
        let start = shell.feed("timeout", &["20", "latchkeyd", "--listen", "127.0.0.1:0", "--set", &set], "");
        start.fails(1, &format!("error: {message}; or set password.breach_list to off"));
    }
    // A shard is not read at the start.
    write(&shell, "shard.list", flipped(good.len() - 9));
    breach_list(&shell, &["verify", "shard.list"])
        .fails(1, "error: the list of leaked passwords shard.list is damaged in shard 0; copy or build it again");
    fs::create_dir(shell.path("folder")).expect("a folder");
    assert!(breach_list(&shell, &["verify", "folder"]).stderr.contains("folder is not a list of leaked passwords"));
}

fn metrics(daemon: &Daemon) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(http::get(&daemon.http_address, "/metrics")).body
}

#[test]
fn a_running_server_takes_up_a_new_list_and_keeps_the_old_one_if_the_new_one_is_bad() {
    let mut shell = Shell::default();
    built(&shell, "leaked.list", &lines(&hashes(1_000)));
    shell.set("LATCHKEY_PASSWORD_BREACH_LIST", "leaked.list");
    let mut daemon = Daemon::start_by(&shell, "setsid", &["latchkeyd"]);
    let started = daemon.started.concat();
    assert!(started.contains("keys=1000") && started.contains("digest="), "{started}");
    let hangup = |daemon: &Daemon| {
        let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::HUP).expect("a signal");
    };
    let counts = |daemon: &Daemon, keys: u32, taken: u32, refused: u32| {
        let text = metrics(daemon);
        for line in [
            format!("latchkey_breach_list_keys {keys}"),
            format!("latchkey_breach_list_reloads_total{{outcome=\"taken\"}} {taken}"),
            format!("latchkey_breach_list_reloads_total{{outcome=\"refused\"}} {refused}"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    };
    counts(&daemon, 1_000, 0, 0);
    built(&shell, "leaked.list", &lines(&hashes(2_000)));
    hangup(&daemon);
    daemon.until("the new list of leaked passwords is in use");
    assert!(daemon.started.last().is_some_and(|line| line.contains("keys=2000")), "{:?}", daemon.started);
    counts(&daemon, 2_000, 1, 0);

    let good = fs::read(shell.path("leaked.list")).expect("a list");
    let mut bad = good.clone();
    *bad.last_mut().expect("a byte") ^= 1;
    let replace = |bytes: &[u8]| {
        fs::rename(write(&shell, "next.list", bytes), shell.path("leaked.list")).expect("a file");
    };
    for (number, bytes) in [bad.as_slice(), &good[..200], b""].into_iter().enumerate() {
        replace(bytes);
        hangup(&daemon);
        daemon.until("the new list of leaked passwords is not usable; the old list stays in use");
        counts(&daemon, 2_000, 1, u32::try_from(number).expect("a number") + 1);
    }
    replace(&good);
    hangup(&daemon);
    daemon.until("the new list of leaked passwords is in use");
    counts(&daemon, 2_000, 2, 3);
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn a_build_that_is_killed_leaves_nothing_under_the_name_or_the_old_list() {
    let shell = Shell::default();
    write(&shell, "input.txt", &*LINES);
    let build = || {
        let mut command = shell.command("latchkeyd");
        command.args(["breach-list", "build", "--out", "leaked.list", "input.txt"]);
        command.stdout(std::process::Stdio::null()).spawn().expect("a process")
    };
    let list = shell.path("leaked.list");
    let begun = Instant::now();
    assert!(build().wait().expect("an end").success());
    let whole = begun.elapsed();
    let good = fs::read(&list).expect("a list");
    let digest = breach_list(&shell, &["verify", "leaked.list"]).good();
    let mut killed = 0;
    for old in [None, Some(&good)] {
        for part in [1, 3, 5, 7] {
            let _ = fs::remove_file(&list);
            if let Some(old) = old {
                fs::write(&list, old).expect("a list");
            }
            let mut child = build();
            std::thread::sleep(whole * part / 8);
            child.kill().expect("a signal");
            // Beside others it may be faster than before.
            if child.wait().expect("an end").success() {
                assert_eq!(digest_in(&breach_list(&shell, &["verify", "leaked.list"]).good()), digest_in(&digest));
                continue;
            }
            killed += 1;
            assert_eq!(fs::read(&list).ok().as_ref(), old, "{part}");
        }
    }
    assert!(killed > 2, "only {killed} were killed");
    assert!(build().wait().expect("an end").success(), "what was left does not stop the next build");
    assert_eq!(digest_in(&breach_list(&shell, &["verify", "leaked.list"]).good()), digest_in(&digest));
    assert!(!names(&shell.path("")).iter().any(|name| name.contains("building")));
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let shell = Shell::default();
    write(&shell, "million.txt", &*LINES);
    write(&shell, "few.txt", lines(&hashes(50_000)));
    fs::create_dir(shell.path("disk")).expect("a directory");
    let path = shell.path("disk");
    let Some(_disk) = SmallDisk::mount(&shell, &path) else { return };
    let build = |input: &str| breach_list(&shell, &["build", "--out", "disk/leaked.list", input]);
    let full = "error: cannot write disk/leaked.list, or a temporary file beside it: No space left on device …";
    build("million.txt").fails(1, full);
    assert_eq!(names(&path), [""; 0], "there is no room to sort");
    build("few.txt").good();
    let before = fs::read(path.join("leaked.list")).expect("a list");
    let _ = fs::write(path.join("filler"), vec![0; 8 << 20]);
    build("few.txt").fails(1, full);
    let mut left = names(&path);
    left.sort();
    assert_eq!(left, ["filler", "leaked.list"], "there is no room for the list");
    assert_eq!(fs::read(path.join("leaked.list")).expect("a list"), before);
}
