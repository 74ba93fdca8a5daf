//! HTTP/1: the pages for users (`src/pages/`), and metrics, probes and public keys for programs that do not speak gRPC.
//!
//! | path | response |
//! | --- | --- |
//! | `/metrics` | the metrics, in the text format of `OpenMetrics` |
//! | `/livez` | 200; independent of the database, whose outage would otherwise restart every replica |
//! | `/readyz` | 200 if this server is ready for calls, otherwise 503 |
//! | `/.well-known/jwks.json` | the JWK Set (RFC 7517) that verifies access tokens |
//!
//! These responses contain nothing about users, and need no authentication.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::{Connected as _, TcpConnectInfo};
use tower::ServiceExt as _;

use super::calls;
use super::connection::Connection;
use super::listen::Incoming;
use crate::app::App;
use crate::metrics;
use crate::pages::{Pages, Peer};

/// Time limit for the head of a request, and for the pause before it.
const HEAD_TIME_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes of the head of a request. Requests of browsers have one or two thousand.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Serves connections until the channel closes. At a stop, requests in progress are finished.
pub(super) async fn serve(mut incoming: Incoming, router: Router, stop: CancellationToken, tasks: TaskTracker) {
    while let Some(Ok(connection)) = incoming.recv().await {
        tasks.spawn(serve_connection(connection, router.clone(), stop.clone()));
    }
}

async fn serve_connection(connection: Connection, router: Router, stop: CancellationToken) {
    let info = connection.connect_info();
    let service = router.map_request(move |request: http::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        request
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_LIMIT).max_buf_size(MAX_HEAD_BYTES);
    let served = builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

/// The router of the pages. Their requests are tracked like calls, so that a stop waits for them.
pub(super) fn pages(pages: Arc<Pages>) -> Router {
    pages.router().layer(from_fn(tell_peer)).layer(from_fn(calls::track))
}

async fn tell_peer(mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer(peer.ip().to_canonical()));
    }
    next.run(request).await
}

/// The router of metrics, probes and public keys.
pub(super) fn router(app: Arc<App>) -> Router {
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
