//! One SMTP conversation, which delivers one mail (RFC 5321, 3207, 4954).
//!
//! A command is sent only after the answer to the one before is complete and nothing follows it. So no answer is ever taken
//! for that of another command, and nothing that was sent before the TLS handshake is believed after it. After the answer to the
//! final dot no command follows if there is more: that answer counts, and the connection is not used again.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Mail;
use super::failure::{Failure, Fault, Phase};
use super::relay::{Credentials, HIDDEN, Relay, encoded};
use super::reply::{Reply, ReplyFault, ReplyReader};
use crate::config::Security;

/// How long the end of a conversation may take. The mail is accepted or refused by then.
const QUIT_TIME: Duration = Duration::from_secs(2);

/// The part of the time for the greeting after which a hint is given: a server that expects TLS says nothing first.
const PATIENCE: u32 = 12;

/// A line of the conversation, without secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// What we sent.
    Client(&'a str),
    /// What the server sent.
    Server(&'a str),
    /// What happened.
    Event(&'a str),
}

/// A connection: TCP or TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Delivers a mail, and returns the relay's answer to it: from then on the relay is responsible. `listen` hears every line of
/// the conversation. Dropping the future closes the connection.
///
/// # Errors
///
/// The phase in which the conversation broke, and why.
pub async fn deliver(relay: &Relay, mail: &Mail, listen: &(dyn Fn(Line<'_>) + Sync)) -> Result<Reply, Failure> {
    let mut conversation = Conversation::open(relay, listen).await?;
    let sent = conversation.send(mail).await;
    if sent.is_ok() || sent.as_ref().is_err_and(Failure::is_refusal) {
        conversation.quit().await;
    }
    sent
}

/// A connection on which the next mail can be sent.
pub(super) struct Kept {
    stream: Box<dyn Io>,
    hello: String,
}

pub(super) struct Conversation<'a> {
    relay: &'a Relay,
    listen: &'a (dyn Fn(Line<'_>) + Sync),
    stream: Box<dyn Io>,
    /// The name for `EHLO`.
    hello: String,
    phase: Phase,
    /// Whether more followed the answer to the final dot.
    has_surplus: bool,
    /// When the attempt ends.
    ends_at: Instant,
}

impl<'a> Conversation<'a> {
    /// Connects, and brings the conversation to the point at which a mail can be sent.
    pub(super) async fn open(
        relay: &'a Relay,
        listen: &'a (dyn Fn(Line<'_>) + Sync),
    ) -> Result<Conversation<'a>, Failure> {
        let ends_at = Instant::now() + relay.limits.attempt;
        let failure = |fault| Failure::new(&relay.url, Phase::Connect, fault);
        let (stream, peer, own) = connect(relay, ends_at).await.map_err(failure)?;
        listen(Line::Event(&format!("connected to {peer}")));
        let hello = relay.hello.clone().unwrap_or_else(|| address_literal(own));
        let stream: Box<dyn Io> = Box::new(stream);
        let mut conversation =
            Conversation { relay, listen, stream, hello, phase: Phase::Connect, has_surplus: false, ends_at };
        if relay.url.security == Security::Tls {
            conversation = conversation.secured().await?;
        }
        conversation.greeting().await?;
        let mut capabilities = conversation.ehlo().await?;
        if relay.url.security == Security::StartTls {
            if !has(&capabilities, "STARTTLS") {
                return Err(conversation.failure(Fault::NoStartTls));
            }
            conversation.start_tls().await?;
            conversation = conversation.secured().await?;
            // What was offered before TLS may be forged.
            capabilities = conversation.ehlo().await?;
        }
        if let Some(credentials) = &relay.credentials {
            conversation.authenticate(credentials, &capabilities).await?;
        }
        Ok(conversation)
    }

    /// Goes on with a connection on which a mail was accepted.
    pub(super) fn resume(relay: &'a Relay, listen: &'a (dyn Fn(Line<'_>) + Sync), kept: Kept) -> Conversation<'a> {
        let Kept { stream, hello } = kept;
        Conversation {
            relay,
            listen,
            stream,
            hello,
            phase: Phase::Sender,
            has_surplus: false,
            ends_at: Instant::now() + relay.limits.attempt,
        }
    }

    /// Leaves the connection to the next mail. `None` if it cannot be used again.
    pub(super) fn keep(self) -> Option<Kept> {
        (!self.has_surplus).then_some(Kept { stream: self.stream, hello: self.hello })
    }

    async fn greeting(&mut self) -> Result<(), Failure> {
        self.phase = Phase::Greeting;
        let by = self.by(self.relay.limits.command);
        let listen = self.listen;
        let patience = self.relay.limits.command / PATIENCE;
        let may_need_tls = self.relay.url.security != Security::Tls;
        let greeting = tokio::select! {
            greeting = self.answer(by) => greeting?,
            never = hint(listen, patience), if may_need_tls => match never {},
        };
        self.expect(220, greeting).map(drop)
    }

    /// Returns the lines of the answer: what the server offers.
    async fn ehlo(&mut self) -> Result<Vec<String>, Failure> {
        let line = format!("EHLO {}", self.hello);
        let reply = self.command(Phase::Hello, &line, &line).await?;
        let offers = self.expect(250, reply)?.lines().iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(offers)
    }

    async fn start_tls(&mut self) -> Result<(), Failure> {
        let surplus = Fault::Malformed(ReplyFault::Surplus);
        match self.command(Phase::StartTls, "STARTTLS", "STARTTLS").await {
            Ok(reply) => self.expect(220, reply).map(drop),
            Err(failure) if failure.fault == surplus => Err(self.failure(Fault::Injected)),
            Err(failure) => Err(failure),
        }
    }

    /// Does the TLS handshake.
    async fn secured(mut self) -> Result<Conversation<'a>, Failure> {
        self.phase = Phase::Handshake;
        let by = self.by(self.relay.limits.connect);
        let name = ServerName::try_from(self.relay.url.host.clone());
        let name = name.map_err(|error| self.failure(Fault::Tls(error.to_string())))?;
        let Conversation { relay, listen, stream, hello, phase, has_surplus, ends_at } = self;
        let shaken = timeout_at(by, TlsConnector::from(relay.tls.clone()).connect(name, stream)).await;
        let fault = match shaken {
            Ok(Ok(stream)) => {
                listen(Line::Event("TLS is on, and the certificate is good"));
                return Ok(Conversation {
                    relay,
                    listen,
                    stream: Box::new(stream),
                    hello,
                    phase,
                    has_surplus,
                    ends_at,
                });
            }
            Ok(Err(error)) => Fault::of_io(&error),
            Err(_) => Fault::TimedOut,
        };
        Err(Failure::new(&relay.url, phase, fault))
    }

    async fn authenticate(&mut self, credentials: &Credentials, capabilities: &[String]) -> Result<(), Failure> {
        let hidden = |command: &str| format!("{command}{HIDDEN}");
        self.phase = Phase::Authenticate;
        let reply = if offers(capabilities, "PLAIN") {
            let line = Zeroizing::new(format!("AUTH PLAIN {}", &*credentials.plain()));
            self.command(Phase::Authenticate, &line, &hidden("AUTH PLAIN ")).await?
        } else if offers(capabilities, "LOGIN") {
            let reply = self.command(Phase::Authenticate, "AUTH LOGIN", "AUTH LOGIN").await?;
            self.expect(334, reply)?;
            let reply = self.command(Phase::Authenticate, &encoded(&credentials.user), &hidden("")).await?;
            self.expect(334, reply)?;
            self.command(Phase::Authenticate, &encoded(credentials.password.expose_secret()), &hidden("")).await?
        } else {
            return Err(self.failure(Fault::NoAuthentication));
        };
        self.expect(235, reply).map(drop)
    }

    async fn send(&mut self, mail: &Mail) -> Result<Reply, Failure> {
        self.begin(mail).await?;
        self.finish(mail).await
    }

    /// Names the sender. Until then the relay knows nothing of the mail.
    pub(super) async fn begin(&mut self, mail: &Mail) -> Result<(), Failure> {
        let sender = format!("MAIL FROM:<{}>", mail.from.envelope());
        let reply = self.command(Phase::Sender, &sender, &sender).await?;
        self.expect_success(reply).map(drop)
    }

    /// Sends the rest.
    pub(super) async fn finish(&mut self, mail: &Mail) -> Result<Reply, Failure> {
        let recipient = format!("RCPT TO:<{}>", mail.to.envelope());
        let reply = self.command(Phase::Recipient, &recipient, &recipient).await?;
        self.expect_success(reply)?;
        let reply = self.command(Phase::Data, "DATA", "DATA").await?;
        self.expect(354, reply)?;
        let content = stuffed(&mail.content);
        (self.listen)(Line::Event(&format!("{} bytes of content", content.len())));
        self.phase = Phase::Content;
        let by = self.by(self.relay.limits.command);
        self.write(&content, by).await?;
        let by = self.by(self.relay.limits.dot);
        let reply = self.command_by(Phase::Dot, ".", ".", by).await?;
        self.expect_success(reply)
    }

    /// Ends the conversation. Its outcome is known, so nothing that happens here matters.
    pub(super) async fn quit(mut self) {
        if self.has_surplus {
            return;
        }
        let (phase, by) = (self.phase, Instant::now() + QUIT_TIME);
        let _ = self.command_by(phase, "QUIT", "QUIT", by).await;
    }

    async fn command(&mut self, phase: Phase, line: &str, shown: &str) -> Result<Reply, Failure> {
        let by = self.by(self.relay.limits.command);
        self.command_by(phase, line, shown, by).await
    }

    /// Sends a command, and waits for its answer. `shown` is the command without secrets.
    async fn command_by(&mut self, phase: Phase, line: &str, shown: &str, by: Instant) -> Result<Reply, Failure> {
        self.expect_nothing(by).await?;
        self.phase = phase;
        (self.listen)(Line::Client(shown));
        let line = Zeroizing::new(format!("{line}\r\n"));
        self.write(line.as_bytes(), by).await?;
        self.answer(by).await
    }

    /// Fails if the server has sent something, or has closed the connection, although it is our turn. Such a server may have
    /// said why: `421` before it shuts down.
    async fn expect_nothing(&mut self, by: Instant) -> Result<(), Failure> {
        let mut early = [0; 512];
        let Some(read) = self.stream.read(&mut early).now_or_never() else { return Ok(()) };
        let fault = match read {
            Ok(0) => Fault::Closed,
            Ok(length) => self.unasked(early.get(..length).unwrap_or_default(), by).await,
            Err(error) => Fault::of_io(&error),
        };
        Err(self.failure(fault))
    }

    /// The fault behind a reply that was not asked for, which begins with `early`.
    async fn unasked(&mut self, early: &[u8], by: Instant) -> Fault {
        match timeout_at(by, self.read_reply(early)).await {
            Ok(Ok(reply)) if reply.is_refusal() => Fault::Refused(reply),
            Ok(Ok(_)) => Fault::Malformed(ReplyFault::Surplus),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::TimedOut,
        }
    }

    async fn write(&mut self, bytes: &[u8], by: Instant) -> Result<(), Failure> {
        let written = timeout_at(by, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        let fault = match written.await {
            Ok(Ok(())) => return Ok(()),
            // The server may have said why before it closed the connection.
            Ok(Err(_)) => match self.unasked(&[], by).await {
                Fault::Malformed(ReplyFault::Surplus) => Fault::Closed,
                fault => fault,
            },
            Err(_) => Fault::TimedOut,
        };
        Err(self.failure(fault))
    }

    async fn answer(&mut self, by: Instant) -> Result<Reply, Failure> {
        match timeout_at(by, self.read_reply(&[])).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(fault)) => Err(self.failure(fault)),
            Err(_) => Err(self.failure(Fault::TimedOut)),
        }
    }

    /// Reads one reply, which begins with `early`.
    async fn read_reply(&mut self, early: &[u8]) -> Result<Reply, Fault> {
        let mut reader = ReplyReader::default();
        let is_last = self.phase == Phase::Dot;
        let push = if is_last { ReplyReader::push_last } else { ReplyReader::push };
        let mut complete = push(&mut reader, early).map_err(Fault::Malformed)?;
        let mut bytes = [0; 1024];
        loop {
            if let Some(reply) = complete {
                self.has_surplus = reader.has_surplus();
                let reply = reply.map_lines(|line| self.relay.hide(line));
                self.announce(&reply);
                return Ok(reply);
            }
            let length = self.stream.read(&mut bytes).await.map_err(|error| Fault::of_io(&error))?;
            if length == 0 {
                return Err(Fault::Closed);
            }
            complete = push(&mut reader, bytes.get(..length).unwrap_or_default()).map_err(Fault::Malformed)?;
        }
    }

    fn announce(&self, reply: &Reply) {
        let last = reply.lines().len().saturating_sub(1);
        for (at, line) in reply.lines().iter().enumerate() {
            let separator = if at == last { ' ' } else { '-' };
            (self.listen)(Line::Server(&format!("{}{separator}{line}", reply.code())));
        }
    }

    fn expect(&self, code: u16, reply: Reply) -> Result<Reply, Failure> {
        self.checked(reply.code() == code, reply)
    }

    fn expect_success(&self, reply: Reply) -> Result<Reply, Failure> {
        self.checked(reply.is_success(), reply)
    }

    fn checked(&self, is_expected: bool, reply: Reply) -> Result<Reply, Failure> {
        match reply {
            reply if is_expected => Ok(reply),
            reply if reply.is_refusal() => Err(self.failure(Fault::Refused(reply))),
            reply => Err(self.failure(Fault::Unexpected(reply))),
        }
    }

    /// The deadline of a step that may take `limit`.
    fn by(&self, limit: Duration) -> Instant {
        self.ends_at.min(Instant::now() + limit)
    }

    fn failure(&self, fault: Fault) -> Failure {
        Failure::new(&self.relay.url, self.phase, fault)
    }
}

