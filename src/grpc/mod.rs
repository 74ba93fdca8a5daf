//! The gRPC edge: decodes requests into commands and encodes responses. It makes no decisions of its own.
//!
//! ```text
//! arrived ─▶ observe ─▶ deadline ─▶ lanes ─▶ access ─▶ user_admin, auth, audit ─▶ app
//!               │                                       decode: convert, needs
//!               └─ table: the `access` options of the contract
//! ```

mod access;
mod audit;
mod auth;
mod body;
mod call_log;
mod convert;
mod deadline;
mod health;
mod lanes;
mod needs;
mod observe;
mod reflection;
mod status;
mod table;
mod user_admin;

use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn, from_fn_with_state};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::v1::server_reflection_server::ServerReflectionServer;
use tonic_reflection::pb::v1alpha::server_reflection_server::ServerReflectionServer as AlphaReflectionServer;
use tower::layer::util::{Identity, Stack};
use tower::util::MapRequestLayer;

use self::access::access;
use self::deadline::{arrived, deadline};
use self::lanes::lanes;
use self::needs::Needs;
use self::observe::{Observer, observe};
use self::reflection::Reflection;
use self::table::MethodTable;
use crate::app::App;
use crate::config::Reflection as ReflectionMode;
use crate::domain::caller::Caller;
use crate::error::{Error, Result};
use crate::proto::v1::audit_server::AuditServer;
use crate::proto::v1::auth_server::AuthServer;
use crate::proto::v1::user_admin_server::UserAdminServer;

pub use self::call_log::CallLog;
pub use self::health::Health;
pub use self::observe::Failed;
pub use self::status::status_of;

/// The maximum size of a request of Health, in bytes: the name of a service. Health checks have no lane.
const TINY_REQUEST: usize = 1 << 10;
/// The maximum size of a request of Auth or Audit, in bytes. Unauthenticated clients may call Auth.
const SMALL_REQUEST: usize = 64 << 10;
/// The maximum size of a request of `UserAdmin`, in bytes.
const LARGE_REQUEST: usize = 1 << 20;
/// The maximum size of a response of Auth, in bytes.
const SMALL_ANSWER: usize = 256 << 10;
/// The maximum size of a response with a page, in bytes: the default limit of most clients.
const LARGE_ANSWER: usize = 4 << 20;

/// Returns all services behind their layers. The network and the local socket use the same: the connection identifies the
/// peer. Streams of reflection end with `stop`; for those of health see [`Health::end_watches`].
///
/// `failed_calls` is how many calls of a source may fail in a second before the caller is known.
pub fn routes(
    app: Arc<App>,
    reflection: ReflectionMode,
    failed_calls: u32,
    stop: &CancellationToken,
) -> Result<(Routes, Health, Arc<CallLog>)> {
    let table = MethodTable::load(reflection).map_err(Error::internal)?;
    let health = Health::begin();

    let user_admin = UserAdminServer::new(user_admin::Service::new(Arc::clone(&app)))
        .max_decoding_message_size(LARGE_REQUEST)
        .max_encoding_message_size(LARGE_ANSWER);
    let auth = AuthServer::new(auth::Service::new(Arc::clone(&app)))
        .max_decoding_message_size(SMALL_REQUEST)
        .max_encoding_message_size(SMALL_ANSWER);
    let audit = AuditServer::new(audit::Service::new(Arc::clone(&app)))
        .max_decoding_message_size(SMALL_REQUEST)
        .max_encoding_message_size(LARGE_ANSWER);
    let health_server = HealthServer::new(health.clone()).max_decoding_message_size(TINY_REQUEST);
    let routes = Routes::new(health_server).add_service(user_admin).add_service(auth).add_service(audit);
    let routes = match reflection {
        ReflectionMode::Off => routes,
        ReflectionMode::On | ReflectionMode::Authenticated => {
            let v1 = ServerReflectionServer::new(Reflection::v1(stop).map_err(Error::internal)?);
            let v1alpha = AlphaReflectionServer::new(Reflection::v1alpha(stop).map_err(Error::internal)?);
            routes
                .add_service(v1.max_decoding_message_size(SMALL_REQUEST))
                .add_service(v1alpha.max_decoding_message_size(SMALL_REQUEST))
        }
    };

    let log = CallLog::new(Arc::clone(&app.metrics));
    let observer = Arc::new(Observer::new(app.environment.clone(), table, Arc::clone(&log), failed_calls));
    let in_lanes = lanes::of_calls(app.hashing_capacity(), app.environment.clone(), Arc::clone(&app.metrics));
    // The last layer added is the outermost.
    let layered = routes
        .into_axum_router()
        .layer(from_fn_with_state(app, access))
        .layer(from_fn_with_state(in_lanes, lanes))
        .layer(from_fn(deadline))
        .layer(from_fn_with_state(observer, observe));
    Ok((Routes::from(layered).prepare(), health, log))
}

/// The layer that stores the time at which a call arrived.
pub type Arrival = MapRequestLayer<fn(http::Request<Body>) -> http::Request<Body>>;

/// The number of streams that a peer may make us reset before its connection is closed: as many as it may reset itself. A
/// well-behaved client causes almost none, but the body of a request that was answered early can count as an error.
pub const MAX_LOCAL_RESETS: usize = 200;

/// Returns an HTTP/2 server with every limit set. An unset limit means no limit, not hyper's default: tonic passes `None`
/// on, which would allow the reset flood of RUSTSEC-2024-0003.
pub fn transport() -> Server<Stack<Arrival, Identity>> {
    Server::builder()
        .layer(MapRequestLayer::new(arrived as fn(_) -> _))
        .max_concurrent_streams(Some(100))
        // Less than hyper's default, which would hold a hundred requests of one mebibyte each in memory.
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(1 << 20)
        .http2_adaptive_window(Some(false))
        .max_frame_size(16 << 10)
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_header_list_size(16 << 10)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // Rebalances clients over replicas. No grace period is set: it would cut off calls in flight.
        .max_connection_age(Duration::from_mins(30))
}

/// Returns the caller that the access layer admitted, and the message.
fn admitted<M>(request: Request<M>) -> Result<(Caller, M)> {
    let (_, mut extensions, message) = request.into_parts();
    // The caller is absent only if the layer is missing; then the call fails.
    let caller = extensions.remove().ok_or_else(|| Error::internal("a call without a caller"))?;
    Ok((caller, message))
}

/// Decodes a request into a command. Adds what set fields need to the caller.
fn decode<M: Needs, C>(request: Request<M>, convert: impl FnOnce(M) -> Result<C>) -> Result<(Caller, C)> {
    let (mut caller, message) = admitted(request)?;
    caller.field_scopes = needs::scopes(&message)?;
    caller.recent_sign_in = caller.recent_sign_in.max(message.needs_recent_sign_in());
    Ok((caller, convert(message)?))
}

/// Runs a change or a list to its end, even if the client hangs up. The permit of the call is held until then. The database
/// would go on with a list that was abandoned, while another takes its place.
async fn run<T, F>(app: &Arc<App>, work: impl FnOnce(Arc<App>) -> F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (work, permit) = (Box::pin(work(Arc::clone(app))), lanes::permit());
    app.detached(async move {
        let done = work.await;
        drop(permit);
        done
    })
    .await
}

#[cfg(test)]
mod tests;
