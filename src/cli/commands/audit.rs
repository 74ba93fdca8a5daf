//! `latchkey audit`: reads the audit log.

use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::cli::args::{Paging, enum_parser};
use crate::cli::contract::enum_words;
use crate::cli::error::Error;
use crate::cli::output::table::{Column, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant, stamp};
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::user_ref::Ref;
use crate::proto::v1::{
    Actor, Event, EventClass, EventFilter, EventHorizon, EventOutcome, EventType, GetUserRequest, ListEventsRequest,
    ListEventsResponse, TimeRange, UserRef,
};

const GROUP_HELP: &str = "\
Examples:
  latchkey audit list --user ada --since 2h";

/// Read the audit log.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Audit {
    List(List),
}

impl Audit {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Audit::List(list) => list.run(cli).await,
        }
    }
}

const HELP: &str = "\
Examples:
  latchkey audit list --user ada --since 2h
  latchkey audit list --failed --since 2026-11-01
  latchkey audit list --actor root --type user-locked --all -o json";

/// List events, newest first.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct List {
    /// Done to this user.
    #[arg(long, value_parser = user_ref::parse)]
    user: Option<UserRef>,
    /// Done by this user.
    #[arg(long, value_name = "USER", value_parser = user_ref::parse)]
    actor: Option<UserRef>,
    /// Of this type, such as user-locked; `--type help` names all.
    #[arg(long = "type", value_name = "TYPE", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.EventType", "EVENT_TYPE_"))]
    types: Vec<i32>,
    /// Not older than this: 2h, 08:00, yesterday, monday, 2026-11-01, "2026-11-01 08:00", or RFC 3339.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what failed or was denied.
    #[arg(long)]
    failed: bool,
    /// In the course of this request: the id in the answer, or the client's own.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request: String,
    #[command(flatten)]
    paging: Paging,
}

impl List {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let clock = cli.screen.clock();
        let since = self.since.as_deref().map(|text| clock.parse_past(text));
        let since = since.transpose().map_err(|fault| Error::usage(format!("--since: {fault}")))?;
        let filter = self.filter(cli, since).await?;
        let page_size = self.paging.page_size();
        let request = ListEventsRequest { page_size, filter: Some(filter), ..ListEventsRequest::default() };
        let mut horizons = Vec::new();
        let page = async |answer: &ListEventsResponse| {
            horizons.clone_from(&answer.horizons);
            table(&answer.events, clock)
        };
        let listed = cli.pages(&self.paging, request, page).await?;
        cli.list_footer(&listed, "event", None)?;
        let deleted = deleted(&horizons, since, clock);
        if cli.screen.is_json() || listed.more || deleted.is_empty() {
            return Ok(());
        }
        cli.screen.caution(format!("older events were deleted: {}", deleted.join(", ")))
    }

    async fn filter(&self, cli: &Cli, since: Option<Timestamp>) -> Result<EventFilter, Error> {
        let outcomes = if self.failed { vec![EventOutcome::Failed, EventOutcome::Denied] } else { Vec::new() };
        Ok(EventFilter {
            time: since.map(|at| TimeRange { start_time: Some(stamp(at)), end_time: None }),
            types: self.types.clone(),
            outcomes: outcomes.into_iter().map(i32::from).collect(),
            actors: name_or_id(cli, self.actor.as_ref()).await?.into_iter().collect(),
            targets: name_or_id(cli, self.user.as_ref()).await?.into_iter().collect(),
            request_id: self.request.clone(),
        })
    }
}

/// `strangers before 2026-10-30 08:14`, for each class of events that a list since `since` may lack.
fn deleted(horizons: &[EventHorizon], since: Option<Timestamp>, clock: &Clock) -> Vec<String> {
    let lacking = horizons.iter().filter_map(|horizon| {
        let complete_since = instant(horizon.complete_since_time.as_ref())?;
        let is_lacking = since.is_none_or(|since| since < complete_since);
        is_lacking.then(|| format!("{} before {}", class_words(horizon.class()), clock.full(complete_since)))
    });
    lacking.collect()
}

/// What is kept equally long: `strangers`.
pub(super) fn class_words(class: EventClass) -> &'static str {
    match class {
        EventClass::Administration => "operators",
        EventClass::SignIn => "sign-ins",
        EventClass::Stranger => "strangers",
        EventClass::Unspecified => "other kinds",
    }
}

/// The id or the username of a user. Events contain only these, so a user given by address or external id is looked up.
async fn name_or_id(cli: &Cli, user: Option<&UserRef>) -> Result<Option<String>, Error> {
    match user.and_then(|user| user.r#ref.as_ref()) {
        None => Ok(None),
        Some(Ref::Id(text) | Ref::Username(text)) => Ok(Some(text.clone())),
        Some(Ref::Email(_) | Ref::ExternalId(_)) => {
            let answer = cli.client.call(GetUserRequest { user: user.cloned() }).await?;
            Ok(answer.user.map(|user| user.id))
        }
    }
}

