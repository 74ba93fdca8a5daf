//! `latchkey users history`.

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::client::Client;
use crate::cli::commands::audit::{by, what};
use crate::cli::commands::mail::to;
use crate::cli::commands::may;
use crate::cli::error::Error;
use crate::cli::output::delivery::state;
use crate::cli::output::json;
use crate::cli::output::table::{Column, Layout, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant};
use crate::cli::output::words::{count, shell_word};
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{
    Delivery, Event, EventFilter, ListDeliveriesRequest, ListDeliveriesResponse, ListEventsRequest, ListEventsResponse,
    ListUserSessionsRequest, ListUserSessionsResponse, Session, User, UserRef,
};

const HELP: &str = "\
Leaves out what you may not read, and says so.

Examples:
  latchkey users history ada
  latchkey users history ada --limit 200 --output json";

/// Events, mail and sessions of a user, newest first.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct History {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// At most this many.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(i32).range(1..=500))]
    limit: i32,
}

/// What the server answered. `None` is what the caller may not read.
struct Found {
    events: Option<ListEventsResponse>,
    deliveries: Option<ListDeliveriesResponse>,
    sessions: Option<ListUserSessionsResponse>,
}

/// A line of the history.
struct Entry {
    at: Timestamp,
    what: Text,
    by: String,
    from: String,
    note: String,
}

impl History {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        if cli.client.is_showing() {
            let id = user_ref::text(&self.user).unwrap_or_default();
            cli.screen.verbatim(&cli.client.grpcurl(&self.events(id))?)?;
            cli.screen.verbatim(&cli.client.grpcurl(&self.deliveries(&self.user))?)?;
            return cli.screen.verbatim(&cli.client.grpcurl(&self.sessions(&self.user))?);
        }
        let user = cli.user(self.user.clone()).await?;
        let found = self.find(cli, &user).await?;
        if cli.screen.is_json() {
            return cli.screen.json(&found.to_json()?);
        }
        self.show(cli, &user, &found)
    }

    async fn find(&self, cli: &Cli, user: &User) -> Result<Found, Error> {
        let (scopes, by_id) = (cli.scopes().await, user_ref::of_id(&user.id));
        let mut found = Found { events: None, deliveries: None, sessions: None };
        if may(&scopes, "audit.read") {
            found.events = Some(cli.client.call(self.events(user.id.clone())).await?);
        }
        if may(&scopes, "deliveries.read") {
            found.deliveries = Some(cli.client.call(self.deliveries(&by_id)).await?);
        }
        if may(&scopes, "sessions.read") {
            found.sessions = Some(cli.client.call(self.sessions(&by_id)).await?);
        }
        Ok(found)
    }

    fn events(&self, target: String) -> ListEventsRequest {
        let filter = EventFilter { targets: vec![target], ..EventFilter::default() };
        ListEventsRequest { page_size: self.limit, filter: Some(filter), ..ListEventsRequest::default() }
    }

    fn deliveries(&self, user: &UserRef) -> ListDeliveriesRequest {
        ListDeliveriesRequest { page_size: self.limit, user: Some(user.clone()), ..ListDeliveriesRequest::default() }
    }

    fn sessions(&self, user: &UserRef) -> ListUserSessionsRequest {
        ListUserSessionsRequest {
            user: Some(user.clone()),
            page_size: self.limit,
            include_ended: true,
            ..ListUserSessionsRequest::default()
        }
    }

    fn show(&self, cli: &Cli, user: &User, found: &Found) -> Result<(), Error> {
        let clock = cli.screen.clock();
        let mut entries = found.entries(clock);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = entries.len() > limit || found.has_more();
        entries.truncate(limit);
        let amount = if entries.is_empty() { "nothing known".to_owned() } else { count(entries.len(), "entry") };
        let amount = amount.replace("entrys", "entries");
        cli.screen.table(table(entries, clock), &mut Layout::default())?;
        let more = if more { "; there are more: --limit" } else { "" };
        cli.screen
            .footer(&format!("{amount}{more}"), Some(&format!("latchkey users show {}", shell_word(&user.username))))?;
        match found.missing().as_slice() {
            [] => Ok(()),
            missing => {
                let (what, scopes): (Vec<&str>, Vec<&str>) = missing.iter().copied().unzip();
                cli.screen.caution(format!("left out: {}; it needs {}", what.join(", "), scopes.join(", ")))
            }
        }
    }
}

