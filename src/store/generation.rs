//! What this process has committed so far, as numbers that only grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Generations {
    all: AtomicU64,
    failures: AtomicU64,
}

/// Moves the generations when it is dropped: whatever became of the commit, and of who waits for it.
pub(super) struct Moves {
    generations: Arc<Generations>,
    counts_failure: bool,
}

impl Generations {
    /// Moved by every commit.
    pub(super) fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    /// Moved by those that count a failure against a source.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// For a commit that begins.
    pub(super) fn moves(self: &Arc<Generations>, counts_failure: bool) -> Moves {
        Moves { generations: Arc::clone(self), counts_failure }
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.generations.all.fetch_add(1, Ordering::SeqCst);
        if self.counts_failure {
            self.generations.failures.fetch_add(1, Ordering::SeqCst);
        }
    }
}
