//! What a peer's HTTP/2 frames cost. hyper and h2 refuse some floods by themselves (resets of streams that were not
//! looked at yet, resets that we must send, header blocks without an end), and answer others for as long as they
//! come: PING, SETTINGS, DATA without data, `WINDOW_UPDATE`, PRIORITY, and requests that are begun and reset.
//!
//! So frames that bring no work cost something, from two purses, one for resets and one for the rest. They fill by
//! themselves slowly, and faster by what honest clients do: requests, and reading answers. Of what the peer sends only the
//! nine bytes of each frame's head are looked at (RFC 9113, section 4.1); of what we send, error codes too.

use std::time::Instant;

use crate::grpc::MAX_LOCAL_RESETS;

/// The length of the connection preface (RFC 9113, section 3.4).
pub(super) const PREFACE: usize = 24;
/// The length of a frame's head.
const HEAD: usize = 9;

/// What a purse holds at first and at most, and what both gain in a second: the limits of nghttp2 for suspicious
/// frames, which servers and proxies have used for years.
const PURSE: f64 = 1000.0;
const PER_SECOND: f64 = 33.0;

/// The same for resets (CVE-2023-44487). nghttp2 has 1 000 here too, and streams without end; we have a hundred at a
/// time, which a client may cancel all at once, twice. (Those that were not taken up yet h2 counts, to twenty.)
const RESET_PURSE: f64 = 200.0;

/// What a request adds for frames beside it: a client may acknowledge each DATA frame of an answer on two levels,
/// and measure the line with a PING.
const PER_REQUEST: f64 = 8.0;
/// What a request adds for resets: whoever cancels half of all calls goes on undisturbed.
const RESETS_PER_REQUEST: f64 = 0.5;
/// Bytes of ours that add one frame, since they may be acknowledged. An acknowledgement of ours is 17 bytes at most,
/// so that a flood of PINGs does not pay for itself.
const BYTES_PER_FRAME: f64 = 512.0;
/// DATA that is shorter, and not the end of a request, is rather a way to make work, in bytes.
const SHORT_DATA: usize = 64;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;
const END_STREAM: u8 = 0x1;
/// The error code for a peer that makes too much work (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// Head, last stream and error code of a GOAWAY frame (RFC 9113, section 6.8). `RST_STREAM` has its code first.
const FRONT: usize = HEAD + 8;

/// Cuts what is sent into frames, and shows the front of each: its head, and up to `N` bytes with what follows.
#[derive(Debug)]
struct Fronts<const N: usize> {
    front: [u8; N],
    /// How much of the front is there.
    known: usize,
    /// Bytes to pass over: the preface, and of each frame what is behind its front.
    rest: usize,
}

impl<const N: usize> Fronts<N> {
    fn after(preface: usize) -> Fronts<N> {
        Fronts { front: [0; N], known: 0, rest: preface }
    }

    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8; N])) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                bytes = skip(bytes, &mut self.rest);
                continue;
            }
            let missing = self.size() - self.known;
            let (these, behind) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            for (to, from) in self.front.iter_mut().skip(self.known).zip(these) {
                *to = *from;
            }
            self.known += these.len();
            bytes = behind;
            if self.known >= HEAD && self.known == self.size() {
                each(&self.front);
                self.rest = HEAD + length(&self.front) - self.known;
                self.known = 0;
            }
        }
    }

    /// How long this front is, as far as one can tell by now.
    fn size(&self) -> usize {
        if self.known < HEAD { HEAD } else { N.min(HEAD + length(&self.front)) }
    }
}

/// How much follows a head, in bytes.
fn length(front: &[u8]) -> usize {
    front.iter().take(3).fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Passes over as many bytes as are due.
fn skip<'a>(bytes: &'a [u8], due: &mut usize) -> &'a [u8] {
    let (passed, rest) = bytes.split_at_checked(*due).unwrap_or((bytes, &[]));
    *due -= passed.len();
    rest
}

/// Follows what the peer sends on one connection.
#[derive(Debug)]
pub(super) struct Heard {
    fronts: Fronts<HEAD>,
    purses: Purses,
}

impl Heard {
    /// At the first byte of a connection.
    pub(super) fn new(now: Instant) -> Heard {
        let purses = Purses { newest: 0, purse: PURSE, reset_purse: RESET_PURSE, filled_at: now };
        Heard { fronts: Fronts::after(PREFACE), purses }
    }

