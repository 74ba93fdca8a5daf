//! The HTTP listener: metrics, probes and public keys, for programs that do not speak gRPC.
//!
//! | path | response |
//! | --- | --- |
//! | `/metrics` | the metrics, in the text format of `OpenMetrics` |
//! | `/livez` | 200; independent of the database, whose outage would otherwise restart every replica |
//! | `/readyz` | 200 if this server is ready for calls, otherwise 503 |
//! | `/.well-known/jwks.json` | the JWK Set (RFC 7517) that verifies access tokens |
//!
//! The responses contain nothing about users, and need no authentication.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};

use super::listen::HttpIncoming;
use crate::app::App;
use crate::metrics;

/// Serves until `shutdown` completes, and then finishes the requests in progress.
pub(super) async fn serve(
    incoming: HttpIncoming,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(incoming, router(app)).with_graceful_shutdown(shutdown).await
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .route("/.well-known/jwks.json", get(show_keys))
        .with_state(app)
}

async fn show_metrics(State(app): State<Arc<App>>) -> Response {
    app.report_queues();
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.encode()).into_response()
}

async fn show_readiness(State(app): State<Arc<App>>) -> Response {
    if app.ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

/// The JWK Set, with `max-age`: after that time a new key may be in use.
async fn show_keys(State(app): State<Arc<App>>) -> Response {
    let keys = app.signing_keys();
    let headers = [
        (CONTENT_TYPE, "application/jwk-set+json".to_owned()),
        (CACHE_CONTROL, format!("max-age={}", keys.max_age.as_secs())),
        (ETAG, keys.etag),
    ];
    (headers, keys.jwks_json).into_response()
}
