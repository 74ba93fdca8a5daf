//! How many calls are under way at once, by what they are for: a flood of one kind leaves room for the others.
//!
//! A place in a lane is taken before anything is read, and held until the answer has gone out and the work is done:
//! a client that hangs up frees nothing that the server still works on. Beyond the bound a call is refused at once,
//! which costs next to nothing. A check of health has no lane: balancers must hear from a server that is busy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::access;
use super::table::Method;
use crate::domain::caller::Source;
use crate::effects::Effects;
use crate::error::{Error, Limit, Result};
use crate::metrics::{CallLane, Metrics};

/// Calls that ask the database for a row or two: some hundredths of a second's work for its connections.
const INTROSPECTIONS_AT_ONCE: usize = 512;
/// About what the one writer of an embedded database does in a second: more would wait longer than people do. A place is
/// taken before the credential is looked at, so who has none holds one until they are refused.
const OPERATORS_AT_ONCE: usize = 256;
/// Streams that may do nothing for 20 s. Strangers can open them, so they have a lane of their own.
const REFLECTIONS_AT_ONCE: usize = 32;
/// Watches of health, each a stream that may last an hour: one for each connection that may be open by default. Strangers
/// can open them.
const WATCHES_AT_ONCE: usize = 1024;
/// Sign-ins that are let in on the slowest machine: fifty people behind one address come in at nine.
const FEWEST_SIGN_INS: usize = 96;
/// And on the fastest: each costs some kilobytes while it waits.
const MOST_SIGN_INS: usize = 4096;

/// All lanes.
#[derive(Clone)]
pub(super) struct Lanes {
    limiters: Arc<HashMap<CallLane, Arc<Limiter>>>,
    effects: Effects,
    metrics: Arc<Metrics>,
}

struct Limiter {
    bound: usize,
    in_flight: Mutex<InFlight>,
}

/// Who holds how many places. None is the local socket. Whoever holds none is not in it, so it is as small as the lane.
#[derive(Default)]
struct InFlight {
    total: usize,
    by_peer: HashMap<Option<Source>, usize>,
}

tokio::task_local! {
    /// The place of the call that this task handles.
    static PERMIT: Arc<Permit>;
}

/// A place in a lane, until it is dropped.
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    peer: Option<Source>,
    lane: CallLane,
    metrics: Arc<Metrics>,
}

impl Lanes {
    /// `hashing_queue` is how many passwords wait to be hashed before more are refused: a second's work. So many
    /// sign-ins are let in, and the others cost no look into the database.
    pub(super) fn new(hashing_queue: usize, effects: Effects, metrics: Arc<Metrics>) -> Lanes {
        let sign_ins = hashing_queue.clamp(FEWEST_SIGN_INS, MOST_SIGN_INS);
        let bounds = [
            (CallLane::SignIns, sign_ins),
            (CallLane::Introspection, INTROSPECTIONS_AT_ONCE),
            (CallLane::Operators, OPERATORS_AT_ONCE),
            (CallLane::Reflection, REFLECTIONS_AT_ONCE),
            (CallLane::Watches, WATCHES_AT_ONCE),
        ];
        let limiters = bounds.map(|(lane, bound)| (lane, Arc::new(Limiter { bound, in_flight: Mutex::default() })));
        Lanes { limiters: Arc::new(HashMap::from(limiters)), effects, metrics }
    }

    fn acquire(&self, lane: Option<CallLane>, peer: Option<Source>) -> Result<Option<Permit>> {
        let Some(lane) = lane else { return Ok(None) };
        let Some(limiter) = self.limiters.get(&lane) else { return Ok(None) };
        if !limiter.acquire(peer) {
            self.metrics.call_refused(lane);
            let retry_after = self.effects.retry_soon();
            return Err(Error::Exhausted { limit: Limit::Lane(lane.as_str()), retry_after });
        }
        self.metrics.call_entered(lane);
        Ok(Some(Permit { limiter: Arc::clone(limiter), peer, lane, metrics: Arc::clone(&self.metrics) }))
    }
}

impl Limiter {
    /// Of the last quarter nobody gets more than a sixteenth of the lane: whoever floods from a few addresses leaves room
    /// for the others. The local socket has a quarter on top: the operator on the host gets in whatever comes.
    fn acquire(&self, peer: Option<Source>) -> bool {
        let mut in_flight = self.lock();
        let held = in_flight.by_peer.get(&peer).copied().unwrap_or(0);
        let quarter = self.bound / 4;
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
        // Nothing under this lock can panic half-way through a change.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.release(self.peer);
        self.metrics.call_left(self.lane);
    }
}

/// The place of this call, for work that goes on without it.
pub(super) fn permit() -> Option<Arc<Permit>> {
    PERMIT.try_with(Arc::clone).ok()
}

/// The layer.
pub(super) async fn lanes(
    State(lanes): State<Lanes>,
    Extension(method): Extension<Arc<Method>>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let peer = access::peer(request.extensions()).map(Source::of);
    let Some(permit) = lanes.acquire(method.lane, peer)?.map(Arc::new) else { return Ok(next.run(request).await) };
    let mut response = PERMIT.scope(Arc::clone(&permit), next.run(request)).await;
    // `observe` keeps it until the body has ended.
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
    fn the_lane_of_sign_ins_grows_with_what_is_hashed_in_a_second() {
        let bound = |queue| {
            let lanes = Lanes::new(queue, Effects::system(), Arc::new(Metrics::new()));
            lanes.limiters.get(&CallLane::SignIns).map(|limiter| limiter.bound)
        };
        assert_eq!(bound(2), Some(96));
        assert_eq!(bound(1000), Some(1000));
        assert_eq!(bound(9000), Some(4096));
    }
}
