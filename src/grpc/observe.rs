//! The outermost layer. It assigns the request id, looks up the method for all layers, catches panics, records the call, limits
//! calls that fail before the caller is known, and encodes the status of a failure.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::HeaderValue;
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::access;
use super::body::recorded;
use super::call_log::{CallContext, CallLog, CallRecord, REQUEST_ID};
use super::status;
use super::table::MethodTable;
use crate::domain::caller::Source;
use crate::environment::Environment;
use crate::error::{Error, Limit, Unauthenticated};
use crate::token_bucket::TokenBuckets;

/// Seconds in which a source may use up its calls at once.
const BURST_SECONDS: f64 = 10.0;

/// The state of the layer.
pub(super) struct Observer {
    environment: Environment,
    table: MethodTable,
    log: Arc<CallLog>,
    /// `None` if failed calls are not limited.
    failed: Option<Mutex<TokenBuckets<Source>>>,
}

/// Marks the response of a call that failed before its caller was known. The connection then has no credit for the call.
#[derive(Debug, Clone, Copy)]
pub struct Failed {
    /// Whether the source is over its limit of such calls.
    pub is_beyond_limit: bool,
}

impl Observer {
    /// `failed_calls` is how many calls of a source may fail in a second; 0 is no limit.
    pub(super) fn new(environment: Environment, table: MethodTable, log: Arc<CallLog>, failed_calls: u32) -> Observer {
        let rate = f64::from(failed_calls);
        let buckets = || Mutex::new(TokenBuckets::full(rate * BURST_SECONDS, rate, Instant::now()));
        Observer { environment, table, log, failed: (failed_calls > 0).then(buckets) }
    }

    /// Ends a call that failed. If its source has made too many such calls, the answer is that it must wait.
    ///
    /// The limit is applied only now, because others may share the address: calls with a valid credential go on.
    fn fail(&self, context: &CallContext, record: CallRecord, status: Status) -> Response {
        let status = status::translated(status);
        let (Some(buckets), Some(source)) = (&self.failed, context.unknown_source().filter(|_| is_limited(&status)))
        else {
            return record.fail(status).into_http();
        };
        let taken = buckets.lock().unwrap_or_else(PoisonError::into_inner).try_take(source, Instant::now());
        let failed = Failed { is_beyond_limit: taken.is_err() };
        let status = match taken {
            Ok(()) => status,
            Err(retry_after) => Error::Exhausted { limit: Limit::Source, retry_after }.into(),
        };
        let mut response = record.fail(status).into_http();
        response.extensions_mut().insert(failed);
        response
    }
}

/// Returns whether calls that end so are limited by source. A wrong password is not among them: it has cost a hash, and the
/// limits of sign-ins count it.
fn is_limited(status: &Status) -> bool {
    let is_wrong_password = matches!(status::error_of(status), Some(Error::Unauthenticated(Unauthenticated::Rejected)));
    let codes = [Code::Unauthenticated, Code::Unimplemented, Code::InvalidArgument];
    codes.contains(&status.code()) && !is_wrong_password
}

/// Runs the layer.
pub(super) async fn observe(State(observer): State<Arc<Observer>>, mut request: Request, next: Next) -> Response {
    let peer = access::peer(request.extensions());
    let context = CallContext::begin(request.headers(), peer, &observer.environment);
    let method = observer.table.find(request.uri().path());
    let record = CallRecord::begin(&observer.log, &context, method.as_ref());
    let answer = match method {
        Some(method) => {
            let span = tracing::info_span!("rpc", request.id = context.request_id(), rpc.method = method.name);
            request.extensions_mut().insert(context.clone());
            request.extensions_mut().insert(method);
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
            answer.unwrap_or_else(|_| Error::internal("the handler panicked").into_response())
        }
        None => Error::MethodUnavailable.into_response(),
    };
    let mut response = match failure(&answer) {
        Some(status) => observer.fail(&context, record, status),
        None => recorded(answer, record),
    };
    if let Ok(id) = HeaderValue::from_str(context.request_id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Returns the status of a call that failed before its response began. Handlers and layers leave it in the extensions, with
/// its source; the router leaves it in the headers only.
fn failure(response: &Response) -> Option<Status> {
    let status = response.extensions().get::<Status>().cloned();
    status.or_else(|| Status::from_header_map(response.headers())).filter(|status| status.code() != Code::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_status_in_its_head_has_not_failed() {
        assert!(failure(&Response::default()).is_none());
        assert!(failure(&Status::ok("").into_http()).is_none());
        let refused: Response = Status::unimplemented("").into_http();
        assert!(failure(&refused).is_some());
    }
}
