//! What one client can do to all others with one connection, or with ten thousand. The server is a process of its own, so
//! that its memory can be read.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use latchkey::proto::v1;
use latchkey::proto::v1::auth_client::AuthClient;
use tonic::transport::{Channel, Endpoint};

use crate::harness::daemon::Daemon;
use crate::harness::h2::{self, Raw, flag, flood, flood_of_calls, frame, kind};
use crate::harness::http;
use crate::harness::transcript::Shell;
use crate::harness::{at_once, eventually};

const KEYS: &str = "/latchkey.v1.Auth/GetSigningKeys";

/// Memory in bytes that may remain allocated after a flood: allocators keep some of it.
const LEFT_BEHIND: u64 = 48 << 20;

/// A server, and a bystander that keeps calling it.
struct Scene {
    daemon: Daemon,
    bystander: Channel,
    memory_before: u64,
    /// Last byte of the next flooder's address.
    flooders: AtomicU8,
    _shell: Shell,
}

impl Scene {
    async fn begin(settings: &[&str]) -> Scene {
        let shell = Shell::default();
        // Calls are not logged, because nothing reads the log here.
        let mut args = vec!["serve", "--log-level", "warn,latchkey::daemon=info"];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let daemon = Daemon::start(&shell, &args);
        let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address)).expect("a URL");
        let bystander = endpoint.connect().await.expect("a connection");
        let scene = Scene { daemon, bystander, memory_before: 0, flooders: AtomicU8::new(3), _shell: shell };
        for _ in 0..100 {
            scene.bystander_calls().await;
        }
        Scene { memory_before: scene.memory(), ..scene }
    }

    async fn bystander_calls(&self) {
        let mut auth = AuthClient::new(self.bystander.clone());
        auth.get_signing_keys(v1::GetSigningKeysRequest::default()).await.expect("an answer for the bystander");
    }

    /// Lets the bystander call repeatedly until the work is done, and at least once.
    async fn meanwhile<T>(&self, work: impl Future<Output = T>) -> T {
        let calls = async {
            loop {
                self.bystander_calls().await;
            }
        };
        let first = self.bystander_calls();
        let (done, ()) = tokio::join!(
            async {
                tokio::select! {
                    done = work => done,
                    () = calls => unreachable!("calls go on"),
                }
            },
            first
        );
        done
    }

    /// Resident memory of the server in bytes: proc(5), `statm`, in pages of 4 KiB.
    fn memory(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.daemon.pid())).expect("a process");
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * 4096
    }

    async fn metric(&self, name: &str) -> u64 {
        let text = http::get(&self.daemon.http_address, "/metrics").await.body;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    }

    /// Checks that connections and memory are as before, and that a new client is served.
    async fn is_over(&self) {
        eventually("connections as before", || async {
            (self.metric(r#"latchkey_connections{listener="grpc"}"#).await == 1).then_some(())
        })
        .await;
        eventually("memory as before", || async { (self.memory() < self.memory_before + LEFT_BEHIND).then_some(()) })
            .await;
        self.bystander_calls().await;
        self.raw(&[]).await;
    }

    /// A connection of the flooder. Its address differs from that of the bystander, because a lane reserves permits for
    /// addresses that hold few.
    async fn raw(&self, settings: &[(u16, u32)]) -> Raw {
        self.raw_from(2, settings).await
    }

    async fn raw_from(&self, source: u8, settings: &[(u16, u32)]) -> Raw {
        let source = Ipv4Addr::new(127, 0, 0, source);
        let mut raw = Raw::silent_from(source, &self.daemon.address).await.expect("a connection");
        raw.greet(settings).await.expect("first words");
        raw
    }

    /// Floods with up to `most` of these, and expects that the connection is closed. Each flood has an address of its own,
    /// because the next connection of an address that flooded is delayed.
    async fn cuts_off(&self, what: &str, most: usize, bytes: impl FnMut(usize) -> Vec<u8>) -> usize {
        let source = self.flooders.fetch_add(1, Ordering::Relaxed);
        let raw = self.raw_from(source, &[]).await;
        let (sent, closed) = self.meanwhile(flood(raw, most, bytes)).await;
        assert!(closed, "{what}: {sent} were taken, and the connection is open");
        sent
    }
}

/// The identifier of the client's stream with this number.
fn stream(number: usize) -> u32 {
    2 * u32::try_from(number).expect("a small number") + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_bring_no_work_end_their_connection() {
    let scene = Scene::begin(&[]).await;
    let ping = frame(kind::PING, flag::NONE, 0, &[7; 8]);
    scene.cuts_off("PING", 100_000, |_| ping.clone()).await;
    let settings = frame(kind::SETTINGS, flag::NONE, 0, &[]);
    scene.cuts_off("SETTINGS", 100_000, |_| settings.clone()).await;
    scene.cuts_off("WINDOW_UPDATE", 100_000, |_| h2::window_update(0, 1)).await;
    let nothing = frame(kind::DATA, flag::NONE, 1, &[]);
    let call = h2::call(1, KEYS);
    scene.cuts_off("empty DATA", 100_000, |sent| if sent == 0 { call.clone() } else { nothing.clone() }).await;
    // RFC 9113, section 5.5: frames of unknown types are ignored. They still cost tokens.
    let unknown = frame(0xbe, flag::NONE, 0, &[1; 32]);
    scene.cuts_off("unknown frames", 100_000, |_| unknown.clone()).await;
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_fail_before_the_caller_is_known_end_their_connection() {
    let scene = Scene::begin(&[]).await;
    for (source, path) in [(3, "/a/b"), (4, "/latchkey.v1.Auth/WhoAmI")] {
        let call = |sent| h2::empty_call(stream(sent), path);
        let (sent, closed) = scene.meanwhile(flood_of_calls(scene.raw_from(source, &[]).await, 100_000, call)).await;
        assert!(closed && sent > 500, "{path}: {sent}");
    }
    let closed = scene.metric(r#"latchkey_connections_refused_total{listener="grpc",cause="flood"}"#).await;
    assert_eq!(closed, 2, "as floods");
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_their_connection() {
    let scene = Scene::begin(&[]).await;
    let cancel = 8_u32.to_be_bytes();
    let reset = |sent| {
        let reset = frame(kind::RST_STREAM, flag::NONE, stream(sent), &cancel);
        [h2::empty_call(stream(sent), KEYS), reset].concat()
    };
    let sent = scene.cuts_off("HEADERS and RST_STREAM", 50_000, reset).await;
    assert!(sent < 10_000, "{sent}");
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_that_the_server_is_made_to_send_end_their_connection() {
    let scene = Scene::begin(&[]).await;
    // CVE-2025-8671, "MadeYouReset": the peer violates the protocol on each stream, so that the server resets it.
    for (what, fault) in [("an overflow of the window", 0x7fff_ffff), ("no window at all", 0)] {
        let sent = scene
            .cuts_off(what, 50_000, |sent| {
                [h2::call(stream(sent), KEYS), h2::window_update(stream(sent), fault)].concat()
            })
            .await;
        assert!(sent < 10_000, "{what}: {sent}");
    }
    let sent = scene
        .cuts_off("DATA after the end", 50_000, |sent| {
            let more = frame(kind::DATA, flag::NONE, stream(sent), &[0; 100]);
            [h2::empty_call(stream(sent), KEYS), more].concat()
        })
        .await;
    assert!(sent < 20_000, "{sent}");
    scene.is_over().await;
}

/// Makes a call on a new connection, and waits for the first frame of the response.
async fn is_served(mut raw: Raw) {
    raw.send(&h2::empty_call(1, KEYS)).await.expect("a call");
    raw.next_of(kind::HEADERS).await.expect("an answer");
}

/// Checks that the next connection from this address is delayed, and one from another address is not.
async fn waits(scene: &Scene, source: u8, flood_began: Instant) {
    let waiting = scene.raw_from(source, &[]).await;
    is_served(scene.raw_from(250, &[]).await).await;
    is_served(waiting).await;
    assert!(flood_began.elapsed() >= Duration::from_secs(1), "127.0.0.{source}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_connection_of_a_peer_that_flooded_is_delayed_and_those_of_others_are_not() {
    let scene = Scene::begin(&[]).await;
    let ping = frame(kind::PING, flag::NONE, 0, &[7; 8]);
    let flooder = || scene.flooders.load(Ordering::Relaxed);

    let (source, began) = (flooder(), Instant::now());
    scene.cuts_off("cut off by us", 100_000, |_| ping.clone()).await;
    waits(&scene, source, began).await;

    let (source, began) = (flooder(), Instant::now());
    let overflow = |sent| [h2::call(stream(sent), KEYS), h2::window_update(stream(sent), 0x7fff_ffff)].concat();
    scene.cuts_off("cut off by h2", 100_000, overflow).await;
    waits(&scene, source, began).await;

    // Closing just before the limit counts as a flood.
    let (source, began) = (200, Instant::now());
    let mut raw = scene.raw_from(source, &[]).await;
    raw.send(&ping.repeat(900)).await.expect("a flood that is borne");
    for _ in 0..900 {
        raw.next_of(kind::PING).await.expect("an answer");
    }
    drop(raw);
    eventually("the end of it", || async {
        (scene.metric(r#"latchkey_connections{listener="grpc"}"#).await == 1).then_some(())
    })
    .await;
    waits(&scene, source, began).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_does_not_wait_for_throttled_connections() {
    let scene = Scene::begin(&[]).await;
    let source = scene.flooders.load(Ordering::Relaxed);
    scene.cuts_off("PING", 100_000, |_| frame(kind::PING, flag::NONE, 0, &[7; 8])).await;
    let mut waiting = Vec::new();
    for _ in 0..60 {
        waiting.push(scene.raw_from(source, &[]).await);
    }
    let (status, rest) = scene.daemon.stop();
    assert_eq!(status, Some(0), "{rest}");
    assert!(!rest.contains("cut off"), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_blocks_without_an_end_end_their_connection() {
    let scene = Scene::begin(&[]).await;
    let block = h2::header_block(&[("x-filler", &"x".repeat(1000))]);
    for (what, piece) in [("long ones", block.as_slice()), ("empty ones", b"")] {
        let begin = frame(kind::HEADERS, flag::NONE, 1, &h2::call_block(KEYS, &[]));
        let more = frame(kind::CONTINUATION, flag::NONE, 1, piece);
        let sent = scene.cuts_off(what, 100_000, |sent| if sent == 0 { begin.clone() } else { more.clone() }).await;
        assert!(sent < 50_000, "{what}: {sent}");
    }
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_cost_bounded_memory_and_are_cut_off() {
    let scene = Scene::begin(&["connections.read_timeout=2s"]).await;
    let nothing = [(h2::INITIAL_WINDOW_SIZE, 0)];
    let mut readers = Vec::new();
    // As many calls as the lane allows one address. Further calls would be refused, and have nothing to read.
    for _ in 0..3 {
        let mut raw = scene.raw(&nothing).await;
        for number in 0..100 {
            raw.send(&h2::empty_call(stream(number), KEYS)).await.expect("a call");
        }
        readers.push(raw);
    }
    scene.meanwhile(at_once(readers.iter_mut().map(Raw::stay))).await;
    assert_eq!(scene.metric(r#"latchkey_connections_refused_total{listener="grpc",cause="unread"}"#).await, 3);
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_no_byte_is_cut_off() {
    let scene = Scene::begin(&["connections.read_timeout=2s"]).await;
    let most = [(h2::INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
    let mut raw = scene.raw(&most).await;
    raw.send(&h2::window_update(0, 0x7fff_0000)).await.expect("a window");
    // Makes responses until the buffers on both sides are full, and the server can write no more.
    let calls = async {
        for number in 0..200_000 {
            if raw.send(&h2::empty_call(stream(number), KEYS)).await.is_err() {
                return true;
            }
        }
        false
    };
    assert!(scene.meanwhile(calls).await, "it was cut off");
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_do_not_disturb_an_open_one() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < 12_000) {
        eprintln!("skipped: this process may not have 12000 descriptors");
        return;
    }
    limit.current = Some(limit.maximum.unwrap_or(20_000).max(12_000));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("descriptors");

    let scene = Scene::begin(&[]).await;
    let mut idle = Vec::new();
    for number in 0..10_000_u32 {
        // 64 from each address, which is its limit.
        let source = Ipv4Addr::from_bits(0x7f01_0000 + number / 64 + 1);
        let mut raw = Raw::silent_from(source, &scene.daemon.address).await.expect("a connection");
        // A refused connection may fail here.
        let _ = raw.greet(&[]).await;
        idle.push(raw);
        if number % 500 == 0 {
            scene.bystander_calls().await;
        }
    }
    eventually("the limit", || async {
        (scene.metric(r#"latchkey_connections{listener="grpc"}"#).await == 1024).then_some(())
    })
    .await;
    scene.bystander_calls().await;
    // The kernel holds thousands that the server has not accepted yet.
    eventually("the refusals", || async {
        let refused = scene.metric(r#"latchkey_connections_refused_total{listener="grpc",cause="max"}"#).await;
        (refused >= 8_900).then_some(())
    })
    .await;
    assert!(scene.memory() < scene.memory_before + (64 << 20), "{} over {}", scene.memory(), scene.memory_before);
    drop(idle);
    scene.is_over().await;
}
