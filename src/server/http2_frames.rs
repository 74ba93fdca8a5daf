//! Counts HTTP/2 frames that cost us work and the peer almost nothing.
//!
//! hyper and h2 refuse some floods by themselves: resets of streams that were not accepted yet, resets that the peer makes
//! us send, and header blocks without an end. They process others without a limit: PING, SETTINGS, empty DATA,
//! `WINDOW_UPDATE`, PRIORITY, and requests that are opened and reset.
//!
//! Each such frame takes a token from one of two token buckets: one for resets, one for all other frames. The buckets
//! refill slowly with time, and faster with what honest clients do: sending requests that do not fail at once, and reading
//! responses. Of received
//! frames only the 9-byte header is parsed (RFC 9113, section 4.1), of sent frames also the error code.

use std::time::Instant;

use crate::grpc::MAX_LOCAL_RESETS;
use crate::token_bucket::TokenBucket;

/// Length of the connection preface in bytes (RFC 9113, section 3.4).
pub(super) const PREFACE_LENGTH: usize = 24;
/// Length of a frame header in bytes (RFC 9113, section 4.1).
const HEADER_LENGTH: usize = 9;

/// Capacity of the bucket for frames, and tokens that both buckets gain in a second. These are the limits of nghttp2 for
/// suspicious frames, which servers and proxies have used for years.
const FRAME_TOKENS: f64 = 1000.0;
const TOKENS_PER_SECOND: f64 = 33.0;

/// Capacity of the bucket for resets (CVE-2023-44487). nghttp2 allows 1 000 and any number of streams. We allow 100
/// streams at a time, so 200 tokens let a client cancel all of them twice. h2 itself limits resets of streams that were
/// not accepted yet to 20.
const RESET_TOKENS: f64 = 200.0;

/// Frame tokens that a request adds: a client may acknowledge each DATA frame of a response on two levels, and measure
/// the round trip with a PING.
const FRAME_TOKENS_PER_REQUEST: f64 = 8.0;
/// Reset tokens that a request adds: a client may cancel half of its calls for ever.
const RESET_TOKENS_PER_REQUEST: f64 = 0.5;
/// Sent bytes that add one frame token, because the peer may acknowledge them. Our acknowledgement of a PING is 17 bytes,
/// so a flood of PINGs does not pay for itself.
const BYTES_PER_FRAME_TOKEN: f64 = 512.0;
/// A DATA frame with fewer bytes takes a token, unless it ends a request.
const SHORT_DATA: usize = 64;

/// Frame tokens that a call takes if it failed before its caller was known and its source is over its limit. The answer adds
/// back about one. So a connection bears a hundred, and then three a second.
const FRAME_TOKENS_PER_FAILED_CALL: f64 = 10.0;

/// Frame types, a flag and an error code (RFC 9113, sections 6 and 7).
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;
const END_STREAM: u8 = 0x1;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Bytes to parse of a sent frame: the header, and the part of the payload that has the error code. In `RST_STREAM` the
/// code comes first, in GOAWAY after the last stream identifier (RFC 9113, sections 6.4 and 6.8).
const SENT_PREFIX: usize = HEADER_LENGTH + 8;

/// Splits a byte stream into frames, and yields the first bytes of each: the header, and up to `N` bytes with the payload.
#[derive(Debug)]
struct FramePrefixes<const N: usize> {
    prefix: [u8; N],
    /// Bytes of `prefix` that have arrived.
    filled: usize,
    /// Bytes to skip: the connection preface, or what follows the prefix of a frame.
    to_skip: usize,
}

impl<const N: usize> FramePrefixes<N> {
    fn after(preface: usize) -> FramePrefixes<N> {
        FramePrefixes { prefix: [0; N], filled: 0, to_skip: preface }
    }

    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8; N])) {
        while !bytes.is_empty() {
            if self.to_skip > 0 {
                let (skipped, rest) = bytes.split_at_checked(self.to_skip).unwrap_or((bytes, &[]));
                self.to_skip -= skipped.len();
                bytes = rest;
                continue;
            }
            let missing = self.length() - self.filled;
            let (these, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            for (to, from) in self.prefix.iter_mut().skip(self.filled).zip(these) {
                *to = *from;
            }
            self.filled += these.len();
            bytes = rest;
            if self.filled >= HEADER_LENGTH && self.filled == self.length() {
                each(&self.prefix);
                self.to_skip = HEADER_LENGTH + payload_length(&self.prefix) - self.filled;
                self.filled = 0;
            }
        }
    }

    /// Length of the prefix of the current frame, as far as it is known.
    fn length(&self) -> usize {
        if self.filled < HEADER_LENGTH { HEADER_LENGTH } else { N.min(HEADER_LENGTH + payload_length(&self.prefix)) }
    }
}

