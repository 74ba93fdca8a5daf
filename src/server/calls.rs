//! The calls of each connection: whether the peer reads the response, and whether a stop has to wait for the call.
//!
//! With its flow-control window (RFC 9113, section 5.2) a peer decides how much we may send, and can still answer our PINGs.
//! Without a limit it could keep 100 responses in our memory for ever.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{Extensions, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};

use super::http2_frames::FailedCalls;
use crate::grpc::Failed;

/// Most bytes handed to hyper at once. hyper accepts a piece as soon as the window has room for one byte, and then holds all
/// of it until the peer has read it.
const MAX_PIECE: usize = 4096;

/// How long a connection without a call stays open at a stop: time for the last response to be sent, and for a well-behaved
/// client to close the connection itself.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How long a stop waits for the rest of a request, and for a peer to read a response.
const PEER_GRACE: Duration = Duration::from_secs(2);

/// Most methods that are named at a stop, and most bytes of each name: a client may call methods that do not exist.
const NAMED_METHODS: usize = 16;
const MAX_METHOD_BYTES: usize = 80;

/// The calls of all connections, to say what a stop waits for.
#[derive(Debug, Default)]
pub(super) struct AllCalls(Mutex<Vec<Weak<Calls>>>);

impl AllCalls {
    /// Adds a connection.
    pub(super) fn connection(&self) -> Arc<Calls> {
        let calls = Arc::<Calls>::default();
        let mut all = lock(&self.0);
        // Removing closed connections only before the list would grow costs little for each.
        if all.len() == all.capacity() {
            all.retain(|calls| calls.strong_count() > 0);
        }
        all.push(Arc::downgrade(&calls));
        calls
    }

