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
    all: Arc<HashMap<CallLane, Arc<Lane>>>,
    effects: Effects,
    metrics: Arc<Metrics>,
}

struct Lane {
    bound: usize,
    taken: Mutex<Taken>,
}

/// Who holds how many places. None is the local socket. Whoever holds none is not in it, so it is as small as the lane.
#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<Option<Source>, usize>,
}

tokio::task_local! {
    /// The place of the call that this task handles.
    static PLACE: Arc<Place>;
}

/// A place in a lane, until it is dropped.
pub(super) struct Place {
    lane: Arc<Lane>,
    peer: Option<Source>,
    name: CallLane,
    metrics: Arc<Metrics>,
}

impl Lanes {
    /// `hashing_places` is how many passwords wait to be hashed before more are refused: a second's work. So many
    /// sign-ins are let in, and the others cost no look into the database.
    pub(super) fn new(hashing_places: usize, effects: Effects, metrics: Arc<Metrics>) -> Lanes {
        let sign_ins = hashing_places.clamp(FEWEST_SIGN_INS, MOST_SIGN_INS);
        let lanes = [
            (CallLane::SignIns, sign_ins),
            (CallLane::Introspection, INTROSPECTIONS_AT_ONCE),
            (CallLane::Operators, OPERATORS_AT_ONCE),
            (CallLane::Reflection, REFLECTIONS_AT_ONCE),
            (CallLane::Watches, WATCHES_AT_ONCE),
        ];
        let lanes = lanes.map(|(name, bound)| (name, Arc::new(Lane { bound, taken: Mutex::default() })));
        Lanes { all: Arc::new(HashMap::from(lanes)), effects, metrics }
    }

    fn enter(&self, lane: Option<CallLane>, peer: Option<Source>) -> Result<Option<Place>> {
        let Some(name) = lane else { return Ok(None) };
        let Some(lane) = self.all.get(&name) else { return Ok(None) };
        if !lane.take(peer) {
            self.metrics.call_refused(name);
            let retry_after = self.effects.retry_soon();
            return Err(Error::Exhausted { limit: Limit::Lane(name.as_str()), retry_after });
        }
        self.metrics.call_entered(name);
        Ok(Some(Place { lane: Arc::clone(lane), peer, name, metrics: Arc::clone(&self.metrics) }))
    }
}

impl Lane {
    /// Of the last quarter nobody gets more than a sixteenth of the lane: whoever floods from a few addresses leaves room
    /// for the others. The local socket has a quarter on top: the operator on the host gets in whatever comes.
    fn take(&self, peer: Option<Source>) -> bool {
        let mut taken = self.lock();
        let held = taken.by.get(&peer).copied().unwrap_or(0);
        let quarter = self.bound / 4;
        let has_room = match peer {
            None => taken.all < self.bound + quarter,
            Some(_) if taken.all < self.bound - quarter => true,
            Some(_) => taken.all < self.bound && held < (self.bound / 16).max(1),
        };
        if !has_room {
            return false;
        }
        taken.all += 1;
        taken.by.insert(peer, held + 1);
        true
    }

    fn give_back(&self, peer: Option<Source>) {
        let mut taken = self.lock();
        taken.all = taken.all.saturating_sub(1);
        match taken.by.get_mut(&peer) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(taken.by.remove(&peer)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing under this lock can panic half-way through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane.give_back(self.peer);
        self.metrics.call_left(self.name);
    }
}

/// The place of this call, for work that goes on without it.
pub(super) fn place() -> Option<Arc<Place>> {
    PLACE.try_with(Arc::clone).ok()
}

/// The layer.
pub(super) async fn lanes(
    State(lanes): State<Lanes>,
    Extension(method): Extension<Arc<Method>>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let peer = access::peer(request.extensions()).map(Source::of);
    let Some(place) = lanes.enter(method.lane, peer)?.map(Arc::new) else { return Ok(next.run(request).await) };
    let mut response = PLACE.scope(Arc::clone(&place), next.run(request)).await;
    // `observe` keeps it until the body has ended.
    response.extensions_mut().insert(place);
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
        let lane = Lane { bound: 16, taken: Mutex::default() };
        for _ in 0..12 {
            assert!(lane.take(Some(from(1))));
        }
        assert!(!lane.take(Some(from(1))), "the last quarter is not for who holds so much");
        assert!(lane.take(Some(from(2))));
        assert!(!lane.take(Some(from(2))), "nor for a second address alone");
        for last in 3..6 {
            assert!(lane.take(Some(from(last))), "{last}");
        }
        assert!(!lane.take(Some(from(6))), "the lane is full");
        for _ in 0..4 {
            assert!(lane.take(None), "but not for the operator on the host");
        }
        assert!(!lane.take(None));
        lane.give_back(None);
        lane.give_back(Some(from(2)));
        assert!(!lane.take(Some(from(1))));
    }

    #[test]
    fn nothing_is_kept_of_who_holds_nothing() {
        let lane = Lane { bound: 64, taken: Mutex::default() };
        for last in 0..8 {
            assert!(lane.take(Some(from(last))));
            assert!(lane.take(Some(from(last))));
        }
        for last in 0..8 {
            lane.give_back(Some(from(last)));
            lane.give_back(Some(from(last)));
        }
        let taken = lane.lock();
        assert_eq!((taken.all, taken.by.len()), (0, 0));
    }

    #[test]
    fn the_lane_of_sign_ins_grows_with_what_is_hashed_in_a_second() {
        let bound = |places| {
            let lanes = Lanes::new(places, Effects::system(), Arc::new(Metrics::new()));
            lanes.all.get(&CallLane::SignIns).map(|lane| lane.bound)
        };
        assert_eq!(bound(2), Some(96));
        assert_eq!(bound(1000), Some(1000));
        assert_eq!(bound(9000), Some(4096));
    }
}