    /// Looks at what the peer sent. False once it has overdrawn.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) -> bool {
        let Heard { fronts, purses } = self;
        fronts.read(bytes, |head| purses.charge(*head, now));
        purses.purse >= 0.0 && purses.reset_purse >= 0.0
    }

    /// Whether more than half of a purse is gone.
    pub(super) fn is_half_spent(&mut self, now: Instant) -> bool {
        self.purses.fill(now);
        self.purses.purse < PURSE / 2.0 || self.purses.reset_purse < RESET_PURSE / 2.0
    }

    /// So many bytes were sent to the peer.
    pub(super) fn wrote(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.purses.purse = PURSE.min(self.purses.purse + f64::from(count) / BYTES_PER_FRAME);
    }
}

#[derive(Debug)]
struct Purses {
    /// The highest number of a stream so far: requests count upwards.
    newest: u32,
    purse: f64,
    reset_purse: f64,
    filled_at: Instant,
}

impl Purses {
    fn charge(&mut self, head: [u8; HEAD], now: Instant) {
        let [_, _, _, kind, flags, stream @ ..] = head;
        match kind {
            // Trailers belong to a request that was paid for.
            HEADERS if u32::from_be_bytes(stream) <= self.newest => {}
            HEADERS => {
                self.newest = u32::from_be_bytes(stream);
                self.purse = PURSE.min(self.purse + PER_REQUEST);
                self.reset_purse = RESET_PURSE.min(self.reset_purse + RESETS_PER_REQUEST);
            }
            DATA if length(&head) >= SHORT_DATA || flags & END_STREAM != 0 => {}
            RST_STREAM => {
                self.fill(now);
                self.reset_purse -= 1.0;
            }
            _ => {
                self.fill(now);
                self.purse -= 1.0;
            }
        }
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled_at).as_secs_f64() * PER_SECOND;
        self.purse = PURSE.min(self.purse + gained);
        self.reset_purse = RESET_PURSE.min(self.reset_purse + gained);
        self.filled_at = now;
    }
}

/// Follows what we send on one connection: how often the peer makes h2 reset a stream, and that h2 has had enough of it.
#[derive(Debug)]
pub(super) struct Said {
    fronts: Fronts<FRONT>,
    /// Streams that were reset for a fault of the peer, and h2's own end of the connection, which counts as all of them.
    resets: usize,
}

impl Said {
    /// At the first byte of a connection.
    pub(super) fn new() -> Said {
        Said { fronts: Fronts::after(0), resets: 0 }
    }

    /// Looks at what was sent to the peer. True if it says that this peer asks too much.
    pub(super) fn read(&mut self, bytes: &[u8]) -> bool {
        let Said { fronts, resets } = self;
        let mut enough = false;
        fronts.read(bytes, |front| {
            let [_, _, _, kind, _, _, _, _, _, first @ ..] = *front;
            let [a, b, c, d, code @ ..] = first;
            match kind {
                RST_STREAM if is_fault(u32::from_be_bytes([a, b, c, d])) => *resets = resets.saturating_add(1),
                GOAWAY if u32::from_be_bytes(code) == ENHANCE_YOUR_CALM => {
                    *resets = usize::MAX;
                    enough = true;
                }
                _ => {}
            }
        });
        enough
    }

    /// Whether the peer has made h2 reset more than half of the streams that it bears.
    pub(super) fn has_reset_many(&self) -> bool {
        self.resets > MAX_LOCAL_RESETS / 2
    }
}

