//! An SMTP server that follows a script: it can refuse, stall, lie, and break off at every step.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::CertificateParams;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::certificates::Authority;

/// The host name in the certificate of the server. It resolves to this machine everywhere.
pub const HOST: &str = "localhost";

/// The user and the password that the server accepts.
pub const USER: &str = "latchkey";
pub const PASSWORD: &str = "relay c4nary pass";

/// A step of the conversation, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Greeting,
    Hello,
    StartTls,
    Auth,
    Mail,
    Recipient,
    Data,
    /// The beginning of the content has arrived.
    Content,
    /// The whole mail has arrived.
    Dot,
    Quit,
}

/// What the server does at a step instead of the right thing.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends these bytes as they are, and goes on.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Answers as it should, with these bytes in the same packet.
    Append(Vec<u8>),
    /// Is silent until the client gives up.
    Hang,
    /// Answers as it should once the test says so.
    Hold(Arc<Notify>),
    /// Sends these bytes one by one, more slowly than the client waits.
    Drip(Vec<u8>),
    /// Sends bytes without an end of line until the client gives up.
    Endless,
}

impl Act {
    /// A reply of one line.
    pub fn reply(line: &str) -> Act {
        Act::Send(format!("{line}\r\n").into_bytes())
    }

    /// A reply of one line, and the end of the connection.
    pub fn last_word(line: &str) -> Act {
        Act::SendAndClose(format!("{line}\r\n").into_bytes())
    }

    /// The end of the connection, without a word.
    pub fn close() -> Act {
        Act::SendAndClose(Vec::new())
    }
}

/// How the server speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// From the first byte.
    Implicit,
    /// After `STARTTLS`.
    Upgrade,
    /// Never.
    None,
}

/// What is wrong with the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Good,
    OfAnotherName,
    Expired,
    OfAnotherAuthority,
}

/// A mail that the server has accepted, or the part of it that has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    pub from: String,
    pub to: Vec<String>,
    pub content: String,
    /// Whether it came over TLS.
    pub is_private: bool,
    /// The user of `AUTH`.
    pub user: Option<String>,
}

type Script = Arc<dyn Fn(Step, &str) -> Option<Act> + Send + Sync>;

/// A running server, stopped when dropped.
pub struct SmtpServer {
    pub address: SocketAddr,
    /// The file of the CA that signed its certificate.
    pub ca: PathBuf,
    seen: Arc<Seen>,
    dir: TempDir,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    accepted: Mutex<Vec<Received>>,
    arrived: Mutex<Vec<Received>>,
    lines: Mutex<Vec<String>>,
    connections: Mutex<usize>,
    ended: Mutex<usize>,
}

#[derive(Clone)]
struct Server {
    script: Script,
    seen: Arc<Seen>,
    tls: Tls,
    acceptor: TlsAcceptor,
    offers: &'static str,
}

impl SmtpServer {
    /// A server that does everything right.
    pub async fn start(tls: Tls) -> SmtpServer {
        SmtpServer::scripted(tls, Certificate::Good, "AUTH PLAIN LOGIN", |_, _| None).await
    }

    /// A server that does one thing at one step, and everything else right.
    pub async fn with(tls: Tls, step: Step, act: Act) -> SmtpServer {
        let script = move |now: Step, _: &str| (now == step).then(|| act.clone());
        SmtpServer::scripted(tls, Certificate::Good, "AUTH PLAIN LOGIN", script).await
    }

