//! The outermost layer: looks the method up, for itself and the layers within; has the request id, one line of log and one
//! count for each call, panics, and errors that tonic makes itself. Of calls that are refused for want of room there is one
//! line a second.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use data_encoding::HEXLOWER;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::status;
use super::table::{Method, MethodTable};
use crate::effects::Effects;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::proto::code_name;

/// Carries the request id, in and out.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// How often the log tells of calls that were refused for want of room.
const TELL_SHED_EVERY: Duration = Duration::from_secs(1);

/// Stands in log and metrics for every method that is not served, so that strangers cannot make up names there.
const UNKNOWN_METHOD: &str = "unknown";

/// What the layer works with.
pub(super) struct Observer {
    pub(super) effects: Effects,
    pub(super) metrics: Arc<Metrics>,
    pub(super) table: MethodTable,
    pub(super) shed: Shed,
}

/// Refusals for want of room, told all together: a line for each would make the log a part of the flood.
#[derive(Debug, Default)]
pub(super) struct Shed(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    calls: u64,
    told_at: Option<Instant>,
}

impl Shed {
    /// Counts one, and tells of all so far if the last time was a while ago.
    fn count(&self) {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        untold.calls += 1;
        if untold.told_at.is_some_and(|at| at.elapsed() < TELL_SHED_EVERY) {
            return;
        }
        let Untold { calls, .. } = std::mem::replace(&mut *untold, Untold { calls: 0, told_at: Some(Instant::now()) });
        drop(untold);
        tracing::warn!(calls, "refused for want of room; latchkey_rpc_total has the methods");
    }
}

/// What is known of a call so far. The layers within add to it, so that the log knows it even if they panic.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    request_id: String,
    principal: OnceLock<String>,
    address: OnceLock<IpAddr>,
}

impl Trace {
    fn begin(headers: &HeaderMap, effects: &Effects) -> Trace {
        let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_request_id(id));
        let request_id = sent.map_or_else(|| HEXLOWER.encode(&effects.bytes::<16>()), str::to_owned);
        Trace(Arc::new(Known { request_id, ..Known::default() }))
    }

    /// The id of the request.
    pub(super) fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// Who calls: the id of a principal, empty for a stranger.
    pub(super) fn note_principal(&self, id: String) {
        let _ = self.0.principal.set(id);
    }

    /// Where the call comes from.
    pub(super) fn note_address(&self, address: Option<IpAddr>) {
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

/// The layer.
pub(super) async fn observe(State(observer): State<Arc<Observer>>, mut request: Request, next: Next) -> Response {
    let trace = Trace::begin(request.headers(), &observer.effects);
    request.extensions_mut().insert(trace.clone());
    let method = observer.table.find(request.uri().path());
    let account = Account::open(&observer, &trace, method.as_deref());
    let mut response = match &method {
        Some(method) => {
            request.extensions_mut().insert(Arc::clone(method));
            let span = tracing::info_span!("rpc", request.id = trace.request_id(), rpc.method = method.name);
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
            answer.unwrap_or_else(|_| Error::internal("the handler panicked").into_response())
        }
        None => Error::MethodUnavailable.into_response(),
    };

    match failure(&response) {
        None => account.close(None),
        Some(status) => {
            let status = status::translated(status);
            account.close(Some(&status));
            response = status::encoded(&status, trace.request_id()).into_http();
        }
    }
    if let Ok(id) = HeaderValue::from_str(trace.request_id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The status of a call that failed before it had an answer. Handlers leave theirs, source and all, in the extensions;
/// what the router refuses is in the headers alone. A stream that breaks later says so to its client in trailers.
fn failure(response: &Response) -> Option<Status> {
    let status = response.extensions().get::<Status>().cloned();
    status.or_else(|| Status::from_header_map(response.headers())).filter(|status| status.code() != Code::Ok)
}

/// The account of one call: exactly one line of log and one count, even for a caller who hangs up.
struct Account<'a> {
    observer: &'a Observer,
    trace: &'a Trace,
    method: &'a str,
    is_ours: bool,
    started: Instant,
    is_closed: bool,
}

impl<'a> Account<'a> {
    fn open(observer: &'a Observer, trace: &'a Trace, method: Option<&'a Method>) -> Account<'a> {
        let is_ours = method.is_none_or(|method| method.rule.is_some());
        let method = method.map_or(UNKNOWN_METHOD, |method| &method.name);
        Account { observer, trace, method, is_ours, started: Instant::now(), is_closed: false }
    }

    fn close(mut self, failure: Option<&Status>) {
        self.tell(failure.map_or(Code::Ok, Status::code), failure.and_then(status::error_of));
    }

    fn tell(&mut self, code: Code, error: Option<&Error>) {
        self.is_closed = true;
        let code = code_name(code);
        let reason = error.map_or("", |error| error.reason().as_str());
        let cause = error.filter(|error| status::is_our_fault(error)).map(chain);
        let is_shed = error.is_some_and(status::is_shed);
        let elapsed = self.started.elapsed();
        let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
        self.observer.metrics.rpc(self.method, code, reason, elapsed);
        let request_id = self.trace.request_id();
        // What is not there is left out of the line.
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let principal = self.trace.0.principal.get().map(String::as_str).filter(|id| !id.is_empty());
        let address = self.trace.0.address.get().map(ToString::to_string);
        // A macro, because the level of an event is fixed where it stands.
        macro_rules! line {
            ($level:ident $(, $error:ident)?) => {
                tracing::$level!(
                    rpc.method = self.method, rpc.code = code, rpc.reason = reason, request.id = request_id,
                    principal.id = principal, client.address = address, duration_ms,
                    $($error,)? "rpc"
                )
            };
        }
        match cause {
            Some(error) => line!(error, error),
            None if self.is_ours && !is_shed => line!(info),
            // A balancer asks for health every second, and a flood never ends.
            None => line!(debug),
        }
        if is_shed {
            self.observer.shed.count();
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if !self.is_closed {
            self.tell(Code::Cancelled, None);
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

    #[test]
    fn an_answer_without_a_status_in_its_head_has_not_failed() {
        assert!(failure(&Response::default()).is_none());
        assert!(failure(&Status::ok("").into_http()).is_none());
        let refused: Response = Status::unimplemented("").into_http();
        assert!(failure(&refused).is_some());
    }
}
