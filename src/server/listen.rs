//! Accepts connections: acquires a permit, does the TLS handshake, and passes the connection to tonic or axum.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::yield_now;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use super::calls::{AllCalls, ConnectInfo, PeerInfo};
use super::connection::{Connection, Duplex, Protocol};
use super::connection_limits::{ConnectionLimits, Permit};
use super::tls::TlsConfigs;
use crate::metrics::Refused;

/// Ready connections that tonic or axum have not taken yet.
const READY_CONNECTIONS: usize = 16;

/// Connections that the kernel holds until they are accepted, such as those of all clients after a restart, or of a flood.
/// When the backlog is full the kernel drops new ones, and their clients retry after one second (RFC 6298), then after two.
/// Accepting or refusing a full backlog takes some tenths of a second. 4 096 is the usual maximum on Linux
/// (`net.core.somaxconn`); the default of tokio is 128.
const BACKLOG: u32 = 4096;

/// Delay after `accept` has failed, usually for lack of file descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a refused connection stays open: a client that connects again at once, ten thousand times a second, would take the
/// cores from password hashing.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Most refused connections of a listener that stay open. Each takes a descriptor; further ones are closed at once.
pub(super) const REFUSED_AT_ONCE: u32 = 256;

/// The TLS configurations in use, which change with their files; `None` for plain text.
pub(super) type CurrentTls = Option<watch::Receiver<Arc<TlsConfigs>>>;

/// Turns the sockets of one listener into connections.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) protocol: Protocol,
    pub(super) tls: CurrentTls,
    /// Limit for the TLS handshake, and again for the first bytes after it.
    pub(super) start_timeout: Duration,
    pub(super) calls: Arc<AllCalls>,
    /// Cancelled when the server stops.
    pub(super) stop: CancellationToken,
}

/// Ready connections. The channel closes when the listener ends.
pub(super) type Incoming = mpsc::Receiver<io::Result<Connection>>;

/// Listens on an address.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the previous server in TIME-WAIT must not delay a restart.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections over TCP until the server stops.
pub(super) fn accept_tcp(listener: TcpListener, acceptor: Acceptor, tasks: &TaskTracker) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_CONNECTIONS);
    let handshakes = tasks.clone();
    let refused = Arc::new(Semaphore::new(usize::try_from(REFUSED_AT_ONCE).unwrap_or(0)));
    tasks.spawn(async move {
        while let Some(accepted) = unless_stopped(&acceptor.stop, listener.accept()).await {
            let Some((stream, address)) = accepted_or_pause(accepted).await else { continue };
            // Calls in progress must not wait for a burst of new connections.
            yield_now().await;
            let Some(permit) = acceptor.limits.acquire(Some(address.ip())) else {
                if let Ok(held) = Arc::clone(&refused).try_acquire_owned() {
                    handshakes.spawn(refuse(stream, held, acceptor.stop.clone()));
                }
                continue;
            };
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            handshakes.spawn(async move {
                let stop = &acceptor.stop;
                if unless_stopped(stop, permit.wait(|| !is_closed_by_peer(&stream))).await != Some(true) {
                    return;
                }
                if let Some(Some(connection)) = unless_stopped(stop, acceptor.accept(stream, permit)).await {
                    // Fails if the server has stopped; then the connection is dropped.
                    let _ = ready.send(Ok(connection)).await;
                }
            });
        }
    });
    incoming
}

/// Closes a refused connection, but not at once. Its permit is returned then.
async fn refuse(stream: TcpStream, _held: OwnedSemaphorePermit, stop: CancellationToken) {
    unless_stopped(&stop, tokio::time::sleep(REFUSED_FOR)).await;
    drop(stream);
}

/// Accepts connections on the local socket until the server stops.
pub(super) fn accept_local(listener: UnixListener, acceptor: Acceptor, tasks: &TaskTracker) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_CONNECTIONS);
    tasks.spawn(async move {
        while let Some(accepted) = unless_stopped(&acceptor.stop, listener.accept()).await {
            let Some((stream, _)) = accepted_or_pause(accepted).await else { continue };
            let Some(permit) = acceptor.limits.acquire(None) else { continue };
            let peer = PeerInfo::Local(stream.connect_info());
            let _ = ready.send(Ok(acceptor.connection(Box::new(stream), peer, permit))).await;
        }
    });
    incoming
}

impl Acceptor {
    async fn accept(&self, stream: TcpStream, permit: Permit) -> Option<Connection> {
        // Responses are written whole, so waiting for more data (Nagle's algorithm) only delays them.
        stream.set_nodelay(true).ok()?;
        let peer = PeerInfo::Network(stream.connect_info());
        let Some(config) = self.server_config() else {
            return Some(self.connection(Box::new(stream), peer, permit));
        };
        match tokio::time::timeout(self.start_timeout, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => Some(self.connection(Box::new(stream), peer, permit)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the TLS handshake failed");
                permit.count_refusal(Refused::Handshake);
                None
            }
            Err(_) => {
                permit.count_refusal(Refused::Silent);
                None
            }
        }
    }

    fn server_config(&self) -> Option<Arc<ServerConfig>> {
        let current = self.tls.as_ref()?.borrow();
        Some(Arc::clone(match self.protocol {
            Protocol::Http2 { .. } => &current.grpc,
            Protocol::Http1 => &current.http,
        }))
    }

    fn connection(&self, io: Box<dyn Duplex>, peer: PeerInfo, permit: Permit) -> Connection {
        let info = ConnectInfo { peer, calls: self.calls.connection() };
        Connection::new(io, info, permit, self.protocol, self.start_timeout, &self.stop)
    }
}

/// Returns whether the peer has closed the connection, as far as the kernel knows now.
fn is_closed_by_peer(stream: &TcpStream) -> bool {
    let ready = stream.ready(Interest::READABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed))
}

/// The value of `next`, or `None` once the server stops.
async fn unless_stopped<T>(stop: &CancellationToken, next: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = stop.cancelled() => None,
        next = next => Some(next),
    }
}

/// The accepted connection. Returns `None` on a failure. Pauses first, unless the peer only left: other causes persist, and
/// accepting again at once would keep a core busy.
async fn accepted_or_pause<T>(accepted: io::Result<T>) -> Option<T> {
    let error = match accepted {
        Ok(accepted) => return Some(accepted),
        Err(error) => error,
    };
    let peer_left =
        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionRefused];
    if !peer_left.contains(&error.kind()) {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(RETRY_DELAY).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn the_backlog_has_room_for_a_burst_of_connections() -> io::Result<()> {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        // Nothing accepts here. A connection that the kernel drops would retry for minutes.
        let mut held = Vec::new();
        for _ in 0..300 {
            held.push(tokio::time::timeout(Duration::from_secs(20), TcpStream::connect(address)).await??);
        }
        Ok(())
    }
}
