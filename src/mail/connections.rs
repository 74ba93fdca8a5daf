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
            Ok(_) => self.lock().push((conversation.keep(), Instant::now())),
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
