//! The lanes of gRPC calls, and the layer that acquires a permit for a call.
//!
//! A call holds its permit until the response is sent and the work is done: a client that hangs up does not free a permit while
//! the server still works for it. A health check has no lane: a load balancer must get an answer from a busy server.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::access;
use super::table::Method;
use crate::domain::caller::Source;
use crate::environment::Environment;
use crate::error::Result;
use crate::lanes::{Lanes, Permit};
use crate::metrics::{CallLane, Metrics};

/// These calls read a row or two: together some hundredths of a second of work for the database connections.
const INTROSPECTIONS_AT_ONCE: usize = 512;
/// About what the one writer of an embedded database does in a second: more calls would wait longer than people do. The
/// permit is acquired before authentication, so an unauthenticated call holds one until it is refused.
const OPERATORS_AT_ONCE: usize = 256;
/// Lists are read two at a time, a few milliseconds each. More would only wait.
const LISTS_AT_ONCE: usize = 64;
/// Streams that may be idle for 20 s. Unauthenticated clients can open them, so they have their own lane.
const REFLECTIONS_AT_ONCE: usize = 32;
/// Health watches, each a stream that may last an hour: one for each connection that may be open by default.
/// Unauthenticated clients can open them.
const WATCHES_AT_ONCE: usize = 1024;
/// The most sign-ins at once, on the fastest machine: each takes some kilobytes while it waits.
const MOST_SIGN_INS: usize = 4096;

tokio::task_local! {
    /// The permit of the call that this task handles.
    static PERMIT: Arc<Permit>;
}

/// Returns the lanes. `hashing` is how many calls may hash or wait for it.
pub(super) fn of_calls(hashing: usize, environment: Environment, metrics: Arc<Metrics>) -> Lanes {
    Lanes::new(&bounds(hashing), environment, metrics)
}

/// `hashing` is how many calls may hash or wait for it, about a second of work. No more sign-ins are admitted, so that a
/// refused sign-in costs no database query, and the bound for a peer holds for hashing too.
fn bounds(hashing: usize) -> [(CallLane, usize); 6] {
    [
        (CallLane::SignIns, hashing.min(MOST_SIGN_INS)),
        (CallLane::Introspection, INTROSPECTIONS_AT_ONCE),
        (CallLane::Operators, OPERATORS_AT_ONCE),
        (CallLane::Lists, LISTS_AT_ONCE),
        (CallLane::Reflection, REFLECTIONS_AT_ONCE),
        (CallLane::Watches, WATCHES_AT_ONCE),
    ]
}

/// Returns the permit of this call, for work that may outlive it.
pub(super) fn permit() -> Option<Arc<Permit>> {
    PERMIT.try_with(Arc::clone).ok()
}

/// Runs the layer.
pub(super) async fn lanes(
    State(lanes): State<Lanes>,
    Extension(method): Extension<Arc<Method>>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let peer = access::peer(request.extensions()).map(Source::of);
    let permit = method.lane.map(|lane| lanes.acquire(lane, peer)).transpose()?.flatten();
    let Some(permit) = permit.map(Arc::new) else { return Ok(next.run(request).await) };
    let mut response = PERMIT.scope(Arc::clone(&permit), next.run(request)).await;
    // `body.rs` holds it until the response has been sent.
    response.extensions_mut().insert(permit);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_of_sign_ins_is_never_longer_than_the_hashing_queue() {
        for (queue, bound) in [(3, 3), (1000, 1000), (9000, 4096)] {
            assert!(bounds(queue).contains(&(CallLane::SignIns, bound)), "{queue}");
        }
    }
}
