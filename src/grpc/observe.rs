//! The outermost layer. It assigns the request id, looks up the method for all layers, catches panics, records the call, and
//! encodes the status of a failure.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::HeaderValue;
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::body::recorded;
use super::call_log::{CallContext, CallLog, CallRecord, REQUEST_ID};
use super::table::MethodTable;
use crate::environment::Environment;
use crate::error::Error;
use crate::metrics::Metrics;

/// The state of the layer.
pub(super) struct Observer {
    environment: Environment,
    table: MethodTable,
    log: Arc<CallLog>,
}

impl Observer {
    pub(super) fn new(environment: Environment, table: MethodTable, metrics: Arc<Metrics>) -> Observer {
        Observer { environment, table, log: CallLog::new(metrics) }
    }
}

/// Runs the layer.
pub(super) async fn observe(State(observer): State<Arc<Observer>>, mut request: Request, next: Next) -> Response {
    let context = CallContext::begin(request.headers(), &observer.environment);
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
        Some(status) => record.fail(status).into_http(),
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
