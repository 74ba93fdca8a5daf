//! A queue for each account with attempts to sign in, or with lists to read. A few at a time go on to the database; the others
//! wait here in the order of arrival. Otherwise two hundred attempts at one account, each polling the database every few
//! milliseconds, would take up the database connections that other calls need.
//!
//! The lanes (`grpc/lanes.rs`) limit how many wait, and each waits a few seconds at most. The queue of an account without any is
//! removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many attempts to sign in to one account go on at a time, on one replica. Enough to keep two hashing threads and the
/// database busy.
pub(super) const ATTEMPTS_AT_ONCE: usize = 4;

/// The queues of all accounts with attempts.
#[derive(Debug)]
pub(super) struct AccountQueues {
    at_once: usize,
    by_account: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A slot for one attempt. Dropping it lets the next attempt go on.
#[derive(Debug)]
pub(super) struct Slot {
    queues: Arc<AccountQueues>,
    account: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl AccountQueues {
    /// Queues of which each lets this many go on at a time.
    pub(super) fn new(at_once: usize) -> Arc<AccountQueues> {
        Arc::new(AccountQueues { at_once, by_account: Mutex::default() })
    }

    /// Waits for a slot. Returns `None` if none is free before `deadline`.
    pub(super) async fn take(self: &Arc<Self>, account: String, deadline: Duration) -> Option<Slot> {
        let queue = self.queue(&account);
        let permit = tokio::time::timeout(deadline, queue.acquire_owned()).await.ok()?.ok()?;
        Some(Slot { queues: Arc::clone(self), account, permit: Some(permit) })
    }

    fn queue(&self, account: &str) -> Arc<Semaphore> {
        let mut queues = self.lock();
        if let Some(queue) = queues.get(account).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Arc::new(Semaphore::new(self.at_once));
        queues.insert(account.to_owned(), Arc::downgrade(&queue));
        queue
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Semaphore>>> {
        // A poisoned lock is safe to use: nothing can panic half-way through a change of the map.
        self.by_account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit = None;
        let mut queues = self.queues.lock();
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
        let queues = AccountQueues::new(2);
        let mut taken = Vec::new();
        for _ in 0..2 {
            taken.push(queues.take("u:1".to_owned(), LATE).await.unwrap());
        }
        assert!(queues.take("u:1".to_owned(), SOON).await.is_none());
        assert!(queues.take("u:2".to_owned(), SOON).await.is_some(), "another account does not wait");
        taken.pop();
        assert!(queues.take("u:1".to_owned(), LATE).await.is_some());
    }

    #[tokio::test]
    async fn the_queue_of_an_account_without_attempts_is_removed() {
        let queues = AccountQueues::new(2);
        let taken = queues.take("u:1".to_owned(), LATE).await.unwrap();
        assert_eq!(queues.lock().len(), 1);
        drop(taken);
        assert_eq!(queues.lock().len(), 0);
    }
}
