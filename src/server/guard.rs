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

use super::answers::{Info, Origin};
use super::frames::{Heard, PREFACE, Said};
use super::gate::Permit;
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
        unread: Duration,
    },
    /// Metrics and probes. Nothing there takes long: a connection has an age at which it ends, whatever it does.
    Http1,
}

/// The age of an HTTP/1 connection. No multiple of the intervals in which scrapers ask, so that it does not end just
/// when they do.
const HTTP1_AGE: Duration = Duration::from_secs(97);

/// The shortest request of HTTP/1 that we answer: `GET / HTTP/1.0` and two ends of lines.
const HTTP1_FIRST: usize = 18;

/// A connection under watch.
pub(super) struct Guarded {
    io: Box<dyn Duplex>,
    info: Info,
    permit: Permit,
    protocol: Protocol,
    /// What has passed of HTTP/2, in and out.
    frames: Option<(Heard, Said)>,
    /// Whether the peer's next connection waits for what this one has done.
    is_noted: bool,
    /// Bytes of the peer's first words that are still to come.
    due: usize,
    /// Since when the peer has taken no byte of ours, although there are some.
    stuck_since: Option<Instant>,
    /// The next time to look: when the first words must be there, and from then on every now and then.
    look: Pin<Box<Sleep>>,
}

impl Guarded {
    /// A connection that begins now: its first words must come within `patience`.
    pub(super) fn new(
        io: Box<dyn Duplex>,
        origin: Origin,
        permit: Permit,
        protocol: Protocol,
        patience: Duration,
    ) -> Guarded {
        let (frames, due) = match protocol {
            Protocol::Http2 { .. } => (Some((Heard::new(Instant::now()), Said::new())), PREFACE),
            Protocol::Http1 => (None, HTTP1_FIRST),
        };
        let info = Info { origin, answers: Arc::default() };
        Guarded {
            io,
            info,
            permit,
            protocol,
            frames,
            due,
            is_noted: false,
            stuck_since: None,
            look: Box::pin(sleep(patience)),
        }
    }

    /// Looks whether the connection may go on.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            match self.protocol {
                _ if self.due > 0 => return Err(self.cut(Refused::Silent)),
                Protocol::Http1 => return Err(io::ErrorKind::TimedOut.into()),
                Protocol::Http2 { unread } if self.longest_wait() >= unread => return Err(self.cut(Refused::Unread)),
                Protocol::Http2 { .. } => self.look_later(),
            }
        }
        Ok(())
    }

    /// How long the peer has been reading nothing of what waits for it, by its windows or at all.
    fn longest_wait(&self) -> Duration {
        let now = Instant::now();
        let stuck = self.stuck_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        stuck.max(self.info.answers.longest_wait(now))
    }

    fn look_later(&mut self) {
        self.look.set(sleep(match self.protocol {
            Protocol::Http2 { unread } => unread / 4,
            Protocol::Http1 => HTTP1_AGE,
        }));
    }

    fn cut(&self, cause: Refused) -> io::Error {
        self.permit.cut(cause);
        tracing::debug!(limit = cause.limit(), "a connection was cut off");
        io::Error::new(io::ErrorKind::TimedOut, cause.limit())
    }

    /// What the peer has sent.
    fn heard(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.frames.as_mut().is_some_and(|(heard, _)| !heard.read(bytes, Instant::now())) {
            return Err(self.cut(Refused::Flood));
        }
        if self.due > 0 {
            self.due = self.due.saturating_sub(bytes.len());
            if self.due == 0 {
                self.look_later();
            }
        }
        Ok(())
    }

    /// Makes the peer's next connection wait, if they have flooded. Who has gone far towards a flood has cost as much as one,
    /// and would otherwise close just before the limit and come again.
    fn note_flood(&mut self) {
        let Some((heard, said)) = &mut self.frames else { return };
        if !self.is_noted && (heard.is_half_spent(Instant::now()) || said.has_reset_many()) {
            self.is_noted = true;
            self.permit.has_flooded();
        }
    }

    /// What the peer was sent: of these bytes, what was written.
    fn said(&mut self, bytes: &[io::IoSlice<'_>], written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&written, &mut self.frames) {
            (Poll::Pending, _) => drop(self.stuck_since.get_or_insert_with(Instant::now)),
            (Poll::Ready(Ok(count)), Some((heard, said))) => {
                self.stuck_since = None;
                heard.wrote(*count);
                if taken(bytes, *count).fold(false, |enough, bytes| said.read(bytes) | enough) {
                    // h2 ends the connection by itself.
                    self.permit.cut(Refused::Flood);
                }
            }
            (Poll::Ready(_), _) => self.stuck_since = None,
        }
        written
    }
}

/// The first `count` bytes of these.
fn taken<'a>(slices: &'a [io::IoSlice<'_>], mut count: usize) -> impl Iterator<Item = &'a [u8]> {
    slices.iter().filter_map(move |slice| {
        let bytes = slice.get(..count).unwrap_or(slice);
        count -= bytes.len();
        (!bytes.is_empty()).then_some(bytes)
    })
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.note_flood();
    }
}

impl Connected for Guarded {
    type ConnectInfo = Info;

    fn connect_info(&self) -> Info {
        self.info.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = polled {
            this.heard(buffer.filled().get(before..).unwrap_or_default())?;
        }
        // After reading: what has just come in time is not too late. Then also the timer wakes whoever reads.
        this.look(cx)?;
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.look(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.said(&[io::IoSlice::new(bytes)], written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look(cx)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.said(slices, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(cx)?;
        // Before the peer learns that it is cut off, and can come again.
        self.note_flood();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
