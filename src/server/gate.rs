//! Who may have one more connection: a bound for each listener, and one for each peer. Who flooded has to wait for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Connections;
use crate::metrics::{Listener, Metrics, Refused};

/// How often the log tells of refused connections: a flood of them must not become a flood of lines.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How long whoever was cut off for a flood waits before another connection of theirs is served, and how far apart those
/// that wait are then let in. What is borne of a flood before it is cut off costs some milliseconds of work, so this
/// keeps a flooder under a hundredth of a core, however often they come back.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);

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
    by_peer: HashMap<Option<IpAddr>, u32>,
    /// When the next connection of a peer that flooded may begin. Forgotten when it is over.
    paused: HashMap<IpAddr, Instant>,
    told_at: Option<Instant>,
    refused_since: u64,
}

/// A connection that was let in. It leaves with the value.
pub(super) struct Permit {
    gate: Arc<Gate>,
    peer: Option<IpAddr>,
    /// Not to be served before this.
    begins_at: Option<Instant>,
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
        let peer = address.map(peer_of);
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
        let begins_at = peer.and_then(|peer| inside.next_turn(peer, Instant::now()));
        Some(Permit { gate: Arc::clone(self), peer, begins_at })
    }
}

impl Inside {
    /// When a connection of this peer may begin, if it has to wait. The one after it waits longer.
    fn next_turn(&mut self, peer: IpAddr, now: Instant) -> Option<Instant> {
        let turn = self.paused.get_mut(&peer).filter(|turn| **turn > now)?;
        let begins_at = *turn;
        *turn += FLOOD_PAUSE;
        Some(begins_at)
    }

    /// Somebody has flooded. The local socket has no peer: who may use it may stop the server.
    fn pause(&mut self, peer: Option<IpAddr>, now: Instant) {
        self.paused.retain(|_, turn| *turn > now);
        if let Some(peer) = peer {
            let turn = self.paused.entry(peer).or_insert(now);
            *turn = (*turn).max(now + FLOOD_PAUSE);
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
    /// When the connection may begin, if it has to wait.
    pub(super) fn begins_at(&self) -> Option<Instant> {
        self.begins_at
    }

    /// Counts why the connection is cut off.
    pub(super) fn cut(&self, cause: Refused) {
        self.gate.metrics.connection_refused(self.gate.listener, cause);
        if cause == Refused::Flood {
            self.gate.lock().pause(self.peer, Instant::now());
        }
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

/// What counts as one peer. A home or a rented machine has a /64 of IPv6 to itself (RFC 6177), every address of it
/// for the asking.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
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

    #[test]
    fn whoever_flooded_is_served_once_in_a_while() {
        let gate = gate(9, 9);
        let enter = |from| gate.enter(address(from)).and_then(|permit| permit.begins_at());
        let flooding = gate.enter(address("192.0.2.1"));
        assert!(flooding.as_ref().is_some_and(|permit| permit.begins_at().is_none()), "nobody has flooded yet");
        if let Some(permit) = &flooding {
            permit.cut(Refused::Silent);
            assert_eq!(enter("192.0.2.1"), None, "this was no flood");
            permit.cut(Refused::Flood);
            permit.cut(Refused::Flood);
        }
        assert_eq!(enter("192.0.2.2"), None, "others do not wait");
        let turns = [enter("192.0.2.1"), enter("192.0.2.1")];
        let [Some(first), Some(second)] = turns else { unreachable!("both wait: {turns:?}") };
        assert_eq!(second - first, FLOOD_PAUSE);
        assert!(first <= Instant::now() + FLOOD_PAUSE, "two floods at once count as one");
        let mut inside = gate.lock();
        let later = second + FLOOD_PAUSE;
        assert_eq!(inside.next_turn([192, 0, 2, 1].into(), later), None, "it is over");
        inside.pause(None, later);
        assert!(inside.paused.is_empty(), "what is over is not remembered, and this machine floods nobody");
    }
}
