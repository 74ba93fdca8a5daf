//! The response body. The call is recorded when its body ends.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Sleep, sleep_until};
use tonic::{Code, Status};

use super::call_log::CallRecord;
use super::deadline::EndsAt;
use crate::error::Error;
use crate::lanes::Permit;

/// Wraps the body of a response so that the call is recorded when the body ends.
pub(super) fn recorded(mut answer: Response, record: CallRecord) -> Response {
    let permit = answer.extensions_mut().remove::<Arc<Permit>>();
    let end = answer.extensions_mut().remove::<EndsAt>().map(|end| Box::pin(sleep_until(end.0)));
    answer.map(|body| Body::new(RecordedBody { body, record: Some(record), end, _permit: permit }))
}

/// The body of a response whose head reported no failure. It ends with a status even if the inner body panics or the
/// deadline of a stream passes. It holds the admission permit of the call until it is dropped.
struct RecordedBody {
    body: Body,
    /// `None` after the last frame.
    record: Option<CallRecord>,
    end: Option<Pin<Box<Sleep>>>,
    _permit: Option<Arc<Permit>>,
}

impl RecordedBody {
    /// Returns the frame to send. Trailers end the call.
    fn forward(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(trailers) = frame.trailers_ref() else { return frame };
        let absent = || Error::internal("the trailers of an answer have no status").into();
        let status = Status::from_header_map(trailers).unwrap_or_else(absent);
        if status.code() != Code::Ok {
            return self.fail(status);
        }
        if let Some(record) = self.record.take() {
            record.succeed();
        }
        frame
    }

    fn fail(&mut self, status: Status) -> Frame<Bytes> {
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        if let Some(record) = self.record.take() {
            // If the trailers cannot be encoded, the client sees a truncated stream.
            let _ = record.fail(status).add_header(&mut trailers);
        }
        Frame::trailers(trailers)
    }
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.record.is_none() {
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
        self.record.is_none()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::grpc::call_log::{CallContext, CallLog};
    use crate::metrics::Metrics;

    type Polled = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

    /// A body that does the same at every poll.
    struct Odd(fn() -> Polled);

    impl HttpBody for Odd {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            (self.0)()
        }
    }

    fn record(metrics: &Arc<Metrics>) -> CallRecord {
        CallRecord::begin(&CallLog::new(Arc::clone(metrics)), &CallContext::default(), None)
    }

    fn reason(status: Option<&Status>) -> Option<String> {
        status?.get_details_error_info().map(|info| info.reason)
    }

    async fn last_word(odd: Odd) -> Option<Status> {
        let record = record(&Arc::default());
        let end = Some(Box::pin(sleep_until(tokio::time::Instant::now())));
        let mut body = RecordedBody { body: Body::new(odd), record: Some(record), end, _permit: None };
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await?.ok()?;
        let after = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(after.is_none(), "nothing comes after the end");
        Status::from_header_map(frame.trailers_ref()?)
    }

    /// Returns the counters of a call whose body is polled once and dropped.
    async fn counted(odd: Odd) -> Vec<String> {
        let metrics = Arc::default();
        let record = record(&metrics);
        let mut body = RecordedBody { body: Body::new(odd), record: Some(record), end: None, _permit: None };
        let _ = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await;
        drop(body);
        let text = metrics.encode();
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
