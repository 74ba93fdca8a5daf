//! Takes up a new list of leaked passwords.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;

/// How often the file is looked at. A list is renewed every few weeks.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Starts the job. It looks at once when the returned value is notified, and ends when `stop` is cancelled.
pub fn start(app: &Arc<App>, tracker: &TaskTracker, stop: &CancellationToken) -> Arc<Notify> {
    let request = Arc::<Notify>::default();
    let (app, requested, stop) = (Arc::clone(app), Arc::clone(&request), stop.clone());
    tracker.spawn(async move {
        loop {
            let again = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = requested.notified() => true,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = super::once("breach-list", app.reload_breach_list(again)) => {}
            }
        }
    });
    request
}
