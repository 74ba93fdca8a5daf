//! An HTTP/2 client below gRPC, for what a gRPC client would not send or show.

use std::net::SocketAddr;

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, Request, Version};
use prost::bytes::Bytes;
use tokio::net::TcpSocket;
use tonic::Status;

/// A connection.
pub struct Wire {
    send: SendRequest<Bytes>,
}

/// A request whose headers are sent, but not its body.
pub struct Open {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    /// From the trailers, or from the headers if there are no trailers.
    pub status: Option<Status>,
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects from 127.0.0.1.
    pub async fn connect(to: &str) -> Wire {
        Wire::connect_from("127.0.0.1", to).await
    }

    /// Connects from another loopback address, such as 127.0.0.2.
    pub async fn connect_from(from: &str, to: &str) -> Wire {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("an address of the loopback");
        let stream = socket.connect(to.parse().expect("an address")).await.expect("a connection");
        let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(async move {
            // Errors of the connection appear on each of its streams.
            let _ = connection.await;
        });
        Wire { send }
    }

    /// Sends the headers of a call.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Open {
        self.open_request(post(path, headers)).await
    }

    /// Sends any request headers.
    pub async fn open_request(&self, request: Request<()>) -> Open {
        let mut send = self.send.clone().ready().await.expect("room for a stream");
        let (response, body) = send.send_request(request, false).expect("a stream");
        Open { response, body }
    }

    /// Makes a call with any bytes as its body.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, h2::Error> {
        self.open(path, headers).await.finish(body).await
    }
}

impl Open {
    /// Sends the body and waits for the response.
    pub async fn finish(mut self, body: Vec<u8>) -> Result<Answer, h2::Error> {
        // The server may have responded and closed the stream before reading this.
        let _ = self.body.send_data(body.into(), true);
        self.answer().await
    }

    /// Waits for the response without sending a body.
    pub async fn answer(self) -> Result<Answer, h2::Error> {
        // Dropping the body would reset the stream.
        let Open { response, body: _body } = self;
        let (head, mut stream) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        let trailers = stream.trailers().await?;
        let status_of = |headers: &HeaderMap| Status::from_header_map(headers);
        let status = trailers.as_ref().and_then(status_of).or_else(|| status_of(&head.headers));
        Ok(Answer { http: head.status.as_u16(), status, body })
    }

    /// Cancels the call.
    pub fn cancel(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }
}

/// The headers of a call.
pub fn post(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://127.0.0.1/{path}")).version(Version::HTTP_2);
    let usual = [("content-type", "application/grpc"), ("te", "trailers")];
    for (name, value) in usual.iter().filter(|(name, _)| headers.iter().all(|(other, _)| other != name)).chain(headers)
    {
        if !value.is_empty() {
            request = request.header(*name, *value);
        }
    }
    request.body(()).expect("a request")
}

/// Frames a message as a gRPC body.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).expect("a short message").to_be_bytes());
    body.extend(message);
    body
}
