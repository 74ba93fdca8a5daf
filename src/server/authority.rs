//! Makes the `:authority` of clients on the local socket one that h2 accepts.
//!
//! gRPC's C core, which serves Python, C++, Ruby and PHP, sends the percent-encoded path of the socket as `:authority`. RFC 3986
//! allows this, but the `http` crate refuses it, and h2 resets the stream before any layer of ours sees the call. grpc-java sends
//! the plain path. On the local socket the authority means nothing. So each `%` and `/` in it becomes `-` on the way in, which
//! changes no length.
//!
//! A value with Huffman coding stays as it is, since its symbols do not end at bytes. Neither client uses it.

use super::http2_frames::PREFACE_LENGTH;

/// Frame types and flags (RFC 9113, sections 6.2 and 6.10).
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Length of a frame header in bytes (RFC 9113, section 4.1).
const HEADER_LENGTH: usize = 9;
/// Length of the fields that the flag PRIORITY adds, in bytes.
const PRIORITY_LENGTH: usize = 5;
/// The name of the field, and its index in the static table (RFC 7541, appendix A).
const NAME: &[u8] = b":authority";
const INDEX: u8 = 1;

/// Rewrites the bytes that a client sends, in pieces of any length.
#[derive(Debug)]
pub(super) struct AuthorityRewriter {
    /// Bytes to pass on unread: the preface, or a frame that is no header block.
    to_skip: usize,
    header: [u8; HEADER_LENGTH],
    /// Bytes of `header` that have arrived.
    filled: usize,
    /// Whether the next byte is the length of the padding.
    is_padded: bool,
    /// Fields of the flag PRIORITY that are still to come, in bytes.
    priority: usize,
    /// Bytes of the header block that are still to come in this frame.
    block: usize,
    /// Bytes of padding after it.
    padding: usize,
    field: Field,
}

/// The position in a header block (RFC 7541, section 6).
#[derive(Debug, Clone, Copy)]
enum Field {
    /// The next byte begins a field.
    Start,
    /// In an index or a size of more than one byte; a literal has a value after it.
    Number { is_literal: bool },
    /// The next byte begins the length of a string.
    Length(Text),
    /// In the length of a string of at least 127 bytes.
    LongLength { text: Text, length: usize, shift: u32 },
    /// In a string of which this many bytes are left.
    Content { text: Text, left: usize },
}

/// What a string is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// A name, whose bytes so far are this many of `:authority`; `None` if they differ.
    Name(Option<usize>),
    Value,
    /// The value of `:authority`, without Huffman coding.
    Authority,
}

impl AuthorityRewriter {
    pub(super) fn new() -> AuthorityRewriter {
        AuthorityRewriter {
            to_skip: PREFACE_LENGTH,
            header: [0; HEADER_LENGTH],
            filled: 0,
            is_padded: false,
            priority: 0,
            block: 0,
            padding: 0,
            field: Field::Start,
        }
    }

    /// Rewrites the next bytes.
    pub(super) fn rewrite(&mut self, mut bytes: &mut [u8]) {
        while let Some((first, rest)) = std::mem::take(&mut bytes).split_first_mut() {
            if self.to_skip > 1 {
                // The byte taken and as many of the rest as are to be skipped.
                let more = rest.len().min(self.to_skip - 1);
                self.to_skip -= 1 + more;
                bytes = rest.get_mut(more..).unwrap_or_default();
                continue;
            }
            self.byte(first);
            bytes = rest;
        }
    }

    fn byte(&mut self, byte: &mut u8) {
        if self.to_skip > 0 {
            self.to_skip -= 1;
        } else if self.is_padded {
            self.is_padded = false;
            // Padding that is longer than the block is an error, which h2 finds.
            self.block -= 1;
            self.padding = usize::from(*byte).min(self.block);
            self.block -= self.padding;
        } else if self.priority > 0 {
            self.priority -= 1;
            self.block = self.block.saturating_sub(1);
        } else if self.block > 0 {
            self.block -= 1;
            self.field = self.field.after(byte);
        } else {
            self.header_byte(*byte);
        }
        if self.block == 0 && self.padding > 0 {
            self.to_skip = std::mem::take(&mut self.padding);
        }
    }

    fn header_byte(&mut self, byte: u8) {
        if let Some(slot) = self.header.get_mut(self.filled) {
            *slot = byte;
        }
        self.filled += 1;
        if self.filled < HEADER_LENGTH {
            return;
        }
        self.filled = 0;
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            HEADERS => {
                self.block = length;
                self.field = Field::Start;
                self.is_padded = flags & PADDED != 0 && length > 0;
                self.priority = if flags & PRIORITY != 0 { PRIORITY_LENGTH.min(length) } else { 0 };
            }
            CONTINUATION => self.block = length,
            _ => self.to_skip = length,
        }
    }
}

