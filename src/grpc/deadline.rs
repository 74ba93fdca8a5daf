//! How long a call may take. The shorter of the client's `grpc-timeout` and our own limit ends it, as
//! `DEADLINE_EXCEEDED`.
//!
//! tonic has a timer of its own for `grpc-timeout`, around all layers, and that one answers `CANCELLED`. So ours must
//! never be the later of the two: it counts from [`arrived`], which runs before tonic starts its own, and tonic looks
//! at its own only after it has asked us.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use super::observe::Trace;
use super::status;
use super::table::Method;
use crate::error::Error;

/// How long a stream may take to begin: until then its request lies in memory.
const STREAM_BEGINS: Duration = Duration::from_secs(20);

/// When a call came in.
#[derive(Debug, Clone, Copy)]
struct Arrived(Instant);

/// Notes when a call came in, before any timer is started for it.
pub(super) fn arrived<B>(mut request: http::Request<B>) -> http::Request<B> {
    request.extensions_mut().insert(Arrived(Instant::now()));
    request
}

/// The layer. Work that changes something runs on in its task: see `App::detached`.
pub(super) async fn deadline(Extension(method): Extension<Arc<Method>>, request: Request, next: Next) -> Response {
    let arrived = request.extensions().get::<Arrived>().map_or_else(Instant::now, |arrived| arrived.0);
    let limit = method.deadline;
    let end = arrived + client_limit(request.headers()).map_or(limit, |client| client.min(limit));
    let asked = end.min(arrived + STREAM_BEGINS);
    let trace = request.extensions().get::<Trace>().cloned().unwrap_or_default();
    tokio::select! {
        biased;
        response = next.run(request) => {
            if method.is_streaming {
                response.map(|body| Body::new(Bounded { body, end: Box::pin(sleep_until(end)), trace, is_over: false }))
            } else {
                response
            }
        }
        () = sleep_until(asked) => Error::DeadlinePassed.into_response(),
    }
}

/// `grpc-timeout`: up to eight digits and a unit. One that is malformed is none, as tonic has it.
fn client_limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The body of a stream, which ends in order at its limit, and also when it panics.
struct Bounded {
    body: Body,
    end: Pin<Box<Sleep>>,
    trace: Trace,
    is_over: bool,
}

impl Bounded {
    fn fail(&mut self, error: Error) -> Frame<Bytes> {
        self.is_over = true;
        self.body = Body::empty();
        let status = status::encoded(&error.into(), self.trace.request_id());
        let mut trailers = HeaderMap::new();
        // Without trailers the client sees a stream that broke off, which it is.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let body = &mut self.body;
        match std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context))) {
            Ok(Poll::Pending) => {}
            Ok(ready) => return ready,
            Err(_) => return Poll::Ready(Some(Ok(self.fail(Error::internal("a stream panicked"))))),
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Some(Ok(self.fail(Error::DeadlinePassed))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;
    use tonic::Status;
    use tonic_types::StatusExt as _;

    use super::*;

    fn client(text: &'static str) -> Option<Duration> {
        client_limit(&HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            http::HeaderValue::from_static(text),
        )]))
    }

    #[test]
    fn the_timeout_of_a_client_is_read_as_the_protocol_has_it() {
        assert_eq!(client("1H"), Some(Duration::from_hours(1)));
        assert_eq!(client("99999999H"), Some(Duration::from_hours(99_999_999)));
        assert_eq!(client("2M"), Some(Duration::from_mins(2)));
        assert_eq!(client("3S"), Some(Duration::from_secs(3)));
        assert_eq!(client("4m"), Some(Duration::from_millis(4)));
        assert_eq!(client("5u"), Some(Duration::from_micros(5)));
        assert_eq!(client("6n"), Some(Duration::from_nanos(6)));
        for wrong in ["", "m", "5", "5x", "-5m", "+5m", "5 m", "123456789S"] {
            assert_eq!(client(wrong), None, "{wrong:?}");
        }
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

    fn reason(status: Option<&Status>) -> Option<String> {
        status?.get_details_error_info().map(|info| info.reason)
    }

    async fn last_word(odd: Odd) -> Option<Status> {
        let end = Box::pin(sleep_until(Instant::now()));
        let mut body = Bounded { body: Body::new(odd), end, trace: Trace::default(), is_over: false };
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await?.ok()?;
        let after = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(after.is_none(), "nothing comes after the end");
        Status::from_header_map(frame.trailers_ref()?)
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
