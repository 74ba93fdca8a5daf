//! What the database can do, as the last look at it found. Calls that need more fail at once and say why, instead of waiting for
//! a connection or a lock until their deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use sea_orm::{DbErr, RuntimeErr};
use tokio::time::Instant;

use crate::error::{Error, Outage, Result};

/// What the database can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// It answers and accepts changes.
    #[default]
    Usable,
    /// It answers but accepts no changes. The text is the cause.
    ReadOnly(String),
    /// It does not answer, or must not be read. The text is the cause.
    Away(String),
}

/// The condition of the database, and what the next look has to know.
#[derive(Debug, Default)]
pub(super) struct Watched {
    condition: RwLock<Condition>,
    /// When this process last committed. A database that has just taken a change need not be asked whether it takes one.
    committed_at: RwLock<Option<Instant>>,
    /// Whether the disk refused a change, and took none since. Then only a change that is really made shows that it takes one.
    disk_refused: AtomicBool,
}

impl Watched {
    /// Returns what the last look found.
    pub(super) fn condition(&self) -> Condition {
        self.condition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores what a look found.
    pub(super) fn set(&self, condition: Condition) {
        *self.condition.write().unwrap_or_else(PoisonError::into_inner) = condition;
    }

    /// Fails if the database is away.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        match &*self.condition.read().unwrap_or_else(PoisonError::into_inner) {
            Condition::Away(cause) => Err(DbErr::Conn(RuntimeErr::Internal(cause.clone()))),
            Condition::Usable | Condition::ReadOnly(_) => Ok(()),
        }
    }

    /// Fails if the database accepts no changes.
    pub(super) fn check_changes(&self) -> Result<()> {
        match self.condition() {
            Condition::Usable => Ok(()),
            Condition::ReadOnly(cause) => Err(Error::Unavailable(Outage::ReadOnly(cause.into()))),
            Condition::Away(cause) => Err(Error::Unavailable(Outage::Storage(cause.into()))),
        }
    }

    /// Notes a commit.
    pub(super) fn committed(&self) {
        *self.committed_at.write().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.disk_refused.store(false, Ordering::Relaxed);
    }

    /// Notes a change that the disk refused.
    pub(super) fn disk_refused(&self) {
        self.disk_refused.store(true, Ordering::Relaxed);
    }

    /// Returns whether the disk refused a change, and took none since.
    pub(super) fn doubts_disk(&self) -> bool {
        self.disk_refused.load(Ordering::Relaxed)
    }

    /// Returns whether the last change was made at most this long ago.
    pub(super) fn changed_within(&self, time: Duration) -> bool {
        let at = *self.committed_at.read().unwrap_or_else(PoisonError::into_inner);
        !self.doubts_disk() && at.is_some_and(|at| at.elapsed() <= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_on_while_only_changes_are_refused() {
        let watched = Watched::default();
        assert!(watched.check().is_ok() && watched.check_changes().is_ok());
        watched.set(Condition::ReadOnly("full".to_owned()));
        let refused = watched.check_changes();
        assert!(watched.check().is_ok());
        assert!(matches!(refused, Err(Error::Unavailable(Outage::ReadOnly(_)))), "{refused:?}");
        watched.set(Condition::Away("gone".to_owned()));
        let refused = watched.check_changes();
        assert!(watched.check().is_err());
        assert!(matches!(refused, Err(Error::Unavailable(Outage::Storage(_)))), "{refused:?}");
    }

    #[test]
    fn a_disk_that_refused_a_change_is_doubted_until_it_takes_one() {
        let watched = Watched::default();
        let long = Duration::from_mins(1);
        assert!(!watched.changed_within(long));
        watched.committed();
        assert!(watched.changed_within(long));
        watched.disk_refused();
        assert!(!watched.changed_within(long) && watched.doubts_disk());
        watched.committed();
        assert!(watched.changed_within(long) && !watched.doubts_disk());
    }
}
