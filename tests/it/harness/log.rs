//! Everything that the suite logs, at TRACE, searched for secrets as it is written.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use latchkey::config::{Log, LogFormat};

static INSTALL: Once = Once::new();
static FOUND: Mutex<Option<String>> = Mutex::new(None);
static LINES: AtomicU64 = AtomicU64::new(0);

/// Begins to listen, once a process.
pub fn install() {
    INSTALL.call_once(|| {
        let log = Log { format: LogFormat::Text, level: "trace".to_owned() };
        let subscriber = latchkey::telemetry::subscriber(&log, || Searching).expect("a filter");
        tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
    });
}

/// From now on this thread logs what latchkey itself says, and nothing of the libraries below: for thousands of calls,
/// where their lines would take most of the time. Only where everything runs on one thread.
pub fn of_latchkey_alone() -> tracing::subscriber::DefaultGuard {
    let log = Log { format: LogFormat::Text, level: "warn,latchkey=trace".to_owned() };
    let subscriber = latchkey::telemetry::subscriber(&log, || Searching).expect("a filter");
    tracing::subscriber::set_default(subscriber)
}

/// Runs a test on several threads that log so.
pub fn run_quietly(test: impl Future<Output = ()>) {
    let quiet = of_latchkey_alone();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // As long as the thread lives.
    runtime.worker_threads(4).enable_all().on_thread_start(|| std::mem::forget(of_latchkey_alone()));
    runtime.build().expect("a runtime").block_on(test);
    drop(quiet);
}

/// Fails if any line had a secret in it.
pub fn assert_clean() {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(found.is_none(), "a secret in the log: {}", found.unwrap_or_default());
}

/// Fails if a server of its own has logged a secret, or a panic, whose place its hook logs (`src/telemetry.rs`).
#[track_caller]
pub fn assert_harmless<'a>(lines: impl IntoIterator<Item = &'a str>) {
    for line in lines {
        assert!(!has_secret(line), "a secret in the log: {line}");
        assert!(!line.contains("panic.location"), "the server panicked: {line}");
    }
}

/// How many lines were searched so far.
pub fn lines() -> u64 {
    LINES.load(Ordering::Relaxed)
}

/// Whether a text has something that only secrets have.
pub fn has_secret(text: &str) -> bool {
    text.contains("c4nary") || text.contains("$argon2") || has_token(text) || has_temporary_password(text)
}

/// A refresh token, a ticket, an API token with its secret part, or a signed token.
fn has_token(text: &str) -> bool {
    let long_after = |prefix: &str, length: usize| {
        text.match_indices(prefix).any(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).count() >= length
        })
    };
    long_after("lkr_", 40) || long_after("lkt_", 40) || long_after("lka_", 40) || long_after("eyJ", 60)
}

/// `K7QF9-WXM3T-RH4PD`. Hyphens are rare, so they are what is looked for: this runs for every line of the suite.
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
