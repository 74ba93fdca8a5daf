//! A connection with a permit. It is closed if the peer sends nothing at first, floods, or leaves responses unread, and at a stop
//! as soon as no call needs it. hyper alone would wait until the peer answers a PING.
//!
//! It then returns an I/O error to hyper, which drops everything that belongs to the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::authority::AuthorityRewriter;
use super::calls::{ConnectInfo, PeerInfo};
use super::connection_limits::Permit;
use super::http2_frames::{PREFACE_LENGTH, ReceivedFrames, SentFrames};
use crate::metrics::Refused;

/// A byte stream in both directions: TCP, TLS or a Unix socket.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    /// gRPC.
    Http2 {
        /// How long a response may stay unread.
        read_timeout: Duration,
    },
    /// Pages, metrics and probes. No request takes long, so a connection is closed at a maximum age, unless a request is worked
    /// on.
    Http1,
}

/// Maximum age of an HTTP/1 connection. It is not a multiple of usual scrape intervals, so that a connection does not end
/// just when the next scrape comes.
const HTTP1_MAX_AGE: Duration = Duration::from_secs(97);

/// How often a stop looks whether the connection is still needed.
const STOP_CHECK: Duration = Duration::from_millis(250);

/// Length of the shortest HTTP/1 request in bytes: `GET / HTTP/1.0` and two line ends.
const HTTP1_SHORTEST_REQUEST: usize = 18;

/// A connection whose bytes and timing are checked while tonic or axum serve it.
pub(super) struct Connection {
    io: Box<dyn Duplex>,
    info: ConnectInfo,
    permit: Permit,
    protocol: Protocol,
    /// The frames in both directions; `None` for HTTP/1.
    frames: Option<(ReceivedFrames, SentFrames)>,
    /// For a client on the local socket.
    authority: Option<AuthorityRewriter>,
    /// Whether the peer was throttled for a flood on this connection.
    is_reported: bool,
    /// Bytes of the connection preface, or of the shortest HTTP/1 request, that have not arrived yet.
    first_bytes_due: usize,
    /// Since when the socket has accepted no bytes although there are some to write.
    write_blocked_since: Option<Instant>,
    /// Completes when the server stops.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When the connection learned of the stop.
    stopped_at: Option<Instant>,
    /// Next check: at first whether the first bytes have arrived in time, then for unread responses or the maximum age.
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// A connection that begins now. Its first bytes must arrive within `start_timeout`.
    pub(super) fn new(
        io: Box<dyn Duplex>,
        info: ConnectInfo,
        permit: Permit,
        protocol: Protocol,
        start_timeout: Duration,
        stop: &CancellationToken,
    ) -> Connection {
        let (frames, first_bytes_due) = match protocol {
            Protocol::Http2 { .. } => (Some((ReceivedFrames::new(Instant::now()), SentFrames::new())), PREFACE_LENGTH),
            Protocol::Http1 => (None, HTTP1_SHORTEST_REQUEST),
        };
        let authority = matches!(info.peer, PeerInfo::Local(_)).then(AuthorityRewriter::new);
        Connection {
            io,
            info,
            permit,
            authority,
            protocol,
            frames,
            first_bytes_due,
            is_reported: false,
            write_blocked_since: None,
            // A token of its own, because all connections would contend for the lock of a shared one.
            stop: Box::pin(stop.child_token().cancelled_owned()),
            stopped_at: None,
            timer: Box::pin(sleep(start_timeout)),
        }
    }

