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
const PIECE: usize = 4096;

/// The answers of one connection that wait for the peer, and since when.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    since: HashMap<u64, Instant>,
}

impl Answers {
    /// How long the one that waits longest has been waiting.
    pub(super) fn longest_wait(&self, now: Instant) -> Duration {
        let oldest = self.lock().since.values().min().copied();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// Over the network.
    Network(TcpConnectInfo),
    /// Through the local socket.
    Local(UdsConnectInfo),
}

impl Origin {
    /// As tonic would have told the handlers.
    pub(super) fn tell(self, extensions: &mut Extensions) {
        match self {
            Origin::Network(info) => drop(extensions.insert(info)),
            Origin::Local(info) => drop(extensions.insert(info)),
        }
    }
}

/// What tonic puts into each request.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub(super) origin: Origin,
    pub(super) answers: Arc<Answers>,
}

/// The layer: tells the handlers who is connected, and follows how their answers are taken.
pub(super) async fn watch(mut request: Request, next: Next) -> Response {
    let Some(info) = request.extensions_mut().remove::<Info>() else { return next.run(request).await };
    let answers = Arc::clone(&info.answers);
    info.origin.tell(request.extensions_mut());
    let answer = next.run(request).await;
    answer.map(|body| Body::new(Watched::new(body, answers)))
}

/// An answer. hyper asks for the next piece as soon as the peer takes it: from one piece to the next question it waits
/// for the peer, and from a question to the piece for us.
struct Watched {
    body: Body,
    /// What the body has given and hyper has not.
    rest: Bytes,
    answers: Arc<Answers>,
    id: u64,
}

impl Watched {
    fn new(body: Body, answers: Arc<Answers>) -> Watched {
        let mut waiting = answers.lock();
        let id = waiting.next;
        waiting.next += 1;
        waiting.since.insert(id, Instant::now());
        drop(waiting);
        Watched { body, rest: Bytes::new(), answers, id }
    }
}

impl Watched {
    fn piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return other,
            }
        }
        let length = PIECE.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.piece(cx);
        let mut waiting = self.answers.lock();
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

impl Drop for Watched {
    fn drop(&mut self) {
        self.answers.lock().since.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_handed_out_in_pieces_and_waits_until_the_last() {
        let answers = Arc::new(Answers::default());
        let mut watched = Watched::new(Body::from(vec![7; 10_000]), Arc::clone(&answers));
        let later = Instant::now() + Duration::from_mins(1);
        for length in [4096, 4096, 1808] {
            assert!(!watched.is_end_stream());
            let frame = poll_fn(|cx| Pin::new(&mut watched).poll_frame(cx)).await;
            let data = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
            assert_eq!(data.map(|data| data.len()), Some(length));
            assert!(answers.longest_wait(later) > Duration::ZERO);
        }
        drop(watched);
        assert_eq!(answers.longest_wait(later), Duration::ZERO);
    }
}