/// Length of the payload that follows a frame header, in bytes.
fn payload_length(header: &[u8]) -> usize {
    header.iter().take(3).fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Calls of a connection that failed before their caller was known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FailedCalls {
    pub(super) all: u32,
    /// Those beyond the limit of their source.
    pub(super) beyond_limit: u32,
}

/// The frames that the peer sends on one connection.
#[derive(Debug)]
pub(super) struct ReceivedFrames {
    headers: FramePrefixes<HEADER_LENGTH>,
    costs: Costs,
}

impl ReceivedFrames {
    /// A connection of which no byte has arrived.
    pub(super) fn new(now: Instant) -> ReceivedFrames {
        let frames = TokenBucket::full(FRAME_TOKENS, TOKENS_PER_SECOND, now);
        let resets = TokenBucket::full(RESET_TOKENS, TOKENS_PER_SECOND, now);
        let costs = Costs { last_stream: 0, uncredited: 0, frames, resets };
        ReceivedFrames { headers: FramePrefixes::after(PREFACE_LENGTH), costs }
    }

    /// Counts the frames in these bytes. Returns `false` once a bucket is overdrawn.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) -> bool {
        let ReceivedFrames { headers, costs } = self;
        headers.read(bytes, |header| costs.charge(*header, now));
        !costs.frames.is_overdrawn() && !costs.resets.is_overdrawn()
    }

    /// Charges for calls that failed before their caller was known. The next requests add no tokens in their place, and each
    /// call beyond the limit of its source takes some. Returns `false` once a bucket is overdrawn.
    pub(super) fn charge_failed(&mut self, failed: FailedCalls, now: Instant) -> bool {
        let costs = &mut self.costs;
        costs.uncredited = costs.uncredited.saturating_add(failed.all);
        costs.frames.take(f64::from(failed.beyond_limit) * FRAME_TOKENS_PER_FAILED_CALL, now);
        !costs.frames.is_overdrawn()
    }

    /// Returns whether less than half of a bucket is left.
    pub(super) fn has_spent_half(&mut self, now: Instant) -> bool {
        self.costs.frames.is_below_half(now) || self.costs.resets.is_below_half(now)
    }

    /// Adds frame tokens for bytes that were sent to the peer.
    pub(super) fn credit(&mut self, sent: usize) {
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        self.costs.frames.add(f64::from(sent) / BYTES_PER_FRAME_TOKEN);
    }
}

/// What the peer has left of each bucket.
#[derive(Debug)]
struct Costs {
    /// The highest stream identifier so far. Each new request has a higher one.
    last_stream: u32,
    /// Requests to come that add no tokens, one for each call that failed before its caller was known.
    uncredited: u32,
    frames: TokenBucket,
    resets: TokenBucket,
}

impl Costs {
    fn charge(&mut self, header: [u8; HEADER_LENGTH], now: Instant) {
        let [_, _, _, kind, flags, stream @ ..] = header;
        match kind {
            // Trailers: their request has added its tokens already.
            HEADERS if u32::from_be_bytes(stream) <= self.last_stream => {}
            HEADERS if self.uncredited > 0 => {
                self.last_stream = u32::from_be_bytes(stream);
                self.uncredited -= 1;
            }
            HEADERS => {
                self.last_stream = u32::from_be_bytes(stream);
                self.frames.add(FRAME_TOKENS_PER_REQUEST);
                self.resets.add(RESET_TOKENS_PER_REQUEST);
            }
            DATA if payload_length(&header) >= SHORT_DATA || flags & END_STREAM != 0 => {}
            RST_STREAM => self.resets.take(1.0, now),
            _ => self.frames.take(1.0, now),
        }
    }
}

/// The frames that we send on one connection. They show how often the peer has made h2 reset a stream, and whether h2
/// ends the connection for it.
#[derive(Debug)]
pub(super) struct SentFrames {
    prefixes: FramePrefixes<SENT_PREFIX>,
    /// Streams that h2 reset for an error of the peer; `usize::MAX` once h2 has ended the connection for too many.
    resets: usize,
}