fn table(events: &[Event], clock: &Clock) -> Table {
    let mut table = Table::new(&[
        Column::fixed("TIME"),
        Column::wrapped("EVENT"),
        Column::fixed("USER"),
        Column::fixed("BY").left_out(3),
        Column::fixed("FROM").left_out(1),
        Column::note("NOTE").left_out(2),
    ]);
    for event in events {
        let actor = event.actor.clone().unwrap_or_default();
        table.row([
            instant(event.time.as_ref()).map(|at| clock.to_the_second(at)).unwrap_or_default().into(),
            what(event, clock),
            or(&event.target_username, &event.target_user_id).into(),
            by(&actor).into(),
            actor.client_address.as_str().into(),
            event.note.as_str().into(),
        ]);
    }
    table
}

/// `✔ user locked`, `✖ sign in failed: password wrong`, `✖ access denied: scope missing, 39 more within a minute`.
pub(super) fn what(event: &Event, clock: &Clock) -> Text {
    let kind = match event.r#type() {
        EventType::Unspecified => format!("type {}", event.r#type),
        EventType::SignInSucceeded if is_step(event, "SECOND_FACTOR") => "password right, code outstanding".to_owned(),
        EventType::SecondFactorFailed => "wrong code".to_owned(),
        EventType::TotpEnrolled if event.details.get("replaced").is_some_and(|replaced| replaced == "true") => {
            "authenticator replaced".to_owned()
        }
        EventType::TotpEnrolled => "authenticator set up".to_owned(),
        EventType::TotpDisabled => "authenticator removed".to_owned(),
        // The password was right, but the user is signed in only after changing it.
        EventType::SignInSucceeded if is_step(event, "PASSWORD_CHANGE") => "password right, must be changed".to_owned(),
        EventType::PasswordResetByOperator => reset(event).to_owned(),
        _ => enum_words("latchkey.v1.EventType", "EVENT_TYPE_", event.r#type),
    };
    let (tone, mark) = match event.outcome() {
        EventOutcome::Succeeded => (Tone::Good, "✔ "),
        EventOutcome::Failed => (Tone::Warn, "✖ "),
        EventOutcome::Denied | EventOutcome::Unspecified => (Tone::Bad, "✖ "),
    };
    let reason = match event.reason {
        0 => String::new(),
        // The event says it.
        _ if event.r#type() == EventType::SecondFactorFailed => String::new(),
        reason => format!(": {}", enum_words("latchkey.v1.ErrorReason", "ERROR_REASON_", reason)),
    };
    Text::toned(tone, mark).and(Tone::Plain, kind).and(Tone::Dim, reason + &details(event, clock))
}

/// What an operator did by a reset: a link alone changes nothing.
fn reset(event: &Event) -> &'static str {
    let ended = event.details.get("accessEnded").is_some_and(|ended| ended == "true");
    match (event.details.get("method").map(String::as_str), ended) {
        (Some("SEND_LINK"), false) => "link for a password mailed",
        (Some("SEND_LINK"), true) => "link for a password mailed, the old one ended",
        (Some("RETURN_LINK"), false) => "link for a password made",
        (Some("RETURN_LINK"), true) => "link for a password made, the old one ended",
        (Some("TEMPORARY_PASSWORD"), _) => "temporary password set",
        (Some("SET_PASSWORD"), _) => "password set by operator",
        _ => "password reset by operator",
    }
}

