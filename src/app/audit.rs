//! Reading the audit log.

use super::App;
use crate::domain::audit::{EventFilter, RecordedEvent};
use crate::domain::caller::Caller;
use crate::domain::id::EventId;
use crate::domain::page::PageRequest;
use crate::error::{Error, Resource, Result};
use crate::store::audit::{event_by_id, event_list};

/// A command to list events.
#[derive(Debug)]
pub struct ListEvents {
    /// Selects the events.
    pub filter: EventFilter,
    /// The page to return.
    pub page: PageRequest,
}

/// One page of events, newest first.
#[derive(Debug)]
pub struct EventPage {
    /// The rows of the page.
    pub events: Vec<RecordedEvent>,
    /// The token of the next page. Empty on the last page.
    pub next_page_token: String,
}

impl App {
    /// Lists events, newest first.
    pub async fn list_events(&self, caller: &Caller, command: ListEvents) -> Result<EventPage> {
        let ListEvents { filter, page } = command;
        let after = self.cursor(caller, &filter, &page.token)?;
        let rows = event_list(self.store.reader(), &filter, after.as_ref(), page.size).await?;
        let next_page_token = self.page_token(caller, &filter, rows.next)?;
        Ok(EventPage { events: rows.rows, next_page_token })
    }

    /// Reads one event.
    pub async fn show_event(&self, _caller: &Caller, id: EventId) -> Result<RecordedEvent> {
        let found = event_by_id(self.store.reader(), id).await?;
        found.ok_or(Error::NotFound { resource: Resource::Event, field: "event_id" })
    }
}
