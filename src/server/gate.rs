//! Who may have one more connection: a bound for each listener, and one for each peer. Who flooded has to wait for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::config::Connections;
use crate::domain::caller::Source;
use crate::metrics::{Listener, Metrics, Refused};

/// How often the log tells of refused connections: a flood of them must not become a flood of lines.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How long whoever has flooded waits before another connection of theirs is served, and how far apart those that wait
/// are then let in. What is borne of a flood before it is cut off is some milliseconds of work.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);

/// The most that floods from many connections at once add up to: somebody else may come from the same address.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Counts the connections of one listener.
pub(super) struct Gate {
    listener: Listener,
    max: u32,
    max_per_peer: u32,
    metrics: Arc<Metrics>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    total: u32,
    /// No longer than `total`: who has left is not remembered.
    by_peer: HashMap<Option<Source>, u32>,
    /// The queues of peers that have flooded. Those that are over are forgotten when somebody floods.
    queues: HashMap<Source, Arc<Queue>>,
    told_at: Option<Instant>,
    refused_since: u64,
}

/// A connection that was let in. It leaves with the value.
pub(super) struct Permit {
    gate: Arc<Gate>,
    peer: Option<Source>,
    /// Where it has to wait.
    queue: Option<Arc<Queue>>,
}

/// Connections of a peer that has flooded, which are served one after the other.
struct Queue {
    /// When the next one is.
    turn: Mutex<Instant>,
    /// Held by the one that is next: the others wait for this, in the order in which they came.
    next: tokio::sync::Mutex<()>,
}

impl Queue {
    fn new(now: Instant) -> Queue {
        Queue { turn: Mutex::new(now), next: tokio::sync::Mutex::default() }
    }

    /// Whether somebody waits, or would have to.
    fn is_in_use(&self, now: Instant) -> bool {
        *self.turn() > now || self.next.try_lock().is_err()
    }

    fn turn(&self) -> MutexGuard<'_, Instant> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn. It is taken only by who is `still_there` then: a client that gives up and comes again does
    /// not wait the longer for it.
    async fn wait(&self, still_there: impl FnOnce() -> bool) -> bool {
        let _next = self.next.lock().await;
        loop {
            let turn = *self.turn();
            if turn <= Instant::now() {
                break;
            }
            sleep_until(turn.into()).await;
        }
        let is_there = still_there();
        if is_there {
            // Somebody may have flooded meanwhile, and set it later.
            let mut turn = self.turn();
            *turn = (*turn).max(Instant::now() + FLOOD_PAUSE);
        }
        is_there
    }
}

