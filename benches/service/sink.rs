//! A mail server that throws mail away, and the bare loop that sends it the same mails.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::Outcome;

/// How fast the sink takes mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Open,
    /// A connection gets no greeting until the pace is another.
    Held,
    /// After this time for each mail.
    Slow(Duration),
}

/// A mail as it came: the commands with sender and recipient, and the content with its final dot.
#[derive(Default)]
pub(crate) struct Mail {
    envelope: [Vec<u8>; 2],
    content: Vec<u8>,
}

/// A sink on a thread of its own, which ends with this process.
pub(crate) struct Sink {
    address: SocketAddr,
    pace: watch::Sender<Pace>,
    accepted: watch::Receiver<usize>,
    mails: Arc<Mutex<Vec<Mail>>>,
}

#[derive(Clone)]
struct Shared {
    pace: watch::Receiver<Pace>,
    accepted: Arc<watch::Sender<usize>>,
    mails: Arc<Mutex<Vec<Mail>>>,
}

impl Sink {
    /// Starts the sink.
    pub(crate) fn start() -> Outcome<Sink> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (pace, follow) = watch::channel(Pace::Open);
        let (count, accepted) = watch::channel(0);
        let mails = Arc::<Mutex<Vec<Mail>>>::default();
        let shared = Shared { pace: follow, accepted: Arc::new(count), mails: Arc::clone(&mails) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || LocalSet::new().block_on(&runtime, serve(listener, shared)));
        Ok(Sink { address, pace, accepted, mails })
    }

    /// The settings of a server whose relay is this sink. It sends no notices.
    pub(crate) fn settings(&self) -> Vec<String> {
        let relay = format!("mail.smtp.url=smtp://{}?tls=none", self.address);
        let links = "links.url=http://127.0.0.1:1/{purpose}?token={token}";
        let settings = [&relay, links, "mail.from=latchkey@example.com", "mail.notices=off"];
        settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting.to_owned()]).collect()
    }

    /// Sets how fast mail is taken.
    pub(crate) fn set(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// Mails accepted so far.
    pub(crate) fn count(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits until so many mails have been accepted.
    pub(crate) async fn wait_for(&self, count: usize) -> Outcome<()> {
        self.accepted.clone().wait_for(|accepted| *accepted >= count).await?;
        Ok(())
    }

    /// Returns the mails since the last call.
    pub(crate) fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.mails.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the mails over one connection, one after the other. Returns how many were accepted in a second. Blocks.
    #[expect(clippy::cast_precision_loss, reason = "some thousand mails")]
    pub(crate) fn bare_loop(&self, mails: &[Mail]) -> Outcome<f64> {
        let began = Instant::now();
        let mut stream = std::net::TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let mut replies = BufReader::new(stream.try_clone()?);
        let mut say = |line: &[u8], code: &str| -> Outcome<()> {
            stream.write_all(line)?;
            let mut reply = String::new();
            replies.read_line(&mut reply)?;
            if reply.starts_with(code) { Ok(()) } else { Err(format!("the sink said {reply}").into()) }
        };
        say(b"", "220")?;
        say(b"EHLO localhost\r\n", "250")?;
        for mail in mails {
            for command in &mail.envelope {
                say(command, "250")?;
            }
            say(b"DATA\r\n", "354")?;
            say(&mail.content, "250")?;
        }
        let rate = mails.len() as f64 / began.elapsed().as_secs_f64();
        say(b"QUIT\r\n", "221")?;
        Ok(rate)
    }
}

async fn serve(listener: std::net::TcpListener, shared: Shared) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut conversations = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A client that breaks off is no concern of the sink.
        let conversation = converse(stream, shared.clone());
        conversations.spawn_local(async move { drop(conversation.await) });
        while conversations.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, mut shared: Shared) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut stream = tokio::io::BufReader::new(stream);
    shared.pace.wait_for(|pace| *pace != Pace::Held).await?;
    stream.write_all(b"220 sink\r\n").await?;
    let (mut line, mut mail) = (Vec::new(), Mail::default());
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let [sender, recipient] = &mut mail.envelope;
        let reply: &[u8] = match line.get(..4).unwrap_or_default() {
            b"MAIL" => {
                sender.clone_from(&line);
                b"250 ok\r\n"
            }
            b"RCPT" => {
                recipient.clone_from(&line);
                b"250 ok\r\n"
            }
            b"DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                while !mail.content.ends_with(b"\r\n.\r\n") {
                    stream.read_until(b'\n', &mut mail.content).await?;
                }
                shared.take(std::mem::take(&mut mail)).await;
                b"250 ok\r\n"
            }
            b"QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply).await?;
    }
}

impl Shared {
    async fn take(&self, mail: Mail) {
        let pace = *self.pace.borrow();
        if let Pace::Slow(time) = pace {
            tokio::time::sleep(time).await;
        }
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        self.accepted.send_modify(|accepted| *accepted += 1);
    }
}
