//! Accepting connections: the gate, TLS, the guard; and then the server behind it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use super::connection::{Connection, Duplex, Protocol};
use super::connection_limits::{ConnectionLimits, Permit};
use super::responses::PeerInfo;
use super::tls::TlsConfigs;
use crate::metrics::Refused;

/// Connections that are ready and not taken up yet. The server behind takes them as they come.
const READY_CONNECTIONS: usize = 16;

/// Connections that the system holds until they are accepted: of everybody at once after a restart, and of whoever floods.
/// It drops one that has no room, which comes again after a second (RFC 6298) and then after two. To take in or turn away
/// as many takes some tenths of a second. 4 096 is what Linux grants as a rule (`net.core.somaxconn`); tokio's default is 128.
const BACKLOG: u32 = 4096;

/// How long to wait after the system refused a connection, for lack of descriptors as a rule.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The certificates that are in use now; those of one protocol are chosen for each connection.
pub(super) type CurrentTls = Option<watch::Receiver<Arc<TlsConfigs>>>;

/// What each connection of a listener goes through.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) protocol: Protocol,
    /// None for plain text.
    pub(super) tls: CurrentTls,
    /// How long TLS may take to begin, and after it the first words.
    pub(super) start_timeout: Duration,
}

/// Connections as they become ready. It ends when the listener does.
pub(super) type Incoming = mpsc::Receiver<io::Result<Connection>>;

/// Listens there.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What the server before this one has left behind is no reason to wait.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Lets in who comes over the network, until the server stops.
pub(super) fn accept_tcp(
    listener: TcpListener,
    acceptor: Acceptor,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_CONNECTIONS);
    let handshakes = tasks.clone();
    tasks.spawn(async move {
        while let Some(accepted) = unless_stopped(&stop, listener.accept()).await {
            let Some((stream, address)) = accepted_or_pause(accepted).await else { continue };
            // One, and then others' work: calls under way must not wait for a rush of newcomers.
            yield_now().await;
            let Some(permit) = acceptor.limits.acquire(Some(address.ip())) else { continue };
            let (acceptor, ready, stop) = (acceptor.clone(), ready.clone(), stop.clone());
            handshakes.spawn(async move {
                if unless_stopped(&stop, permit.wait(|| !is_closed_by_peer(&stream))).await != Some(true) {
                    return;
                }
                if let Some(connection) = acceptor.accept(stream, permit).await {
                    // Nobody takes it up once the server stops.
                    let _ = ready.send(Ok(connection)).await;
                }
            });
        }
    });
    incoming
}

/// Lets in who comes through the local socket, until the server stops.
pub(super) fn accept_local(
    listener: UnixListener,
    acceptor: Acceptor,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_CONNECTIONS);
    tasks.spawn(async move {
        while let Some(accepted) = unless_stopped(&stop, listener.accept()).await {
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
        // An answer is written at once and whole: waiting for more to send gains nothing.
        stream.set_nodelay(true).ok()?;
        let peer = PeerInfo::Network(stream.connect_info());
        let Some(config) = self.server_config() else {
            return Some(self.connection(Box::new(stream), peer, permit));
        };
        match tokio::time::timeout(self.start_timeout, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => Some(self.connection(Box::new(stream), peer, permit)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS failed");
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
        Connection::new(io, peer, permit, self.protocol, self.start_timeout)
    }
}

/// Whether the peer has closed already, as far as the system knows: it is not waited for.
fn is_closed_by_peer(stream: &TcpStream) -> bool {
    let ready = stream.ready(Interest::READABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed))
}

/// The next one, or none once the server stops.
async fn unless_stopped<T>(stop: &CancellationToken, next: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = stop.cancelled() => None,
        next = next => Some(next),
    }
}

/// A connection that broke off before it was accepted is nobody's fault. Else the system lacks something, and would
/// refuse the next one as well: to ask again at once would only keep a core busy.
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

/// For the HTTP server, which asks for connections one by one.
pub(super) struct HttpIncoming {
    pub(super) incoming: Incoming,
    pub(super) address: SocketAddr,
}

impl axum::serve::Listener for HttpIncoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.incoming.recv().await {
            Some(Ok(connection)) => (connection, self.address),
            // The server stops, and stops waiting for this.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn the_backlog_has_room_for_a_burst_of_connections() -> io::Result<()> {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        // Nobody accepts: who finds no room would try again for minutes.
        let mut held = Vec::new();
        for _ in 0..300 {
            held.push(tokio::time::timeout(Duration::from_secs(20), TcpStream::connect(address)).await??);
        }
        Ok(())
    }
}
