//! Background jobs. Each is a loop that ends when the server stops. A failure is logged, and the next tick tries again:
//! nothing relies on a job being on time.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::error::{Error, Result};

/// How often ended throttles are written to the audit log.
const END_WAITS_EVERY: Duration = Duration::from_secs(5);
/// How often counts of events are written to the audit log.
const CLOSE_COUNTS_EVERY: Duration = Duration::from_secs(5);
/// How often keys of other replicas are loaded. New keys are published a day before they are used. Keys that an operator
/// has discarded are trusted until the next tick.
const TEND_KEYS_EVERY: Duration = Duration::from_secs(10);
/// How often the clock is compared with that of the database.
const CHECK_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// How often rows that are no longer needed are deleted.
const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// How often the write-ahead log of SQLite is moved to the database file. When sign-ins keep both cores busy, some 300 pages
/// gather in between, which take some 5 ms to move.
const MOVE_LOG_EVERY: Duration = Duration::from_millis(100);

/// Starts all jobs. They end when `stop` is cancelled.
pub fn start(app: &Arc<App>, tracker: &TaskTracker, stop: &CancellationToken) {
    run("end-waits", END_WAITS_EVERY, app, tracker, stop, |app| async move { app.end_waits().await });
    run("close-counts", CLOSE_COUNTS_EVERY, app, tracker, stop, |app| async move { app.close_counts().await });
    run("tend-keys", TEND_KEYS_EVERY, app, tracker, stop, |app| async move { app.tend_keys().await });
    run("check-clock", CHECK_CLOCK_EVERY, app, tracker, stop, |app| async move { app.check_clock().await });
    run("move-log", MOVE_LOG_EVERY, app, tracker, stop, |app| async move { app.move_log().await });
    run("sweep", SWEEP_EVERY, app, tracker, stop, |app| async move { app.sweep().await });
}

fn run<F>(
    name: &'static str,
    every: Duration,
    app: &Arc<App>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
    work: impl Fn(Arc<App>) -> F + Send + 'static,
) where
    F: Future<Output = Result<()>> + Send,
{
    let (app, stop) = (Arc::clone(app), stop.clone());
    tracker.spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            once(name, work(Arc::clone(&app))).await;
        }
    });
}

/// Runs one tick. A panic ends neither the loop nor the server; the panic hook has logged its location.
async fn once(name: &'static str, work: impl Future<Output = Result<()>>) {
    let failed = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => Error::internal("the job panicked"),
    };
    let source = std::error::Error::source(&failed).map(ToString::to_string);
    tracing::warn!(job = name, reason = failed.reason().as_str(), source, "a job failed; it will be tried again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[expect(clippy::panic, reason = "that is what is tested")]
    async fn a_job_that_panics_is_tried_again() {
        for _ in 0..2 {
            once("odd", async { panic!("odd") }).await;
        }
    }
}