    /// Fails if the timer has expired and the connection must be closed.
    fn check_timer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.stopped_at.is_none() && self.stop.as_mut().poll(cx).is_ready() {
            self.stopped_at = Some(Instant::now());
            self.timer.set(sleep(STOP_CHECK));
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.protocol {
                _ if self.stopped_at.is_some_and(|at| !self.info.calls.delay_stop(at, Instant::now())) => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                _ if self.stopped_at.is_some() => self.timer.set(sleep(STOP_CHECK)),
                _ if self.first_bytes_due > 0 => return Err(self.close(Refused::Silent)),
                // The next check is as far away as a stop's, because a peer could begin one request after the other.
                Protocol::Http1 if self.info.calls.is_working() => self.timer.set(sleep(STOP_CHECK)),
                Protocol::Http1 => return Err(io::ErrorKind::TimedOut.into()),
                Protocol::Http2 { read_timeout } if self.longest_unread() >= read_timeout => {
                    return Err(self.close(Refused::Unread));
                }
                Protocol::Http2 { .. } => self.restart_timer(),
            }
        }
        Ok(())
    }

    /// How long the peer has left a response unread, or the socket has accepted no bytes.
    fn longest_unread(&self) -> Duration {
        let now = Instant::now();
        let blocked = self.write_blocked_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        blocked.max(self.info.calls.longest_unread(now))
    }

    fn restart_timer(&mut self) {
        self.timer.set(sleep(match self.protocol {
            Protocol::Http2 { read_timeout } => read_timeout / 4,
            Protocol::Http1 => HTTP1_MAX_AGE,
        }));
    }

    fn close(&self, cause: Refused) -> io::Error {
        self.permit.count_refusal(cause);
        tracing::debug!(limit = cause.limit(), "a connection was closed");
        io::Error::new(io::ErrorKind::TimedOut, cause.limit())
    }

    /// Checks bytes that the peer has sent.
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.frames.as_mut().is_some_and(|(received, _)| !received.read(bytes, Instant::now())) {
            return Err(self.close(Refused::Flood));
        }
        if self.first_bytes_due > 0 {
            self.first_bytes_due = self.first_bytes_due.saturating_sub(bytes.len());
            if self.first_bytes_due == 0 && self.stopped_at.is_none() {
                self.restart_timer();
            }
        }
        Ok(())
    }

    /// Charges the connection for calls that failed before their caller was known.
    fn charge_failed_calls(&mut self) -> io::Result<()> {
        let Some((received, _)) = &mut self.frames else { return Ok(()) };
        let failed = self.info.calls.take_failed();
        if failed.all > 0 && !received.charge_failed(failed, Instant::now()) {
            return Err(self.close(Refused::Flood));
        }
        Ok(())
    }

    /// Throttles the peer if this connection has used more than half of a flood limit. Half counts as a flood: otherwise a
    /// peer could close its connection just before the limit and connect again.
    fn report_flood(&mut self) {
        let Some((received, sent)) = &mut self.frames else { return };
        if !self.is_reported && (received.has_spent_half(Instant::now()) || sent.caused_many_resets()) {
            self.is_reported = true;
            self.permit.throttle_peer();
        }
    }

    /// Checks a write: `bytes` were offered to the socket, and `written` is its result.
    fn sent(&mut self, bytes: &[io::IoSlice<'_>], written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&written, &mut self.frames) {
            (Poll::Pending, _) => drop(self.write_blocked_since.get_or_insert_with(Instant::now)),
            (Poll::Ready(Ok(count)), Some((received, sent))) => {
                self.write_blocked_since = None;
                received.credit(*count);
                let resets = sent.resets();
                if first_bytes(bytes, *count).fold(false, |ends, bytes| sent.read(bytes) | ends) {
                    // h2 has sent GOAWAY and closes the connection itself.
                    self.permit.count_refusal(Refused::Flood);
                } else if sent.resets() > resets {
                    self.permit.count_resets(sent.resets() - resets, resets == 0);
                }
            }
            (Poll::Ready(_), _) => self.write_blocked_since = None,
        }
        written
    }
}

/// The first `count` bytes of these slices.
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
        this.charge_failed_calls()?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = polled {
            let bytes = buffer.filled_mut().get_mut(before..).unwrap_or_default();
            if let Some(authority) = &mut this.authority {
                authority.rewrite(bytes);
            }
            this.received(bytes)?;
        }
        // The timer is checked after the read, because bytes that are there have arrived in time. Polling it also registers
        // the reader to be woken by it.
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
        // The flood is reported before the peer learns that the connection is closed and can connect again.
        self.report_flood();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