impl SentFrames {
    /// A connection on which nothing was sent.
    pub(super) fn new() -> SentFrames {
        SentFrames { prefixes: FramePrefixes::after(0), resets: 0 }
    }

    /// Counts the frames in these bytes. Returns `true` if one is a GOAWAY with `ENHANCE_YOUR_CALM`.
    pub(super) fn read(&mut self, bytes: &[u8]) -> bool {
        let SentFrames { prefixes, resets } = self;
        let mut is_ended = false;
        prefixes.read(bytes, |prefix| {
            let [_, _, _, kind, _, _, _, _, _, payload @ ..] = *prefix;
            let [a, b, c, d, code @ ..] = payload;
            match kind {
                RST_STREAM if is_peer_error(u32::from_be_bytes([a, b, c, d])) => *resets = resets.saturating_add(1),
                GOAWAY if u32::from_be_bytes(code) == ENHANCE_YOUR_CALM => {
                    *resets = usize::MAX;
                    is_ended = true;
                }
                _ => {}
            }
        });
        is_ended
    }

    /// The number of streams that h2 has reset for an error of the peer.
    pub(super) fn resets(&self) -> usize {
        self.resets
    }

    /// Returns whether the peer has caused more than half of the resets that h2 allows.
    pub(super) fn caused_many_resets(&self) -> bool {
        self.resets > MAX_LOCAL_RESETS / 2
    }
}

