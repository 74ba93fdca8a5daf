//! Answers that nobody reads. The peer decides with its HTTP/2 window how much it takes, and acknowledges our PINGs
//! meanwhile: without a limit it could let a hundred answers lie in our memory for as long as it likes.

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

/// The most that is handed to hyper at once, in bytes. It takes a piece whole as soon as the peer has room for a single
/// byte, and keeps it however long the peer takes for the rest.
const MAX_PIECE: usize = 4096;

/// The answers of one connection that wait for the peer, and since when.
#[derive(Debug, Default)]
pub(super) struct PendingResponses(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    since: HashMap<u64, Instant>,
}

impl PendingResponses {
    /// How long the one that waits longest has been waiting.
    pub(super) fn longest_unread(&self, now: Instant) -> Duration {
        let oldest = self.lock().since.values().min().copied();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub(super) enum PeerInfo {
    /// Over the network.
    Network(TcpConnectInfo),
    /// Through the local socket.
    Local(UdsConnectInfo),
}

impl PeerInfo {
    /// As tonic would have told the handlers.
    pub(super) fn insert_into(self, extensions: &mut Extensions) {
        match self {
            PeerInfo::Network(info) => drop(extensions.insert(info)),
            PeerInfo::Local(info) => drop(extensions.insert(info)),
        }
    }
}

/// What tonic puts into each request.
#[derive(Debug, Clone)]
pub(super) struct ConnectInfo {
    pub(super) peer: PeerInfo,
    pub(super) responses: Arc<PendingResponses>,
}

/// The layer: tells the handlers who is connected, and follows how their answers are taken.
pub(super) async fn track(mut request: Request, next: Next) -> Response {
    let Some(info) = request.extensions_mut().remove::<ConnectInfo>() else { return next.run(request).await };
    let pending = Arc::clone(&info.responses);
    info.peer.insert_into(request.extensions_mut());
    let response = next.run(request).await;
    response.map(|body| Body::new(TrackedBody::new(body, pending)))
}

/// An answer. hyper asks for the next piece as soon as the peer takes it: from one piece to the next question it waits
/// for the peer, and from a question to the piece for us.
struct TrackedBody {
    body: Body,
    /// What the body has given and hyper has not.
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
