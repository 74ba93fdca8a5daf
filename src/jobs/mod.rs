//! Background jobs. Each is a loop that ends when the server stops. A failure is logged, and the next tick tries again:
//! nothing relies on a job being on time.

pub mod breach_list;
pub mod outbox;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::error::{Error, Result};
use crate::mail;

/// How often ended throttles are written to the audit log.
const END_WAITS_EVERY: Duration = Duration::from_secs(5);
/// How often the rules of throttle and lockout are read that other replicas have changed.
const FOLLOW_RULES_EVERY: Duration = Duration::from_secs(1);
/// How often counts of events are written to the audit log.
const CLOSE_COUNTS_EVERY: Duration = Duration::from_secs(5);
/// How often keys of other replicas are loaded. New keys are published a day before they are used. Keys that an operator
/// has discarded are trusted until the next tick.
const TEND_KEYS_EVERY: Duration = Duration::from_secs(10);
/// How often the clock is compared with that of the database.
const CHECK_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// How often the length of the outbox is measured.
const MEASURE_OUTBOX_EVERY: Duration = Duration::from_secs(15);
/// How often users are told that their password will expire.
const WARN_EVERY: Duration = Duration::from_mins(1);
/// How often accounts are locked that are not used, and users told of it before. Each time reads all accounts.
const INACTIVITY_EVERY: Duration = Duration::from_mins(5);
/// How often rows and files that are no longer needed are deleted.
const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// How often the write-ahead log of SQLite is moved to the database file. When sign-ins keep both cores busy, some 300 pages
/// gather in between, which take some 5 ms to move.
const MOVE_LOG_EVERY: Duration = Duration::from_millis(100);

/// Starts all jobs. They end when `stop` is cancelled.
pub fn start(app: &Arc<App>, mail: Option<&Arc<mail::Transport>>, tracker: &TaskTracker, stop: &CancellationToken) {
    run("end-waits", END_WAITS_EVERY, app, tracker, stop, |app| async move { app.end_waits().await });
    run("follow-rules", FOLLOW_RULES_EVERY, app, tracker, stop, |app| async move { app.follow_other_replicas().await });
    run("close-counts", CLOSE_COUNTS_EVERY, app, tracker, stop, |app| async move { app.close_counts().await });
    run("tend-keys", TEND_KEYS_EVERY, app, tracker, stop, |app| async move { app.tend_keys().await });
    run("check-clock", CHECK_CLOCK_EVERY, app, tracker, stop, |app| async move { app.check_clock().await });
    run("move-log", MOVE_LOG_EVERY, app, tracker, stop, |app| async move { app.move_log().await });
    run("measure-outbox", MEASURE_OUTBOX_EVERY, app, tracker, stop, |app| async move { app.measure_outbox().await });
    run("warn-of-expiry", WARN_EVERY, app, tracker, stop, |app| async move { app.warn_of_expiry().await });
    run("inactivity", INACTIVITY_EVERY, app, tracker, stop, |app| async move {
        app.lock_inactive_accounts().await?;
        app.warn_of_inactivity().await
    });
    run("sweep", SWEEP_EVERY, app, tracker, stop, |app| async move { app.sweep().await });
    if let Some(mail) = mail.map(Arc::clone) {
        run("sweep-mail", SWEEP_EVERY, app, tracker, stop, move |app| {
            let mail = Arc::clone(&mail);
            async move { mail.sweep(app.environment.now()).await.map_err(Error::internal) }
        });
    }
}

/// How often requests for a link are looked for that other replicas stored.
const RESOLVE_EVERY: Duration = Duration::from_secs(1);

/// The longest pause before a request is resolved. Its length is random, so that the duration of the next call does not tell what
/// there was to do for this one.
const RESOLVE_WITHIN: Duration = Duration::from_millis(100);

/// Starts the job that resolves requests for a link. It ends when `stop` is cancelled.
pub fn resolve_requests(app: &Arc<App>, tracker: &TaskTracker, stop: &CancellationToken) {
    let (app, stop) = (Arc::clone(app), stop.clone());
    tracker.spawn(async move {
        loop {
            once("reset-requests", app.resolve_reset_requests()).await;
            let asked = async {
                app.reset_requested().await;
                let [random] = app.environment.bytes::<1>();
                tokio::time::sleep(RESOLVE_WITHIN.mul_f64(f64::from(random) / 255.0)).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = asked => {}
                () = tokio::time::sleep(RESOLVE_EVERY) => {}
            }
        }
    });
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
