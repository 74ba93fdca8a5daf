//! The log: one line for each call, and whatever else whoever runs the server should know.
//!
//! Fields of the line of a call:
//!
//! | field | what |
//! | --- | --- |
//! | `rpc.method` | as `latchkey.v1.UserAdmin/LockUser`, or `unknown` |
//! | `rpc.code` | the code of gRPC, as `PERMISSION_DENIED` |
//! | `rpc.reason` | why it failed, as `SCOPE_MISSING`; empty if it did not |
//! | `request.id` | as in the answer's `x-request-id` and in audit events |
//! | `principal.id` | who called, as in audit events; empty for a stranger |
//! | `client.address` | whence; empty for the local socket |
//! | `duration_ms` | how long it took |
//! | `error` | what is behind a failure of ours; never sent to the caller |
//!
//! Whoever reads the log and stops, as a journal that is stuck does, stops no call: lines for which there is no room then are
//! dropped and counted. They are not written by a thread of their own: waking it costs more than writing, and beside a flood
//! made the slowest hundredth of other people's calls three times as long (measured).
//!
//! What is logged in the course of a call stands in the span `rpc`, with its `request.id` and `rpc.method`. Messages
//! of the contract, and passwords, tokens and keys, are never logged: their types do not print.

use std::io;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::config::{Log, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryFault {
    /// `log.level` is no filter.
    #[error("log.level is neither a level nor a list of MODULE=LEVEL")]
    Filter(#[from] ParseError),
    /// The process has a log already.
    #[error("the process has a log already")]
    Taken,
}

/// How long a line waits for whoever reads the log, once: journals are slow now and then.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a pipe that has room takes at once (POSIX, `write`; Linux, pipe(7)).
const PIECE: usize = 4096;

/// Lines that were dropped since nobody read the ones before.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Whether nobody has read for so long that nobody is waited for any more.
static IS_STUCK: Mutex<bool> = Mutex::new(false);

/// How many lines were dropped since nobody read the ones before.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Starts the log of the process, to standard error, panics included. By default the libraries beneath us say only what
/// an operator can do something about: `quiet` is the filter for them. Whoever sets another filter gets what it says.
pub fn init(log: &Log, quiet: &str) -> Result<(), TelemetryFault> {
    let level = if log.level == "info" { format!("info,{quiet}") } else { log.level.clone() };
    let log = Log { level, ..log.clone() };
    subscriber(&log, || Lines)?.try_init().map_err(|_| TelemetryFault::Taken)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Standard error, which takes a line only if somebody reads.
struct Lines;

impl io::Write for Lines {
    /// Of one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // One at a time: of two that find room for one, the second would wait for ever.
        let mut is_stuck = IS_STUCK.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in line.chunks(PIECE) {
            let patience = if *is_stuck { Duration::ZERO } else { PATIENCE };
            *is_stuck = !has_room(patience);
            if *is_stuck {
                DROPPED.fetch_add(1, Ordering::Relaxed);
                break;
            }
            io::Write::write_all(&mut io::stderr(), piece)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error takes a piece without waiting, or will within so long.
fn has_room(patience: Duration) -> bool {
    let stderr = io::stderr();
    let patience = rustix::event::Timespec::try_from(patience).ok();
    let ready = retry_on_intr(|| poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], patience.as_ref()));
    // Faults are for the write to meet.
    ready != Ok(0)
}

/// A log to any writer. Tests give one that they read afterwards.
pub fn subscriber<W>(log: &Log, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, TelemetryFault>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.level)?;
    let lines = fmt::layer().with_writer(writer);
    let lines = match log.format {
        // Colours would put control characters into files and journals.
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Ok(Registry::default().with(filter).with(lines))
}

/// Where it happened, and nothing else: the message of a panic prints values.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(panic.location = location, "panic");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: &Log, act: impl FnOnce()) -> Result<String, TelemetryFault> {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(log, move || writer.clone())?, act);
        let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn json_is_one_object_a_line() -> Result<(), Box<dyn std::error::Error>> {
        let log = Log { format: LogFormat::Json, ..Log::default() };
        let text = logged(&log, || tracing::info!(request.id = "r-1", "rpc"))?;
        let line: serde_json::Value = serde_json::from_str(text.trim_end())?;
        assert_eq!(line.get("request.id").and_then(serde_json::Value::as_str), Some("r-1"));
        Ok(())
    }

    #[test]
    #[expect(clippy::panic, reason = "that is what is tested")]
    fn of_a_panic_the_place_is_logged_and_not_what_it_says() -> Result<(), TelemetryFault> {
        let text = logged(&Log::default(), || {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(log_panic));
            let caught = std::panic::catch_unwind(|| panic!("a secret"));
            std::panic::set_hook(usual);
            assert!(caught.is_err());
        })?;
        assert!(text.contains("telemetry.rs:") && !text.contains("secret"), "{text}");
        Ok(())
    }

    #[test]
    fn the_level_is_kept() -> Result<(), TelemetryFault> {
        let text = logged(&Log::default(), || {
            tracing::debug!("quiet");
            tracing::warn!("loud");
        })?;
        assert!(text.contains("loud") && !text.contains("quiet"), "{text}");
        let log = Log { level: "=nonsense=".to_owned(), ..Log::default() };
        assert!(matches!(logged(&log, || ()), Err(TelemetryFault::Filter(_))));
        Ok(())
    }
}
