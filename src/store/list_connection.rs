//! A connection for lists, and what interrupts its statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::DatabaseConnection;

/// A connection for lists.
#[derive(Clone)]
pub(super) struct ListConnection {
    /// `SQLite`: one connection. `PostgreSQL`: the pool that all calls share.
    pub(super) pool: DatabaseConnection,
    /// `SQLite`: interrupts the statement. `PostgreSQL` has `statement_timeout`.
    pub(super) interrupt: Option<Arc<Interrupt>>,
}

/// When statements on a connection to the embedded database are interrupted. `SQLite` asks after every thousand of its
/// instructions. A statement with fewer always ends.
pub(super) struct Interrupt {
    began: Instant,
    /// Milliseconds after `began`.
    at: AtomicU64,
}

impl Interrupt {
    /// An interrupt of all statements, as of a connection that is not in use.
    pub(super) fn new() -> Interrupt {
        Interrupt { began: Instant::now(), at: AtomicU64::new(0) }
    }

    /// Returns whether statements are interrupted now.
    pub(super) fn is_due(&self) -> bool {
        self.began.elapsed().as_millis() >= u128::from(self.at.load(Ordering::Acquire))
    }

    /// Interrupts statements after this time, or from now on if it is zero.
    pub(super) fn after(&self, time: Duration) {
        let at = if time.is_zero() { 0 } else { (self.began.elapsed() + time).as_millis() };
        self.at.store(u64::try_from(at).unwrap_or(u64::MAX), Ordering::Release);
    }
}
