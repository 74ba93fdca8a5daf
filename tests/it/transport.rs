//! Connections: every limit of HTTP/2, tested by its frame; their number; how they must begin.

use std::time::Duration;

use latchkey::config::Config;
use latchkey::proto::v1;
use tokio::net::UnixStream;

use crate::harness::h2::{self, Raw, flag, frame, kind};
use crate::harness::{Harness, PASSWORD, eventually};

const SIGN_IN: &str = "/latchkey.v1.Auth/SignIn";
const KEYS: &str = "/latchkey.v1.Auth/GetSigningKeys";

/// Error codes (RFC 9113, section 7).
const FRAME_SIZE_ERROR: u32 = 0x6;
const REFUSED_STREAM: u32 = 0x7;

fn short_timeouts(config: &mut Config) {
    config.connections.start_timeout = Duration::from_secs(1);
}

async fn open(h: &Harness) -> Raw {
    Raw::open(&h.address(), &[]).await.expect("a connection")
}

/// Makes a call on a connection of its own. Returns whether it succeeds.
async fn is_served(h: &Harness) -> bool {
    let request = v1::GetSigningKeysRequest::default();
    h.stranger().await.auth().get_signing_keys(request).await.is_ok()
}

#[tokio::test]
async fn the_settings_frame_has_every_limit() {
    let h = Harness::start().await;
    let mut raw = open(&h).await;
    let settings = raw.next_of(kind::SETTINGS).await.expect("settings").settings();
    for (id, name, value) in [
        (0x3, "MAX_CONCURRENT_STREAMS", 100),
        (0x4, "INITIAL_WINDOW_SIZE", 64 << 10),
        (0x5, "MAX_FRAME_SIZE", 16 << 10),
        (0x6, "MAX_HEADER_LIST_SIZE", 16 << 10),
    ] {
        assert!(settings.contains(&(id, value)), "{name} = {value} is not among {settings:?}");
    }
    let window = raw.next_of(kind::WINDOW_UPDATE).await.expect("the window of the connection");
    assert_eq!((window.stream, window.number(0)), (0, Some((1 << 20) - 65_535)));
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let h = Harness::start().await;
    let mut raw = open(&h).await;
    raw.send(&h2::call(1, SIGN_IN)).await.expect("a call");
    raw.send(&frame(kind::DATA, flag::NONE, 1, &vec![0; (16 << 10) + 1])).await.expect("a frame");
    assert_eq!(raw.end().await, Some(FRAME_SIZE_ERROR));
    assert!(is_served(&h).await);
}

#[tokio::test]
async fn the_hundred_and_first_stream_is_refused() {
    let h = Harness::start().await;
    let mut raw = open(&h).await;
    for number in 0..101 {
        raw.send(&h2::call(2 * number + 1, SIGN_IN)).await.expect("a call");
    }
    let refused = raw.next_of(kind::RST_STREAM).await.expect("a refusal");
    assert_eq!((refused.stream, refused.number(0)), (201, Some(REFUSED_STREAM)));
    assert!(is_served(&h).await);
}

#[tokio::test]
async fn a_header_list_that_is_too_long_reaches_no_handler() {
    let h = Harness::start().await;
    let mut raw = open(&h).await;
    // Two frames, each within the limit.
    let block = h2::call_block(KEYS, &[("x-filler", &"x".repeat(16 << 10))]);
    let (first, second) = block.split_at(10_000);
    raw.send(&frame(kind::HEADERS, flag::NONE, 1, first)).await.expect("a frame");
    raw.send(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, second)).await.expect("a frame");
    raw.send(&frame(kind::DATA, flag::END_STREAM, 1, &[0; 5])).await.expect("a frame");
    let answer = raw.next_of(kind::HEADERS).await.expect("an answer of the HTTP/2 layer: 431");
    assert!(answer.stream == 1 && answer.flags & flag::END_STREAM != 0, "{answer:?}");
    assert_eq!(h.metric("latchkey_rpc_total").await, 0, "no handler was asked");
    assert!(is_served(&h).await);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let h = Harness::with(short_timeouts).await;
    for words in [b"".as_slice(), &h2::PREFACE[..23], b"GET / HTTP/1.1\r\n"] {
        let mut raw = Raw::silent(&h.address()).await.expect("a connection");
        raw.send(words).await.expect("words");
        raw.end().await;
    }
    let mut local = Raw { stream: UnixStream::connect(h.socket()).await.expect("a connection") };
    local.end().await;
    let mut http = Raw::silent(&h.http_address()).await.expect("a connection");
    http.send(b"GET /livez HTTP").await.expect("words");
    http.end().await;
    let text = h.http("/metrics").await.body;
    for (listener, least) in [("grpc", 2), ("local", 1), ("http", 1)] {
        let name = format!(r#"latchkey_connections_refused_total{{listener="{listener}",cause="silent"}} "#);
        let count = text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u32>().ok());
        assert!(count >= Some(least), "{listener}: {text}");
    }
}

