//! Panics and malformed requests: each ends in a status with its details, and the server survives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use latchkey::entropy::{Entropy, SystemEntropy};
use latchkey::proto::v1;
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::wire::{Wire, framed, post};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, refused};

/// Panics on requests for this number of bytes, once armed.
#[derive(Default)]
struct Brittle {
    length: AtomicUsize,
    /// Requests for that number to answer before: the outermost layer draws the id of the request.
    spared: AtomicUsize,
    real: SystemEntropy,
}

impl Entropy for Brittle {
    fn fill(&self, bytes: &mut [u8]) {
        let is_meant = bytes.len() == self.length.load(Ordering::SeqCst);
        let spare = |left: usize| left.checked_sub(1);
        let is_spared = is_meant && self.spared.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spare).is_ok();
        assert!(!is_meant || is_spared, "a c4nary that must not be seen");
        self.real.fill(bytes);
    }
}

/// Length of the nonce of a page token in bytes.
const NONCE: usize = 12;
/// Length of an id in bytes.
const ID: usize = 16;

#[tokio::test]
async fn a_panic_ends_one_call_and_says_nothing() {
    let brittle = Arc::new(Brittle::default());
    let h = Harness::start().await.with_entropy(Arc::clone(&brittle) as Arc<dyn Entropy>).await;
    for name in ["ann", "bob"] {
        h.create(name, &[], PASSWORD).await;
    }
    let (operator, stranger) = (h.operator().await, h.stranger().await);

    // In a handler that only reads, and in the task of one that changes something.
    brittle.length.store(NONCE, Ordering::SeqCst);
    let page = v1::ListUsersRequest { page_size: 1, ..Default::default() };
    let reading = refused(operator.list(page.clone()).await, Code::Internal, "INTERNAL");
    brittle.spared.store(1, Ordering::SeqCst);
    brittle.length.store(ID, Ordering::SeqCst);
    let changing = refused(stranger.sign_in("bob", PASSWORD).await, Code::Internal, "INTERNAL");
    brittle.length.store(0, Ordering::SeqCst);
    for refusal in [reading, changing] {
        assert!(refusal.details.request_info().is_some_and(|info| info.request_id.len() == 32), "{refusal:?}");
        assert!(!format!("{refusal:?}").contains("c4nary"));
    }

    assert!(!operator.list(page).await.expect("a page").next_page_token.is_empty());
    // The attempt that panicked counts as a failure after its lease, and does not block sign-ins.
    stranger.tokens("bob", PASSWORD).await.expect("bob signs in");
    refused(stranger.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    operator.lock("bob").await.expect("a lock");
}

struct Odd {
    what: &'static str,
    request: Request<()>,
    body: Vec<u8>,
    code: Code,
    reason: &'static str,
}

const GET_USER: &str = "latchkey.v1.UserAdmin/GetUser";
const KEYS: &str = "latchkey.v1.Auth/GetSigningKeys";

fn with_method(method: &str, path: &str) -> Request<()> {
    let mut request = post(path, &[]);
    *request.method_mut() = method.parse().expect("a method");
    request
}

/// A body with this flag and this length, and any content.
fn head(flag: u8, length: u32, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![flag];
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(rest);
    body
}

/// What a gRPC client would not send.
fn malformed_requests(bearer: &str) -> Vec<Odd> {
    let odd = |what, request, body, code, reason| Odd { what, request, body, code, reason };
    let empty = || head(0, 0, &[]);
    let keys = |headers: &[(&str, &str)]| post(KEYS, headers);
    let user = |headers: &[(&str, &str)]| post(GET_USER, &[headers, &[("authorization", bearer)]].concat());
    let (malformed, gone) = ((Code::InvalidArgument, "MESSAGE_MALFORMED"), (Code::Unimplemented, "METHOD_UNAVAILABLE"));
    let too_large = (Code::ResourceExhausted, "REQUEST_TOO_LARGE");
    let mut odd_ones = Vec::new();
    for path in [
        "",
        "x",
        "a/b",
        "latchkey.v1.Auth",
        "latchkey.v1.Auth/",
        "latchkey.v1.Auth/Nothing",
        "grpc.health.v1.Health/List",
    ] {
        odd_ones.push(odd("a path that is not served", post(path, &[]), empty(), gone.0, gone.1));
    }
    let no_auth = format!("{KEYS}/more?query=1");
    odd_ones.push(odd("a path that goes on", post(&no_auth, &[]), empty(), gone.0, gone.1));
    for body in [vec![], vec![0, 0], head(0, 9, b"abc"), head(0, 3, &[0xff; 3]), head(2, 0, &[])] {
        odd_ones.push(odd("a message cut short, or none", keys(&[]), body.clone(), malformed.0, malformed.1));
        odd_ones.push(odd("the same with a bearer", user(&[]), body, malformed.0, malformed.1));
    }
    for encoding in ["gzip", "zstd", "snappy", "made-up"] {
        let headers = [("grpc-encoding", encoding)];
        let unsupported = "COMPRESSION_UNSUPPORTED";
        odd_ones.push(odd("compressed", keys(&headers), head(1, 3, b"abc"), Code::Unimplemented, unsupported));
    }
    odd_ones.push(odd("compressed with nothing", keys(&[]), head(1, 3, b"abc"), Code::Internal, malformed.1));
    odd_ones.push(odd("too long, it says", keys(&[]), head(0, 65_537, &[]), too_large.0, too_large.1));
    odd_ones.push(odd("too long, it says", user(&[]), head(0, u32::MAX, &[]), too_large.0, too_large.1));
    let two = [framed(&v1::GetUserRequest { user: Some(named("root")) }), empty()].concat();
    odd_ones.push(odd("two messages", user(&[]), two, Code::Ok, ""));
    for kind in ["text/plain", "application/json", "application/grpc-web", ""] {
        odd_ones.push(odd("another content type", keys(&[("content-type", kind)]), empty(), Code::Ok, ""));
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "BREW"] {
        odd_ones.push(odd("another method of HTTP", with_method(method, KEYS), empty(), Code::Ok, ""));
        odd_ones.push(odd(
            "and without a credential",
            with_method(method, GET_USER),
            empty(),
            Code::Unauthenticated,
            "CREDENTIALS_MISSING",
        ));
    }
    odd_ones
}

#[tokio::test]
async fn whatever_is_sent_the_answer_has_a_reason_and_a_request_id() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let bearer = format!("Bearer {}", root.tokens.access_token);
    let wire = Wire::connect(&h.address()).await;
    let mut wrong = Vec::new();
    for Odd { what, request, body, code, reason } in malformed_requests(&bearer) {
        let sent = format!(
            "{what}: {} {} {:?} {body:?}",
            request.method(),
            request.uri().path(),
            request.headers().get("grpc-encoding")
        );
        let answer = wire.open_request(request).await.finish(body).await;
        let status = match answer {
            Ok(answer) => answer.status.unwrap_or_else(|| panic!("{sent}: no status, HTTP {}", answer.http)),
            Err(error) => panic!("{sent}: {error}"),
        };
        let told = crate::harness::refusal::reason_of(&status);
        if (status.code(), told.as_str()) != (code, reason) {
            wrong.push(format!("{sent}: {:?} {told:?} {}", status.code(), status.message()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_client_that_does_not_speak_http2_is_disconnected() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let h = Harness::start().await;
    for hello in [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut stream = tokio::net::TcpStream::connect(h.address()).await.expect("a connection");
        stream.write_all(hello).await.expect("a greeting");
        stream.shutdown().await.expect("no more");
        let mut answer = Vec::new();
        // A reset is as good as a close.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    h.create("bob", &[], PASSWORD).await;
}
