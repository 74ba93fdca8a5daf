//! Connections whose statements have a deadline.
//!
//! The server's own limits end a slow statement. They do not help with a server that has stopped responding: a machine that
//! crashed, a network that drops packets. The driver sets no limit of its own, so this file does, and has the connections
//! replaced.

use std::future::Future;
use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement};
use sea_orm_migration::async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::ANSWER_TIMEOUT;
use super::condition::Watched;
use super::error::{commit_error, is_disk_failure, is_read_only};
use super::postgres::Doubt;
use super::sqlite::Files;

/// The deadline of statements.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deadline {
    /// Each statement has [`ANSWER_TIMEOUT`].
    Each,
    /// The whole transaction ends at this instant.
    At(Instant),
    /// No deadline: migrations, and filling a database.
    Never,
}

/// What is monitored to detect that the database is lost or replaced.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) kind: Kind,
    pub(super) watched: Arc<Watched>,
}

/// What is monitored of each kind of database.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Files, which may be removed or replaced, on a disk that may fail.
    Sqlite(Arc<Files>),
    /// A server, which may be lost or replaced.
    Postgres(Arc<Doubt>),
}

impl Backend {
    pub(super) fn of(kind: Kind) -> Backend {
        Backend { kind, watched: Arc::default() }
    }

    /// Waits until everything committed so far is durable. `PostgreSQL` confirms a commit only when it is durable.
    pub(super) async fn flush(&self) -> crate::error::Result<()> {
        failpoint!("store.flush");
        match &self.kind {
            Kind::Sqlite(files) => files.flush().await.map_err(commit_error),
            Kind::Postgres(_) => Ok(()),
        }
    }
}

/// A pool or a transaction whose statements have a deadline.
#[derive(Debug, Clone)]
pub struct Bounded<C> {
    pub(super) inner: C,
    pub(super) deadline: Deadline,
    pub(super) backend: Backend,
}

impl<C> Bounded<C> {
    /// Awaits one operation on the connection, until its deadline.
    pub(super) async fn run<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        run(self.deadline, &self.backend, work).await
    }
}

/// Awaits one operation until the deadline.
pub(super) async fn run<T>(
    deadline: Deadline,
    backend: &Backend,
    work: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    // A transaction that has begun has a connection, which tells better whether it works.
    if matches!(deadline, Deadline::Each) {
        backend.watched.check()?;
    }
    let doubt = match &backend.kind {
        // Dropping the future would not stop a disk operation, so there is no deadline.
        Kind::Sqlite(files) => {
            files.check()?;
            let done = work.await;
            if done.as_ref().is_err_and(is_disk_failure) {
                backend.watched.disk_refused();
            }
            return done;
        }
        Kind::Postgres(doubt) => doubt,
    };
    let deadline = match deadline {
        Deadline::Each => Instant::now() + ANSWER_TIMEOUT,
        Deadline::At(instant) => instant,
        Deadline::Never => return work.await,
    };
    let Ok(done) = timeout_at(deadline, work).await else {
        doubt.raise();
        return Err(DbErr::Conn(RuntimeErr::Internal("the database did not answer in time".to_owned())));
    };
    if done.as_ref().is_err_and(is_read_only) {
        doubt.raise();
    }
    done
}

#[async_trait]
impl<C: ConnectionTrait> ConnectionTrait for Bounded<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.run(self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.run(self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.run(self.inner.query_all_raw(statement)).await
    }
}
