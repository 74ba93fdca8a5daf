//! The list of leaked passwords: put to use at the start, and replaced when its file is.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::App;
use crate::breach_list::{BreachList, BreachLists, Reloaded};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::priority::lower_priority;

/// By what operators know a list of leaked passwords.
#[derive(Debug)]
pub struct BreachListInUse {
    /// The number of passwords.
    pub passwords: u64,
    /// The digest in hexadecimal digits.
    pub digest: String,
    /// When it was built.
    pub built_at: Timestamp,
    /// Why its file is not usable any more.
    pub problem: Option<String>,
}

impl App {
    /// Has passwords looked up in this list. Without it there is none.
    #[must_use]
    pub fn with_breach_lists(mut self, lists: Arc<BreachLists>) -> App {
        if let Some(list) = lists.current() {
            self.metrics.breach_list_used(list.header().keys);
        }
        self.breach_lists = lists;
        self
    }

    /// The list of leaked passwords in use, if one is configured.
    pub fn breach_list(&self) -> Option<Arc<BreachList>> {
        self.breach_lists.current()
    }

    /// Tells which list of leaked passwords is in use, if one is configured.
    pub fn breach_list_in_use(&self) -> Option<BreachListInUse> {
        let list = self.breach_list()?;
        let header = list.header();
        let built_at = Timestamp::from_micros(header.built_at.saturating_mul(1_000_000));
        let problem = self.breach_lists.problem();
        Some(BreachListInUse { passwords: header.keys, digest: header.digest_text(), built_at, problem })
    }

    /// Takes up a new file with leaked passwords, if there is one. A file that is not usable leaves the old list in use; it is
    /// reported once, or each time if `again`.
    pub async fn reload_breach_list(&self, again: bool) -> Result<()> {
        let lists = Arc::clone(&self.breach_lists);
        let (answer, looked) = oneshot::channel();
        // A new file is read to its end, which takes seconds.
        let look = move || {
            lower_priority();
            // The server may have stopped meanwhile.
            let _ = answer.send(lists.reload_if_changed(again));
        };
        let thread = std::thread::Builder::new().name("breach-list".to_owned()).spawn(look);
        thread.map_err(Error::internal)?;
        match looked.await.map_err(|_| Error::internal("the look at the list of leaked passwords panicked"))? {
            Reloaded::Unchanged => {}
            Reloaded::Taken(list) => {
                let header = list.header();
                self.metrics.breach_list_used(header.keys);
                self.metrics.breach_list_taken();
                tracing::info!(
                    keys = header.keys,
                    digest = header.digest_text(),
                    "the new list of leaked passwords is in use"
                );
            }
            Reloaded::Refused(error) => {
                self.metrics.breach_list_refused();
                tracing::error!(%error, "the new list of leaked passwords is not usable; the old list stays in use");
            }
        }
        Ok(())
    }
}