#[tokio::test]
async fn a_connection_that_has_begun_may_rest() {
    let h = Harness::with(short_timeouts).await;
    let client = h.stranger().await;
    let mut silent = Raw::silent(&h.address()).await.expect("a connection");
    silent.end().await;
    // More time than `start_timeout` has passed now.
    let request = v1::GetSigningKeysRequest::default();
    client.auth().get_signing_keys(request).await.expect("an answer on the connection from before");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let h = Harness::with(|config| {
        config.connections.max = 5;
        config.connections.max_per_peer = 3;
    })
    .await;
    let mut open = Vec::new();
    for source in ["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"] {
        let raw = Raw::silent_from(source.parse().expect("an address"), &h.address()).await;
        let mut raw = raw.expect("a connection");
        raw.greet(&[]).await.expect("words");
        raw.next_of(kind::SETTINGS).await.expect("an answer");
        open.push(raw);
    }
    for source in ["127.0.0.2", "127.0.0.4"] {
        let mut raw = Raw::silent_from(source.parse().expect("an address"), &h.address()).await.expect("a connection");
        assert!(raw.next().await.is_none(), "{source}: it is closed");
    }
    open.pop();
    eventually("the place of the one that left", || async {
        (h.metric("latchkey_connections").await == 5).then_some(())
    })
    .await;
    let fourth = "127.0.0.2".parse().expect("an address");
    let mut raw = Raw::silent_from(fourth, &h.address()).await.expect("a connection");
    assert!(raw.next().await.is_none(), "that address has three still");
    assert!(is_served(&h).await, "others have the place");
    let text = h.http("/metrics").await.body;
    for line in [
        r#"latchkey_connections_refused_total{listener="grpc",cause="max"} 2"#,
        r#"latchkey_connections_refused_total{listener="grpc",cause="max_per_peer"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn a_client_beyond_the_limit_that_connects_again_and_again_is_slowed_down() {
    let h = Harness::with(|config| config.connections.max_per_peer = 1).await;
    let flooder = "127.0.0.2".parse().expect("an address");
    let _first = Raw::silent_from(flooder, &h.address()).await.expect("a connection");
    h.create("bob", &[], PASSWORD).await;
    let operator = h.operator().await;
    let others = async {
        for _ in 0..20 {
            operator.lock("bob").await.expect("a lock");
            operator.unlock("bob").await.expect("an unlock");
        }
    };
    let mut refused = 0;
    let again = async {
        loop {
            let mut raw = Raw::silent_from(flooder, &h.address()).await.expect("a connection");
            assert!(raw.next().await.is_none(), "it is closed");
            refused += 1;
        }
    };
    tokio::select! {
        () = others => {}
        () = again => {}
    }
    assert!(refused < 40, "{refused} connections were refused while others made 40 calls");
}

#[tokio::test]
async fn the_local_socket_has_its_limit_and_keeps_the_operators_way_in() {
    let h = Harness::with(|config| {
        config.connections.max = 2;
        config.connections.max_per_peer = 2;
    })
    .await;
    let network: Vec<Raw> = futures_util::future::join_all((0..2).map(|_| open(&h))).await;
    let mut more = Raw::silent(&h.address()).await.expect("a connection");
    assert!(more.next().await.is_none(), "the network is full");
    let operator = h.operator().await;
    operator.auth().who_am_i(v1::WhoAmIRequest {}).await.expect("the operator's way in");
    let _second = UnixStream::connect(h.socket()).await.expect("a connection");
    let mut third = Raw { stream: UnixStream::connect(h.socket()).await.expect("a connection") };
    assert!(third.next().await.is_none(), "it is closed");
    drop(network);
}

#[tokio::test]
async fn an_unread_response_ends_its_connection() {
    let h = Harness::with(|config| config.connections.read_timeout = Duration::from_secs(1)).await;
    let nothing = [(h2::INITIAL_WINDOW_SIZE, 0)];
    let mut raw = Raw::open(&h.address(), &nothing).await.expect("a connection");
    for number in 0..100 {
        raw.send(&h2::empty_call(2 * number + 1, KEYS)).await.expect("a call");
    }
    // It answers PINGs all the time, and only leaves the responses unread.
    raw.stay().await;
    let text = h.http("/metrics").await.body;
    let line = r#"latchkey_connections_refused_total{listener="grpc",cause="unread"} 1"#;
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(is_served(&h).await);
}

#[tokio::test]
async fn a_health_watch_is_not_an_unread_response() {
    let h = Harness::with(|config| config.connections.read_timeout = Duration::from_secs(1)).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(h.stranger().await.channel());
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request.clone()).await.expect("a watch").into_inner();
    watch.message().await.expect("a status").expect("a status");
    // Meanwhile another connection leaves a response unread until it is closed, which takes longer than the limit.
    let mut raw = Raw::open(&h.address(), &[(h2::INITIAL_WINDOW_SIZE, 0)]).await.expect("a connection");
    raw.send(&h2::empty_call(1, KEYS)).await.expect("a call");
    raw.stay().await;
    health.check(request).await.expect("the connection of the watch goes on");
}

