//! Connections on which nothing waits for ever.
//!
//! The server's own limits end a slow statement. They do nothing about a server that is not heard from any more: a
//! machine that stopped, a network that drops packets. The driver sets no limit, so this file does, and has what was
//! opened before replaced.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement};
use sea_orm_migration::async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::error::{is_read_only, of_commit};
use super::file::OwnFile;
use super::flush::Flusher;
use super::postgres::Doubt;

/// How long a statement may take, the wait for a connection included, and how long a whole transaction. Longer than
/// the limits that the server is told, which say better what was slow, and shorter than the deadline of a sign-in,
/// 10 s.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Until when there must be an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deadline {
    /// Each statement is a call of its own.
    Each,
    /// The transaction ends at this instant.
    At(Instant),
    /// Nobody waits: migrations, filling a database.
    Never,
}

/// What shows that the database is still the one that was opened.
#[derive(Debug, Clone)]
pub(super) enum Watch {
    /// A file, which may be removed or replaced, and whose disk may fail.
    File(Arc<Files>),
    /// A server, which may be lost or replaced.
    Server(Arc<Doubt>),
}

/// The files of the embedded database.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) database: OwnFile,
    pub(super) flusher: Flusher,
}

impl Files {
    fn check(&self) -> Result<(), DbErr> {
        self.database.check()?;
        self.flusher.check()
    }
}

impl Watch {
    /// Waits until what was committed is durable. A server answers a commit only then.
    pub(super) async fn flush(&self) -> crate::error::Result<()> {
        failpoint!("store.flush");
        match self {
            Watch::File(files) => files.flusher.flush().await.map_err(of_commit),
            Watch::Server(_) => Ok(()),
        }
    }
}

/// A pool or a transaction whose statements end in time.
#[derive(Debug)]
pub struct Bounded<C> {
    pub(super) inner: C,
    pub(super) deadline: Deadline,
    pub(super) watch: Watch,
}

impl<C> Bounded<C> {
    /// Does one piece of work on the connection.
    pub(super) async fn run<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        run(self.deadline, &self.watch, work).await
    }
}

/// Does one piece of work before the deadline.
pub(super) async fn run<T>(
    deadline: Deadline,
    watch: &Watch,
    work: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let doubt = match watch {
        // A disk that does not answer cannot be left alone by dropping the future.
        Watch::File(files) => {
            files.check()?;
            return work.await;
        }
        Watch::Server(doubt) => doubt,
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
