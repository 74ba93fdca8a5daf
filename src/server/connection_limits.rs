//! Limits the connections of a listener, in total and per peer, and delays those of a peer that has flooded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::config::Connections;
use crate::domain::caller::Source;
use crate::metrics::{Listener, Metrics, Refused};

/// Time between two log lines about refused connections, so that a flood of connections does not flood the log.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Delay that a flood adds before the peer's next connection is served, and time between two delayed
/// connections. A flood costs us some milliseconds of work before its connection is closed.
const THROTTLE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest delay that several floods add up to. Other clients may share the peer's address.
const MAX_THROTTLE_DELAY: Duration = Duration::from_secs(10);

/// Counts the connections of one listener, and refuses those beyond a limit.
pub(super) struct ConnectionLimits {
    listener: Listener,
    max: u32,
    max_per_peer: u32,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: u32,
    /// Open connections by peer; `None` is the local socket. A peer without connections has no entry.
    by_peer: HashMap<Option<Source>, u32>,
    /// Peers that have flooded. Each flood removes the throttles that are no longer active.
    throttled: HashMap<Source, Arc<PeerThrottle>>,
    refused: Unlogged,
    reset: Unlogged,
}

/// The number of connections since the last log line about them.
#[derive(Default)]
struct Unlogged {
    count: u64,
    logged_at: Option<Instant>,
}

impl Unlogged {
    /// Counts a connection. Returns the number to log if the last line is old enough.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.logged_at.is_some_and(|logged_at| now - logged_at < LOG_EVERY) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// The right to one connection, returned when it is dropped.
pub(super) struct Permit {
    limits: Arc<ConnectionLimits>,
    peer: Option<Source>,
    /// Present if the peer has flooded.
    throttle: Option<Arc<PeerThrottle>>,
}

/// Serves the connections of a peer that has flooded one after the other.
struct PeerThrottle {
    /// When the next connection may be served.
    next_at: Mutex<Instant>,
    /// Held by the first waiting connection. The others wait for it in the order of their arrival.
    queue: tokio::sync::Mutex<()>,
}

impl PeerThrottle {
    fn new(now: Instant) -> PeerThrottle {
        PeerThrottle { next_at: Mutex::new(now), queue: tokio::sync::Mutex::default() }
    }

    /// Returns whether a connection waits, or a new one would have to.
    fn is_active(&self, now: Instant) -> bool {
        *self.next_at() > now || self.queue.try_lock().is_err()
    }

