//! The layer around all pages: it assigns the request id, refuses forms of other sites, admits to the lane, ends late requests,
//! catches panics, writes the log and sets the headers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tracing::Instrument as _;

use super::problem::{Cause, Problem};
use super::visit::{Place, Visit};
use super::{DEADLINE, Pages};
use crate::call_lines::{Kind, Origin};
use crate::domain::caller::Source;
use crate::error::Error;
use crate::metrics::CallLane;

/// The header of the request id in responses.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Nothing is loaded from elsewhere, nothing is framed, and forms lead only to us.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'",
);

/// Runs the layer.
pub(super) async fn observe(State(pages): State<Arc<Pages>>, request: Request, next: Next) -> Response {
    let (visit, began, method) = (Visit::begin(&pages, &request), Instant::now(), request.method().clone());
    let span = tracing::info_span!("page", request.id = visit.request_id());
    let answer = AssertUnwindSafe(admitted(&pages, &visit, request, next)).catch_unwind().instrument(span).await;
    let mut response =
        answer.unwrap_or_else(|_| pages.problem(Some(&visit), &Error::internal("the handler panicked").into()));
    let cause = response.extensions_mut().remove::<Cause>().unwrap_or_default();
    log(&pages, &visit, &method, response.status(), &cause, began);
    set_headers(&visit, response.headers_mut());
    response
}

async fn admitted(pages: &Pages, visit: &Visit, mut request: Request, next: Next) -> Response {
    if pages.own_origins.is_foreign(request.method(), request.headers()) {
        return pages.problem(Some(visit), &Problem::OtherSite);
    }
    let permit = match pages.lanes.acquire(CallLane::Pages, visit.address().map(Source::of)) {
        Ok(permit) => permit,
        Err(error) => return pages.problem(Some(visit), &error.into()),
    };
    request.extensions_mut().insert(visit.with_permit(permit));
    let answer = tokio::time::timeout(DEADLINE, next.run(request)).await;
    answer.unwrap_or_else(|_| pages.problem(Some(visit), &Error::DeadlinePassed.into()))
}

/// Sets the headers of every response. Those that a handler has set stay.
fn set_headers(visit: &Visit, headers: &mut HeaderMap) {
    let fixed = [
        (CONTENT_SECURITY_POLICY, POLICY),
        // The URL has the token.
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(value);
    }
    if let Ok(id) = HeaderValue::from_str(visit.request_id()) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Counts a request, and logs it without its query.
fn log(pages: &Pages, visit: &Visit, method: &Method, status: StatusCode, cause: &Cause, began: Instant) {
    let (now, page, address) = (Instant::now(), visit.place().as_str(), visit.address());
    pages.app.metrics.page(page, status.as_u16());
    let method = if method == Method::POST { "POST" } else { "GET" };
    let kind = || Kind {
        method: format!("{method} /{page}"),
        code: status.canonical_reason().unwrap_or_default(),
        reason: cause.reason,
        is_fault: cause.fault.is_some(),
    };
    let origin = Origin { principal: None, address };
    let has_own_line =
        !matches!(visit.place(), Place::Asset | Place::Strength) && pages.lines.admit(kind(), origin, now);
    let reason = Some(cause.reason).filter(|reason| !reason.is_empty());
    let address = address.map(|address| address.to_string());
    let duration_ms = (now.saturating_duration_since(began).as_secs_f64() * 1e6).round() / 1e3;
    macro_rules! line {
        ($level:ident $(, $error:ident)?) => {
            tracing::$level!(
                page, http.method = method, http.status = status.as_u16(), rpc.reason = reason,
                request.id = visit.request_id(), client.address = address, duration_ms, $($error,)? "page"
            )
        };
    }
    match &cause.fault {
        Some(error) if has_own_line => line!(error, error),
        None if has_own_line => line!(info),
        _ => line!(debug),
    }
}
