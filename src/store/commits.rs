//! Counters of what this process has committed so far.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Commits {
    all: AtomicU64,
    failures: AtomicU64,
}

/// A commit under way. Dropping it advances the counters, whatever the result of the commit and even if its caller has
/// gone.
pub(super) struct Commit {
    commits: Arc<Commits>,
    counts_failure: bool,
}

impl Commits {
    /// The number of all commits.
    pub(super) fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    /// The number of commits that count a failure against a source.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    pub(super) fn begin(self: &Arc<Commits>, counts_failure: bool) -> Commit {
        Commit { commits: Arc::clone(self), counts_failure }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.commits.all.fetch_add(1, Ordering::SeqCst);
        if self.counts_failure {
            self.commits.failures.fetch_add(1, Ordering::SeqCst);
        }
    }
}
