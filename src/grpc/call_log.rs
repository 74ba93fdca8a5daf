//! What is known of a call, and the one line of log and the one count that it ends with. Of calls that are refused for want
//! of room there is one line a second.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};

use super::status;
use super::table::Method;
use crate::effects::Effects;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::proto::code_name;

/// Carries the request id, in and out.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// How often the log tells of calls that were refused for want of room.
const SHED_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Stands in log and metrics for every method that is not served, so that strangers cannot make up names there.
const UNKNOWN_METHOD: &str = "unknown";

/// Where calls are counted.
pub(super) struct CallLog {
    metrics: Arc<Metrics>,
    shed: Shed,
}

impl CallLog {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<CallLog> {
        Arc::new(CallLog { metrics, shed: Shed::default() })
    }
}

/// Refusals for want of room, told all together: a line for each would make the log a part of the flood.
#[derive(Debug, Default)]
struct Shed(Mutex<Unreported>);

#[derive(Debug, Default)]
struct Unreported {
    calls: u64,
    reported_at: Option<Instant>,
}

impl Shed {
    /// Counts one, and tells of all so far if the last time was a while ago.
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

/// What is known of a call so far. The layers within add to it, so that the log knows it even if they panic.
#[derive(Debug, Clone, Default)]
pub(super) struct CallContext(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    request_id: String,
    principal: OnceLock<String>,
    address: OnceLock<IpAddr>,
}

impl CallContext {
    pub(super) fn begin(headers: &HeaderMap, effects: &Effects) -> CallContext {
        let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_request_id(id));
        let request_id = sent.map_or_else(|| HEXLOWER.encode(&effects.bytes::<16>()), str::to_owned);
        CallContext(Arc::new(Known { request_id, ..Known::default() }))
    }

    /// The id of the request.
    pub(super) fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// Who calls: the id of a principal, empty for a stranger.
    pub(super) fn set_principal(&self, id: String) {
        let _ = self.0.principal.set(id);
    }

    /// Where the call comes from.
    pub(super) fn set_address(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            let _ = self.0.address.set(address);
        }
    }
}

/// Up to 128 letters, digits and `._-`: fit for a log, a header and a file name.
fn is_request_id(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(is_fit)
}

/// The account of one call: exactly one line of log and one count, when its answer has ended or its client has hung up.
pub(super) struct CallRecord {
    log: Arc<CallLog>,
    context: CallContext,
    /// None if no such method is served.
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

    /// Returns the status to send.
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
        let cause = error.filter(|error| status::is_our_fault(error)).map(chain);
        let is_shed = error.is_some_and(status::is_shed);
        let elapsed = self.started.elapsed();
        let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
        self.log.metrics.rpc(method, code, reason, elapsed);
        let request_id = self.context.request_id();
        // What is not there is left out of the line.
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let principal = self.context.0.principal.get().map(String::as_str).filter(|id| !id.is_empty());
        let address = self.context.0.address.get().map(ToString::to_string);
        // A macro, because the level of an event is fixed where it stands.
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
            // A balancer asks for health every second, and a flood never ends.
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

/// What is behind an error, outermost first, or its text if nothing is. Callers never see it.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
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

    #[test]
    fn the_chain_of_causes_is_for_the_log() {
        let inner = std::io::Error::other("disk full");
        assert_eq!(chain(&Error::internal(inner)), "disk full");
    }
}
