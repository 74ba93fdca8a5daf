//! Connections that fail: what is wrong, and the flag that helps.

use std::io;

use tonic::{Code, Status};

use super::listener::Foreign;
use super::socket::Stranger;
use super::target::{ChosenBy, Target};
use super::{Client, Sent, tls};
use crate::cli::error::{Error, innermost};
use crate::cli::output::words::shell_word;

impl Client {
    /// Explains a connection that could not be made.
    pub(super) fn unreachable(&self, fault: &tonic::transport::Error) -> Error {
        if let Some(error) = tls::explain(fault, &self.target.place()) {
            return error;
        }
        let cause = innermost(fault);
        let fault = cause.downcast_ref::<io::Error>();
        let kind = fault.map(io::Error::kind);
        let strange = matches!(fault.and_then(io::Error::get_ref), Some(inner) if inner.is::<Stranger>());
        let foreign = matches!(fault.and_then(io::Error::get_ref), Some(inner) if inner.is::<Foreign>());
        let hint = match (&self.target, kind) {
            (Target::Socket(..), _) if strange => "if this is the right server, name its socket: `--socket PATH`",
            (Target::Socket(..), Some(io::ErrorKind::PermissionDenied)) => {
                "only root and the user of latchkeyd may use the socket: run this as one of them, or use `latchkey login`"
            }
            (Target::Socket(_, ChosenBy::Default), Some(io::ErrorKind::NotFound)) => {
                "there is none in /run/latchkey and /var/lib/latchkey either; --socket names it, --server another server"
            }
            (Target::Socket(..), _) => {
                "check that latchkeyd is running here; --socket names its socket, --server another server"
            }
            (Target::Tcp(_), _) if foreign => "if this is the right server, name it: `--server HOST:PORT`",
            (Target::Tcp(_), _) => {
                "check that latchkeyd is running there; --server or LATCHKEY_SERVER sets the address"
            }
            (Target::Tls(_), _) => {
                "check that latchkeyd is running there with TLS; --server or LATCHKEY_SERVER sets the address"
            }
        };
        Error::unexpected(format!("cannot reach {}: {cause}", self.target.place())).hint(hint)
    }

    /// Explains a connection that failed after it was made. In TLS 1.3 the server can reject the client's certificate after
    /// the handshake has ended for the client. A server with TLS closes a connection without TLS.
    pub(super) async fn explained(&self, status: Status) -> Sent {
        if let Some(error) = tls::explain(&status, &self.target.place()) {
            return Sent::Not(error);
        }
        // A timeout of this program is CANCELLED.
        let is_broken_off = std::error::Error::source(&status).is_some() && status.code() != Code::Cancelled;
        match &self.target {
            Target::Tcp(uri) if is_broken_off && tls::is_spoken_at(uri).await => {
                let place = self.target.place();
                let error = Error::unexpected(format!("cannot reach {place} without TLS: the server speaks TLS"));
                let secure = shell_word(&format!("https://{place}"));
                Sent::Not(error.hint(format!(
                    "use `--server {secure}`, with `--tls-ca FILE` if its certificate is signed by a CA of your own"
                )))
            }
            _ => Sent::Status(status),
        }
    }

    /// The hint for a connection that the peer closed without an answer.
    pub(super) fn broken_off(&self) -> Option<String> {
        match &self.target {
            Target::Tcp(_) => Some("check that latchkeyd, and no other program, listens there".to_owned()),
            Target::Tls(_) => Some(
                "if the server requires a client certificate, its CA must have signed it: `--tls-cert FILE --tls-key FILE`"
                    .to_owned(),
            ),
            Target::Socket(..) => None,
        }
    }
}