    /// The methods that are called now, each with the number of its calls: `latchkey.v1.Auth/SignIn: 3`.
    pub(super) fn in_progress(&self) -> String {
        let mut count = BTreeMap::<String, usize>::new();
        for calls in lock(&self.0).iter().filter_map(Weak::upgrade) {
            for call in lock(&calls.0).calls.values() {
                *count.entry(call.method.clone()).or_default() += 1;
            }
        }
        let named = count.iter().take(NAMED_METHODS).map(|(method, calls)| format!("{method}: {calls}"));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// The id of the next call.
    next: u64,
    calls: HashMap<u64, Call>,
    /// When the last call ended.
    ended_at: Option<Instant>,
    /// Calls that failed before their caller was known, and are not charged to the connection yet.
    failed: FailedCalls,
}

#[derive(Debug)]
struct Call {
    /// The name of the method, or its beginning.
    method: String,
    /// Whether the call waits for the rest of the request.
    is_receiving: bool,
    /// Since when the response waits for the peer.
    unread_since: Option<Instant>,
}

impl Calls {
    /// How long the oldest unread response has been waiting for the peer.
    pub(super) fn longest_unread(&self, now: Instant) -> Duration {
        let oldest = lock(&self.0).calls.values().filter_map(|call| call.unread_since).min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns whether the server works on a call, and does not wait for the peer.
    pub(super) fn is_working(&self) -> bool {
        lock(&self.0).calls.values().any(|call| !call.is_receiving && call.unread_since.is_none())
    }

    /// Returns whether a stop that began at `stopped` waits for the connection: for as long as a call is worked on, and a
    /// short time for a peer that sends or reads.
    pub(super) fn delay_stop(&self, stopped: Instant, now: Instant) -> bool {
        let open = lock(&self.0);
        let within = |grace, since: Instant| now.saturating_duration_since(since.max(stopped)) < grace;
        within(IDLE_GRACE, open.ended_at.unwrap_or(stopped))
            || open.calls.values().any(|call| match call.unread_since {
                Some(since) => within(PEER_GRACE, since),
                None => !call.is_receiving || within(PEER_GRACE, stopped),
            })
    }

    /// Returns the failed calls since the last time.
    pub(super) fn take_failed(&self) -> FailedCalls {
        std::mem::take(&mut lock(&self.0).failed)
    }

    fn count_failed(&self, failed: Failed) {
        let count = &mut lock(&self.0).failed;
        count.all = count.all.saturating_add(1);
        count.beyond_limit = count.beyond_limit.saturating_add(failed.is_beyond_limit.into());
    }

    fn begin(self: Arc<Calls>, uri: &Uri) -> OpenCall {
        let method = uri.path().trim_start_matches('/').chars().take(MAX_METHOD_BYTES).collect();
        let mut open = lock(&self.0);
        let id = open.next;
        open.next += 1;
        open.calls.insert(id, Call { method, is_receiving: false, unread_since: None });
        drop(open);
        OpenCall { calls: self, id }
    }
}

/// A call that has not ended. It ends when this is dropped.
struct OpenCall {
    calls: Arc<Calls>,
    id: u64,
}

impl OpenCall {
    fn set_unread(&self, since: Option<Instant>) {
        if let Some(call) = lock(&self.calls.0).calls.get_mut(&self.id) {
            call.unread_since = since;
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut open = lock(&self.calls.0);
        open.calls.remove(&self.id);
        open.ended_at = Some(Instant::now());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peer of a connection.
#[derive(Debug, Clone)]
pub(super) enum PeerInfo {
    /// TCP.
    Network(TcpConnectInfo),
    /// The local socket.
    Local(UdsConnectInfo),
}

impl PeerInfo {
    /// Inserts what tonic itself would insert, for the handlers.
    pub(super) fn insert_into(self, extensions: &mut Extensions) {
        match self {
            PeerInfo::Network(info) => drop(extensions.insert(info)),
            PeerInfo::Local(info) => drop(extensions.insert(info)),
        }
    }
}

/// What tonic inserts into the extensions of each request of a connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectInfo {
    pub(super) peer: PeerInfo,
    pub(super) calls: Arc<Calls>,
}

/// The layer that gives the peer to the handlers, and tracks their calls.
pub(super) async fn track(mut request: Request, next: Next) -> Response {
    let Some(info) = request.extensions_mut().remove::<ConnectInfo>() else { return next.run(request).await };
    let call = Arc::clone(&info.calls).begin(request.uri());
    info.peer.insert_into(request.extensions_mut());
    let (calls, id) = (info.calls, call.id);
    let request = request.map(|body| Body::new(RequestBody { body, calls, id }));
    let mut response = next.run(request).await;
    if let Some(failed) = response.extensions_mut().remove::<Failed>() {
        call.calls.count_failed(failed);
    }
    response.map(|body| Body::new(ResponseBody::new(body, call)))
}

/// The body of a request, which notes whether the call waits for it.
struct RequestBody {
    body: Body,
    calls: Arc<Calls>,
    id: u64,
}

impl RequestBody {
    fn set_receiving(&self, is_receiving: bool) {
        if let Some(call) = lock(&self.calls.0).calls.get_mut(&self.id) {
            call.is_receiving = is_receiving;
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.set_receiving(false);
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.set_receiving(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response. hyper polls for the next piece once the peer has room for it. So between a piece and the next
/// poll the response waits for the peer, and between a poll and the next piece it waits for us.
struct ResponseBody {
    body: Body,
    /// Data from `body` that was not handed to hyper yet.
    rest: Bytes,
    call: OpenCall,
}

impl ResponseBody {
    fn new(body: Body, call: OpenCall) -> ResponseBody {
        call.set_unread(Some(Instant::now()));
        ResponseBody { body, rest: Bytes::new(), call }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return other,
            }
        }
        let length = MAX_PIECE.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.poll_piece(cx);
        self.call.set_unread(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_response_is_handed_out_in_pieces_and_is_pending_until_the_last() {
        let calls = Arc::<Calls>::default();
        let call = Arc::clone(&calls).begin(&Uri::from_static("/a/B"));
        let mut body = ResponseBody::new(Body::from(vec![7; 10_000]), call);
        let later = Instant::now() + Duration::from_mins(1);
        for length in [4096, 4096, 1808] {
            assert!(!body.is_end_stream());
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let data = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
            assert_eq!(data.map(|data| data.len()), Some(length));
            assert!(calls.longest_unread(later) > Duration::ZERO);
        }
        drop(body);
        assert_eq!(calls.longest_unread(later), Duration::ZERO);
    }

    #[test]
    fn a_stop_waits_for_work_and_only_shortly_for_the_peer() {
        let all = AllCalls::default();
        let calls = all.connection();
        let stopped = Instant::now();
        let delays = |seconds| calls.delay_stop(stopped, stopped + Duration::from_secs(seconds));
        assert!(delays(0) && !delays(1), "without a call");
        let call = Arc::clone(&calls).begin(&Uri::from_static("/latchkey.v1.Auth/SignIn"));
        assert!(delays(20) && calls.is_working(), "work, although the request was not read yet");
        let request = RequestBody { body: Body::empty(), calls: Arc::clone(&calls), id: call.id };
        request.set_receiving(true);
        assert!(delays(1) && !delays(3) && !calls.is_working(), "a request that does not end");
        drop(request);
        assert!(delays(20), "work");
        assert_eq!(all.in_progress(), "latchkey.v1.Auth/SignIn: 1");
        call.set_unread(Some(stopped));
        assert!(delays(1) && !delays(3), "a response that is not read");
        drop(call);
        assert_eq!(all.in_progress(), "");
    }
}
