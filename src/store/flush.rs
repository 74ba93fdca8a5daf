//! One flush of the disk for all who wait for one.
//!
//! With `synchronous=FULL` each commit of SQLite flushes its log while it holds the only writer, and everybody else
//! waits. With NORMAL it does so only where the order of what is written matters: before and after the log is moved to
//! the file, and when it begins anew. Here the log is flushed beside the writer, once for all who have committed
//! meanwhile, and nobody is told of a change before. Why that is as durable: `docs/adr/0025-one-flush-for-many-commits.md`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::{DbErr, RuntimeErr};
use tokio::sync::{mpsc, oneshot};

/// For how many one flush is at most. Each of them is a call that a lane let in, or a job: on a fast machine more could
/// wait, and those beyond have the next flush.
const MOST: usize = 1024;

/// Flushes the log of the embedded database, on a thread of its own.
#[derive(Debug)]
pub(super) struct Flusher {
    waiting: mpsc::UnboundedSender<Waiting>,
    has_failed: Arc<AtomicBool>,
}

/// Somebody who has committed. No answer means that it may not be durable.
type Waiting = oneshot::Sender<()>;

impl Flusher {
    /// For the database at `path`, which is open: else it may have no log yet.
    pub(super) fn start(path: &Path) -> io::Result<Flusher> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Flusher::of(File::open(log)?)
    }

    /// For a log that is open, or what a test has instead.
    pub(super) fn of(log: File) -> io::Result<Flusher> {
        let (waiting, queue) = mpsc::unbounded_channel();
        let has_failed = Arc::new(AtomicBool::new(false));
        let failed = Arc::clone(&has_failed);
        let work = move || serve(queue, &failed, || log.sync_data());
        std::thread::Builder::new().name("flush".to_owned()).spawn(work)?;
        Ok(Flusher { waiting, has_failed })
    }

    /// Waits until everything that was committed before is durable.
    pub(super) async fn flush(&self) -> Result<(), DbErr> {
        let (done, flushed) = oneshot::channel();
        // The thread lives as long as this: it cannot be gone.
        let _ = self.waiting.send(done);
        flushed.await.map_err(|_| failed())
    }

    /// Whether the disk can still be trusted.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        if self.has_failed.load(Ordering::Acquire) { Err(failed()) } else { Ok(()) }
    }
}

/// Flushes for as long as somebody may wait. After a flush that failed nobody is answered any more: the system may have
/// dropped what it could not write, and the next flush would succeed without it.
fn serve(
    mut queue: mpsc::UnboundedReceiver<Waiting>,
    has_failed: &AtomicBool,
    mut flush: impl FnMut() -> io::Result<()>,
) {
    let mut waiting = Vec::new();
    // Whoever comes from here on waits for the next one: their commit may come too late for this one.
    while queue.blocking_recv_many(&mut waiting, MOST) > 0 {
        if !has_failed.load(Ordering::Acquire)
            && let Err(error) = flush()
        {
            has_failed.store(true, Ordering::Release);
            tracing::error!(%error, "the log of the database could not be flushed to the disk; restart the server");
        }
        let is_durable = !has_failed.load(Ordering::Acquire);
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
        let (mut flushes, has_failed) = (0, AtomicBool::new(false));
        serve(queue, &has_failed, || {
            flushes += 1;
            if flushes == 1 { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
        });
        assert_eq!(flushes, 2);
        let last = answers.pop();
        assert!(answers.iter_mut().all(|answer| answer.try_recv().is_ok()));
        assert!(last.is_some_and(|mut last| last.try_recv().is_err()));
        assert!(has_failed.into_inner());
    }
}
