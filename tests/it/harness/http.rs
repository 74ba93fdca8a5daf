//! The HTTP listener, asked in the plainest way.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Harness;

impl Harness {
    /// Head and body of the answer to `GET path`.
    pub async fn http(&self, path: &str) -> (String, String) {
        let mut stream = tokio::net::TcpStream::connect(self.http_address()).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_lowercase(), body.to_owned())
    }
}