impl Gate {
    /// Nobody is inside yet.
    pub(super) fn new(listener: Listener, limits: &Connections, metrics: Arc<Metrics>) -> Arc<Gate> {
        let Connections { max, max_per_peer, .. } = *limits;
        Arc::new(Gate { listener, max, max_per_peer, metrics, inside: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more in, or counts it as refused. The local socket has one peer: this machine.
    pub(super) fn enter(self: &Arc<Gate>, address: Option<IpAddr>) -> Option<Permit> {
        let peer = address.map(Source::of);
        let mut inside = self.lock();
        let of_peer = inside.by_peer.get(&peer).copied().unwrap_or_default();
        let refused = if inside.total >= self.max {
            Some(Refused::Max)
        } else if of_peer >= self.max_per_peer {
            Some(Refused::MaxPerPeer)
        } else {
            None
        };
        if let Some(cause) = refused {
            self.metrics.connection_refused(self.listener, cause);
            inside.tell(cause, address);
            return None;
        }
        inside.total += 1;
        *inside.by_peer.entry(peer).or_default() += 1;
        self.metrics.connections(self.listener, inside.total);
        let queue = peer.and_then(|peer| inside.queue(peer, Instant::now()));
        Some(Permit { gate: Arc::clone(self), peer, queue })
    }
}

impl Inside {
    /// Where a connection of this peer has to wait.
    fn queue(&self, peer: Source, now: Instant) -> Option<Arc<Queue>> {
        self.queues.get(&peer).filter(|queue| queue.is_in_use(now)).cloned()
    }

    /// Somebody has flooded. The local socket has no peer: who may use it may stop the server.
    fn pause(&mut self, peer: Option<Source>, now: Instant) {
        self.queues.retain(|_, queue| queue.is_in_use(now));
        if let Some(peer) = peer {
            let queue = self.queues.entry(peer).or_insert_with(|| Arc::new(Queue::new(now)));
            let mut turn = queue.turn();
            *turn = ((*turn).max(now) + FLOOD_PAUSE).min(now + LONGEST_PAUSE);
        }
    }

    fn tell(&mut self, cause: Refused, address: Option<IpAddr>) {
        self.refused_since += 1;
        let now = Instant::now();
        if self.told_at.is_some_and(|told_at| now - told_at < TELL_EVERY) {
            return;
        }
        let address = address.map(|address| address.to_string());
        let count = self.refused_since;
        tracing::warn!(limit = cause.limit(), count, peer = address, "connections were refused; this is the last one");
        self.told_at = Some(now);
        self.refused_since = 0;
    }
}

impl Permit {
    /// Waits, if the peer has flooded. False: it has gone meanwhile.
    pub(super) async fn wait(&self, still_there: impl FnOnce() -> bool) -> bool {
        match &self.queue {
            Some(queue) => queue.wait(still_there).await,
            None => true,
        }
    }

    /// Counts why the connection is cut off.
    pub(super) fn cut(&self, cause: Refused) {
        self.gate.metrics.connection_refused(self.gate.listener, cause);
    }

    /// Makes the peer's next connection wait.
    pub(super) fn has_flooded(&self) {
        self.gate.lock().pause(self.peer, Instant::now());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.total = inside.total.saturating_sub(1);
        if let Some(count) = inside.by_peer.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inside.by_peer.remove(&self.peer);
            }
        }
        self.gate.metrics.connections(self.gate.listener, inside.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(max: u32, max_per_peer: u32) -> Arc<Gate> {
        let limits = Connections { max, max_per_peer, ..Connections::default() };
        Gate::new(Listener::Grpc, &limits, Arc::new(Metrics::new()))
    }

    fn address(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn each_peer_has_its_bound_and_all_have_one() {
        let gate = gate(3, 2);
        let first = gate.enter(address("192.0.2.1"));
        let second = gate.enter(address("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(gate.enter(address("192.0.2.1")).is_none(), "two of this peer are in");
        let third = gate.enter(address("192.0.2.2"));
        assert!(third.is_some());
        assert!(gate.enter(address("192.0.2.3")).is_none(), "three are in");
        drop(second);
        let again = gate.enter(address("192.0.2.1"));
        assert!(again.is_some());
        drop((first, third, again));
        let inside = gate.lock();
        assert_eq!((inside.total, inside.by_peer.len()), (0, 0), "who has left is not remembered");
    }

    #[test]
    fn a_network_of_64_bits_is_one_peer() {
        let gate = gate(9, 1);
        let first = gate.enter(address("2001:db8:0:1::1"));
        assert!(first.is_some());
        assert!(gate.enter(address("2001:db8:0:1:ffff::2")).is_none());
        assert!(gate.enter(address("2001:db8:0:2::1")).is_some());
        assert!(gate.enter(None).is_some(), "the local socket is a peer of its own");
    }

    const LATE: Duration = Duration::from_mins(1);

    fn turn(gate: &Gate, peer: &str) -> Option<Instant> {
        let queue = gate.lock().queue(Source::of(peer.parse().ok()?), Instant::now())?;
        Some(*queue.turn())
    }

    #[test]
    fn whoever_flooded_is_served_once_in_a_while() {
        let gate = gate(99, 99);
        let flooder = gate.enter(address("192.0.2.1"));
        assert_eq!(turn(&gate, "192.0.2.1"), None, "nobody has flooded yet");
        let began = Instant::now();
        (0..3).for_each(|_| flooder.iter().for_each(Permit::has_flooded));
        assert_eq!(turn(&gate, "192.0.2.2"), None, "others do not wait");
        assert!(turn(&gate, "192.0.2.1").is_some_and(|turn| turn >= began + 3 * FLOOD_PAUSE), "floods add up");
        (0..99).for_each(|_| flooder.iter().for_each(Permit::has_flooded));
        assert!(turn(&gate, "192.0.2.1").is_some_and(|turn| turn <= Instant::now() + LONGEST_PAUSE), "to a limit");
    }

    #[tokio::test]
    async fn only_who_is_still_there_takes_a_turn() {
        let queue = Queue::new(Instant::now());
        assert!(!queue.is_in_use(Instant::now() + LATE));
        assert!(!queue.wait(|| false).await);
        assert!(*queue.turn() <= Instant::now(), "who has gone took none");
        assert!(queue.wait(|| true).await);
        assert!(*queue.turn() > Instant::now(), "the next one waits");
        let _next = queue.next.lock().await;
        assert!(queue.is_in_use(Instant::now() + LATE), "somebody waits");
    }

    #[test]
    fn what_is_over_is_forgotten_and_this_machine_floods_nobody() {
        let mut inside = Inside::default();
        let now = Instant::now();
        inside.pause(Some(Source::of([192, 0, 2, 1].into())), now);
        assert_eq!(inside.queues.len(), 1);
        inside.pause(None, now + LATE);
        assert_eq!(inside.queues.len(), 0);
    }
}
