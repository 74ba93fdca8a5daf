//! What a peer's HTTP/2 frames cost. hyper and h2 refuse some floods by themselves (resets of streams that were not
//! looked at yet, resets that we must send, header blocks without an end), and answer others for as long as they
//! come: PING, SETTINGS, DATA without data, `WINDOW_UPDATE`, PRIORITY, and requests that are begun and reset.
//!
//! So frames that bring no work cost something, from two purses, one for resets and one for the rest. They fill by
//! themselves slowly, and faster by what honest clients do: requests, and reading answers. Only the nine bytes of each
//! frame's head are looked at (RFC 9113, section 4.1).

use std::time::Instant;

/// The length of the connection preface (RFC 9113, section 3.4).
pub(super) const PREFACE: usize = 24;
/// The length of a frame's head.
const HEAD: usize = 9;

/// What a purse holds at first and at most, and what it gains in a second: the limits of nghttp2 for resets
/// (CVE-2023-44487) and for suspicious frames, which servers and proxies have used for years.
const PURSE: f64 = 1000.0;
const PER_SECOND: f64 = 33.0;

/// What a request adds for frames beside it: a client may acknowledge each DATA frame of an answer on two levels,
/// and measure the line with a PING.
const PER_REQUEST: f64 = 8.0;
/// What a request adds for resets: whoever cancels half of all calls goes on undisturbed.
const RESETS_PER_REQUEST: f64 = 0.5;
/// Bytes of ours that add one frame, since they may be acknowledged. An acknowledgement of ours is 17 bytes at most,
/// so that a flood of PINGs does not pay for itself.
const BYTES_PER_FRAME: f64 = 512.0;
/// DATA that is shorter, and not the end of a request, is rather a way to make work, in bytes.
const SHORT_DATA: u32 = 64;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const END_STREAM: u8 = 0x1;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    preface: usize,
    head: [u8; HEAD],
    /// How much of the head is there.
    known: usize,
    /// How much of the frame behind its head is still to come, in bytes.
    rest: usize,
    /// The highest number of a stream so far: requests count upwards.
    newest: u32,
    purse: f64,
    reset_purse: f64,
    filled_at: Instant,
}

impl Frames {
    /// At the first byte of a connection.
    pub(super) fn new(now: Instant) -> Frames {
        Frames {
            preface: PREFACE,
            head: [0; HEAD],
            known: 0,
            rest: 0,
            newest: 0,
            purse: PURSE,
            reset_purse: PURSE,
            filled_at: now,
        }
    }

    /// Looks at what the peer sent. False once it has overdrawn.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            if self.preface > 0 {
                bytes = skip(bytes, &mut self.preface);
            } else if self.rest > 0 {
                bytes = skip(bytes, &mut self.rest);
            } else {
                bytes = self.read_head(bytes, now);
            }
        }
        self.purse >= 0.0 && self.reset_purse >= 0.0
    }

    /// So many bytes were sent to the peer.
    pub(super) fn wrote(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.purse = PURSE.min(self.purse + f64::from(count) / BYTES_PER_FRAME);
    }

    fn read_head<'a>(&mut self, bytes: &'a [u8], now: Instant) -> &'a [u8] {
        let missing = HEAD - self.known;
        let (these, bytes) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        for (to, from) in self.head.iter_mut().skip(self.known).zip(these) {
            *to = *from;
        }
        self.known += these.len();
        if self.known == HEAD {
            self.known = 0;
            self.charge(now);
        }
        bytes
    }

    fn charge(&mut self, now: Instant) {
        let [high, middle, low, kind, flags, stream @ ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.rest = usize::try_from(length).unwrap_or(usize::MAX);
        match kind {
            // Trailers belong to a request that was paid for.
            HEADERS if u32::from_be_bytes(stream) <= self.newest => {}
            HEADERS => {
                self.newest = u32::from_be_bytes(stream);
                self.purse = PURSE.min(self.purse + PER_REQUEST);
                self.reset_purse = PURSE.min(self.reset_purse + RESETS_PER_REQUEST);
            }
            DATA if length >= SHORT_DATA || flags & END_STREAM != 0 => {}
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
        self.reset_purse = PURSE.min(self.reset_purse + gained);
        self.filled_at = now;
    }
}

/// Passes over as many bytes as are due.
fn skip<'a>(bytes: &'a [u8], due: &mut usize) -> &'a [u8] {
    let (passed, rest) = bytes.split_at_checked(*due).unwrap_or((bytes, &[]));
    *due -= passed.len();
    rest
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
    fn borne_requests(frames: &mut Frames, now: Instant, made_up: impl Fn(u32) -> Vec<u8>) -> usize {
        (0..5000_u32).take_while(|number| frames.read(&made_up(4 * number + 1), now)).count()
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = Frames::new(now);
        assert!(frames.read(&[b'x'; 23], now) && frames.read(b"x", now));
        frames
    }

    /// How many of these are borne, up to a limit.
    fn borne(frames: &mut Frames, frame: &[u8], limit: usize, now: Instant) -> usize {
        (0..limit).take_while(|_| frames.read(frame, now)).count()
    }

    #[test]
    fn frames_without_work_are_borne_to_a_limit() {
        let now = Instant::now();
        for idle in [frame(PING, 0, &[0; 8]), frame(0x4, 0, &[]), frame(DATA, 0, &[]), frame(0x9, 0, &[1; 10])] {
            assert_eq!(borne(&mut begun(now), &idle, 5000, now), 1000, "{idle:?}");
        }
        let mut frames = begun(now);
        assert_eq!(borne(&mut frames, &frame(RST_STREAM, 0, &[0; 4]), 5000, now), 1000);
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
        assert!(borne_requests(&mut begun(now), now, all) < 2100);
    }

    #[test]
    fn trailers_pay_for_nothing() {
        let now = Instant::now();
        let all = |stream| [request(stream), request(stream), reset(stream)].concat();
        assert!(borne_requests(&mut begun(now), now, all) < 2100);
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
}
