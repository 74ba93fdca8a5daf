//! Events that a caller can cause without end: of each kind, the first in a minute is recorded at once, and the others as one
//! event with their count when the minute is over. All replicas count together.

use std::time::Duration;

use super::App;
use crate::domain::audit::{Actor, RecordedEvent, Target};
use crate::domain::id::EventId;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::store::WriteTx;
use crate::store::audit::{event_by_id, event_insert};
use crate::store::event_counts::{Counted, event_count_add, event_count_close};

/// The detail of events that are counted by network: the network. Callers from all of its addresses are counted together.
pub(super) const NETWORK: &str = "network";

impl App {
    /// Records the first event of this kind in a minute, and counts the others.
    pub(super) async fn count_event(&self, tx: &WriteTx, kind: &str, mut event: RecordedEvent) -> Result<()> {
        let mut events = Vec::new();
        if let Some(counted) = event_count_close(tx, kind, event.at).await? {
            events.extend(self.closing_event(tx, counted, event.at).await?);
        }
        if event_count_add(tx, kind, event.id, event.at).await? {
            event.at = event.at.saturating_add(Duration::from_micros(events.len() as u64));
            events.push(event);
        }
        if events.is_empty() { Ok(()) } else { event_insert(tx, events).await }
    }

    /// The event for all of a kind but the first. Returns `None` if there were no others. It is like the first, without what
    /// may differ between them.
    pub(super) async fn closing_event(
        &self,
        tx: &WriteTx,
        counted: Counted,
        now: Timestamp,
    ) -> Result<Option<RecordedEvent>> {
        if counted.others == 0 {
            return Ok(None);
        }
        let Ok(id) = counted.first.parse() else { return Ok(None) };
        let first = match event_by_id(tx, id).await {
            Ok(Some(first)) => first,
            Ok(None) | Err(Error::Corrupt { .. }) => {
                tracing::warn!(
                    event = counted.first,
                    count = counted.others,
                    "events were counted whose first is lost"
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut details = vec![("count", counted.others.to_string()), ("lastTime", counted.last_at.to_string())];
        let mut actor = first.actor;
        if let Some((_, network)) = first.details.into_iter().find(|(name, _)| name == NETWORK) {
            details.push((NETWORK, network));
            // The others came from other addresses, or were other users.
            actor = Actor::default();
        }
        Ok(Some(RecordedEvent {
            id: EventId::from_bytes(self.environment.bytes()),
            at: now,
            actor,
            target: Target::default(),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            request_id: String::new(),
            client_request_id: String::new(),
            ..first
        }))
    }
}
