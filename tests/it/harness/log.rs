//! Captures all log output of the test suite at TRACE and searches it for secrets.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use latchkey::config::{Log, LogFormat};

static INSTALL: Once = Once::new();
static FOUND: Mutex<Option<String>> = Mutex::new(None);
static LINES: AtomicU64 = AtomicU64::new(0);

/// Installs the log, once per process.
pub fn install() {
    INSTALL.call_once(|| {
        let log = Log { format: LogFormat::Text, level: "trace".to_owned() };
        let subscriber = latchkey::telemetry::subscriber(&log, || Searching).expect("a filter");
        tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
    });
}

/// Limits logging on this thread to latchkey itself. With thousands of calls, the lines of the libraries would take
/// most of the time. Only for tests that run on a single thread.
pub fn of_latchkey_alone() -> tracing::subscriber::DefaultGuard {
    let log = Log { format: LogFormat::Text, level: "warn,latchkey=trace".to_owned() };
    let subscriber = latchkey::telemetry::subscriber(&log, || Searching).expect("a filter");
    tracing::subscriber::set_default(subscriber)
}

/// Runs a test on several threads with this limit.
pub fn run_quietly(test: impl Future<Output = ()>) {
    let quiet = of_latchkey_alone();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // For the lifetime of the thread.
    runtime.worker_threads(4).enable_all().on_thread_start(|| std::mem::forget(of_latchkey_alone()));
    runtime.build().expect("a runtime").block_on(test);
    drop(quiet);
}

/// Fails if a secret was logged.
pub fn assert_clean() {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(found.is_none(), "a secret in the log: {}", found.unwrap_or_default());
}

/// Fails if the log of a child process contains a secret, or a panic, which the panic hook logs (`src/telemetry.rs`).
#[track_caller]
pub fn assert_harmless<'a>(lines: impl IntoIterator<Item = &'a str>) {
    for line in lines {
        assert!(!has_secret(line), "a secret in the log: {line}");
        assert!(!line.contains("panic.location"), "the server panicked: {line}");
    }
}

/// Number of lines searched so far.
pub fn lines() -> u64 {
    LINES.load(Ordering::Relaxed)
}

/// Returns whether a text looks like it contains a secret.
pub fn has_secret(text: &str) -> bool {
    text.contains("c4nary") || text.contains("$argon2") || has_token(text) || has_temporary_password(text)
}

/// Returns whether it contains a token that latchkey issued, or the token of a link.
fn has_token(text: &str) -> bool {
    let long_after = |prefix: &str, length: usize| {
        text.match_indices(prefix).any(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).count() >= length
        })
    };
    let issued = ["lkr_", "lkt_", "lka_", "lkd_", "lkl_", "lkc_"];
    issued.iter().any(|prefix| long_after(prefix, 40)) || long_after("eyJ", 60)
}

/// Returns whether it contains a temporary password such as `K7QF9-WXM3T-RH4PD`. Searches for hyphens, because they are
/// rare and this runs for every line.
fn has_temporary_password(text: &str) -> bool {
    let shaped = |window: &[u8]| {
        window.iter().enumerate().all(|(at, c)| match at {
            5 | 11 => *c == b'-',
            _ => c.is_ascii_uppercase() || (b'2'..=b'9').contains(c),
        })
    };
    let around = |(hyphen, _)| text.as_bytes().get(usize::checked_sub(hyphen, 5)?..hyphen + 12);
    text.match_indices('-').filter_map(around).any(shaped)
}

struct Searching;

impl Write for Searching {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.fetch_add(1, Ordering::Relaxed);
        let text = String::from_utf8_lossy(line);
        if has_secret(&text) {
            FOUND.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| text.into_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
