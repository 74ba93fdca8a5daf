//! Sends the messages of the outbox: leases those that are due, sends up to [`SLOTS`] at a time and up to [`SLOW_SLOTS`] slow
//! ones beside them, and writes down what each attempt met. One transaction marks what was sent and leases what comes next.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{App, DeliveryAttempt, LeasedMessage, OutboxRoom};
use crate::domain::delivery::{ATTEMPT_LIMIT, Attempted};
use crate::domain::id::DeliveryId;
use crate::mail::{Mailer, Outcome, Place};

/// Messages that this server sends at a time, without the slow ones.
const SLOTS: usize = 8;

/// Slow messages that it sends beside them: slow recipients must not hold up the others. A message is slow once its attempt has
/// lasted for a while. With those there are 24 connections at most, about half of what Postfix takes from one client.
const SLOW_SLOTS: usize = 16;

/// Those of the slow messages that were slow before they began: they leave places to messages that turn out to be slow.
const KNOWN_SLOW_SLOTS: usize = SLOW_SLOTS / 2;

/// How often the outbox is looked at for messages of other replicas, and for retries that are due.
const POLL: Duration = Duration::from_secs(1);

/// How long a stop waits for attempts under way. What is left is sent again by another worker.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Starts the worker. It ends when `stop` is cancelled. A warning names `mail_test`, the command that tries out mail.
pub fn start(
    app: &Arc<App>,
    mailer: Mailer,
    mail_test: String,
    slow_after: Duration,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut worker = Worker {
        app: Arc::clone(app),
        mailer: Arc::new(mailer),
        mail_test,
        slow_after,
        attempts: JoinSet::new(),
        sending: Vec::new(),
        sent: Vec::new(),
        relay_fails: false,
    };
    let stop = stop.clone();
    tracker.spawn(async move {
        loop {
            let has_more = worker.lease().await;
            if stop.is_cancelled() {
                break;
            }
            if !has_more {
                worker.rest().await;
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = worker.event() => {}
                }
            }
        }
        worker.finish().await;
    });
}

struct Worker {
    app: Arc<App>,
    mailer: Arc<Mailer>,
    /// The command that tries out mail with the configuration of this server.
    mail_test: String,
    slow_after: Duration,
    attempts: JoinSet<DeliveryAttempt>,
    /// The messages that are being sent.
    sending: Vec<Sending>,
    /// Attempts that have ended and are not written down yet.
    sent: Vec<DeliveryAttempt>,
    /// Whether the relay or the folder failed the last message that it failed or took.
    relay_fails: bool,
}

struct Sending {
    id: DeliveryId,
    began: Instant,
    /// Whether its last attempt was slow.
    was_slow: bool,
}

impl Worker {
    /// Writes down what was sent, and begins to send what is due. Returns whether there may be more at once.
    async fn lease(&mut self) -> bool {
        let free = self.free();
        if self.sent.is_empty() && (free == 0 || !self.is_due().await) {
            return false;
        }
        let ids = self.ids();
        let room = OutboxRoom { free, slow: KNOWN_SLOW_SLOTS.saturating_sub(self.slow()), sending: &ids };
        match self.app.record_and_claim(&self.sent, room).await {
            Ok(claimed) => {
                self.sent.clear();
                // Messages that were too late may have hidden others.
                let has_more = free > 0 && (claimed.leased.len() == free || !claimed.ended.is_empty());
                for leased in claimed.leased {
                    self.send(leased);
                }
                has_more && self.free() > 0
            }
            Err(error) => {
                warn(&error);
                false
            }
        }
    }

    /// How many more messages can be sent.
    fn free(&self) -> usize {
        free_slots(self.sending.len(), self.slow())
    }

    /// How many messages that are being sent are slow.
    fn slow(&self) -> usize {
        let is_slow = |sending: &&Sending| sending.was_slow || sending.began.elapsed() >= self.slow_after;
        self.sending.iter().filter(is_slow).count()
    }

    fn ids(&self) -> Vec<DeliveryId> {
        self.sending.iter().map(|sending| sending.id).collect()
    }

    async fn is_due(&self) -> bool {
        match self.app.is_message_due().await {
            Ok(is_due) => is_due,
            Err(error) => {
                warn(&error);
                false
            }
        }
    }

    fn send(&mut self, leased: LeasedMessage) {
        let began = Instant::now();
        self.sending.push(Sending { id: leased.delivery.id, began, was_slow: leased.is_slow });
        let (app, mailer, slow_after) = (Arc::clone(&self.app), Arc::clone(&self.mailer), self.slow_after);
        self.attempts.spawn(async move {
            let Outcome { attempted, words, relay_failure } = attempt(&app, &mailer, &leased).await;
            let (relay, is_slow) = (mailer.place().to_string(), began.elapsed() >= slow_after);
            DeliveryAttempt { leased, attempted, words, relay, is_slow, relay_failure }
        });
    }