#[tokio::test]
async fn a_header_block_that_stops_ends_its_connection() {
    if std::env::var("TEST_FULL").is_err() {
        eprintln!("skipped: it takes 40 s until a PING is missed; set TEST_FULL=1");
        return;
    }
    let h = Harness::start().await;
    let mut raw = open(&h).await;
    raw.send(&frame(kind::HEADERS, flag::NONE, 1, &h2::call_block(KEYS, &[]))).await.expect("a frame");
    // Within a header block no other frame may be sent, so the client cannot answer a PING.
    raw.end().await;
    assert!(is_served(&h).await);
}

#[tokio::test]
async fn a_request_that_http2_refuses_is_counted_although_it_is_no_call() {
    let h = Harness::start().await;
    let mut raw = open(&h).await;
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", KEYS), (":authority", "%2Frun%2Fsocket")];
    for stream in [1, 3] {
        raw.send(&frame(kind::HEADERS, flag::END_HEADERS, stream, &h2::header_block(&fields))).await.expect("a call");
        raw.next_of(kind::RST_STREAM).await.expect("a reset");
    }
    assert_eq!(h.metric("latchkey_requests_reset_total").await, 2);
    assert_eq!(h.metric("latchkey_rpc_total").await, 0);
}

#[tokio::test]
async fn on_the_local_socket_a_client_may_state_the_path_as_authority_percent_encoded_or_plain() {
    let h = Harness::start().await;
    let stream = UnixStream::connect(h.socket()).await.expect("a connection");
    let mut raw = Raw { stream };
    raw.greet(&[]).await.expect("a preface");
    // A literal with incremental indexing, its index, and then a literal with a literal name, as gRPC's C core sends it.
    let authority = b"%2Frun%2Flatchkey%2Flatchkey.sock";
    let literal = [&[0x41, u8::try_from(authority.len()).expect("a length")], &authority[..]].concat();
    let named = [&b"\x40\x0a:authority"[..], &literal[1..]].concat();
    // As grpc-java sends it.
    let plain = b"\x41\x1b/run/latchkey/latchkey.sock".to_vec();
    for (stream, authority) in [(1, literal), (3, vec![0x80 | 0x3e]), (5, named), (7, plain)] {
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check")];
        let rest = h2::header_block(&[("content-type", "application/grpc"), ("te", "trailers")]);
        let block = [h2::header_block(&fields), authority, rest].concat();
        let call = frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
        let message = frame(kind::DATA, flag::END_STREAM, stream, &[0; 5]);
        raw.send(&[call, message].concat()).await.expect("a call");
        loop {
            let found = raw.next().await.expect("an answer");
            assert_ne!(found.kind, kind::RST_STREAM, "{found:?}");
            if found.kind == kind::DATA && found.stream == stream {
                // A message of two bytes: field 1, SERVING.
                assert_eq!(found.payload, [0, 0, 0, 0, 2, 8, 1]);
                break;
            }
        }
    }
}
