//! The record of each call: one log line and one count when it ends. Calls that are shed because the server is at capacity
//! share one log line a second.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};

use super::status;
use super::table::Method;
use crate::environment::Environment;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::proto::code_name;

/// The header of the request id, in requests and responses.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of a request id from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The minimum time between two log lines about calls that were shed.
const SHED_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The name in log and metrics of every method that is not served, so that clients cannot create label values.
const UNKNOWN_METHOD: &str = "unknown";

/// Records calls in the log and the metrics.
pub(super) struct CallLog {
    metrics: Arc<Metrics>,
    shed: Shed,
}

impl CallLog {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<CallLog> {
        Arc::new(CallLog { metrics, shed: Shed::default() })
    }
}

/// Counts calls that were shed, for one common log line: a line for each would add to the overload.
#[derive(Debug, Default)]
struct Shed(Mutex<Unreported>);

#[derive(Debug, Default)]
struct Unreported {
    calls: u64,
    reported_at: Option<Instant>,
}

impl Shed {
    /// Counts a call, and logs the count if the last log line is old enough.
    fn count(&self) {
        let mut unreported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unreported.calls += 1;
        if unreported.reported_at.is_some_and(|at| at.elapsed() < SHED_LOG_INTERVAL) {
            return;
        }
        let Unreported { calls, .. } =
            std::mem::replace(&mut *unreported, Unreported { calls: 0, reported_at: Some(Instant::now()) });
        drop(unreported);
        tracing::warn!(calls, "refused for want of room; latchkey_rpc_total has the methods");
    }
}

/// What the log needs to know of a call. Inner layers add to it, so the log has it even if they panic.
#[derive(Debug, Clone, Default)]
pub(super) struct CallContext(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    request_id: String,
    principal: OnceLock<String>,
    address: OnceLock<IpAddr>,
}

impl CallContext {
    pub(super) fn begin(headers: &HeaderMap, environment: &Environment) -> CallContext {
        let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_request_id(id));
        let request_id = sent.map_or_else(|| HEXLOWER.encode(&environment.bytes::<16>()), str::to_owned);
        CallContext(Arc::new(Known { request_id, ..Known::default() }))
    }

    /// Returns the id of the request.
    pub(super) fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// Sets the id of the principal that calls; empty if the caller is unauthenticated.
    pub(super) fn set_principal(&self, id: String) {
        let _ = self.0.principal.set(id);
    }

    /// Sets the address that the call comes from.
    pub(super) fn set_address(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            let _ = self.0.address.set(address);
        }
    }
}

/// Returns whether `text` has 1 to 128 letters, digits and `._-`, which are safe in a log, a header and a file name.
fn is_request_id(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(is_fit)
}

/// The record of one call: exactly one log line and one count, written when the response has ended. If the record is
/// dropped before, the client has hung up and the code is CANCELLED.
pub(super) struct CallRecord {
    log: Arc<CallLog>,
    context: CallContext,
    /// `None` if the method is not served.
    method: Option<Arc<Method>>,
    started: Instant,
    is_written: bool,
}

impl CallRecord {
    pub(super) fn begin(log: &Arc<CallLog>, context: &CallContext, method: Option<&Arc<Method>>) -> CallRecord {
        let (log, context, method) = (Arc::clone(log), context.clone(), method.cloned());
        CallRecord { log, context, method, started: Instant::now(), is_written: false }
    }

    pub(super) fn succeed(mut self) {
        self.write(Code::Ok, None);
    }

    /// Records a failure. Returns the status to send.
    pub(super) fn fail(mut self, status: Status) -> Status {
        let status = status::translated(status);
        self.write(status.code(), status::error_of(&status));
        status::encoded(&status, self.context.request_id())
    }

    fn write(&mut self, code: Code, error: Option<&Error>) {
        self.is_written = true;
        let method = self.method.as_ref().map_or(UNKNOWN_METHOD, |method| &method.name);
        let is_ours = self.method.as_ref().is_none_or(|method| method.rule.is_some());
        let code = code_name(code);
        let reason = error.map_or("", |error| error.reason().as_str());
        let cause = error.filter(|error| status::is_our_fault(error)).map(Error::with_source);
        let is_shed = error.is_some_and(status::is_shed);
        let elapsed = self.started.elapsed();
        let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
        self.log.metrics.rpc(method, code, reason, elapsed);
        let request_id = self.context.request_id();
        // `None` leaves the field out of the line.
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let principal = self.context.0.principal.get().map(String::as_str).filter(|id| !id.is_empty());
        let address = self.context.0.address.get().map(ToString::to_string);
        // A macro, because `tracing` needs the level of an event at compile time.
        macro_rules! line {
            ($level:ident $(, $error:ident)?) => {
                tracing::$level!(
                    rpc.method = method, rpc.code = code, rpc.reason = reason, request.id = request_id,
                    principal.id = principal, client.address = address, duration_ms,
                    $($error,)? "rpc"
                )
            };
        }
        match cause {
            Some(error) => line!(error, error),
            None if is_ours && !is_shed => line!(info),
            // Load balancers check health every second, and an overload sheds thousands of calls.
            None => line!(debug),
        }
        if is_shed {
            self.log.shed.count();
        }
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(Code::Cancelled, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_only_if_it_is_fit_for_a_log() {
        assert!(is_request_id("6f1d2c1e-0f3b.4c55_A"));
        assert!(is_request_id(&"a".repeat(128)));
        for wrong in ["", "a b", "a\"b", "ä", &"a".repeat(129)] {
            assert!(!is_request_id(wrong), "{wrong:?}");
        }
    }
}