/// Says after a while why there may be no greeting.
async fn hint(listen: &(dyn Fn(Line<'_>) + Sync), after: Duration) -> Infallible {
    tokio::time::sleep(after).await;
    listen(Line::Event("no greeting yet; if this port begins with TLS, use smtps://"));
    std::future::pending().await
}

/// Connects to the first address of the relay that answers. Returns the addresses of both ends too.
async fn connect(relay: &Relay, ends_at: Instant) -> Result<(TcpStream, SocketAddr, SocketAddr), Fault> {
    let by = || ends_at.min(Instant::now() + relay.limits.connect);
    let found = timeout_at(by(), tokio::net::lookup_host((relay.url.host.as_str(), relay.url.port))).await;
    let found = found.map_err(|_| Fault::Unresolved("the name server did not answer in time".to_owned()))?;
    let addresses = found.map_err(|error| Fault::Unresolved(error.to_string()))?;
    let mut fault = Fault::Unresolved("none is of this machine".to_owned());
    for address in addresses {
        // Without TLS nothing may leave this machine, whatever the name server says of `localhost`.
        if relay.url.security == Security::Plain && !address.ip().to_canonical().is_loopback() {
            continue;
        }
        match timeout_at(by(), open_socket(address)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => fault = Fault::Unreachable(error.to_string()),
            Err(_) => fault = Fault::TimedOut,
        }
    }
    Err(fault)
}

async fn open_socket(address: SocketAddr) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (peer, own) = (stream.peer_addr()?, stream.local_addr()?);
    Ok((stream, peer, own))
}

/// An address as a host name for `EHLO` (RFC 5321, 4.1.3).
fn address_literal(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("[{}]", address.ip()),
        SocketAddr::V6(address) => format!("[IPv6:{}]", address.ip()),
    }
}

