//! Connections to the relay, which are kept while there is more to send. A connection is kept only after the relay has accepted a
//! mail on it; whatever else happens ends it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Mail;
use super::conversation::{Conversation, Kept, Line};
use super::failure::{Failure, Fault};
use super::relay::Relay;
use super::reply::Reply;

/// How long a connection is kept without a mail. Relays wait for minutes (RFC 5321, 4.5.3.2.7), firewalls less.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// The connections that are kept.
#[derive(Default)]
pub struct Connections(Mutex<Vec<(Kept, Instant)>>);

impl Connections {
    /// As [`deliver`](super::deliver), over a connection that is kept if there is one, and keeps it for the next mail.
    ///
    /// # Errors
    ///
    /// The phase in which the conversation broke, and why.
    pub(super) async fn deliver(&self, relay: &Relay, mail: &Mail) -> Result<Reply, Failure> {
        let mut conversation = self.begin(relay, mail).await?;
        let sent = conversation.finish(mail).await;
        match &sent {
            Ok(_) => self.lock().extend(conversation.keep().map(|kept| (kept, Instant::now()))),
            Err(failure) if failure.is_refusal() => conversation.quit().await,
            Err(_) => {}
        }
        sent
    }

    /// Begins a mail on a connection. One that was kept may have ended, or take no further mail: then another is opened.
    async fn begin<'a>(&self, relay: &'a Relay, mail: &Mail) -> Result<Conversation<'a>, Failure> {
        if let Some(kept) = self.take() {
            match begun(Conversation::resume(relay, &silence, kept), mail).await {
                // Another connection would be as slow, and the time of the attempt is limited.
                Err(failure) if failure.fault != Fault::TimedOut => {}
                begun => return begun,
            }
        }
        begun(Conversation::open(relay, &silence).await?, mail).await
    }

    /// Ends the connections that are kept.
    pub(super) async fn hang_up(&self, relay: &Relay) {
        let kept = std::mem::take(&mut *self.lock());
        join_all(kept.into_iter().map(|(kept, _)| Conversation::resume(relay, &silence, kept).quit())).await;
    }

    /// The connection that was used last.
    fn take(&self) -> Option<Kept> {
        let mut all = self.lock();
        all.retain(|(_, since)| since.elapsed() < KEPT_FOR);
        all.pop().map(|(kept, _)| kept)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Kept, Instant)>> {
        // A poisoned lock is safe to use: nothing can panic half-way through a change of the list.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn begun<'a>(mut conversation: Conversation<'a>, mail: &Mail) -> Result<Conversation<'a>, Failure> {
    match conversation.begin(mail).await {
        Ok(()) => Ok(conversation),
        Err(failure) => {
            if failure.is_refusal() {
                conversation.quit().await;
            }
            Err(failure)
        }
    }
}

/// The outbox shows no conversation.
fn silence(_: Line<'_>) {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::email::EmailAddress;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// A relay that takes every mail, on one connection after the other. Writes down each line that it gets outside of a mail.
    async fn relay(listener: TcpListener, lines: &Mutex<Vec<String>>) -> std::io::Result<()> {
        loop {
            let mut stream = BufReader::new(listener.accept().await?.0);
            stream.write_all(b"220 relay.example\r\n").await?;
            let (mut line, mut is_content) = (String::new(), false);
            while stream.read_line(&mut line).await? > 0 {
                let said = std::mem::take(&mut line);
                let said = said.trim_end();
                is_content &= said != ".";
                if is_content {
                    continue;
                }
                is_content = said == "DATA";
                stream.write_all(if is_content { b"354 go on\r\n" } else { b"250 2.0.0 ok\r\n" }).await?;
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(said.to_owned());
            }
        }
    }

    #[tokio::test]
    async fn a_connection_is_used_again_for_thirty_seconds_and_ended_politely() -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("smtp://{}?tls=none", listener.local_addr()?).parse()?;
        let target = Relay::load(url, None, None, Some("id.example".to_owned()))?;
        let address = EmailAddress::parse("ada@example.com")?;
        let mail =
            Mail { from: address.clone(), to: address, content: b"Subject: a\r\n".to_vec(), name: String::new() };
        let (connections, lines) = (Connections::default(), Mutex::default());
        let count = |verb: &str| {
            let lines: MutexGuard<'_, Vec<String>> = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().filter(|line| line.starts_with(verb)).count()
        };
        let conversation = async {
            for opened in [1, 1] {
                connections.deliver(&target, &mail).await?;
                assert_eq!(count("EHLO"), opened);
            }
            for (_, since) in connections.lock().iter_mut() {
                *since = since.checked_sub(KEPT_FOR).ok_or("this machine has just started")?;
            }
            connections.deliver(&target, &mail).await?;
            assert_eq!((count("EHLO"), count("MAIL"), connections.lock().len()), (2, 3, 1));
            connections.hang_up(&target).await;
            assert_eq!((count("QUIT"), connections.lock().len()), (1, 0));
            Outcome::Ok(())
        };
        tokio::select! {
            ended = relay(listener, &lines) => ended.map_err(Into::into),
            sent = conversation => sent,
        }
    }
}