impl Field {
    /// Reads a byte, rewrites it if it belongs to the authority, and returns the next position.
    fn after(self, byte: &mut u8) -> Field {
        match self {
            Field::Start => Field::started(*byte),
            Field::Number { .. } if *byte & 0x80 != 0 => self,
            Field::Number { is_literal: true } => Field::Length(Text::Value),
            Field::Number { is_literal: false } => Field::Start,
            Field::Length(text) => {
                // Huffman coding.
                let text = if *byte & 0x80 != 0 && text == Text::Authority { Text::Value } else { text };
                match *byte & 0x7f {
                    0x7f => Field::LongLength { text, length: 0x7f, shift: 0 },
                    length => Field::content(text, usize::from(length)),
                }
            }
            Field::LongLength { text, length, shift } => {
                let more = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or_default();
                let length = length.saturating_add(more);
                if *byte & 0x80 == 0 {
                    Field::content(text, length)
                } else {
                    Field::LongLength { text, length, shift: shift.saturating_add(7) }
                }
            }
            Field::Content { text, left } => {
                if text == Text::Authority && matches!(*byte, b'%' | b'/') {
                    *byte = b'-';
                }
                Field::content(text.after(*byte), left - 1)
            }
        }
    }

    fn started(byte: u8) -> Field {
        // The bits of the index, and whether a value follows.
        let (mask, is_literal) = match byte {
            0x80.. => (0x7f, false),
            0x40.. => (0x3f, true),
            0x20.. => (0x1f, false),
            _ => (0x0f, true),
        };
        match (byte & mask, is_literal) {
            (index, _) if index == mask => Field::Number { is_literal },
            (_, false) => Field::Start,
            (0, true) => Field::Length(Text::Name(Some(0))),
            (INDEX, true) => Field::Length(Text::Authority),
            (_, true) => Field::Length(Text::Value),
        }
    }

    fn content(text: Text, left: usize) -> Field {
        match (left, text) {
            (0, Text::Name(Some(matching))) if matching == NAME.len() => Field::Length(Text::Authority),
            (0, Text::Name(_)) => Field::Length(Text::Value),
            (0, Text::Value | Text::Authority) => Field::Start,
            (left, text) => Field::Content { text, left },
        }
    }
}

impl Text {
    fn after(self, byte: u8) -> Text {
        match self {
            Text::Name(matching) => {
                Text::Name(matching.filter(|at| NAME.get(*at) == Some(&byte)).map(|matching| matching + 1))
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [.., high, middle, low] = payload.len().to_be_bytes();
        [&[high, middle, low, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is sent, and what shall arrive.
    fn sample() -> (Vec<u8>, Vec<u8>) {
        let sent = |authority: &str| {
            let filler = if authority.contains('%') { [b'%'; 141] } else { [b'-'; 141] };
            let long = [&[0x41, 0x7f, 0x0e][..], &filler].concat();
            // `:path` (index 4), an indexed field, a table size, names that are text, and a value with a large index.
            let others = &[0x04, 2, b'/', b'%', 0x83, 0x3f, 0x10, 0x00, 1, b'%', 1, b'%', 0x7f, 0x01, 1, b'%'][..];
            let value =
                [&[0x41, 8][..], authority.as_bytes(), b"\x40\x0a:authority\x08", authority.as_bytes()].concat();
            let block = [others, b"\x00\x0b:authority%\x01%\x00\x03:au\x01%", &value, &long].concat();
            let (first, rest) = block.split_at(20);
            let padded = [&[3][..], &[0x80, 0, 0, 0, 5], &value, &[0; 3]].concat();
            [
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
                &frame(0x4, 0, &[0, 1, 0, 0, 0, b'%']),
                &frame(HEADERS, 0, first),
                &frame(CONTINUATION, 4, rest),
                &frame(0x0, 1, b"\x41\x08run%2Fda"),
                &frame(HEADERS, PADDED | PRIORITY, &padded),
                &frame(CONTINUATION, 4, &value),
            ]
            .concat()
        };
        (sent("run%2F/a"), sent("run-2F-a"))
    }

    #[test]
    fn the_authority_alone_is_rewritten_wherever_reads_split_it() {
        let (sent, arrives) = sample();
        for cut in 0..sent.len() {
            for step in [1, 2, 7, sent.len()] {
                let mut bytes = sent.clone();
                let mut rewriter = AuthorityRewriter::new();
                let (first, rest) = bytes.split_at_mut(cut);
                rewriter.rewrite(first);
                rest.chunks_mut(step).for_each(|piece| rewriter.rewrite(piece));
                assert_eq!(bytes, arrives, "cut at {cut}, then every {step}");
            }
        }
    }

    #[test]
    fn any_bytes_are_survived_and_only_percent_signs_and_slashes_change() {
        // Numbers of a linear congruential generator, as many as a debug build tests in a second.
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [highest, ..] = state.to_be_bytes();
            highest
        };
        let (sample, _) = sample();
        for round in 0..4_000 {
            let mut bytes = sample.clone();
            for _ in 0..round % 40 {
                let at = usize::from(random()) * bytes.len() / 256;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random();
                }
            }
            let mut rewritten = bytes.clone();
            AuthorityRewriter::new().rewrite(&mut rewritten);
            for (before, after) in bytes.iter().zip(&rewritten) {
                assert!(before == after || (b"%/".contains(before) && *after == b'-'), "{bytes:?}");
            }
        }
    }
}