/// Returns whether the server offers an extension.
fn has(capabilities: &[String], extension: &str) -> bool {
    capabilities.iter().any(|line| line.split(' ').next() == Some(extension))
}

/// Returns whether the server offers a way to authenticate. Old servers write `AUTH=` for `AUTH `.
fn offers(capabilities: &[String], mechanism: &str) -> bool {
    let lines = capabilities.iter().filter_map(|line| line.strip_prefix("AUTH"));
    lines.flat_map(|rest| rest.split([' ', '='])).any(|offered| offered == mechanism)
}

/// The content as it is sent (RFC 5321, 4.5.2): every line ends with CRLF, so that no server sees another end of the content
/// than we do, and a line that begins with a dot gets another.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(content.len() + content.len() / 32 + 2);
    let mut is_at_start = true;
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    bytes.next_if_eq(&b'\n');
                }
                sent.extend_from_slice(b"\r\n");
            }
            b'.' if is_at_start => sent.extend_from_slice(b".."),
            byte => sent.push(byte),
        }
        is_at_start = matches!(byte, b'\r' | b'\n');
    }
    if !is_at_start {
        sent.extend_from_slice(b"\r\n");
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_content_is_taken_for_its_end() {
        for (content, sent) in [
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("a", "a\r\n"),
            (".", "..\r\n"),
            ("a\r\n.\r\nb", "a\r\n..\r\nb\r\n"),
            ("a\n.\nb", "a\r\n..\r\nb\r\n"),
            ("a\r.\rb", "a\r\n..\r\nb\r\n"),
            ("a\n.\r\nb", "a\r\n..\r\nb\r\n"),
            ("a\r\n.\nRCPT TO:<x@example.com>", "a\r\n..\r\nRCPT TO:<x@example.com>\r\n"),
            ("\n\n..a.b", "\r\n\r\n...a.b\r\n"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&stuffed(content.as_bytes())), sent, "{content:?}");
        }
    }

    #[test]
    fn old_and_new_ways_to_offer_authentication_are_understood() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(offers(&lines("SIZE 1000\nAUTH LOGIN PLAIN"), "PLAIN"));
        assert!(offers(&lines("AUTH=LOGIN PLAIN"), "LOGIN"));
        assert!(!offers(&lines("AUTH CRAM-MD5\nSIZE 1000"), "PLAIN"));
        assert!(has(&lines("SIZE 1000\nSTARTTLS"), "STARTTLS") && !has(&lines("XSTARTTLS"), "STARTTLS"));
    }
}
