//! Requests and messages of the audit log.

use super::{Wrong, each, finish, instant, page, stamp};
use crate::app::ListEvents;
use crate::domain::audit::{Actor, EventFilter, EventType, Outcome, PartyName, RecordedEvent};
use crate::domain::horizon::{Horizon, KeptClass};
use crate::domain::id::EventId;
use crate::domain::reason::Reason;
use crate::domain::text::{TextFault, plain_text};
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of a request id in a filter, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

pub(in crate::grpc) fn list_events(message: v1::ListEventsRequest) -> Result<ListEvents> {
    let mut faults = Violations::new();
    let filter = filter(&mut faults, message.filter.unwrap_or_default());
    let page = page(&mut faults, message.page_size, message.page_token);
    finish(faults, || Some(ListEvents { filter: filter?, page: page? }))
}

fn filter(faults: &mut Violations, message: v1::EventFilter) -> Option<EventFilter> {
    let time = message.time.unwrap_or_default();
    let from = instant(faults, "filter.time.start_time", time.start_time);
    let until = instant(faults, "filter.time.end_time", time.end_time);
    if let (Some(Some(from)), Some(Some(until))) = (from, until)
        && until < from
    {
        faults.push("filter.time.end_time", Fault::Conflict, "must not be before start_time");
    }
    let kinds = each(faults, "filter.types", &message.types, 64, |number| kind_of(*number));
    let outcomes = each(faults, "filter.outcomes", &message.outcomes, 4, |number| outcome_of(*number));
    let actors = each(faults, "filter.actors", &message.actors, 100, |name| PartyName::parse(name));
    let targets = each(faults, "filter.targets", &message.targets, 100, |name| PartyName::parse(name));
    let request_id = faults.check("filter.request_id", text(message.request_id, MAX_REQUEST_ID_BYTES));
    Some(EventFilter {
        from: from?,
        until: until?,
        kinds: kinds?,
        outcomes: outcomes?,
        actors: actors?,
        targets: targets?,
        request_id: Some(request_id?).filter(|id| !id.is_empty()),
    })
}

/// Reads a text to search for. Stored values have no control characters, and one of the databases rejects a query with them.
fn text(text: String, max_bytes: usize) -> std::result::Result<String, TextFault> {
    plain_text(&text, max_bytes).map(|()| text)
}

pub(in crate::grpc) fn show_event(message: v1::GetEventRequest) -> Result<EventId> {
    let mut faults = Violations::new();
    let text = faults.require("event_id", (!message.event_id.is_empty()).then_some(message.event_id));
    let id = text.and_then(|text| faults.check("event_id", text.parse()));
    finish(faults, || id)
}

fn kind_of(number: i32) -> std::result::Result<EventType, Wrong> {
    let known = v1::EventType::try_from(number).map_err(|_| Wrong::Number)?;
    known.as_str_name().strip_prefix("EVENT_TYPE_").and_then(EventType::parse).ok_or(Wrong::Number)
}

fn outcome_of(number: i32) -> std::result::Result<Outcome, Wrong> {
    match v1::EventOutcome::try_from(number) {
        Ok(v1::EventOutcome::Succeeded) => Ok(Outcome::Succeeded),
        Ok(v1::EventOutcome::Failed) => Ok(Outcome::Failed),
        Ok(v1::EventOutcome::Denied) => Ok(Outcome::Denied),
        Ok(v1::EventOutcome::Unspecified) | Err(_) => Err(Wrong::Number),
    }
}

/// Converts an event to a message.
pub(in crate::grpc) fn event(event: RecordedEvent) -> v1::Event {
    // The domain and the contract use the same names for types and reasons; a test compares them.
    let kind = v1::EventType::from_str_name(&format!("EVENT_TYPE_{}", event.kind.as_str()));
    let reason = reason(event.reason);
    let outcome = match event.outcome {
        Outcome::Succeeded => v1::EventOutcome::Succeeded,
        Outcome::Failed => v1::EventOutcome::Failed,
        Outcome::Denied => v1::EventOutcome::Denied,
    };
    v1::Event {
        id: event.id.to_string(),
        time: Some(stamp(event.at)),
        r#type: kind.unwrap_or_default().into(),
        outcome: outcome.into(),
        reason: reason.into(),
        actor: Some(actor(event.actor)),
        target_user_id: event.target.user_id,
        target_username: event.target.username,
        subject_id: event.subject_id,
        changed_fields: event.changed_fields,
        note: event.note,
        details: event.details,
        method: event.method,
        request_id: event.request_id,
        client_request_id: event.client_request_id,
    }
}

/// Converts what is known of the deletion of events.
pub(in crate::grpc) fn horizon(horizon: Horizon) -> v1::EventHorizon {
    let class = match horizon.class {
        KeptClass::Operators => v1::EventClass::Administration,
        KeptClass::SignIns => v1::EventClass::SignIn,
        KeptClass::Strangers => v1::EventClass::Stranger,
    };
    v1::EventHorizon {
        class: class.into(),
        complete_since_time: horizon.complete_since.map(stamp),
        deletion_time: horizon.waits_until.map(stamp),
    }
}

/// Converts the reason of an event.
pub(super) fn reason(reason: Option<Reason>) -> v1::ErrorReason {
    let known = reason.and_then(|reason| v1::ErrorReason::from_str_name(&format!("ERROR_REASON_{}", reason.as_str())));
    known.unwrap_or_default()
}

fn actor(actor: Actor) -> v1::Actor {
    v1::Actor {
        principal_id: actor.principal_id,
        name: actor.name,
        session_id: actor.session_id,
        api_token_id: actor.api_token_id,
        app: actor.app,
        client_address: actor.client_address,
        user_agent: actor.user_agent,
    }
}
