//! A minimal HTTP client for the HTTP listener, the pages and `WebDriver`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Harness;

/// An HTTP response.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    /// Header lines, in lower case.
    pub head: String,
    pub body: String,
}

impl HttpAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a GET request.
pub async fn get(address: &str, path: &str) -> HttpAnswer {
    send(address, "GET", path, &[], "").await
}

/// Sends a request on a connection of its own.
pub async fn send(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> HttpAnswer {
    let length = body.len().to_string();
    let sized = (!body.is_empty()).then_some(("content-length", length.as_str()));
    let lines: Vec<String> =
        headers.iter().copied().chain(sized).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}", lines.concat());
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // A server that refuses a large body may answer before it has read all of it.
    let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes()).await;
    let mut answer = Vec::new();
    // Not every server closes the connection.
    while !(method != "HEAD" && is_whole(&answer)) && stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {}
    parsed(&String::from_utf8(answer).expect("UTF-8"))
}

/// Returns whether all bytes of a body of known length have arrived.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

fn parsed(answer: &str) -> HttpAnswer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    HttpAnswer { status, head: head.to_lowercase(), body: body.to_owned() }
}

impl Harness {
    /// Sends a GET request.
    pub async fn http(&self, path: &str) -> HttpAnswer {
        get(&self.http_address(), path).await
    }

    /// The sum of a metric over all labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.http("/metrics").await.body;
        let of_metric = |line: &&str| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"));
        text.lines()
            .filter(of_metric)
            .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a number"))
            .sum()
    }
}
