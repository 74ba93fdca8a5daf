//! The record of each call: one count when it ends, and a log line, of its own or with others (`call_lines.rs`). Calls that are
//! shed because the server is at capacity share one log line a second.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::status;
use super::table::Method;
use crate::call_lines::{self, CallLines, Kind, Origin, REPORT_EVERY};
use crate::domain::caller::Source;
use crate::environment::Environment;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::proto::code_name;

/// The header of the request id, in requests and responses.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of a request id from a client, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 64;

/// The minimum time between two log lines about calls that were shed.
const SHED_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The name in log and metrics of every method that is not served, so that clients cannot create label values.
const UNKNOWN_METHOD: &str = "unknown";

/// Records calls in the log and the metrics.
pub struct CallLog {
    metrics: Arc<Metrics>,
    lines: CallLines,
    shed: Shed,
}

impl CallLog {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<CallLog> {
        Arc::new(CallLog { metrics, lines: CallLines::new(Instant::now()), shed: Shed::default() })
    }

    /// Logs gathered calls each second, until the server stops.
    pub async fn report_gathered(self: Arc<CallLog>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(REPORT_EVERY)).await.is_some() {
            self.report();
        }
    }

    /// Logs gathered calls.
    pub fn report(&self) {
        for (kind, gathered) in self.lines.due(Instant::now()) {
            call_lines::log(&kind, &gathered);
        }
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
    /// The client's own id of the request.
    client_request_id: Option<String>,
    /// The address of the peer. `None` on the local socket.
    peer: Option<IpAddr>,
    principal: OnceLock<String>,
    app: OnceLock<String>,
    stated_address: OnceLock<IpAddr>,
}

impl CallContext {
    pub(super) fn begin(headers: &HeaderMap, peer: Option<IpAddr>, environment: &Environment) -> CallContext {
        let request_id = HEXLOWER.encode(&environment.bytes::<16>());
        let client_request_id = client_request_id(headers);
        CallContext(Arc::new(Known { request_id, client_request_id, peer, ..Known::default() }))
    }

    /// Returns the id that the server gave to the request.
    pub(super) fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// Returns the id that the client gave to the request. Empty if there was none.
    pub(super) fn client_request_id(&self) -> &str {
        self.0.client_request_id.as_deref().unwrap_or_default()
    }

    /// Sets the id of the principal that calls; empty if the caller is unauthenticated.
    pub(super) fn set_principal(&self, id: String) {
        let _ = self.0.principal.set(id);
    }

    /// Sets the name of the application that calls.
    pub(super) fn set_app(&self, name: String) {
        let _ = self.0.app.set(name);
    }

    /// Sets the address that a calling application stated.
    pub(super) fn set_stated_address(&self, address: IpAddr) {
        let _ = self.0.stated_address.set(address);
    }

    /// Returns the source of the call if neither the principal nor the application is known. `None` on the local socket.
    pub(super) fn unknown_source(&self) -> Option<Source> {
        if self.principal().is_some() || self.0.app.get().is_some() {
            return None;
        }
        self.0.peer.map(Source::of)
    }

    fn principal(&self) -> Option<&str> {
        self.0.principal.get().map(String::as_str).filter(|id| !id.is_empty())
    }

    fn address(&self) -> Option<IpAddr> {
        self.0.stated_address.get().copied().or(self.0.peer)
    }

    fn origin(&self) -> Origin<'_> {
        let principal = self.principal().or_else(|| self.0.app.get().map(String::as_str));
        Origin { principal, address: self.address() }
    }
}

/// Returns the request id that the client sent, if it has 1 to 64 printable ASCII characters.
fn client_request_id(headers: &HeaderMap) -> Option<String> {
    let sent = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    let is_fit = (1..=MAX_CLIENT_ID_BYTES).contains(&sent.len()) && sent.bytes().all(is_printable);
    is_fit.then(|| sent.to_owned())
}

/// The record of one call, written exactly once, when the response has ended. If the record is
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
        let cause = error.filter(|error| error.is_our_fault()).map(Error::with_source);
        let is_shed = error.is_some_and(status::is_shed);
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.started);
        let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
        self.log.metrics.rpc(method, code, reason, elapsed);
        let is_info = cause.is_some() || (is_ours && !is_shed);
        let kind = || Kind { method: method.to_owned(), code, reason, is_fault: cause.is_some() };
        let has_own_line = is_info && self.log.lines.admit(kind(), self.context.origin(), now);
        let request_id = self.context.request_id();
        let client_id = self.context.0.client_request_id.as_deref();
        // `None` leaves the field out of the line.
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let principal = self.context.principal();
        let address = self.context.address().map(|address| address.to_string());
        // A macro, because `tracing` needs the level of an event at compile time.
        macro_rules! line {
            ($level:ident $(, $error:ident)?) => {
                tracing::$level!(
                    rpc.method = method, rpc.code = code, rpc.reason = reason, request.id = request_id,
                    request.client_id = client_id, principal.id = principal, client.address = address, duration_ms,
                    $($error,)? "rpc"
                )
            };
        }
        match cause {
            Some(error) if has_own_line => line!(error, error),
            None if has_own_line => line!(info),
            // Gathered, or shed in an overload, or a health check, which load balancers make every second.
            _ => line!(debug),
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
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_id_of_a_client_is_kept_only_if_it_is_fit_for_a_log() {
        let kept = |text: &[u8]| {
            let value = HeaderValue::from_bytes(text).ok();
            client_request_id(&value.map(|value| (REQUEST_ID, value)).into_iter().collect())
        };
        for fit in ["6f1d2c1e-0f3b.4c55_A", "a b", "a\"b", &"a".repeat(64)] {
            assert_eq!(kept(fit.as_bytes()).as_deref(), Some(fit));
        }
        for wrong in [&b""[..], b"a\tb", b"\xff", "\u{e4}".as_bytes(), &[b'a'; 65]] {
            assert_eq!(kept(wrong), None, "{wrong:?}");
        }
        assert_eq!(client_request_id(&HeaderMap::new()), None);
    }
}
