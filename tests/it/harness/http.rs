//! A minimal HTTP client for the HTTP listener.

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

/// Sends a GET request.
pub async fn get(address: &str, path: &str) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
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