/// Whether a code of `RST_STREAM` says that the peer broke a rule: not that we need no more of a request, or cannot take it.
fn is_fault(code: u32) -> bool {
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

    /// How many requests are borne that are made up like this, up to a limit.
    fn borne_requests(frames: &mut Heard, now: Instant, made_up: impl Fn(u32) -> Vec<u8>) -> usize {
        (0..5000_u32).take_while(|number| frames.read(&made_up(4 * number + 1), now)).count()
    }

    fn begun(now: Instant) -> Heard {
        let mut frames = Heard::new(now);
        assert!(frames.read(&[b'x'; 23], now) && frames.read(b"x", now));
        frames
    }

    /// How many of these are borne, up to a limit.
    fn borne(frames: &mut Heard, frame: &[u8], limit: usize, now: Instant) -> usize {
        (0..limit).take_while(|_| frames.read(frame, now)).count()
    }

    #[test]
    fn frames_without_work_are_borne_to_a_limit() {
        let now = Instant::now();
        for idle in [frame(PING, 0, &[0; 8]), frame(0x4, 0, &[]), frame(DATA, 0, &[]), frame(0x9, 0, &[1; 10])] {
            assert_eq!(borne(&mut begun(now), &idle, 5000, now), 1000, "{idle:?}");
        }
        let mut frames = begun(now);
        assert_eq!(borne(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 5000, now), 200);
    }

    #[test]
    fn requests_and_large_data_cost_nothing() {
        let now = Instant::now();
        for work in [frame(HEADERS, 5, &[7; 40]), frame(DATA, 0, &[7; 64]), frame(DATA, END_STREAM, &[])] {
            assert_eq!(borne(&mut begun(now), &work, 5000, now), 5000);
        }
    }

    #[test]
    fn whoever_cancels_half_of_all_calls_goes_on() {
        let now = Instant::now();
        let half = |stream| [request(stream), request(stream + 2), reset(stream)].concat();
        assert_eq!(borne_requests(&mut begun(now), now, half), 5000);
        let all = |stream| [request(stream), reset(stream)].concat();
        assert!(borne_requests(&mut begun(now), now, all) < 420);
    }

    #[test]
    fn trailers_pay_for_nothing() {
        let now = Instant::now();
        let all = |stream| [request(stream), request(stream), reset(stream)].concat();
        assert!(borne_requests(&mut begun(now), now, all) < 420);
    }

    #[test]
    fn time_and_answers_fill_the_purse_and_acknowledgements_do_not() {
        let now = Instant::now();
        let ping = frame(PING, 0, &[0; 8]);
        let mut frames = begun(now);
        assert_eq!(borne(&mut frames, &ping, 1000, now), 1000);
        let later = now + Duration::from_secs(10);
        assert!(borne(&mut frames, &ping, 5000, later) >= 329);
        frames.wrote(1 << 20);
        assert!(frames.read(&ping, later));

        let mut frames = begun(now);
        let mut answered = 0;
        while answered < 5000 && frames.read(&ping, now) {
            frames.wrote(17);
            answered += 1;
        }
        assert!(answered < 1100, "{answered}");
    }

    #[test]
    fn frames_are_found_wherever_the_bytes_are_cut() {
        let now = Instant::now();
        let stream = [frame(PING, 0, &[6; 8]), frame(DATA, 0, &[6; 100])].concat().repeat(3000);
        for size in [1, 7, 9, 16, 1000] {
            let mut frames = begun(now);
            let sent = stream.chunks(size).take_while(|chunk| frames.read(chunk, now)).count() * size;
            let pings = sent / (17 + 109);
            assert!((995..=1010).contains(&pings), "{size}: {pings}");
        }
    }

    #[test]
    fn that_h2_has_had_enough_is_found_wherever_the_bytes_are_cut() {
        let goaway = |code: u32| frame_on(0, GOAWAY, 0, &[[0; 4], code.to_be_bytes()].concat());
        let answers = [frame(HEADERS, 4, &[7; 40]), frame(DATA, 0, &[GOAWAY; 100]), frame(0x4, 1, &[])].concat();
        for (code, enough) in [(ENHANCE_YOUR_CALM, true), (0, false)] {
            let sent = [answers.clone(), goaway(code)].concat();
            for size in [1, 7, 9, 17, 1000] {
                let mut said = Said::new();
                assert_eq!(sent.chunks(size).any(|chunk| said.read(chunk)), enough, "{code} by {size}");
                assert_eq!(said.has_reset_many(), enough);
            }
        }
    }

    #[test]
    fn resets_for_a_fault_of_the_peer_are_counted() {
        let reset = |code: u32| frame(RST_STREAM, 0, &code.to_be_bytes());
        for (code, many) in [(0x3, true), (0x1, true), (0x0, false), (0x8, false)] {
            let mut said = Said::new();
            assert!((0..=MAX_LOCAL_RESETS / 2).all(|_| !said.read(&reset(code))), "h2 goes on");
            assert_eq!(said.has_reset_many(), many, "{code}");
        }
    }

    #[test]
    fn half_of_a_purse_is_noticed() {
        let now = Instant::now();
        let mut frames = begun(now);
        borne(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 100, now);
        assert!(!frames.is_half_spent(now));
        borne(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 1, now);
        assert!(frames.is_half_spent(now));
    }
}
