//! Reading the audit log.

use super::App;
use crate::domain::audit::{EventFilter, Parties, PartyName, RecordedEvent};
use crate::domain::caller::Caller;
use crate::domain::id::{EventId, UserId};
use crate::domain::page::PageRequest;
use crate::domain::user::UserRef;
use crate::domain::username::Username;
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Resource, Result};
use crate::store::audit::{event_by_id, event_list, event_records_id, event_records_name};
use crate::store::users::user_id_by_ref;

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
    /// Lists events, newest first. Fails if no account and no event has one of the names in the filter: an empty list would be
    /// taken for an account without events.
    pub async fn list_events(&self, caller: &Caller, command: ListEvents) -> Result<EventPage> {
        let ListEvents { filter, page } = command;
        let after = self.cursor(caller, &filter, &page.token)?;
        let mut faults = Violations::new();
        let actors = self.parties(&mut faults, "filter.actors", &filter.actors).await?;
        let targets = self.parties(&mut faults, "filter.targets", &filter.targets).await?;
        faults.finish().map_err(Error::InvalidInput)?;
        let rows = event_list(self.store.reader(), &filter, &actors, &targets, after.as_ref(), page.size).await?;
        let next_page_token = self.page_token(caller, &filter, rows.next)?;
        Ok(EventPage { events: rows.rows, next_page_token })
    }

    async fn parties(&self, faults: &mut Violations, field: &str, names: &[PartyName]) -> Result<Parties> {
        let mut parties = Parties::default();
        for (index, name) in names.iter().enumerate() {
            let text = name.as_str();
            if let Some(id) = self.party_id(text).await? {
                parties.ids.push(id);
                continue;
            }
            match self.recorded_name(text).await? {
                Some(recorded) => parties.names.push(recorded),
                None => {
                    faults.push(format!("{field}[{index}]"), Fault::Unknown, "no account and no event has this name");
                }
            }
        }
        Ok(parties)
    }

    /// The name in events that a text is, or that it is with the addition for a local operator.
    async fn recorded_name(&self, text: &str) -> Result<Option<String>> {
        for name in [text.to_owned(), format!("{text} (local)")] {
            if event_records_name(self.store.reader(), &name).await? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The id that a text is, or that the account with this name has. An account that had the name before is another one, and an
    /// id cannot be hidden by an account that has it as its name.
    async fn party_id(&self, text: &str) -> Result<Option<String>> {
        let reader = self.store.reader();
        let of_account = match text.parse::<UserId>() {
            Ok(id) => user_id_by_ref(reader, &UserRef::Id(id)).await?.is_some(),
            Err(_) => false,
        };
        if of_account || event_records_id(reader, text).await? {
            return Ok(Some(text.to_owned()));
        }
        let Ok(username) = Username::parse(text) else { return Ok(None) };
        Ok(user_id_by_ref(reader, &UserRef::Username(username)).await?.map(|id| id.to_string()))
    }

    /// Reads one event.
    pub async fn show_event(&self, _caller: &Caller, id: EventId) -> Result<RecordedEvent> {
        let found = event_by_id(self.store.reader(), id).await?;
        found.ok_or(Error::NotFound { resource: Resource::Event, field: "event_id" })
    }
}
