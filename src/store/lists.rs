//! Lists: the reads that a caller can make long.
//!
//! They have a few connections of their own, so that they never take one that a sign-in, a check of a token or a change needs,
//! and a time limit that interrupts the statement.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement,
    TransactionTrait,
};
use sea_orm_migration::async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::ANSWER_TIMEOUT;
use super::bounded::{self, Backend, Bounded, Deadline};
use super::error::is_interrupt;
use super::list_connection::ListConnection;
use super::transaction::connection;
use crate::error::{Error, Result};

/// The connections for lists.
pub(super) struct Lists {
    free: Arc<Mutex<Vec<ListConnection>>>,
    permits: Arc<Semaphore>,
    backend: Backend,
    pub(super) time_limit: Duration,
}

impl Lists {
    /// As many lists are read at a time as there are connections.
    pub(super) fn new(connections: Vec<ListConnection>, backend: Backend, time_limit: Duration) -> Lists {
        let permits = Arc::new(Semaphore::new(connections.len()));
        Lists { free: Arc::new(Mutex::new(connections)), permits, backend, time_limit }
    }

    /// Begins a list. Waits for a connection, in the order of arrival, until `give_up`; then returns `None`.
    pub(super) async fn reader(&self, give_up: tokio::time::Instant) -> Result<Option<ListReader>> {
        // Only this wait ends early: a BEGIN that is abandoned would leave a transaction open in the pool.
        let Ok(permit) = timeout_at(give_up, Arc::clone(&self.permits).acquire_owned()).await else { return Ok(None) };
        let permit = permit.map_err(Error::internal)?;
        let connection = lock(&self.free).pop().ok_or_else(|| Error::internal("a list has no connection"))?;
        let lease = Lease { connection, free: Arc::clone(&self.free), _permit: permit };
        let deadline = Deadline::At(tokio::time::Instant::now() + ANSWER_TIMEOUT);
        let inner = bounded::run(Deadline::Each, &self.backend, lease.connection.pool.begin()).await?;
        let connection = Bounded { inner, deadline, backend: self.backend.clone() };
        if let Some(interrupt) = &lease.connection.interrupt {
            interrupt.after(self.time_limit);
        } else {
            let limit = format!("SET LOCAL statement_timeout = {}", self.time_limit.as_millis().max(1));
            connection.execute_unprepared(&limit).await?;
        }
        let ends_at = Instant::now() + self.time_limit;
        Ok(Some(ListReader { connection, ends_at, was_interrupted: AtomicBool::new(false), _lease: lease }))
    }

    /// Closes all connections.
    pub(super) async fn close(&self) {
        let connections = std::mem::take(&mut *lock(&self.free));
        for connection in connections {
            // A connection that fails to close needs no further cleanup.
            let _ = connection.pool.close().await;
        }
    }
}

fn lock(free: &Mutex<Vec<ListConnection>>) -> MutexGuard<'_, Vec<ListConnection>> {
    // Nothing under this lock can panic half-way through a change.
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that is in use. Dropping it interrupts what still runs there, and lets the next list have it.
struct Lease {
    connection: ListConnection,
    free: Arc<Mutex<Vec<ListConnection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(interrupt) = &self.connection.interrupt {
            interrupt.after(Duration::ZERO);
        }
        lock(&self.free).push(self.connection.clone());
    }
}

/// Reads one list, in a transaction that changes nothing. All its statements together have the time limit; on `PostgreSQL` the
/// last one may begin just before it.
pub struct ListReader {
    // Dropped before the lease, so that the transaction has ended when another list gets the connection.
    connection: Bounded<DatabaseTransaction>,
    ends_at: Instant,
    was_interrupted: AtomicBool,
    _lease: Lease,
}

impl ListReader {
    /// Returns whether the time limit has stopped a statement.
    pub fn was_interrupted(&self) -> bool {
        self.was_interrupted.load(Ordering::Relaxed)
    }

    async fn send<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        let is_over = Instant::now() >= self.ends_at;
        let done = if is_over { Err(is_over_error()) } else { work.await };
        if is_over || done.as_ref().is_err_and(is_interrupt) {
            self.was_interrupted.store(true, Ordering::Relaxed);
        }
        done
    }
}

fn is_over_error() -> DbErr {
    DbErr::Query(RuntimeErr::Internal("the time limit of the list has passed".to_owned()))
}

connection!(ListReader, |this| this.connection, |work| this.send(work));
