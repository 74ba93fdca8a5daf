//! The outermost layer: looks the method up, for itself and the layers within; has the request id, one line of log and one
//! count for each call, panics, and errors that tonic makes itself. Of calls that are refused for want of room there is one
//! line a second.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use data_encoding::HEXLOWER;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use tokio::time::{Sleep, sleep_until};
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::deadline::EndsAt;
use super::lanes::Place;
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
    effects: Effects,
    table: MethodTable,
    ledger: Arc<Ledger>,
}

impl Observer {
    pub(super) fn new(effects: Effects, table: MethodTable, metrics: Arc<Metrics>) -> Observer {
        Observer { effects, table, ledger: Arc::new(Ledger { metrics, shed: Shed::default() }) }
    }
}

/// Where calls are counted.
struct Ledger {
    metrics: Arc<Metrics>,
    shed: Shed,
}

/// Refusals for want of room, told all together: a line for each would make the log a part of the flood.
#[derive(Debug, Default)]
struct Shed(Mutex<Untold>);

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
    let method = observer.table.find(request.uri().path());
    let account = Account::open(&observer.ledger, &trace, method.as_ref());
    let answer = match method {
        Some(method) => {
            let span = tracing::info_span!("rpc", request.id = trace.request_id(), rpc.method = method.name);
            request.extensions_mut().insert(trace.clone());
            request.extensions_mut().insert(method);
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
            answer.unwrap_or_else(|_| Error::internal("the handler panicked").into_response())
        }
        None => Error::MethodUnavailable.into_response(),
    };
    let mut response = match failure(&answer) {
        Some(status) => account.fail(status).into_http(),
        None => accounted(answer, account),
    };
    if let Ok(id) = HeaderValue::from_str(trace.request_id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The status of a call that failed before it had an answer. Handlers leave theirs, source and all, in the extensions;
/// what the router refuses is in the headers alone.
fn failure(response: &Response) -> Option<Status> {
    let status = response.extensions().get::<Status>().cloned();
    status.or_else(|| Status::from_header_map(response.headers())).filter(|status| status.code() != Code::Ok)
}

/// An answer whose call is accounted for when its body ends.
fn accounted(mut answer: Response, account: Account) -> Response {
    let permit = answer.extensions_mut().remove::<Arc<Place>>();
    let end = answer.extensions_mut().remove::<EndsAt>().map(|end| Box::pin(sleep_until(end.0)));
    answer.map(|body| Body::new(AccountedBody { body, account: Some(account), end, _place: permit }))
}

/// The body of an answer that has begun well. It ends with a status, also when it panics or a stream is at its deadline, and
/// holds the place of its call.
struct AccountedBody {
    body: Body,
    /// None once the call has ended.
    account: Option<Account>,
    end: Option<Pin<Box<Sleep>>>,
    _place: Option<Arc<Place>>,
}

impl AccountedBody {
    /// What is sent on for a frame of the body: trailers end the call.
    fn forward(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(trailers) = frame.trailers_ref() else { return frame };
        let absent = || Error::internal("the trailers of an answer have no status").into();
        let status = Status::from_header_map(trailers).unwrap_or_else(absent);
        if status.code() != Code::Ok {
            return self.fail(status);
        }
        if let Some(account) = self.account.take() {
            account.succeed();
        }
        frame
    }

    fn fail(&mut self, status: Status) -> Frame<Bytes> {
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        if let Some(account) = self.account.take() {
            // Without trailers the client sees a stream that broke off, which it is.
            let _ = account.fail(status).add_header(&mut trailers);
        }
        Frame::trailers(trailers)
    }
}

impl HttpBody for AccountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.account.is_none() {
            return Poll::Ready(None);
        }
        let body = &mut self.body;
        let error = match std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context))) {
            Ok(Poll::Ready(Some(Ok(frame)))) => return Poll::Ready(Some(Ok(self.forward(frame)))),
            Ok(Poll::Ready(Some(Err(error)))) => Error::internal(error),
            Ok(Poll::Ready(None)) => Error::internal("an answer ended without a status"),
            Ok(Poll::Pending) => {
                let Some(end) = self.end.as_mut() else { return Poll::Pending };
                ready!(end.as_mut().poll(context));
                Error::DeadlinePassed
            }
            Err(_) => Error::internal("an answer panicked"),
        };
        Poll::Ready(Some(Ok(self.fail(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.account.is_none()
    }
}

/// The account of one call: exactly one line of log and one count, when its answer has ended or its client has hung up.
struct Account {
    ledger: Arc<Ledger>,
    trace: Trace,
    /// None if no such method is served.
    method: Option<Arc<Method>>,
    started: Instant,
    is_closed: bool,
}

impl Account {
    fn open(ledger: &Arc<Ledger>, trace: &Trace, method: Option<&Arc<Method>>) -> Account {
        let (ledger, trace, method) = (Arc::clone(ledger), trace.clone(), method.cloned());
        Account { ledger, trace, method, started: Instant::now(), is_closed: false }
    }

    fn succeed(mut self) {
        self.tell(Code::Ok, None);
    }

    /// Returns the status to send.
    fn fail(mut self, status: Status) -> Status {
        let status = status::translated(status);
        self.tell(status.code(), status::error_of(&status));
        status::encoded(&status, self.trace.request_id())
    }

    fn tell(&mut self, code: Code, error: Option<&Error>) {
        self.is_closed = true;
        let method = self.method.as_ref().map_or(UNKNOWN_METHOD, |method| &method.name);
        let is_ours = self.method.as_ref().is_none_or(|method| method.rule.is_some());
        let code = code_name(code);
        let reason = error.map_or("", |error| error.reason().as_str());
        let cause = error.filter(|error| status::is_our_fault(error)).map(chain);
        let is_shed = error.is_some_and(status::is_shed);
        let elapsed = self.started.elapsed();
        let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
        self.ledger.metrics.rpc(method, code, reason, elapsed);
        let request_id = self.trace.request_id();
        // What is not there is left out of the line.
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let principal = self.trace.0.principal.get().map(String::as_str).filter(|id| !id.is_empty());
        let address = self.trace.0.address.get().map(ToString::to_string);
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
            self.ledger.shed.count();
        }
    }
}

impl Drop for Account {
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
    use futures_util::future::poll_fn;
    use tonic_types::StatusExt as _;

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

    type Polled = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

    /// A body that does one thing at every poll.
    struct Odd(fn() -> Polled);

    impl HttpBody for Odd {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            (self.0)()
        }
    }

    fn ledger() -> Arc<Ledger> {
        Arc::new(Ledger { metrics: Arc::new(Metrics::new()), shed: Shed::default() })
    }

    fn reason(status: Option<&Status>) -> Option<String> {
        status?.get_details_error_info().map(|info| info.reason)
    }

    async fn last_word(odd: Odd) -> Option<Status> {
        let account = Account::open(&ledger(), &Trace::default(), None);
        let end = Some(Box::pin(sleep_until(tokio::time::Instant::now())));
        let mut body = AccountedBody { body: Body::new(odd), account: Some(account), end, _place: None };
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await?.ok()?;
        let after = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(after.is_none(), "nothing comes after the end");
        Status::from_header_map(frame.trailers_ref()?)
    }

    /// What is counted of a call whose body is polled once and dropped.
    async fn counted(odd: Odd) -> Vec<String> {
        let ledger = ledger();
        let account = Account::open(&ledger, &Trace::default(), None);
        let mut body = AccountedBody { body: Body::new(odd), account: Some(account), end: None, _place: None };
        let _ = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await;
        drop(body);
        let text = ledger.metrics.encode();
        let counts = text.lines().filter_map(|line| line.strip_prefix("latchkey_rpc_total{method=\"unknown\","));
        counts.map(str::to_owned).collect()
    }

    fn trailers(code: Code) -> Polled {
        let mut trailers = HeaderMap::new();
        let _ = Status::new(code, "").add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    #[tokio::test]
    async fn a_call_is_counted_once_by_how_its_answer_ended() {
        assert_eq!(counted(Odd(|| trailers(Code::Ok))).await, [r#"code="OK",reason=""} 1"#]);
        let failed = counted(Odd(|| trailers(Code::Unknown))).await;
        assert_eq!(failed, [r#"code="INTERNAL",reason="INTERNAL"} 1"#]);
        let failed = counted(Odd(|| trailers(Code::NotFound))).await;
        assert_eq!(failed, [r#"code="NOT_FOUND",reason=""} 1"#]);
        let cut_short = counted(Odd(|| Poll::Ready(None))).await;
        assert_eq!(cut_short, [r#"code="INTERNAL",reason="INTERNAL"} 1"#]);
        assert_eq!(counted(Odd(|| Poll::Pending)).await, [r#"code="CANCELLED",reason=""} 1"#]);
    }

    #[tokio::test]
    async fn a_stream_ends_in_order_at_its_limit() {
        let status = last_word(Odd(|| Poll::Pending)).await;
        assert_eq!(reason(status.as_ref()).as_deref(), Some("DEADLINE_PASSED"), "{status:?}");
    }

    #[tokio::test]
    #[expect(clippy::panic, reason = "that is what is tested")]
    async fn a_stream_that_panics_ends_in_order() {
        let status = last_word(Odd(|| panic!("a secret"))).await;
        assert_eq!(reason(status.as_ref()).as_deref(), Some("INTERNAL"), "{status:?}");
        assert!(!format!("{status:?}").contains("secret"));
    }
}