    fn next_at(&self) -> MutexGuard<'_, Instant> {
        self.next_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the connection may be served. Returns `false` if the peer has closed it by then. A closed connection
    /// does not delay the next one, so a client that reconnects does not wait longer.
    async fn wait(&self, is_connected: impl FnOnce() -> bool) -> bool {
        let _head = self.queue.lock().await;
        loop {
            let next_at = *self.next_at();
            if next_at <= Instant::now() {
                break;
            }
            sleep_until(next_at.into()).await;
        }
        let is_connected = is_connected();
        if is_connected {
            // Another flood may have set a later time meanwhile.
            let mut next_at = self.next_at();
            *next_at = (*next_at).max(Instant::now() + THROTTLE_INTERVAL);
        }
        is_connected
    }
}

impl ConnectionLimits {
    /// Limits without any connection yet.
    pub(super) fn new(listener: Listener, config: &Connections, metrics: Arc<Metrics>) -> Arc<ConnectionLimits> {
        let Connections { max, max_per_peer, .. } = *config;
        Arc::new(ConnectionLimits { listener, max, max_per_peer, metrics, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a permit for one more connection, or counts a refusal and returns `None`. `address` is `None` for the
    /// local socket, which has a single peer: this machine.
    pub(super) fn acquire(self: &Arc<ConnectionLimits>, address: Option<IpAddr>) -> Option<Permit> {
        let peer = address.map(Source::of);
        let mut state = self.lock();
        let of_peer = state.by_peer.get(&peer).copied().unwrap_or_default();
        let refused = if state.total >= self.max {
            Some(Refused::Max)
        } else if of_peer >= self.max_per_peer {
            Some(Refused::MaxPerPeer)
        } else {
            None
        };
        if let Some(cause) = refused {
            self.metrics.connection_refused(self.listener, cause);
            state.log_refusal(cause, address);
            return None;
        }
        state.total += 1;
        *state.by_peer.entry(peer).or_default() += 1;
        self.metrics.connections(self.listener, state.total);
        let throttle = peer.and_then(|peer| state.throttle_of(peer, Instant::now()));
        Some(Permit { limits: Arc::clone(self), peer, throttle })
    }
}

impl State {
    /// The throttle that a new connection of this peer waits for.
    fn throttle_of(&self, peer: Source, now: Instant) -> Option<Arc<PeerThrottle>> {
        self.throttled.get(&peer).filter(|throttle| throttle.is_active(now)).cloned()
    }

    /// Delays the next connection of a peer that has flooded. The local socket (`None`) is exempt: its users may stop the
    /// server anyway.
    fn throttle(&mut self, peer: Option<Source>, now: Instant) {
        self.throttled.retain(|_, throttle| throttle.is_active(now));
        if let Some(peer) = peer {
            let throttle = self.throttled.entry(peer).or_insert_with(|| Arc::new(PeerThrottle::new(now)));
            let mut next_at = throttle.next_at();
            *next_at = ((*next_at).max(now) + THROTTLE_INTERVAL).min(now + MAX_THROTTLE_DELAY);
        }
    }

    fn log_refusal(&mut self, cause: Refused, address: Option<IpAddr>) {
        let Some(count) = self.refused.count(Instant::now()) else { return };
        let address = address.map(|address| address.to_string());
        tracing::warn!(
            limit = cause.limit(),
            count,
            peer = address,
            "connections were refused; the fields describe the last one"
        );
    }
}

impl Permit {
    /// Waits if the peer has flooded. Returns `false` if the peer has closed the connection by then.
    pub(super) async fn wait(&self, is_connected: impl FnOnce() -> bool) -> bool {
        match &self.throttle {
            Some(throttle) => throttle.wait(is_connected).await,
            None => true,
        }
    }

    /// Counts a connection that is closed for this cause.
    pub(super) fn count_refusal(&self, cause: Refused) {
        self.limits.metrics.connection_refused(self.limits.listener, cause);
    }

    /// Counts requests that h2 has reset because they are not valid HTTP/2, such as those with an `:authority` that is no
    /// authority. No layer of ours sees them. `is_first` is whether they are the first of the connection, which is logged.
    pub(super) fn count_resets(&self, count: usize, is_first: bool) {
        self.limits.metrics.requests_reset(self.limits.listener, count);
        let due = if is_first { self.limits.lock().reset.count(Instant::now()) } else { None };
        if let Some(count) = due {
            let peer = self.peer.map(|peer| peer.to_string());
            tracing::info!(
                count,
                peer,
                "connections sent requests that are not valid HTTP/2, which were reset; the peer is the last one"
            );
        }
    }

    /// Delays the next connection of the peer, because this one has flooded.
    pub(super) fn throttle_peer(&self) {
        self.limits.lock().throttle(self.peer, Instant::now());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limits.lock();
        state.total = state.total.saturating_sub(1);
        if let Some(count) = state.by_peer.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.by_peer.remove(&self.peer);
            }
        }
        self.limits.metrics.connections(self.limits.listener, state.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max: u32, max_per_peer: u32) -> Arc<ConnectionLimits> {
        let config = Connections { max, max_per_peer, ..Connections::default() };
        ConnectionLimits::new(Listener::Grpc, &config, Arc::new(Metrics::new()))
    }

    fn address(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn connections_are_limited_per_peer_and_in_total() {
        let limits = limits(3, 2);
        let first = limits.acquire(address("192.0.2.1"));
        let second = limits.acquire(address("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(limits.acquire(address("192.0.2.1")).is_none(), "this peer has two connections");
        let third = limits.acquire(address("192.0.2.2"));
        assert!(third.is_some());
        assert!(limits.acquire(address("192.0.2.3")).is_none(), "the listener has three connections");
        drop(second);
        let again = limits.acquire(address("192.0.2.1"));
        assert!(again.is_some());
        drop((first, third, again));
        let state = limits.lock();
        assert_eq!((state.total, state.by_peer.len()), (0, 0), "a peer without connections has no entry");
    }

    #[test]
    fn a_network_of_64_bits_is_one_peer() {
        let limits = limits(9, 1);
        let first = limits.acquire(address("2001:db8:0:1::1"));
        assert!(first.is_some());
        assert!(limits.acquire(address("2001:db8:0:1:ffff::2")).is_none());
        assert!(limits.acquire(address("2001:db8:0:2::1")).is_some());
        assert!(limits.acquire(None).is_some(), "the local socket is a peer of its own");
    }

    const LATE: Duration = Duration::from_mins(1);

    fn next_at(limits: &ConnectionLimits, peer: &str) -> Option<Instant> {
        let throttle = limits.lock().throttle_of(Source::of(peer.parse().ok()?), Instant::now())?;
        Some(*throttle.next_at())
    }

    #[test]
    fn a_peer_that_flooded_is_throttled() {
        let limits = limits(99, 99);
        let flooder = limits.acquire(address("192.0.2.1"));
        assert_eq!(next_at(&limits, "192.0.2.1"), None, "no flood yet");
        let began = Instant::now();
        (0..3).for_each(|_| flooder.iter().for_each(Permit::throttle_peer));
        assert_eq!(next_at(&limits, "192.0.2.2"), None, "other peers do not wait");
        assert!(
            next_at(&limits, "192.0.2.1").is_some_and(|next_at| next_at >= began + 3 * THROTTLE_INTERVAL),
            "floods add up"
        );
        (0..99).for_each(|_| flooder.iter().for_each(Permit::throttle_peer));
        assert!(
            next_at(&limits, "192.0.2.1").is_some_and(|next_at| next_at <= Instant::now() + MAX_THROTTLE_DELAY),
            "to a limit"
        );
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_takes_no_turn() {
        let throttle = PeerThrottle::new(Instant::now());
        assert!(!throttle.is_active(Instant::now() + LATE));
        assert!(!throttle.wait(|| false).await);
        assert!(*throttle.next_at() <= Instant::now(), "a closed connection delays nothing");
        assert!(throttle.wait(|| true).await);
        assert!(*throttle.next_at() > Instant::now(), "the next connection waits");
        let _head = throttle.queue.lock().await;
        assert!(throttle.is_active(Instant::now() + LATE), "a connection waits");
    }

    #[test]
    fn an_expired_throttle_is_removed_and_the_local_socket_has_none() {
        let mut state = State::default();
        let now = Instant::now();
        state.throttle(Some(Source::of([192, 0, 2, 1].into())), now);
        assert_eq!(state.throttled.len(), 1);
        state.throttle(None, now + LATE);
        assert_eq!(state.throttled.len(), 0);
    }
}
