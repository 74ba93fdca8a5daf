//! F11: the p99 of another client's calls during a flood, compared with its usual p99.
//!
//! The flooder has its own thread at the lowest priority, because a real one would run on another machine and not take
//! processor time from the server. It reconnects whenever it is cut off.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use latchkey::proto::v1::GetSigningKeysRequest;
use latchkey::proto::v1::auth_client::AuthClient;
use tonic::transport::Channel;

use self::h2::{
    INITIAL_WINDOW_SIZE, PREFACE, Raw, call, empty_call, flag, flood, frame, header_block, kind, window_update,
};
use crate::Outcome;
use crate::database::Filled;
use crate::measure::{Goal, Row};
use crate::server::{LATCHKEYD, Server};

#[path = "../../tests/it/harness/h2.rs"]
#[expect(dead_code, unreachable_pub, reason = "the tests use the rest of it")]
mod h2;

const KEYS: &str = "/latchkey.v1.Auth/GetSigningKeys";

/// The pause between two calls of the measuring client, which must not flood the server itself.
const PAUSE: Duration = Duration::from_millis(2);

/// Frames after which the flooder closes a connection itself.
const MOST: usize = 20_000;

/// Connections that the flooder holds open. The server admits up to its limit.
const CONNECTIONS: u32 = 10_000;

/// Connections from one address: the server's limit.
const OF_ONE_ADDRESS: u32 = 64;

/// A kind of flood.
#[derive(Clone, Copy)]
enum Flood {
    /// The nth bytes to send, on one connection after the other.
    Bytes(fn(usize) -> Vec<u8>),
    /// Connections that send these bytes and nothing more.
    Silence(&'static [u8]),
    /// Connections with a hundred calls each, whose answers are not read.
    Unread,
}

const FLOODS: [(&str, Flood); 9] = [
    ("PING", Flood::Bytes(|_| frame(kind::PING, flag::NONE, 0, &[7; 8]))),
    ("SETTINGS", Flood::Bytes(|_| frame(kind::SETTINGS, flag::NONE, 0, &[]))),
    ("empty DATA", Flood::Bytes(|sent| if sent == 0 { call(1, KEYS) } else { frame(kind::DATA, flag::NONE, 1, &[]) })),
    (
        "Rapid Reset",
        Flood::Bytes(|sent| {
            let reset = frame(kind::RST_STREAM, flag::NONE, stream(sent), &8_u32.to_be_bytes());
            [empty_call(stream(sent), KEYS), reset].concat()
        }),
    ),
    (
        "MadeYouReset",
        Flood::Bytes(|sent| [call(stream(sent), KEYS), window_update(stream(sent), 0x7fff_ffff)].concat()),
    ),
    (
        "CONTINUATION",
        Flood::Bytes(|sent| {
            let block = header_block(&[("x-filler", "0123456789")]);
            let kind = if sent == 0 { kind::HEADERS } else { kind::CONTINUATION };
            frame(kind, flag::NONE, 1, &block)
        }),
    ),
    ("10 000 idle connections", Flood::Silence(GREETING)),
    ("slow starts", Flood::Silence(PREFACE.split_at(PREFACE.len() / 2).0)),
    ("answers that nobody reads", Flood::Unread),
];

/// The preface of a client and an empty SETTINGS frame.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Measures each flood in turn with the usual latency.
pub(crate) async fn measure(rounds: u32, turn: Duration, filled: &Filled) -> Outcome<Vec<Row>> {
    allow_descriptors()?;
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let mut bystander = AuthClient::new(server.connect().await?);
    let address = server.address().to_string();
    // Warm-up.
    slowest(&mut bystander, turn).await?;
    let mut rows = Vec::new();
    for (name, flood) in FLOODS {
        let mut measured = Vec::new();
        for _ in 0..rounds {
            let usual = slowest(&mut bystander, turn).await?;
            let flooder = Flooder::start(address.clone(), flood);
            let beside = slowest(&mut bystander, turn).await;
            flooder.stop();
            measured.push((beside?, usual));
        }
        let work = format!("a bystander's p99 beside a flood: {name}");
        rows.push(Row::of("F11", work, "ms", &measured, Some(Goal::AtMost(2.0))));
    }
    server.stop().await?;
    Ok(rows)
}

/// The p99 of the calls of one turn, in milliseconds.
async fn slowest(bystander: &mut AuthClient<Channel>, turn: Duration) -> Outcome<f64> {
    let mut times = Vec::new();
    let end = Instant::now() + turn;
    while Instant::now() < end {
        let began = Instant::now();
        bystander.get_signing_keys(GetSigningKeysRequest::default()).await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(PAUSE).await;
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN))
}

/// A flooder, on its own thread.
struct Flooder {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Flooder {
    fn start(address: String, kind: Flood) -> Flooder {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // A flooder on another machine would not take processor time from the server.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                match kind {
                    Flood::Bytes(bytes) => send(&address, bytes, &stopped).await,
                    Flood::Silence(words) => hold(&address, words, &stopped).await,
                    Flood::Unread => leave_unread(&address, &stopped).await,
                }
            });
        });
        Flooder { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A flooder that panicked has flooded less, which the figures show.
        let _ = self.thread.join();
    }
}

/// Sends bytes, and reconnects whenever it is cut off.
async fn send(address: &str, bytes: fn(usize) -> Vec<u8>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(raw) = Raw::open(address, &[]).await else { continue };
        flood(raw, MOST, |sent| if stop.load(Ordering::Relaxed) { Vec::new() } else { bytes(sent) }).await;
    }
}

/// Opens connections from many addresses, and holds them open.
async fn hold(address: &str, words: &[u8], stop: &AtomicBool) {
    let mut held = Vec::new();
    for number in (0..CONNECTIONS).take_while(|_| !stop.load(Ordering::Relaxed)) {
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number / OF_ONE_ADDRESS);
        let Ok(mut raw) = Raw::silent_from(source, address).await else { continue };
        // The server may have refused the connection already.
        let _ = raw.send(words).await;
        held.push(raw);
    }
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes calls and does not read the answers.
async fn leave_unread(address: &str, stop: &AtomicBool) {
    let mut held = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if held.len() >= OF_ONE_ADDRESS as usize / 2 {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        // One address cannot fill the lane, and the measuring client calls from another.
        let Ok(mut raw) = Raw::silent_from(Ipv4Addr::new(127, 1, 0, 1), address).await else { continue };
        let _ = raw.greet(&[(INITIAL_WINDOW_SIZE, 0)]).await;
        for number in 0..100 {
            let _ = raw.send(&empty_call(stream(number), KEYS)).await;
        }
        held.push(raw);
    }
}

/// Raises the limit of descriptors: both ends of every held connection need one.
fn allow_descriptors() -> Outcome<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?)
}

/// The stream id of a client's nth call.
fn stream(number: usize) -> u32 {
    u32::try_from(number).unwrap_or_default().saturating_mul(2).saturating_add(1)
}
