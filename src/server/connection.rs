//! A connection that was let in, and what it must not do: be silent at the start, flood, leave answers unread.
//!
//! What it does wrong ends it as an I/O error would, and hyper lets go of everything that belongs to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use super::connection_limits::Permit;
use super::http2_frames::{PREFACE_LENGTH, ReceivedFrames, SentFrames};
use super::responses::{ConnectInfo, PeerInfo};
use crate::metrics::Refused;

/// Bytes, both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    /// gRPC.
    Http2 {
        /// The most that an answer may lie unread.
        read_timeout: Duration,
    },
    /// Metrics and probes. Nothing there takes long: a connection has an age at which it ends, whatever it does.
    Http1,
}

/// The age of an HTTP/1 connection. No multiple of the intervals in which scrapers ask, so that it does not end just
/// when they do.
const HTTP1_MAX_AGE: Duration = Duration::from_secs(97);

/// The shortest request of HTTP/1 that we answer: `GET / HTTP/1.0` and two ends of lines.
const HTTP1_SHORTEST_REQUEST: usize = 18;

/// A connection under watch.
pub(super) struct Connection {
    io: Box<dyn Duplex>,
    info: ConnectInfo,
    permit: Permit,
    protocol: Protocol,
    /// What has passed of HTTP/2, in and out.
    frames: Option<(ReceivedFrames, SentFrames)>,
    /// Whether the peer's next connection waits for what this one has done.
    is_reported: bool,
    /// Bytes of the peer's first words that are still to come.
    first_bytes_due: usize,
    /// Since when the peer has taken no byte of ours, although there are some.
    write_blocked_since: Option<Instant>,
    /// The next time to look: when the first words must be there, and from then on every now and then.
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// A connection that begins now: its first words must come within `patience`.
    pub(super) fn new(
        io: Box<dyn Duplex>,
        peer: PeerInfo,
        permit: Permit,
        protocol: Protocol,
        start_timeout: Duration,
    ) -> Connection {
        let (frames, first_bytes_due) = match protocol {
            Protocol::Http2 { .. } => (Some((ReceivedFrames::new(Instant::now()), SentFrames::new())), PREFACE_LENGTH),
            Protocol::Http1 => (None, HTTP1_SHORTEST_REQUEST),
        };
        let info = ConnectInfo { peer, responses: Arc::default() };
        Connection {
            io,
            info,
            permit,
            protocol,
            frames,
            first_bytes_due,
            is_reported: false,
            write_blocked_since: None,
            timer: Box::pin(sleep(start_timeout)),
        }
    }

    /// Looks whether the connection may go on.
    fn check_timer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.protocol {
                _ if self.first_bytes_due > 0 => return Err(self.close(Refused::Silent)),
                Protocol::Http1 => return Err(io::ErrorKind::TimedOut.into()),
                Protocol::Http2 { read_timeout } if self.longest_unread() >= read_timeout => {
                    return Err(self.close(Refused::Unread));
                }
                Protocol::Http2 { .. } => self.restart_timer(),
            }
        }
        Ok(())
    }

    /// How long the peer has been reading nothing of what waits for it, by its windows or at all.
    fn longest_unread(&self) -> Duration {
        let now = Instant::now();
        let blocked = self.write_blocked_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        blocked.max(self.info.responses.longest_unread(now))
    }

    fn restart_timer(&mut self) {
        self.timer.set(sleep(match self.protocol {
            Protocol::Http2 { read_timeout } => read_timeout / 4,
            Protocol::Http1 => HTTP1_MAX_AGE,
        }));
    }

    fn close(&self, cause: Refused) -> io::Error {
        self.permit.count_refusal(cause);
        tracing::debug!(limit = cause.limit(), "a connection was cut off");
        io::Error::new(io::ErrorKind::TimedOut, cause.limit())
    }

    /// What the peer has sent.
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.frames.as_mut().is_some_and(|(received, _)| !received.read(bytes, Instant::now())) {
            return Err(self.close(Refused::Flood));
        }
        if self.first_bytes_due > 0 {
            self.first_bytes_due = self.first_bytes_due.saturating_sub(bytes.len());
            if self.first_bytes_due == 0 {
                self.restart_timer();
            }
        }
        Ok(())
    }

    /// Makes the peer's next connection wait, if they have flooded. Who has gone far towards a flood has cost as much as one,
    /// and would otherwise close just before the limit and come again.
    fn report_flood(&mut self) {
        let Some((received, sent)) = &mut self.frames else { return };
        if !self.is_reported && (received.has_spent_half(Instant::now()) || sent.caused_many_resets()) {
            self.is_reported = true;
            self.permit.throttle_peer();
        }
    }

    /// What the peer was sent: of these bytes, what was written.
    fn sent(&mut self, bytes: &[io::IoSlice<'_>], written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&written, &mut self.frames) {
            (Poll::Pending, _) => drop(self.write_blocked_since.get_or_insert_with(Instant::now)),
            (Poll::Ready(Ok(count)), Some((received, sent))) => {
                self.write_blocked_since = None;
                received.credit(*count);
                if first_bytes(bytes, *count).fold(false, |ends, bytes| sent.read(bytes) | ends) {
                    // h2 ends the connection by itself.
                    self.permit.count_refusal(Refused::Flood);
                }
            }
            (Poll::Ready(_), _) => self.write_blocked_since = None,
        }
        written
    }
}

/// The first `count` bytes of these.
fn first_bytes<'a>(slices: &'a [io::IoSlice<'_>], mut count: usize) -> impl Iterator<Item = &'a [u8]> {
    slices.iter().filter_map(move |slice| {
        let bytes = slice.get(..count).unwrap_or(slice);
        count -= bytes.len();
        (!bytes.is_empty()).then_some(bytes)
    })
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.report_flood();
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = polled {
            this.received(buffer.filled().get(before..).unwrap_or_default())?;
        }
        // After reading: what has just come in time is not too late. Then also the timer wakes whoever reads.
        this.check_timer(cx)?;
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_timer(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.sent(&[io::IoSlice::new(bytes)], written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_timer(cx)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.sent(slices, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_timer(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_timer(cx)?;
        // Before the peer learns that it is cut off, and can come again.
        self.report_flood();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