    /// Ends the connections to the relay if nothing is sent any more.
    async fn rest(&self) {
        if self.sending.is_empty() {
            self.mailer.hang_up().await;
        }
    }

    /// Waits until an attempt has ended, a message was posted, or it is time to look.
    async fn event(&mut self) {
        // While an attempt could not be written down, the database is given time.
        let can_lease = self.free() > 0 && self.sent.is_empty();
        tokio::select! {
            Some(attempt) = self.attempts.join_next() => self.ended(attempt),
            () = self.app.message_posted(), if can_lease => {}
            () = sleep(POLL) => {}
        }
        while let Some(attempt) = self.attempts.try_join_next() {
            self.ended(attempt);
        }
    }

    fn ended(&mut self, attempt: Result<DeliveryAttempt, tokio::task::JoinError>) {
        // A task that panics is caught in `attempt`, so only a task that was aborted has no result.
        let Ok(attempt) = attempt else { return };
        self.sending.retain(|sending| sending.id != attempt.leased.delivery.id);
        self.log_change(&attempt);
        self.sent.push(attempt);
    }

    /// Logs that the relay or the folder begins to fail, or works again.
    fn log_change(&mut self, attempt: &DeliveryAttempt) {
        match (&attempt.relay_failure, attempt.attempted, self.relay_fails) {
            (Some(failure), _, false) => {
                self.relay_fails = true;
                self.warn_of(failure);
            }
            (None, Attempted::Accepted, true) => {
                self.relay_fails = false;
                tracing::info!("mail goes out again");
            }
            _ => {}
        }
    }

    fn warn_of(&self, failure: &str) {
        match self.mailer.place() {
            Place::Relay(_) => tracing::warn!(
                failure,
                "mail fails at the relay, and is tried again; `{}` explains the failure",
                self.mail_test
            ),
            Place::Folder(_) => tracing::warn!(
                failure,
                "mail cannot be written to its folder, and is tried again; check owner and mode of mail.dir, and the free space"
            ),
        }
    }

    /// Waits a while for attempts under way, and writes them down.
    async fn finish(&mut self) {
        let wait = async {
            while let Some(attempt) = self.attempts.join_next().await {
                self.ended(attempt);
            }
        };
        // What has not ended by then is leased again by another worker.
        let _ = timeout(STOP_WITHIN, wait).await;
        self.attempts.abort_all();
        let ids = self.ids();
        if !self.sent.is_empty()
            && let Err(error) =
                self.app.record_and_claim(&self.sent, OutboxRoom { free: 0, slow: 0, sending: &ids }).await
        {
            warn(&error);
        }
        self.mailer.hang_up().await;
    }
}

/// Sends one message. A panic fails the message, and holds up no other; the panic hook has logged its location.
async fn attempt(app: &App, mailer: &Mailer, leased: &LeasedMessage) -> Outcome {
    let Some(contents) = app.contents(leased) else {
        return Outcome::refused(
            "the message cannot be opened, because the keys were replaced; send it again".to_owned(),
        );
    };
    let send = AssertUnwindSafe(mailer.send(&leased.delivery, &contents)).catch_unwind();
    match timeout(ATTEMPT_LIMIT, send).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::refused("the message cannot be sent: internal error".to_owned()),
        Err(_) => {
            let words = "the attempt took too long".to_owned();
            Outcome { attempted: Attempted::Unknown, words, relay_failure: None }
        }
    }
}

/// How many more messages can be sent beside `sending`, of which `slow` are slow.
fn free_slots(sending: usize, slow: usize) -> usize {
    SLOTS.saturating_sub(sending - slow.min(SLOW_SLOTS))
}

/// Logs that the database was not available; the next event tries again.
fn warn(error: &crate::error::Error) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(job = "outbox", reason = error.reason().as_str(), source, "a job failed; it will be tried again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_messages_leave_their_places_up_to_a_bound() {
        for (sending, slow, free) in [(0, 0, 8), (8, 0, 0), (8, 3, 3), (8, 8, 8), (16, 16, 8), (23, 16, 1), (20, 20, 4)]
        {
            assert_eq!(free_slots(sending, slow), free, "{slow} of {sending}");
        }
        assert_eq!(free_slots(SLOTS + SLOW_SLOTS, SLOTS + SLOW_SLOTS), 0);
    }
}
