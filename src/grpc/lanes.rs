//! Admission control: bounds how many calls of each lane run at once, so that a flood of one kind leaves capacity for the
//! others.
//!
//! A call acquires a permit before anything is read. It holds the permit until the response is sent and the work is done: a
//! client that hangs up does not free a permit while the server still works for it. A call over the bound is refused at
//! once, which costs almost nothing. A health check has no lane: a load balancer must get an answer from a busy server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::access;
use super::table::Method;
use crate::domain::caller::Source;
use crate::environment::Environment;
use crate::error::{Error, Limit, Result};
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

/// The limiters of all lanes.
#[derive(Clone)]
pub(super) struct Lanes {
    limiters: Arc<HashMap<CallLane, Arc<Limiter>>>,
    environment: Environment,
    metrics: Arc<Metrics>,
}

struct Limiter {
    bound: usize,
    in_flight: Mutex<InFlight>,
}

/// The calls in flight, in all and by peer. `None` is the local socket. A peer without calls has no entry, so the map has at
/// most as many entries as there are permits.
#[derive(Default)]
struct InFlight {
    total: usize,
    by_peer: HashMap<Option<Source>, usize>,
}

tokio::task_local! {
    /// The permit of the call that this task handles.
    static PERMIT: Arc<Permit>;
}

/// Admission to a lane, released on drop.
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    peer: Option<Source>,
    lane: CallLane,
    metrics: Arc<Metrics>,
}

impl Lanes {
    /// `hashing` is how many calls may hash or wait for it, about a second of work. No more sign-ins are admitted, so that a
    /// refused sign-in costs no database query, and the bound for a peer holds for hashing too.
    pub(super) fn new(hashing: usize, environment: Environment, metrics: Arc<Metrics>) -> Lanes {
        let sign_ins = hashing.min(MOST_SIGN_INS);
        let bounds = [
            (CallLane::SignIns, sign_ins),
            (CallLane::Introspection, INTROSPECTIONS_AT_ONCE),
            (CallLane::Operators, OPERATORS_AT_ONCE),
            (CallLane::Lists, LISTS_AT_ONCE),
            (CallLane::Reflection, REFLECTIONS_AT_ONCE),
            (CallLane::Watches, WATCHES_AT_ONCE),
        ];
        for (lane, bound) in bounds {
            metrics.calls_limit(lane, bound);
        }
        let limiters = bounds.map(|(lane, bound)| (lane, Arc::new(Limiter { bound, in_flight: Mutex::default() })));
        Lanes { limiters: Arc::new(HashMap::from(limiters)), environment, metrics }
    }

    fn acquire(&self, lane: Option<CallLane>, peer: Option<Source>) -> Result<Option<Permit>> {
        let Some(lane) = lane else { return Ok(None) };
        let Some(limiter) = self.limiters.get(&lane) else { return Ok(None) };
        if !limiter.acquire(peer) {
            self.metrics.call_refused(lane);
            let retry_after = self.environment.retry_soon();
            return Err(Error::Exhausted { limit: Limit::Lane(lane.as_str()), retry_after });
        }
        self.metrics.call_entered(lane);
        Ok(Some(Permit { limiter: Arc::clone(limiter), peer, lane, metrics: Arc::clone(&self.metrics) }))
    }
}

impl Limiter {
    /// Acquires a permit for `peer`, if there is one. Once three quarters are in use, a peer may hold at most a sixteenth of
    /// the bound, so that a flood from a few addresses leaves room for others. The local socket may exceed the bound by a
    /// quarter, so that the operator on the host always gets in.
    fn acquire(&self, peer: Option<Source>) -> bool {
        let mut in_flight = self.lock();
        let held = in_flight.by_peer.get(&peer).copied().unwrap_or(0);
        let quarter = self.bound.div_ceil(4);
        let has_room = match peer {
            None => in_flight.total < self.bound + quarter,
            Some(_) if in_flight.total < self.bound - quarter => true,
            Some(_) => in_flight.total < self.bound && held < (self.bound / 16).max(1),
        };
        if !has_room {
            return false;
        }
        in_flight.total += 1;
        in_flight.by_peer.insert(peer, held + 1);
        true
    }

    fn release(&self, peer: Option<Source>) {
        let mut in_flight = self.lock();
        in_flight.total = in_flight.total.saturating_sub(1);
        match in_flight.by_peer.get_mut(&peer) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(in_flight.by_peer.remove(&peer)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        // No code under this lock can panic halfway through a change.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.release(self.peer);
        self.metrics.call_left(self.lane);
    }
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
    let Some(permit) = lanes.acquire(method.lane, peer)?.map(Arc::new) else { return Ok(next.run(request).await) };
    let mut response = PERMIT.scope(Arc::clone(&permit), next.run(request)).await;
    // `body.rs` holds it until the response has been sent.
    response.extensions_mut().insert(permit);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Source {
        Source::of([127, 0, 0, last].into())
    }

    #[test]
    fn who_floods_leaves_a_quarter_to_others() {
        let limiter = Limiter { bound: 16, in_flight: Mutex::default() };
        for _ in 0..12 {
            assert!(limiter.acquire(Some(from(1))));
        }
        assert!(!limiter.acquire(Some(from(1))), "the last quarter is not for who holds so much");
        assert!(limiter.acquire(Some(from(2))));
        assert!(!limiter.acquire(Some(from(2))), "nor for a second address alone");
        for last in 3..6 {
            assert!(limiter.acquire(Some(from(last))), "{last}");
        }
        assert!(!limiter.acquire(Some(from(6))), "the lane is full");
        for _ in 0..4 {
            assert!(limiter.acquire(None), "but not for the operator on the host");
        }
        assert!(!limiter.acquire(None));
        limiter.release(None);
        limiter.release(Some(from(2)));
        assert!(!limiter.acquire(Some(from(1))));
    }

    #[test]
    fn nothing_is_kept_of_who_holds_nothing() {
        let limiter = Limiter { bound: 64, in_flight: Mutex::default() };
        for last in 0..8 {
            assert!(limiter.acquire(Some(from(last))));
            assert!(limiter.acquire(Some(from(last))));
        }
        for last in 0..8 {
            limiter.release(Some(from(last)));
            limiter.release(Some(from(last)));
        }
        let in_flight = limiter.lock();
        assert_eq!((in_flight.total, in_flight.by_peer.len()), (0, 0));
    }

    #[test]
    fn the_lane_of_sign_ins_is_never_longer_than_the_hashing_queue() {
        let bound = |queue| {
            let lanes = Lanes::new(queue, Environment::system(), Arc::new(Metrics::new()));
            lanes.limiters.get(&CallLane::SignIns).map(|limiter| limiter.bound)
        };
        assert_eq!(bound(3), Some(3));
        assert_eq!(bound(1000), Some(1000));
        assert_eq!(bound(9000), Some(4096));
    }
}