    /// A server whose script decides by step and line. After `EHLO` it offers `offers`.
    pub async fn scripted(
        tls: Tls,
        certificate: Certificate,
        offers: &'static str,
        script: impl Fn(Step, &str) -> Option<Act> + Send + Sync + 'static,
    ) -> SmtpServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        SmtpServer::on(listener, tls, certificate, offers, Arc::new(script))
    }

    /// A server without TLS that does everything right, at an address where one has stopped.
    pub fn start_at(address: SocketAddr) -> SmtpServer {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("the port is free again");
        let listener = socket.listen(64).expect("a listener");
        SmtpServer::on(listener, Tls::None, Certificate::Good, "HELP", Arc::new(|_: Step, _: &str| None))
    }

    fn on(
        listener: TcpListener,
        tls: Tls,
        certificate: Certificate,
        offers: &'static str,
        script: Script,
    ) -> SmtpServer {
        let dir = tempfile::tempdir().expect("a directory");
        let (acceptor, ca) = acceptor(&dir, certificate);
        let address = listener.local_addr().expect("an address");
        let seen = Arc::<Seen>::default();
        let server = Server { script, seen: Arc::clone(&seen), tls, acceptor, offers };
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let server = server.clone();
                *server.seen.connections.lock().expect("a number") += 1;
                tokio::spawn(async move {
                    let seen = Arc::clone(&server.seen);
                    server.serve(stream).await;
                    *seen.ended.lock().expect("a number") += 1;
                });
            }
        });
        SmtpServer { address, ca, seen, dir, task }
    }

    /// Stops listening.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// The mails that the server has accepted.
    pub fn accepted(&self) -> Vec<Received> {
        self.seen.accepted.lock().expect("mails").clone()
    }

    /// The mails that have arrived as a whole, whether or not the server has accepted them.
    pub fn arrived(&self) -> Vec<Received> {
        self.seen.arrived.lock().expect("mails").clone()
    }

    /// Every line that the server has got outside of a mail.
    pub fn lines(&self) -> Vec<String> {
        self.seen.lines.lock().expect("lines").clone()
    }

    pub fn connections(&self) -> usize {
        *self.seen.connections.lock().expect("a number")
    }

    /// Waits until every connection has ended.
    pub async fn is_left(&self) {
        let left = async {
            while *self.seen.ended.lock().expect("a number") < self.connections() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), left).await.expect("a connection was kept");
    }

    /// A file with the password of the relay.
    pub fn password_file(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join("password");
        std::fs::write(&path, format!("{PASSWORD}\n")).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }

    /// The URL for `mail.smtp.url`, with the user if there is a password.
    pub fn url(&self, scheme: &str, user: Option<&str>) -> String {
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        format!("{scheme}://{user}{HOST}:{}", self.address.port())
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(dir: &TempDir, certificate: Certificate) -> (TlsAcceptor, PathBuf) {
    let (chain, key) = (dir.path().join("relay.pem"), dir.path().join("relay.key"));
    let trusted = Authority::new("the CA of the relay");
    let other = Authority::new("another CA");
    let ca = trusted.write(&dir.path().join("ca.pem"));
    let expire = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    match certificate {
        Certificate::Good => trusted.issue(&[HOST], &chain, &key),
        Certificate::OfAnotherName => trusted.issue(&["mail.example.org"], &chain, &key),
        Certificate::Expired => trusted.issue_with(&[HOST], &chain, &key, expire),
        Certificate::OfAnotherAuthority => other.issue(&[HOST], &chain, &key),
    }
    let chain = CertificateDer::pem_file_iter(&chain).expect("a file").collect::<Result<_, _>>().expect("a chain");
    let key = PrivateKeyDer::from_pem_file(&key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    (TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("a certificate"))), ca)
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The connection has ended, as far as the server is concerned.
struct Over;

/// One connection.
struct Talk {
    server: Server,
    stream: Option<Box<dyn Io>>,
    unread: Vec<u8>,
    mail: Received,
}

impl Server {
    async fn serve(self, stream: TcpStream) {
        let implicit = self.tls == Tls::Implicit;
        let mut talk =
            Talk { server: self, stream: Some(Box::new(stream)), unread: Vec::new(), mail: Received::default() };
        if implicit && talk.secure().await.is_err() {
            return;
        }
        // The client may hang up at any time.
        let _ = talk.run().await;
    }
}

impl Talk {
    async fn run(&mut self) -> Result<(), Over> {
        self.answer(Step::Greeting, "", "220 relay.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            self.server.seen.lines.lock().expect("lines").push(line.clone());
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb {
                "EHLO" => self.hello(&line).await?,
                "STARTTLS" => {
                    self.answer(Step::StartTls, &line, "220 go ahead").await?;
                    self.secure().await?;
                }
                "AUTH" => self.authenticate(&line, rest).await?,
                "MAIL" => {
                    rest.trim_start_matches("FROM:").clone_into(&mut self.mail.from);
                    self.answer(Step::Mail, &line, "250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    self.mail.to.push(rest.trim_start_matches("TO:").to_owned());
                    self.answer(Step::Recipient, &line, "250 2.1.5 ok").await?;
                }
                "DATA" => self.data(&line).await?,
                "QUIT" => {
                    self.answer(Step::Quit, &line, "221 2.0.0 bye").await?;
                    return Ok(());
                }
                _ => self.say("502 5.5.2 what?").await?,
            }
        }
    }

    async fn hello(&mut self, line: &str) -> Result<(), Over> {
        let offers_tls = self.server.tls == Tls::Upgrade && !self.mail.is_private;
        let tls = if offers_tls { "250-STARTTLS\r\n" } else { "" };
        let reply = format!("250-relay.example\r\n{tls}250-SIZE 1000000\r\n250 {}", self.server.offers);
        self.answer(Step::Hello, line, &reply).await
    }

    async fn authenticate(&mut self, line: &str, rest: &str) -> Result<(), Over> {
        let decoded = |text: &str| {
            let bytes = data_encoding::BASE64.decode(text.trim().as_bytes()).expect("base64");
            String::from_utf8(bytes).expect("text")
        };
        let (user, password) = if let Some((_, response)) = rest.split_once(' ') {
            let response = decoded(response);
            let mut parts = response.split('\0').skip(1);
            (parts.next().expect("a user").to_owned(), parts.next().expect("a password").to_owned())
        } else {
            self.say("334 VXNlcm5hbWU6").await?;
            let user = decoded(&self.line().await?);
            self.say("334 UGFzc3dvcmQ6").await?;
            (user, decoded(&self.line().await?))
        };
        if (user.as_str(), password.as_str()) == (USER, PASSWORD) {
            self.mail.user = Some(user);
            self.answer(Step::Auth, line, "235 2.7.0 welcome").await
        } else {
            self.answer(Step::Auth, line, "535 5.7.8 bad credentials").await
        }
    }

    async fn data(&mut self, line: &str) -> Result<(), Over> {
        self.answer(Step::Data, line, "354 go ahead").await?;
        if let Some(act) = (self.server.script)(Step::Content, &self.mail.to.concat()) {
            self.fill().await?;
            self.act(&act, "").await?;
        }
        let mut content = String::new();
        loop {
            let line = self.line().await?;
            if line == "." {
                break;
            }
            content.push_str(line.strip_prefix('.').unwrap_or(&line));
            content.push_str("\r\n");
        }
        self.mail.content = content;
        let recipients = self.mail.to.concat();
        self.server.seen.arrived.lock().expect("mails").push(self.mail.clone());
        let act = (self.server.script)(Step::Dot, &recipients);
        if matches!(act, None | Some(Act::Append(_) | Act::Hold(_))) {
            self.server.seen.accepted.lock().expect("mails").push(self.mail.clone());
        }
        let right = "250 2.0.0 queued as 4711";
        match act {
            Some(act) => self.act(&act, right).await?,
            None => self.say(right).await?,
        }
        (self.mail.from, self.mail.to) = (String::new(), Vec::new());
        Ok(())
    }

    /// Does what the script says, or else gives the right answer.
    async fn answer(&mut self, step: Step, line: &str, right: &str) -> Result<(), Over> {
        match (self.server.script)(step, line) {
            Some(act) => self.act(&act, right).await,
            None => self.say(right).await,
        }
    }

    async fn act(&mut self, act: &Act, right: &str) -> Result<(), Over> {
        match act {
            Act::Send(bytes) => self.write(bytes).await,
            Act::SendAndClose(bytes) => {
                self.write(bytes).await?;
                if let Some(mut stream) = self.stream.take() {
                    let _ = stream.shutdown().await;
                }
                Err(Over)
            }
            Act::Append(bytes) => self.write(&[right.as_bytes(), b"\r\n", bytes].concat()).await,
            Act::Hold(release) => {
                release.notified().await;
                self.say(right).await
            }
            Act::Hang => {
                // Ends when the client closes the connection.
                while self.fill().await.is_ok() {}
                Err(Over)
            }
            Act::Drip(bytes) => {
                for byte in bytes {
                    self.write(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(())
            }
            Act::Endless => loop {
                self.write(&[b'2'; 1024]).await?;
            },
        }
    }

    async fn say(&mut self, reply: &str) -> Result<(), Over> {
        self.write(format!("{reply}\r\n").as_bytes()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let stream = self.stream.as_mut().ok_or(Over)?;
        stream.write_all(bytes).await.map_err(|_| Over)?;
        stream.flush().await.map_err(|_| Over)
    }

    /// A line without its CRLF.
    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Over> {
        let mut bytes = [0; 4096];
        let length = self.stream.as_mut().ok_or(Over)?.read(&mut bytes).await.map_err(|_| Over)?;
        self.unread.extend_from_slice(&bytes[..length]);
        if length == 0 { Err(Over) } else { Ok(()) }
    }

    async fn secure(&mut self) -> Result<(), Over> {
        let stream = self.stream.take().ok_or(Over)?;
        self.stream = Some(Box::new(self.server.acceptor.accept(stream).await.map_err(|_| Over)?));
        self.mail.is_private = true;
        Ok(())
    }
}