impl Found {
    /// What is left out, with the scope that it needs.
    fn missing(&self) -> Vec<(&'static str, &'static str)> {
        let parts = [
            (self.events.is_none(), ("events", "audit.read")),
            (self.deliveries.is_none(), ("mail", "deliveries.read")),
            (self.sessions.is_none(), ("sessions", "sessions.read")),
        ];
        parts.into_iter().filter(|(is_missing, _)| *is_missing).map(|(_, part)| part).collect()
    }

    fn has_more(&self) -> bool {
        let tokens = [
            self.events.as_ref().map(|answer| &answer.next_page_token),
            self.deliveries.as_ref().map(|answer| &answer.next_page_token),
            self.sessions.as_ref().map(|answer| &answer.next_page_token),
        ];
        tokens.into_iter().flatten().any(|token| !token.is_empty())
    }

    fn entries(&self, clock: &Clock) -> Vec<Entry> {
        let events = self.events.iter().flat_map(|answer| &answer.events).filter_map(|event| of_event(event, clock));
        let deliveries = self.deliveries.iter().flat_map(|answer| &answer.deliveries);
        let deliveries = deliveries.filter_map(|delivery| of_delivery(delivery, clock));
        let sessions = self.sessions.iter().flat_map(|answer| &answer.sessions).flat_map(of_session);
        events.chain(deliveries).chain(sessions).collect()
    }

    fn to_json(&self) -> Result<serde_json::Value, Error> {
        let events = self.events.as_ref().map(Client::reflected::<ListEventsRequest>).transpose()?;
        let deliveries = self.deliveries.as_ref().map(Client::reflected::<ListDeliveriesRequest>).transpose()?;
        let sessions = self.sessions.as_ref().map(Client::reflected::<ListUserSessionsRequest>).transpose()?;
        let part = |found: Option<prost_reflect::DynamicMessage>, name: &str| {
            let value = found.as_ref().map(json::value).transpose()?;
            // An empty list is left out of the JSON of a message.
            Ok::<_, Error>(value.map(|value| value.get(name).cloned().unwrap_or_else(|| json!([]))))
        };
        Ok(json!({
            "events": part(events, "events")?,
            "deliveries": part(deliveries, "deliveries")?,
            "sessions": part(sessions, "sessions")?,
        }))
    }
}

fn of_event(event: &Event, clock: &Clock) -> Option<Entry> {
    let actor = event.actor.clone().unwrap_or_default();
    Some(Entry {
        at: instant(event.time.as_ref())?,
        what: what(event, clock),
        by: by(&actor),
        from: actor.client_address,
        note: event.note.clone(),
    })
}

/// A message is an entry at the time of its last change.
fn of_delivery(delivery: &Delivery, clock: &Clock) -> Option<Entry> {
    Some(Entry {
        at: instant(delivery.update_time.as_ref().or(delivery.create_time.as_ref()))?,
        what: state(delivery, clock).and(Tone::Plain, format!(": mail, {}", to(delivery))),
        by: String::new(),
        from: String::new(),
        note: delivery.last_error.clone(),
    })
}

/// The beginning of a session, and its end if it was ended.
fn of_session(session: &Session) -> Vec<Entry> {
    let name = if session.client_name.is_empty() { &session.app } else { &session.client_name };
    let entry = |at: Option<&prost_types::Timestamp>, mark: &str, words: &str| {
        Some(Entry {
            at: instant(at)?,
            what: Text::toned(Tone::Dim, mark).and(Tone::Plain, words),
            by: String::new(),
            from: session.client_address.clone(),
            note: name.clone(),
        })
    };
    let began = entry(session.create_time.as_ref(), "● ", "session began");
    began.into_iter().chain(entry(session.end_time.as_ref(), "○ ", "session ended")).collect()
}

fn table(entries: Vec<Entry>, clock: &Clock) -> Table {
    let mut table = Table::new(&[
        Column::fixed("TIME"),
        Column::wrapped("WHAT"),
        Column::fixed("BY").left_out(3),
        Column::fixed("FROM").left_out(1),
        Column::note("NOTE").left_out(2),
    ]);
    for entry in entries {
        table.row([
            clock.to_the_second(entry.at).into(),
            entry.what,
            entry.by.into(),
            entry.from.into(),
            entry.note.into(),
        ]);
    }
    table
}
