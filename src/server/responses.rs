//! Finds responses that the peer does not read. With its flow-control window (RFC 9113, section 5.2) a peer decides how much
//! we may send, and can still answer our PINGs. Without a limit it could keep 100 responses in our memory for ever.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::Extensions;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};

/// Most bytes handed to hyper at once. hyper accepts a piece as soon as the window has room for one byte, and then holds all
/// of it until the peer has read it.
const MAX_PIECE: usize = 4096;

/// The responses of one connection that wait for the peer.
#[derive(Debug, Default)]
pub(super) struct PendingResponses(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The id of the next response.
    next: u64,
    /// When each response began to wait, by its id.
    since: HashMap<u64, Instant>,
}

impl PendingResponses {
    /// How long the oldest pending response has been waiting.
    pub(super) fn longest_unread(&self, now: Instant) -> Duration {
        let oldest = self.lock().since.values().min().copied();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    pub(super) responses: Arc<PendingResponses>,
}

/// The layer that gives the peer to the handlers, and tracks whether the peer reads their responses.
pub(super) async fn track(mut request: Request, next: Next) -> Response {
    let Some(info) = request.extensions_mut().remove::<ConnectInfo>() else { return next.run(request).await };
    let pending = Arc::clone(&info.responses);
    info.peer.insert_into(request.extensions_mut());
    let response = next.run(request).await;
    response.map(|body| Body::new(TrackedBody::new(body, pending)))
}

/// The body of a response. hyper polls for the next piece once the peer has room for it. So between a piece and the next
/// poll the response waits for the peer, and between a poll and the next piece it waits for us.
struct TrackedBody {
    body: Body,
    /// Data from `body` that was not handed to hyper yet.
    rest: Bytes,
    responses: Arc<PendingResponses>,
    id: u64,
}

impl TrackedBody {
    fn new(body: Body, responses: Arc<PendingResponses>) -> TrackedBody {
        let mut waiting = responses.lock();
        let id = waiting.next;
        waiting.next += 1;
        waiting.since.insert(id, Instant::now());
        drop(waiting);
        TrackedBody { body, rest: Bytes::new(), responses, id }
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

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.poll_piece(cx);
        let mut waiting = self.responses.lock();
        match polled {
            Poll::Pending => waiting.since.remove(&self.id),
            Poll::Ready(_) => waiting.since.insert(self.id, Instant::now()),
        };
        drop(waiting);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.responses.lock().since.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_response_is_handed_out_in_pieces_and_is_pending_until_the_last() {
        let pending = Arc::new(PendingResponses::default());
        let mut tracked = TrackedBody::new(Body::from(vec![7; 10_000]), Arc::clone(&pending));
        let later = Instant::now() + Duration::from_mins(1);
        for length in [4096, 4096, 1808] {
            assert!(!tracked.is_end_stream());
            let frame = poll_fn(|cx| Pin::new(&mut tracked).poll_frame(cx)).await;
            let data = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
            assert_eq!(data.map(|data| data.len()), Some(length));
            assert!(pending.longest_unread(later) > Duration::ZERO);
        }
        drop(tracked);
        assert_eq!(pending.longest_unread(later), Duration::ZERO);
    }
}
