//! Turns at an account. A few attempts at a time go on to the database; the others queue here, in the order in which
//! they came. Otherwise two hundred at one account, each asking the database every few milliseconds, would keep its
//! connections from everybody else.
//!
//! How many wait is bounded by the lane of sign-ins (`grpc/lanes.rs`), and each waits for a few seconds at most. Of an
//! account at which nobody tries any more nothing is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Attempts of one account at a time, on one replica. Enough to keep two hashing threads and the database busy.
const AT_ONCE: usize = 4;

/// The queues of all accounts at which somebody tries.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queues: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    account: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for a turn. None: it did not come in time.
    pub(super) async fn take(self: &Arc<Self>, account: String, deadline: Duration) -> Option<Turn> {
        let queue = self.queue(&account);
        let permit = tokio::time::timeout(deadline, queue.acquire_owned()).await.ok()?.ok()?;
        Some(Turn { turns: Arc::clone(self), account, permit: Some(permit) })
    }

    fn queue(&self, account: &str) -> Arc<Semaphore> {
        let mut queues = self.lock();
        if let Some(queue) = queues.get(account).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Arc::new(Semaphore::new(AT_ONCE));
        queues.insert(account.to_owned(), Arc::downgrade(&queue));
        queue
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Semaphore>>> {
        // Nothing under this lock can panic half-way through a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut queues = self.turns.lock();
        if queues.get(&self.account).is_some_and(|queue| queue.strong_count() == 0) {
            queues.remove(&self.account);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_few_go_on_and_the_others_wait_for_them() {
        let turns = Arc::new(Turns::default());
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE {
            taken.push(turns.take("u:1".to_owned(), LATE).await.unwrap());
        }
        assert!(turns.take("u:1".to_owned(), SOON).await.is_none());
        assert!(turns.take("u:2".to_owned(), SOON).await.is_some(), "another account does not wait");
        taken.pop();
        assert!(turns.take("u:1".to_owned(), LATE).await.is_some());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_an_account_at_which_nobody_tries() {
        let turns = Arc::new(Turns::default());
        let taken = turns.take("u:1".to_owned(), LATE).await.unwrap();
        assert_eq!(turns.lock().len(), 1);
        drop(taken);
        assert_eq!(turns.lock().len(), 0);
    }
}