/// What a change of the policy changed: `: min length: 8 → 12; history: unset → 5`. The event has the policy as parts such as
/// `min length: 8`, with `; ` between them. A part without a colon is not shown.
fn policy_changes(before: &str, after: &str) -> String {
    let parts = |text: &str| -> Vec<(String, String)> {
        let parts = text.split("; ").filter_map(|part| part.split_once(": "));
        parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (before, after) = (parts(before), parts(after));
    let value = |parts: &[(String, String)], name: &str| {
        parts.iter().find(|(other, _)| other == name).map_or_else(|| "unset".to_owned(), |(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(name, _)| !after.iter().any(|(other, _)| other == name));
    let changes = after.iter().chain(gone).filter_map(|(name, _)| {
        let (old, new) = (value(&before, name), value(&after, name));
        (old != new).then(|| format!("{name}: {old} → {new}"))
    });
    let changes: Vec<String> = changes.collect();
    if changes.is_empty() { String::new() } else { format!(": {}", changes.join("; ")) }
}

/// Whether an event is of this step of a sign-in.
pub(super) fn is_step(event: &Event, step: &str) -> bool {
    event.details.get("step").is_some_and(|other| other == step)
}

/// The details that an operator looks for: `, 39 more within a minute`, `: +admin`, `, address blocked until today 09:17`.
fn details(event: &Event, clock: &Clock) -> String {
    let detail = |name: &str| event.details.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let is_code = event.r#type() == EventType::SecondFactorFailed;
    let mut text = String::new();
    if event.r#type() == EventType::RolesChanged {
        let roles = |name, sign| {
            detail(name).into_iter().flat_map(str::split_whitespace).map(move |role| format!("{sign}{role}"))
        };
        let roles: Vec<String> = roles("added", '+').chain(roles("removed", '-')).collect();
        text = format!(": {}", roles.join(" "));
    }
    if event.r#type() == EventType::PolicyUpdated {
        text = policy_changes(detail("before").unwrap_or_default(), detail("after").unwrap_or_default());
    }
    if let Some(count) = detail("count") {
        text = format!("{text}, {count} more within a minute");
    }
    if let Some(left) = detail("recoveryCodesLeft").and_then(|left| left.parse::<i32>().ok()) {
        text = format!("{text}, {left} left");
    }
    if let Some(until) = detail("untilTime").filter(|_| is_code).and_then(|until| until.parse().ok()) {
        text = format!("{text}, codes refused until {}", clock.moment(until));
    }
    if let Some(ahead) = detail("clockAheadSeconds").and_then(|seconds| seconds.parse::<i64>().ok()) {
        let which = if ahead > 0 { "ahead" } else { "behind" };
        text = format!("{text}, the clock of the device is {} s {which}", ahead.unsigned_abs());
    }
    if detail("linkWasUsed") == Some("true") {
        text = format!("{text}, after one was used");
    }
    if let Some(until) = detail("addressBlockedUntil").and_then(|until| until.parse().ok()) {
        text = format!("{text}, address blocked until {}", clock.moment(until));
    }
    text
}

pub(super) fn by(actor: &Actor) -> String {
    let name = or(&actor.name, &actor.principal_id);
    if actor.app.is_empty() || actor.app == "latchkey" { name.to_owned() } else { format!("{name} in {}", actor.app) }
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn printed(event: &Event) -> String {
        let clock = Clock::new(Timestamp::UNIX_EPOCH, TimeZone::UTC);
        anstream::adapter::strip_str(&what(event, &clock).to_string()).to_string()
    }

    #[test]
    fn an_event_that_stands_for_others_says_for_how_many() {
        let mut event = Event { outcome: EventOutcome::Denied.into(), ..Event::default() };
        event.set_type(EventType::AccessDenied);
        assert_eq!(printed(&event), "✖ access denied");
        event.details.insert("count".to_owned(), "39".to_owned());
        assert_eq!(printed(&event), "✖ access denied, 39 more within a minute");
    }

    #[test]
    fn a_link_is_not_told_as_a_new_password() {
        let mut event = Event { outcome: EventOutcome::Succeeded.into(), ..Event::default() };
        event.set_type(EventType::PasswordResetByOperator);
        let told = |method: &str, ended: &str| {
            let details = [("method", method), ("accessEnded", ended)].map(|(k, v)| (k.into(), v.into())).into();
            printed(&Event { details, ..event.clone() })
        };
        assert_eq!(told("SEND_LINK", "false"), "✔ link for a password mailed");
        assert_eq!(told("RETURN_LINK", "true"), "✔ link for a password made, the old one ended");
        assert_eq!(told("TEMPORARY_PASSWORD", "true"), "✔ temporary password set");
        assert_eq!(told("", ""), "✔ password reset by operator");
    }

    #[test]
    fn what_a_policy_was_and_is_stands_beside_it() {
        let mut event = Event { outcome: EventOutcome::Succeeded.into(), ..Event::default() };
        event.set_type(EventType::PolicyUpdated);
        let before = "second factor: none; min length: 8; min age: 1d";
        let after = "second factor: none; min length: 12; history: 5";
        event.details = [("before", before), ("after", after)].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(printed(&event), "✔ policy updated: min length: 8 → 12; history: unset → 5; min age: 1d → unset");
        event.details = [("before", before), ("after", before)].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(printed(&event), "✔ policy updated");
    }

    #[test]
    fn roles_and_the_block_of_an_address_are_told() {
        let mut event = Event { outcome: EventOutcome::Succeeded.into(), ..Event::default() };
        event.set_type(EventType::RolesChanged);
        event.details = [("added", "admin app"), ("removed", "viewer")].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(printed(&event), "✔ roles changed: +admin +app -viewer");
        let mut event = Event { outcome: EventOutcome::Failed.into(), ..Event::default() };
        event.set_type(EventType::SignInFailed);
        event.details = [("addressBlockedUntil".to_owned(), "1970-01-01T00:15:00Z".to_owned())].into();
        assert_eq!(printed(&event), "✖ sign in failed, address blocked until today 00:15");
    }
}
