//! Group flush: one flush of the disk makes many commits durable.
//!
//! With `synchronous=FULL`, each commit of SQLite flushes its log while it holds the only writer, and every other writer waits.
//! With NORMAL it flushes only where the order of writes matters: before and after the log is moved to the file, and when the
//! log restarts. Here a separate thread flushes the log beside the writer, once for all commits that arrived in the meantime,
//! and no caller is told of a change before that. `docs/adr/0024-group-flush.md` explains why this is as durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{DbErr, RuntimeErr};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::file::DatabaseFile;
use crate::store::ANSWER_TIMEOUT;

/// The maximum number of commits that one flush confirms. Each belongs to a call that a lane admitted, or to a job. The next
/// flush confirms the rest.
const MAX_BATCH: usize = 1024;

/// How long a flush may take. A disk that takes longer may never respond; callers are then told that the result is unknown.
const FLUSH_TIMEOUT: Duration = ANSWER_TIMEOUT;

/// How often the thread compares the file while there is nothing to flush. A removed database is noticed this late.
const COMPARE_EVERY: Duration = Duration::from_millis(100);

/// Flushes the log of the embedded database on a separate thread.
#[derive(Debug)]
pub(super) struct Flusher {
    requests: mpsc::Sender<Request>,
    disk: Arc<Disk>,
}

/// The state of the disk.
#[derive(Debug, Default)]
struct Disk {
    has_failed: AtomicBool,
    /// When the flush in progress began.
    began: Mutex<Option<Instant>>,
}

impl Disk {
    /// Flushes, unless an earlier flush has failed. Returns whether everything is durable.
    fn flush(&self, flush: impl FnOnce() -> io::Result<()>) -> bool {
        if self.has_failed.load(Ordering::Acquire) {
            return false;
        }
        *self.began() = Some(Instant::now());
        let flushed = flush();
        *self.began() = None;
        if let Err(error) = &flushed {
            self.has_failed.store(true, Ordering::Release);
            tracing::error!(%error, "the log of the database could not be flushed to the disk; restart the server");
        }
        flushed.is_ok()
    }

    fn check(&self) -> Result<(), DbErr> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(failed());
        }
        match *self.began() {
            Some(began) if began.elapsed() > FLUSH_TIMEOUT => Err(timed_out()),
            _ => Ok(()),
        }
    }

    fn began(&self) -> MutexGuard<'_, Option<Instant>> {
        // A value is written completely or not at all, so a poisoned lock is harmless.
        self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for a flush. It is answered when everything committed before is durable, and dropped when it may not be.
type Request = oneshot::Sender<()>;

impl Flusher {
    /// Starts the thread for `log`, which belongs to `database`.
    pub(super) fn start(log: File, database: Arc<DatabaseFile>) -> io::Result<Flusher> {
        let (requests, queue) = mpsc::channel();
        let disk = Arc::new(Disk::default());
        let of_thread = Arc::clone(&disk);
        let work = move || serve(&queue, &of_thread, || log.sync_data(), || database.compare());
        std::thread::Builder::new().name("flush".to_owned()).spawn(work)?;
        Ok(Flusher { requests, disk })
    }

    /// Waits until everything committed so far is durable.
    pub(super) async fn flush(&self) -> Result<(), DbErr> {
        let (done, flushed) = oneshot::channel();
        // The thread ends only after this sender is dropped, so it receives the request.
        let _ = self.requests.send(done);
        match timeout(FLUSH_TIMEOUT, flushed).await {
            Ok(answer) => answer.map_err(|_| failed()),
            Err(_) => Err(timed_out()),
        }
    }

    /// Fails if a flush has failed, or is taking too long.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        self.disk.check()
    }
}

/// The path of the log of the database at `path`.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Flushes until the last [`Flusher`] is dropped. After a failed flush no request is answered any more: the system may have
/// dropped what it could not write, and the next flush would succeed without it.
fn serve(
    queue: &mpsc::Receiver<Request>,
    disk: &Disk,
    mut flush: impl FnMut() -> io::Result<()>,
    mut is_same_file: impl FnMut() -> bool,
) {
    loop {
        let first = match queue.recv_timeout(COMPARE_EVERY) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                is_same_file();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // A request that arrives after this line waits for the next flush: its commit may be too late for this one.
        let requests: Vec<Request> = std::iter::once(first).chain(queue.try_iter().take(MAX_BATCH - 1)).collect();
        let is_durable = disk.flush(&mut flush) && is_same_file();
        for request in requests.into_iter().filter(|_| is_durable) {
            // A caller that has gone needs no answer.
            let _ = request.send(());
        }
    }
}

fn failed() -> DbErr {
    let text = "the disk failed to make a change durable; look at the log of the system, and restart the server";
    DbErr::Conn(RuntimeErr::Internal(text.to_owned()))
}

fn timed_out() -> DbErr {
    let text = "the disk has not made a change durable in time; look at the log of the system";
    DbErr::Conn(RuntimeErr::Internal(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_failed_once_is_not_trusted_again() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let database = Arc::new(DatabaseFile::create(&dir.path().join("latchkey.db"))?);
        // A device that cannot be flushed.
        let flusher = Flusher::start(File::open("/dev/null")?, database)?;
        assert!(flusher.check().is_ok());
        assert!(flusher.flush().await.is_err());
        assert!(flusher.check().is_err());
        assert!(flusher.flush().await.is_err(), "it does not wait for ever");
        Ok(())
    }

    #[tokio::test]
    async fn no_commit_to_a_file_that_was_replaced_is_confirmed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("latchkey.db");
        let database = Arc::new(DatabaseFile::create(&path)?);
        let flusher = Flusher::start(File::create(log_of(&path))?, Arc::clone(&database))?;
        assert!(flusher.flush().await.is_ok() && database.check().is_ok());
        std::fs::remove_file(&path)?;
        assert!(flusher.flush().await.is_err() && database.check().is_err());
        Ok(())
    }

    #[test]
    fn one_flush_is_for_all_who_wait_and_after_one_that_failed_there_are_none() {
        let (requests, queue) = mpsc::channel();
        let mut answers: Vec<_> = (0..=MAX_BATCH)
            .map(|_| {
                let (done, answer) = oneshot::channel();
                assert!(requests.send(done).is_ok());
                answer
            })
            .collect();
        drop(requests);
        let (mut flushes, disk) = (0, Disk::default());
        let flush = || {
            flushes += 1;
            if flushes == 1 { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
        };
        serve(&queue, &disk, flush, || true);
        assert_eq!(flushes, 2);
        let last = answers.pop();
        assert!(answers.iter_mut().all(|answer| answer.try_recv().is_ok()));
        assert!(last.is_some_and(|mut last| last.try_recv().is_err()));
        assert!(disk.check().is_err());
    }

    #[test]
    fn a_disk_that_does_not_answer_is_not_waited_for_until_it_does() {
        let disk = Disk::default();
        let done = disk.flush(|| {
            assert!(disk.check().is_ok(), "it has only begun");
            *disk.began() = Instant::now().checked_sub(FLUSH_TIMEOUT * 2);
            assert!(disk.check().is_err());
            Ok(())
        });
        assert!(done && disk.check().is_ok(), "it has come back");
    }
}
