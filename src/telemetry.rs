//! The log: a line for each call, alone or with others, and everything else that an operator should know.
//!
//! Fields in the line of a call:
//!
//! | field | meaning |
//! | --- | --- |
//! | `rpc.method` | such as `latchkey.v1.UserAdmin/LockUser`, or `unknown` |
//! | `rpc.code` | the gRPC status code, such as `PERMISSION_DENIED` |
//! | `rpc.reason` | the reason of a failure, such as `SCOPE_MISSING`; otherwise empty |
//! | `request.id` | the same as in `x-request-id` of the response and in audit events |
//! | `request.client_id` | the id that the client gave to the request; empty if there was none |
//! | `principal.id` | the caller, as in audit events; empty without authentication |
//! | `client.address` | the peer's address, or the one that an application stated; empty for the local socket |
//! | `duration_ms` | the duration of the call |
//! | `error` | the cause of an internal failure; never sent to the caller |
//!
//! A line of gathered calls (`src/grpc/call_lines.rs`) has method, code and reason, and instead of the rest `calls`,
//! `client.addresses` and `principal.ids`.
//!
//! A log reader that stops reading, such as a journal that is stuck, does not stop calls: lines that do not fit into the pipe
//! are dropped and counted. There is no thread for writing: waking it costs more than the write itself, and during a flood
//! it made the slowest hundredth of other clients' calls three times as long (measured).
//!
//! Lines that are logged during a call are in the span `rpc`, with its `request.id` and `rpc.method`. Protobuf messages,
//! passwords, tokens and keys are never logged: their types do not print their contents.

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
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryFault {
    /// `log.level` is not a valid filter.
    #[error("log.level is neither a level nor a list of MODULE=LEVEL")]
    Filter(#[from] ParseError),
    /// The process already has a log.
    #[error("the process has a log already")]
    Taken,
}

/// How long a line waits for the log reader, because journals are sometimes slow. Lines after it do not wait.
const READER_TIMEOUT: Duration = Duration::from_millis(100);

/// Bytes that a pipe with free space accepts in one write (POSIX, `write`; Linux, pipe(7)).
const PIECE: usize = 4096;

/// Dropped lines.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Whether the log reader has kept a line waiting too long. Lines are then dropped at once, until it reads again.
static IS_STUCK: Mutex<bool> = Mutex::new(false);

/// The number of lines that were dropped because nothing read the log.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Starts the log of the process on standard error, including panics. At the default level, `quiet` is the filter for the
/// libraries below us: they log only what an operator can act on. Any other level is used as it is.
pub fn init(log: &Log, quiet: &'static str) -> Result<Level, TelemetryFault> {
    let (filter, handle) = reload::Layer::new(filter(&log.level, quiet)?);
    filtered(filter, log.format, || Lines).try_init().map_err(|_| TelemetryFault::Taken)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Level { handle, quiet })
}

/// The level of the running log.
#[derive(Debug)]
pub struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
    quiet: &'static str,
}

impl Level {
    /// Replaces the level.
    pub fn set(&self, level: &str) -> Result<(), TelemetryFault> {
        let filter = filter(level, self.quiet)?;
        // It fails only if the log has ended, and then there is nothing to filter.
        let _ = self.handle.reload(filter);
        Ok(())
    }
}

fn filter(level: &str, quiet: &str) -> Result<EnvFilter, ParseError> {
    if level == "info" { EnvFilter::try_new(format!("info,{quiet}")) } else { EnvFilter::try_new(level) }
}

/// Standard error, written to only while something reads it.
struct Lines;

impl io::Write for Lines {
    /// Writes one line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // One line at a time: if two found space for one, the second would block for ever.
        let mut is_stuck = IS_STUCK.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in line.chunks(PIECE) {
            let timeout = if *is_stuck { Duration::ZERO } else { READER_TIMEOUT };
            *is_stuck = !has_room(timeout);
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

/// Returns whether standard error accepts a piece without blocking, now or within `timeout`.
fn has_room(timeout: Duration) -> bool {
    let stderr = io::stderr();
    let timeout = rustix::event::Timespec::try_from(timeout).ok();
    let ready = retry_on_intr(|| poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], timeout.as_ref()));
    // The write itself reports errors.
    ready != Ok(0)
}

/// A log that writes to `writer`. Tests read it afterwards.
pub fn subscriber<W>(log: &Log, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, TelemetryFault>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    Ok(filtered(EnvFilter::try_new(&log.level)?, log.format, writer))
}

fn filtered<F, W>(filter: F, format: LogFormat, writer: W) -> impl Subscriber + Send + Sync + 'static
where
    F: Layer<Registry> + Send + Sync + 'static,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        // Colours would write control characters to files and journals.
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(filter).with(lines)
}

/// Logs the location of a panic, but not its message, which may contain values.
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
