//! Turns at hashing. An account and a source each have a few turns, so neither can fill the hashing queue; further attempts
//! wait here in the order of arrival. Waiting attempts poll neither the database nor the hasher.
//!
//! The lane of sign-ins (`grpc/lanes.rs`) limits how many attempts wait, and each waits a few seconds at most. The queue of
//! a key without attempts is removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::crypto::HashPermit;

/// How long an attempt may wait for all its turns together.
pub(super) const TURN_DEADLINE: Duration = Duration::from_secs(3);

/// The queues of all keys with attempts.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_key: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn of one attempt. Dropping it lets the next attempt go on.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: String,
    permit: Option<OwnedSemaphorePermit>,
}

/// What an attempt holds while it may hash: its turns, and the permit to hash. Dropping it lets other attempts go on.
pub(super) struct Admitted {
    /// When the attempt began to wait.
    pub(super) began: Instant,
    /// The permit to hash.
    pub(super) permit: HashPermit,
    /// The turns of the source and of the account.
    pub(super) _turns: [Option<Turn>; 2],
}

impl Turns {
    /// Waits for a turn, of which `key` has `share` at a time. Returns `None` if none is free before `deadline`.
    pub(super) async fn take(self: &Arc<Self>, key: String, share: usize, deadline: Duration) -> Option<Turn> {
        let queue = self.queue(&key, share);
        let permit = tokio::time::timeout(deadline, queue.acquire_owned()).await.ok()?.ok()?;
        Some(Turn { turns: Arc::clone(self), key, permit: Some(permit) })
    }

    fn queue(&self, key: &str, share: usize) -> Arc<Semaphore> {
        let mut queues = self.lock();
        if let Some(queue) = queues.get(key).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Arc::new(Semaphore::new(share));
        queues.insert(key.to_owned(), Arc::downgrade(&queue));
        queue
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Semaphore>>> {
        // A poisoned lock is safe to use: nothing can panic half-way through a change of the map.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut queues = self.turns.lock();
        if queues.get(&self.key).is_some_and(|queue| queue.strong_count() == 0) {
            queues.remove(&self.key);
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
    async fn as_many_go_on_as_the_share_permits_and_the_others_wait_for_them() {
        let turns = Arc::new(Turns::default());
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(turns.take("u:1".to_owned(), 4, LATE).await.unwrap());
        }
        assert!(turns.take("u:1".to_owned(), 4, SOON).await.is_none());
        assert!(turns.take("u:2".to_owned(), 4, SOON).await.is_some(), "another account does not wait");
        taken.pop();
        assert!(turns.take("u:1".to_owned(), 4, LATE).await.is_some());
    }

    #[tokio::test]
    async fn the_queue_of_a_key_without_attempts_is_removed() {
        let turns = Arc::new(Turns::default());
        let taken = turns.take("u:1".to_owned(), 4, LATE).await.unwrap();
        assert_eq!(turns.lock().len(), 1);
        drop(taken);
        assert_eq!(turns.lock().len(), 0);
    }
}
