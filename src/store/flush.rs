//! One flush of the disk for all who wait for one.
//!
//! With `synchronous=FULL` each commit of SQLite flushes its log while it holds the only writer, and everybody else
//! waits. With NORMAL it does so only where the order of what is written matters: before and after the log is moved to
//! the file, and when it begins anew. Here the log is flushed beside the writer, once for all who have committed
//! meanwhile, and nobody is told of a change before. Why that is as durable: `docs/adr/0025-one-flush-for-many-commits.md`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{DbErr, RuntimeErr};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::bounded::ANSWER_TIMEOUT;

/// For how many one flush is at most. Each of them is a call that a lane let in, or a job: on a fast machine more could
/// wait, and those beyond have the next flush.
const MOST: usize = 1024;

/// How long a flush may take. A disk that takes longer may never come back; who waits is told that nobody knows.
const LONGEST: Duration = ANSWER_TIMEOUT;

/// Flushes the log of the embedded database, on a thread of its own.
#[derive(Debug)]
pub(super) struct Flusher {
    waiting: mpsc::UnboundedSender<Waiting>,
    disk: Arc<Disk>,
}

/// How the disk does.
#[derive(Debug, Default)]
struct Disk {
    has_failed: AtomicBool,
    /// When the flush that is under way began.
    began: Mutex<Option<Instant>>,
}

impl Disk {
    /// Flushes, unless it has failed before. Answers whether all is durable.
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
            Some(began) if began.elapsed() > LONGEST => Err(late()),
            _ => Ok(()),
        }
    }

    fn began(&self) -> MutexGuard<'_, Option<Instant>> {
        // An instant is written whole or not at all.
        self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who has committed. No answer means that it may not be durable.
type Waiting = oneshot::Sender<()>;

impl Flusher {
    /// For the database at `path`, which is open: else it may have no log yet.
    pub(super) fn start(path: &Path) -> io::Result<Flusher> {
        Flusher::of(File::open(log_of(path))?)
    }

    /// For a log that is open, or what a test has instead.
    pub(super) fn of(log: File) -> io::Result<Flusher> {
        let (waiting, queue) = mpsc::unbounded_channel();
        let disk = Arc::new(Disk::default());
        let same = Arc::clone(&disk);
        let work = move || serve(queue, &same, || log.sync_data());
        std::thread::Builder::new().name("flush".to_owned()).spawn(work)?;
        Ok(Flusher { waiting, disk })
    }

    /// Waits until everything that was committed before is durable.
    pub(super) async fn flush(&self) -> Result<(), DbErr> {
        let (done, flushed) = oneshot::channel();
        // The thread lives as long as this: it cannot be gone.
        let _ = self.waiting.send(done);
        match timeout(LONGEST, flushed).await {
            Ok(answer) => answer.map_err(|_| failed()),
            Err(_) => Err(late()),
        }
    }

    /// Whether the disk can be trusted, and answers.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        self.disk.check()
    }
}

/// Where the log of the database at `path` is.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Flushes for as long as somebody may wait. After a flush that failed nobody is answered any more: the system may have
/// dropped what it could not write, and the next flush would succeed without it.
fn serve(mut queue: mpsc::UnboundedReceiver<Waiting>, disk: &Disk, mut flush: impl FnMut() -> io::Result<()>) {
    let mut waiting = Vec::new();
    // Whoever comes from here on waits for the next one: their commit may come too late for this one.
    while queue.blocking_recv_many(&mut waiting, MOST) > 0 {
        let is_durable = disk.flush(&mut flush);
        for done in waiting.drain(..).filter(|_| is_durable) {
            // Who has gone meanwhile needs no answer.
            let _ = done.send(());
        }
    }
}

fn failed() -> DbErr {
    let text = "the disk failed to make a change durable; look at the log of the system, and restart the server";
    DbErr::Conn(RuntimeErr::Internal(text.to_owned()))
}

fn late() -> DbErr {
    let text = "the disk has not made a change durable in time; look at the log of the system";
    DbErr::Conn(RuntimeErr::Internal(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_failed_once_is_not_trusted_again() -> io::Result<()> {
        // A device that cannot be flushed.
        let flusher = Flusher::of(File::open("/dev/null")?)?;
        assert!(flusher.check().is_ok());
        assert!(flusher.flush().await.is_err());
        assert!(flusher.check().is_err());
        assert!(flusher.flush().await.is_err(), "it does not wait for ever");
        Ok(())
    }

    #[test]
    fn one_flush_is_for_all_who_wait_and_after_one_that_failed_there_are_none() {
        let (waiting, queue) = mpsc::unbounded_channel();
        let mut answers: Vec<_> = (0..=MOST)
            .map(|_| {
                let (done, answer) = oneshot::channel();
                assert!(waiting.send(done).is_ok());
                answer
            })
            .collect();
        drop(waiting);
        let (mut flushes, disk) = (0, Disk::default());
        serve(queue, &disk, || {
            flushes += 1;
            if flushes == 1 { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
        });
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
            *disk.began() = Instant::now().checked_sub(LONGEST * 2);
            assert!(disk.check().is_err());
            Ok(())
        });
        assert!(done && disk.check().is_ok(), "it has come back");
    }
}
