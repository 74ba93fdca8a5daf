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
//! Lines are written by a thread of their own: whoever reads them and stops, as a journal that is stuck does, stops no call.
//! Lines for which there is no room then are dropped and counted.
//!
//! What is logged in the course of a call stands in the span `rpc`, with its `request.id` and `rpc.method`. Messages
//! of the contract, and passwords, tokens and keys, are never logged: their types do not print.

use std::io::{self, BufWriter};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::config::{Log, LogFormat};

/// Why there is no log.
#[derive(Debug)]
pub enum TelemetryFault {
    /// `log.level` is no filter.
    Filter(ParseError),
    /// The process has a log already.
    Taken,
}

impl std::fmt::Display for TelemetryFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TelemetryFault::Filter(_) => f.write_str("log.level is neither a level nor a list of MODULE=LEVEL"),
            TelemetryFault::Taken => f.write_str("the process has a log already"),
        }
    }
}

impl std::error::Error for TelemetryFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TelemetryFault::Filter(error) => Some(error),
            TelemetryFault::Taken => None,
        }
    }
}

/// Lines that wait to be written: what a busy server says in a second. Each has some 300 bytes.
const WAITING_LINES: usize = 8192;

/// Dropped lines are counted here, once there is a log.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that were dropped since nobody read the ones before.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// What is still to be written is written when this ends, if somebody reads it within a second.
#[must_use]
pub struct Logging(#[expect(dead_code, reason = "its end is what it is for")] WorkerGuard);

/// Starts the log of the process, to standard error, panics included. By default the libraries beneath us say only what
/// an operator can do something about: `quiet` is the filter for them. Whoever sets another filter gets what it says.
pub fn init(log: &Log, quiet: &str) -> Result<Logging, TelemetryFault> {
    let level = if log.level == "info" { format!("info,{quiet}") } else { log.level.clone() };
    let log = Log { level, ..log.clone() };
    // Lines that come together are one write.
    let lines = BufWriter::new(io::stderr());
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).thread_name("log");
    let (writer, guard) = writer.finish(lines);
    let counter = writer.error_counter();
    subscriber(&log, writer)?.try_init().map_err(|_| TelemetryFault::Taken)?;
    let _ = DROPPED.set(counter);
    std::panic::set_hook(Box::new(log_panic));
    Ok(Logging(guard))
}

/// A log to any writer. Tests give one that they read afterwards.
pub fn subscriber<W>(log: &Log, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, TelemetryFault>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.level).map_err(TelemetryFault::Filter)?;
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
