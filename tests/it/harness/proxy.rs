//! A TCP proxy between the server and PostgreSQL that simulates network failures.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Behaviour of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Network {
    /// All data passes.
    Well,
    /// Connections are refused, and existing ones are closed.
    Refused,
    /// New and existing connections are reset at once.
    Reset,
    /// Connections are accepted, but no data passes.
    Stalled,
    /// Each piece of data from the database is delayed by this time.
    Slow(Duration),
}

/// Listens on a free port and forwards everything.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    network: watch::Sender<Network>,
    upstream: Mutex<String>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
    /// Counts how often all connections were abandoned.
    lost: watch::Sender<u64>,
    swallow_commit: AtomicBool,
    /// Source ports of the connections to the upstream.
    ports: Mutex<Vec<u16>>,
}

impl Proxy {
    /// Forwards to `upstream`, such as `127.0.0.1:5432`.
    pub async fn to(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            network: watch::Sender::new(Network::Well),
            upstream: Mutex::new(upstream.to_owned()),
            cuts: watch::Sender::new(0),
            lost: watch::Sender::new(0),
            swallow_commit: AtomicBool::new(false),
            ports: Mutex::default(),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared)));
        Proxy { address, shared, listening: Mutex::new(Some(listening)) }
    }

    /// Replaces the address in a PostgreSQL URL by that of the proxy.
    pub fn url(&self, url: &str) -> String {
        let (before, after) = address_in(url);
        format!("{before}{}{after}", self.address)
    }

    /// Sets the behaviour from now on.
    pub async fn set(&self, network: Network) {
        if network == Network::Refused {
            let listening = self.listening.lock().expect("a lock").take();
            listening.expect("a listener").abort();
        } else if self.listening.lock().expect("a lock").is_none() {
            let listener = TcpListener::bind(self.address).await.expect("the same port");
            let listening = tokio::spawn(listen(listener, Arc::clone(&self.shared)));
            *self.listening.lock().expect("a lock") = Some(listening);
        }
        self.shared.network.send_replace(network);
        if matches!(network, Network::Refused | Network::Reset) {
            self.cut();
        }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Stops forwarding on existing connections without closing them; new connections work. This simulates a lost
    /// machine whose address another machine has taken over.
    pub fn lose(&self) {
        self.shared.lost.send_modify(|lost| *lost += 1);
    }

    /// Forwards new connections to another server.
    pub fn lead_to(&self, upstream: &str) {
        upstream.clone_into(&mut self.shared.upstream.lock().expect("a lock"));
    }

    /// Source ports of all connections to the upstream so far.
    pub fn ports(&self) -> Vec<u16> {
        self.shared.ports.lock().expect("a lock").clone()
    }

    /// Forwards the next COMMIT and cuts the connection before the response.
    pub fn swallow_next_commit(&self) {
        self.shared.swallow_commit.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.lock().expect("a lock").take() {
            listening.abort();
        }
        self.cut();
    }
}

/// The address in a URL, such as `127.0.0.1:5432`.
pub fn address_of(url: &str) -> &str {
    let (before, after) = address_in(url);
    &url[before.len()..url.len() - after.len()]
}

/// The parts of the URL before and after the address.
fn address_in(url: &str) -> (&str, &str) {
    let begin = url.find('@').map_or_else(|| url.find("://").expect("a URL") + 3, |at| at + 1);
    let end = url[begin..].find(['/', '?']).map_or(url.len(), |at| begin + at);
    (&url[..begin], &url[end..])
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        if *shared.network.borrow() != Network::Reset {
            tokio::spawn(pass(stream, Arc::clone(&shared)));
        }
    }
}

async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let (mut cuts, mut lost) = (shared.cuts.subscribe(), shared.lost.subscribe());
    let upstream = shared.upstream.lock().expect("a lock").clone();
    let swallow = AtomicBool::new(false);
    let both = async {
        let server = TcpStream::connect(upstream).await.ok()?;
        shared.ports.lock().expect("a lock").push(server.local_addr().ok()?.port());
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = forward(from_client, to_server, &shared, &swallow, true) => {}
            () = forward(from_server, to_client, &shared, &swallow, false) => {}
        }
        Some(())
    };
    tokio::pin!(both);
    tokio::select! {
        _ = &mut both => return,
        _ = cuts.changed() => return,
        _ = lost.changed() => {}
    }
    // The connections stay open, but are no longer served.
    let _ = cuts.changed().await;
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    swallow: &AtomicBool,
    to_server: bool,
) {
    let mut network = shared.network.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        let piece = &buffer[..count];
        let now = *network.borrow();
        if let (Network::Slow(pause), false) = (now, to_server) {
            tokio::time::sleep(pause).await;
        }
        if network.wait_for(|network| *network != Network::Stalled).await.is_err() {
            return;
        }
        let is_commit = to_server && piece.windows(6).any(|window| window == b"COMMIT");
        if is_commit && shared.swallow_commit.swap(false, Ordering::SeqCst) {
            swallow.store(true, Ordering::SeqCst);
        }
        let is_swallowed = !to_server && swallow.load(Ordering::SeqCst);
        if count == 0 || is_swallowed || to.write_all(piece).await.is_err() {
            return;
        }
    }
}
