//! Admission control: bounds how many calls of each lane run at once, so that a flood of one kind leaves capacity for the
//! others. Both edges use it, each with lanes of its own.
//!
//! A call acquires a permit before anything is read. A call over the bound is refused at once, which costs almost nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::caller::Source;
use crate::environment::Environment;
use crate::error::{Error, Limit, Result};
use crate::metrics::{CallLane, Metrics};

/// The limiters of an edge's lanes.
#[derive(Clone)]
pub(crate) struct Lanes {
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

/// Admission to a lane, released on drop.
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
    peer: Option<Source>,
    lane: CallLane,
    metrics: Arc<Metrics>,
}

impl Lanes {
    /// Lanes with these bounds.
    pub(crate) fn new(bounds: &[(CallLane, usize)], environment: Environment, metrics: Arc<Metrics>) -> Lanes {
        for (lane, bound) in bounds {
            metrics.calls_limit(*lane, *bound);
        }
        let limiter = |bound: usize| Arc::new(Limiter { bound, in_flight: Mutex::default() });
        let limiters: HashMap<_, _> = bounds.iter().map(|(lane, bound)| (*lane, limiter(*bound))).collect();
        Lanes { limiters: Arc::new(limiters), environment, metrics }
    }

    /// Returns a permit of the lane, or `None` if the lane has no bound. `peer` is `None` on the local socket.
    pub(crate) fn acquire(&self, lane: CallLane, peer: Option<Source>) -> Result<Option<Permit>> {
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
}