/// Returns whether the error code of an `RST_STREAM` frame blames the peer. The other codes mean that we no longer need
/// the request, or cannot serve it.
fn is_peer_error(code: u32) -> bool {
    /// `NO_ERROR`, `INTERNAL_ERROR`, `REFUSED_STREAM`, `CANCEL` (RFC 9113, section 7).
    const OURS: [u32; 4] = [0x0, 0x2, 0x7, 0x8];
    !OURS.contains(&code)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: u8 = 0x6;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        frame_on(1, kind, flags, payload)
    }

    fn frame_on(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn request(stream: u32) -> Vec<u8> {
        frame_on(stream, HEADERS, 5, &[7; 40])
    }

    fn reset(stream: u32) -> Vec<u8> {
        frame_on(stream, RST_STREAM, 0, &[0; 4])
    }

    /// How many of these requests are read before the connection is overdrawn, at most 5 000.
    fn allowed_requests(frames: &mut ReceivedFrames, now: Instant, bytes_of: impl Fn(u32) -> Vec<u8>) -> usize {
        (0..5000_u32).take_while(|number| frames.read(&bytes_of(4 * number + 1), now)).count()
    }

    fn after_preface(now: Instant) -> ReceivedFrames {
        let mut frames = ReceivedFrames::new(now);
        assert!(frames.read(&[b'x'; 23], now) && frames.read(b"x", now));
        frames
    }

    /// How many of these frames are read before the connection is overdrawn, at most `limit`.
    fn allowed(frames: &mut ReceivedFrames, frame: &[u8], limit: usize, now: Instant) -> usize {
        (0..limit).take_while(|_| frames.read(frame, now)).count()
    }

    #[test]
    fn frames_without_work_are_allowed_up_to_a_limit() {
        let now = Instant::now();
        for idle in [frame(PING, 0, &[0; 8]), frame(0x4, 0, &[]), frame(DATA, 0, &[]), frame(0x9, 0, &[1; 10])] {
            assert_eq!(allowed(&mut after_preface(now), &idle, 5000, now), 1000, "{idle:?}");
        }
        let mut frames = after_preface(now);
        assert_eq!(allowed(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 5000, now), 200);
    }

    #[test]
    fn requests_and_large_data_cost_nothing() {
        let now = Instant::now();
        for work in [frame(HEADERS, 5, &[7; 40]), frame(DATA, 0, &[7; 64]), frame(DATA, END_STREAM, &[])] {
            assert_eq!(allowed(&mut after_preface(now), &work, 5000, now), 5000);
        }
    }

    #[test]
    fn cancelling_half_of_all_calls_is_allowed() {
        let now = Instant::now();
        let half = |stream| [request(stream), request(stream + 2), reset(stream)].concat();
        assert_eq!(allowed_requests(&mut after_preface(now), now, half), 5000);
        let all = |stream| [request(stream), reset(stream)].concat();
        assert!(allowed_requests(&mut after_preface(now), now, all) < 420);
    }

    #[test]
    fn calls_that_failed_earn_no_credit_and_beyond_the_limit_of_their_source_they_cost() {
        let now = Instant::now();
        let failed = |all, beyond_limit| FailedCalls { all, beyond_limit };
        let mut frames = after_preface(now);
        assert!((0..5000).all(|_| frames.charge_failed(failed(1, 0), now)), "failing costs nothing by itself");
        let half = |stream| [request(stream), request(stream + 2), reset(stream)].concat();
        assert_eq!(allowed_requests(&mut frames, now, half), 200, "but these requests earn no resets");

        let mut frames = after_preface(now);
        let borne = (0..5000).take_while(|_| frames.charge_failed(failed(1, 1), now)).count();
        assert_eq!(borne, 100);
        assert!(!frames.read(&request(9), now), "the connection ends");
    }

    #[test]
    fn trailers_add_no_tokens() {
        let now = Instant::now();
        let all = |stream| [request(stream), request(stream), reset(stream)].concat();
        assert!(allowed_requests(&mut after_preface(now), now, all) < 420);
    }

    #[test]
    fn time_and_responses_refill_the_bucket_and_acknowledgements_do_not() {
        let now = Instant::now();
        let ping = frame(PING, 0, &[0; 8]);
        let mut frames = after_preface(now);
        assert_eq!(allowed(&mut frames, &ping, 1000, now), 1000);
        let later = now + Duration::from_secs(10);
        assert!(allowed(&mut frames, &ping, 5000, later) >= 329);
        frames.credit(1 << 20);
        assert!(frames.read(&ping, later));

        let mut frames = after_preface(now);
        let mut answered = 0;
        while answered < 5000 && frames.read(&ping, now) {
            frames.credit(17);
            answered += 1;
        }
        assert!(answered < 1100, "{answered}");
    }

    #[test]
    fn frames_are_found_wherever_the_bytes_are_cut() {
        let now = Instant::now();
        let stream = [frame(PING, 0, &[6; 8]), frame(DATA, 0, &[6; 100])].concat().repeat(3000);
        for size in [1, 7, 9, 16, 1000] {
            let mut frames = after_preface(now);
            let sent = stream.chunks(size).take_while(|chunk| frames.read(chunk, now)).count() * size;
            let pings = sent / (17 + 109);
            assert!((995..=1010).contains(&pings), "{size}: {pings}");
        }
    }

    #[test]
    fn a_goaway_with_enhance_your_calm_is_found_wherever_the_bytes_are_cut() {
        let goaway = |code: u32| frame_on(0, GOAWAY, 0, &[[0; 4], code.to_be_bytes()].concat());
        let responses = [frame(HEADERS, 4, &[7; 40]), frame(DATA, 0, &[GOAWAY; 100]), frame(0x4, 1, &[])].concat();
        for (code, ends) in [(ENHANCE_YOUR_CALM, true), (0, false)] {
            let bytes = [responses.clone(), goaway(code)].concat();
            for size in [1, 7, 9, 17, 1000] {
                let mut sent = SentFrames::new();
                assert_eq!(bytes.chunks(size).any(|chunk| sent.read(chunk)), ends, "{code} by {size}");
                assert_eq!(sent.caused_many_resets(), ends);
            }
        }
    }

    #[test]
    fn resets_for_an_error_of_the_peer_are_counted() {
        let reset = |code: u32| frame(RST_STREAM, 0, &code.to_be_bytes());
        for (code, many) in [(0x3, true), (0x1, true), (0x0, false), (0x8, false)] {
            let mut sent = SentFrames::new();
            assert!((0..=MAX_LOCAL_RESETS / 2).all(|_| !sent.read(&reset(code))), "h2 goes on");
            assert_eq!(sent.caused_many_resets(), many, "{code}");
        }
    }

    #[test]
    fn half_of_a_bucket_is_noticed() {
        let now = Instant::now();
        let mut frames = after_preface(now);
        allowed(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 100, now);
        assert!(!frames.has_spent_half(now));
        allowed(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 1, now);
        assert!(frames.has_spent_half(now));
    }
}
