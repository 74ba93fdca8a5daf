//! Raw HTTP/2 frames, for what well-behaved clients do not send. The benchmark also uses this module.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The client connection preface (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113, section 6).
pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

/// Frame flags.
pub mod flag {
    pub const NONE: u8 = 0x0;
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
}

/// The setting for the initial flow-control window of a stream (RFC 9113, section 6.5.2).
pub const INITIAL_WINDOW_SIZE: u16 = 0x4;

/// A frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Four bytes of the payload as a number.
    pub fn number(&self, at: usize) -> Option<u32> {
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// The settings in the payload.
    pub fn settings(&self) -> Vec<(u16, u32)> {
        let read = |pair: &[u8]| {
            let (id, value) = pair.split_at_checked(2)?;
            Some((u16::from_be_bytes(id.try_into().ok()?), u32::from_be_bytes(value.try_into().ok()?)))
        };
        self.payload.chunks(6).filter_map(read).collect()
    }
}

/// Encodes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length.iter().skip(1).copied().collect::<Vec<u8>>();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes a `WINDOW_UPDATE` frame.
pub fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &more.to_be_bytes())
}

/// Encodes header fields as literals without indexing (RFC 7541, section 6.2.2).
pub fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Encodes an integer with a 7-bit prefix (RFC 7541, section 5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    if length < 127 {
        return block.push(byte(length));
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    block.push(byte(rest));
}

/// The header fields of a gRPC call.
pub fn call_block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.extend(more);
    header_block(&fields)
}

/// Encodes the HEADERS frame of a call.
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &call_block(path, &[]))
}

/// Encodes a complete call with an empty message.
pub fn empty_call(stream: u32, path: &str) -> Vec<u8> {
    [call(stream, path), frame(kind::DATA, flag::END_STREAM, stream, &[0; 5])].concat()
}

/// A TCP connection for raw bytes and frames.
#[derive(Debug)]
pub struct Raw<S = TcpStream> {
    pub stream: S,
}

impl Raw {
    /// Connects without sending anything.
    pub async fn silent(address: &str) -> io::Result<Raw> {
        Ok(Raw { stream: TcpStream::connect(address).await? })
    }

    /// As `connect`, from another loopback address.
    pub async fn silent_from(source: Ipv4Addr, address: &str) -> io::Result<Raw> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(source, 0).into())?;
        Ok(Raw { stream: socket.connect(address).await? })
    }

    /// Connects and sends the preface with these settings.
    pub async fn open(address: &str, settings: &[(u16, u32)]) -> io::Result<Raw> {
        let mut raw = Raw::silent(address).await?;
        raw.greet(settings).await?;
        Ok(raw)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Sends the preface.
    pub async fn greet(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let pairs = settings.iter().flat_map(|(id, value)| [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()]);
        let settings = frame(kind::SETTINGS, flag::NONE, 0, &pairs.flatten().collect::<Vec<u8>>());
        self.send(&[PREFACE, &settings].concat()).await
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the next frame. Returns `None` if the peer has closed the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Reads the next frame of a type, skipping others.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads until the peer closes the connection. Returns its last GOAWAY, if it sent one.
    pub async fn end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.next().await {
            if frame.kind == kind::GOAWAY {
                reason = frame.number(4);
            }
        }
        reason
    }

    /// Answers PINGs and ignores everything else until the peer closes the connection.
    pub async fn stay(&mut self) {
        while let Some(Frame { kind, flags, payload, .. }) = self.next().await {
            let is_question = kind == kind::PING && flags & flag::ACK == 0;
            if is_question && self.send(&frame(kind::PING, flag::ACK, 0, &payload)).await.is_err() {
                return;
            }
        }
    }
}

/// Makes up to `most` calls, fifty at a time, and reads their responses, until the peer closes the connection. Returns the
/// number of calls, and whether the peer closed the connection.
pub async fn flood_of_calls(mut raw: Raw, most: usize, mut call: impl FnMut(usize) -> Vec<u8>) -> (usize, bool) {
    const AT_ONCE: usize = 50;
    for begun in (0..most).step_by(AT_ONCE) {
        let calls: Vec<u8> = (begun..begun + AT_ONCE).flat_map(&mut call).collect();
        if raw.send(&calls).await.is_err() {
            return (begun, true);
        }
        let mut open = AT_ONCE;
        while open > 0 {
            let Some(Frame { kind, flags, .. }) = raw.next().await else { return (begun, true) };
            let is_end = [kind::HEADERS, kind::DATA].contains(&kind) && flags & flag::END_STREAM != 0;
            open -= usize::from(is_end || kind == kind::RST_STREAM);
        }
    }
    (most, false)
}

/// Sends the same bytes repeatedly and reads all input, until the peer closes the connection or `most` copies are sent.
/// Returns the number sent, and whether the peer closed the connection.
pub async fn flood(raw: Raw, most: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) -> (usize, bool) {
    let (mut reader, mut writer) = raw.stream.into_split();
    let mut count = 0;
    let send = async {
        while count < most {
            if writer.write_all(&bytes(count)).await.is_err() {
                return true;
            }
            count += 1;
        }
        false
    };
    let read = async {
        let mut buffer = vec![0; 64 << 10];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    let closed = tokio::select! {
        closed = send => closed,
        () = read => true,
    };
    (count, closed)
}
