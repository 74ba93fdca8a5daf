//! Who may have one more connection: a bound for each listener, and one for each peer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Connections;
use crate::metrics::{Listener, Metrics, Refused};

/// How often the log tells of refused connections: a flood of them must not become a flood of lines.
const TELL_EVERY: Duration = Duration::from_secs(5);

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
    told_at: Option<Instant>,
    refused_since: u64,
}

/// A connection that was let in. It leaves with the value.
pub(super) struct Permit {
    gate: Arc<Gate>,
    peer: Option<IpAddr>,
}

impl Gate {
    /// Nobody is inside yet.
    pub(super) fn new(listener: Listener, limits: &Connections, metrics: Arc<Metrics>) -> Arc<Gate> {
        let Connections { max, max_per_peer, .. } = *limits;
        Arc::new(Gate { listener, max, max_per_peer, metrics, inside: Mutex::default() })
    }

    /// Lets one more in, or counts it as refused. The local socket has one peer: this machine.
    pub(super) fn enter(self: &Arc<Gate>, address: Option<IpAddr>) -> Option<Permit> {
        let peer = address.map(peer_of);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
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
        Some(Permit { gate: Arc::clone(self), peer })
    }
}

impl Inside {
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
    /// Counts why the connection is cut off.
    pub(super) fn cut(&self, cause: Refused) {
        self.gate.metrics.connection_refused(self.gate.listener, cause);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock().unwrap_or_else(PoisonError::into_inner);
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
        let inside = gate.inside.lock().map_or((9, 9), |inside| (inside.total, inside.by_peer.len()));
        assert_eq!(inside, (0, 0), "who has left is not remembered");
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
}
