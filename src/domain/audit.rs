//! Audit events. An event is committed in the same transaction as the change that it records.

use std::collections::BTreeMap;

use strum::{EnumString, IntoStaticStr, VariantArray};

use super::caller::{Call, Principal};
use super::id::EventId;
use super::reason::Reason;
use super::text::{TextFault, plain_text};
use super::time::Timestamp;
use super::user::User;
use super::username::Username;

/// What happened. The entries of the same name in `proto/latchkey/v1/events.proto` document each type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "documented in events.proto, where auditors read it")]
pub enum EventType {
    SignInSucceeded,
    SignInFailed,
    SecondFactorFailed,
    ThrottleBegan,
    ThrottleEnded,
    SessionRevoked,
    RefreshReused,
    UserCreated,
    UserUpdated,
    RolesChanged,
    EmailChanged,
    EmailVerified,
    UserDeleted,
    UserLocked,
    UserUnlocked,
    PasswordChanged,
    PasswordResetByOperator,
    PasswordResetRequested,
    PasswordResetCompleted,
    PasswordChangeRequired,
    PasswordChangeWaived,
    LinkCancelled,
    TotpEnrolled,
    TotpDisabled,
    RecoveryCodeUsed,
    RecoveryCodesReplaced,
    SecondFactorReset,
    DeliveryCancelled,
    ApiTokenCreated,
    ApiTokenRevoked,
    DeliverySent,
    PolicyUpdated,
    KeyRotated,
    AccessDenied,
}

impl EventType {
    /// All event types.
    pub const ALL: &[EventType] = EventType::VARIANTS;

    /// The name in the database and in the contract, where it has a prefix.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Parses a name returned by [`EventType::as_str`].
    pub fn parse(text: &str) -> Option<EventType> {
        text.parse().ok()
    }
}

/// A class of events with its own retention, so that a flood of wrong passwords cannot displace operators' events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventClass {
    /// Actions of operators.
    Administration,
    /// Sign-ins and failures.
    SignIn,
}

impl EventType {
    /// The class of the event.
    pub fn class(self) -> EventClass {
        match self {
            EventType::SignInSucceeded
            | EventType::SignInFailed
            | EventType::SecondFactorFailed
            | EventType::RecoveryCodeUsed
            | EventType::ThrottleBegan
            | EventType::ThrottleEnded
            | EventType::RefreshReused
            | EventType::PasswordResetRequested
            // Any caller can cause refusals without limit.
            | EventType::AccessDenied => EventClass::SignIn,
            _ => EventClass::Administration,
        }
    }
}

/// Outcome of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Outcome {
    /// Done.
    Succeeded,
    /// Tried and failed.
    Failed,
    /// Refused.
    Denied,
}

/// The principal that acted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// Id of the principal. Empty for the server itself and for unauthenticated callers.
    pub principal_id: String,
    /// Name of the principal at that time.
    pub name: String,
    /// The session, if one was used.
    pub session_id: String,
    /// The API token, if one was used.
    pub api_token_id: String,
    /// The calling application.
    pub app: String,
    /// Address of the client.
    pub client_address: String,
    /// User agent of the client.
    pub user_agent: String,
}

impl Actor {
    /// The actor of a call.
    pub fn of(principal: &Principal, call: &Call) -> Actor {
        let (session_id, api_token_id) = match principal {
            Principal::User { session_id, .. } => (session_id.to_string(), String::new()),
            Principal::ApiToken { id, .. } => (String::new(), id.to_string()),
            Principal::Anonymous | Principal::Local { .. } => (String::new(), String::new()),
        };
        Actor {
            principal_id: principal.id(),
            name: principal.name().to_owned(),
            session_id,
            api_token_id,
            app: call.app.as_ref().map(|app| app.name.clone()).unwrap_or_default(),
            client_address: call.client_address.map(|address| address.to_string()).unwrap_or_default(),
            user_agent: call.user_agent.clone(),
        }
    }
}

/// The user that was acted on, with the name at that time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Empty if the login is unknown.
    pub user_id: String,
    /// For an unknown login, a keyed digest of the input: people type passwords into name fields.
    pub username: String,
}

impl Target {
    /// Creates a target for this user.
    pub fn of(user: &User) -> Target {
        Target { user_id: user.id.to_string(), username: user.username.as_str().to_owned() }
    }
}

/// An event before actor and time are added.
#[derive(Debug, Clone)]
pub struct Event {
    /// The type.
    pub kind: EventType,
    /// The outcome.
    pub outcome: Outcome,
    /// The true cause of a failure, which may be more precise than the answer to the client.
    pub reason: Option<Reason>,
    /// The user acted on.
    pub target: Target,
    /// The session or API token concerned.
    pub subject_id: String,
    /// Names of the changed fields, without values.
    pub changed_fields: Vec<&'static str>,
    /// The operator's note.
    pub note: String,
    /// Further details.
    pub details: BTreeMap<&'static str, String>,
}

impl Event {
    /// Creates an event for a completed action.
    pub fn new(kind: EventType, target: Target) -> Event {
        Event {
            kind,
            outcome: Outcome::Succeeded,
            reason: None,
            target,
            subject_id: String::new(),
            changed_fields: Vec::new(),
            note: String::new(),
            details: BTreeMap::new(),
        }
    }

    /// Creates an event for a failed action.
    pub fn failed(kind: EventType, target: Target, reason: Reason) -> Event {
        Event { outcome: Outcome::Failed, reason: Some(reason), ..Event::new(kind, target) }
    }

    /// Creates an event for a refused action.
    pub fn denied(target: Target, reason: Reason) -> Event {
        Event { outcome: Outcome::Denied, reason: Some(reason), ..Event::new(EventType::AccessDenied, target) }
    }

    /// The kind of a refusal: of one kind, at most two events a minute are recorded.
    pub fn refusal_kind(&self, principal: &Principal, method: &str) -> String {
        format!("{} {method} {}", principal.id(), self.reason.map(Reason::as_str).unwrap_or_default())
    }

    /// Adds the operator's note.
    #[must_use]
    pub fn note(mut self, note: Option<&super::profile::Note>) -> Event {
        self.note = note.map(|note| note.as_str().to_owned()).unwrap_or_default();
        self
    }

    /// Sets the session or API token concerned.
    #[must_use]
    pub fn about(mut self, subject: impl std::fmt::Display) -> Event {
        self.subject_id = subject.to_string();
        self
    }

    /// Appends events.
    #[must_use]
    pub fn and(self, more: impl IntoIterator<Item = Event>) -> Events {
        Events::from(self).and(more)
    }

    /// Adds a detail.
    #[must_use]
    pub fn detail(mut self, name: &'static str, value: impl std::fmt::Display) -> Event {
        self.details.insert(name, value.to_string());
        self
    }
}

/// The events of one change: at least one.
#[derive(Debug, Clone)]
pub struct Events(Vec<Event>);

impl Events {
    /// `None` if there are no events.
    pub fn of(events: Vec<Event>) -> Option<Events> {
        (!events.is_empty()).then_some(Events(events))
    }

    /// Appends events.
    #[must_use]
    pub fn and(mut self, more: impl IntoIterator<Item = Event>) -> Events {
        self.0.extend(more);
        self
    }
}

impl From<Event> for Events {
    fn from(event: Event) -> Events {
        Events(vec![event])
    }
}

impl IntoIterator for Events {
    type Item = Event;
    type IntoIter = std::vec::IntoIter<Event>;

    fn into_iter(self) -> std::vec::IntoIter<Event> {
        self.0.into_iter()
    }
}

/// An event, as the store reads it.
#[derive(Debug, Clone)]
pub struct RecordedEvent {
    /// Unique id.
    pub id: EventId,
    /// When it happened.
    pub at: Timestamp,
    /// The type.
    pub kind: EventType,
    /// The outcome.
    pub outcome: Outcome,
    /// The cause of a failure.
    pub reason: Option<Reason>,
    /// The principal that acted.
    pub actor: Actor,
    /// The user acted on.
    pub target: Target,
    /// The session or API token concerned.
    pub subject_id: String,
    /// Names of the changed fields.
    pub changed_fields: Vec<String>,
    /// The operator's note.
    pub note: String,
    /// Further details.
    pub details: BTreeMap<String, String>,
    /// The method called.
    pub method: String,
    /// Id that the server gave to the request.
    pub request_id: String,
    /// Id that the client gave to the request. Empty if there was none.
    pub client_request_id: String,
}

/// The maximum length of a [`PartyName`], in bytes: that of an e-mail address.
const MAX_PARTY_BYTES: usize = 254;

/// The id or the name of an actor or a target, as a caller gives it. What can be a username is in lower case, as in events.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PartyName(String);

impl PartyName {
    /// Parses an id or a name. Not every name is a username: the local operator and unknown logins have others. Stored values
    /// have no control characters, and one of the databases rejects a query with them.
    pub fn parse(text: &str) -> Result<PartyName, TextFault> {
        plain_text(text, MAX_PARTY_BYTES)?;
        Ok(PartyName(Username::parse(text).map_or_else(|_| text.to_owned(), |username| username.to_string())))
    }

    /// The text, in lower case if it can be a username.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The actors or the targets whose events are selected. Any may match.
#[derive(Debug, Clone, Default)]
pub struct Parties {
    /// Ids of accounts and other principals.
    pub ids: Vec<String>,
    /// Names in events, of which no account has one now.
    pub names: Vec<String>,
}

impl Parties {
    /// Returns whether every event matches.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.names.is_empty()
    }
}

/// Selects events. All set fields must match; within a list, any element may match.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct EventFilter {
    /// Earliest time, inclusive.
    pub from: Option<Timestamp>,
    /// Latest time, exclusive.
    pub until: Option<Timestamp>,
    /// Matches any of these types.
    pub kinds: Vec<EventType>,
    /// Matches any of these outcomes.
    pub outcomes: Vec<Outcome>,
    /// Matches any of these actors.
    pub actors: Vec<PartyName>,
    /// Matches any of these targets.
    pub targets: Vec<PartyName>,
    /// Matches events of this request, by the server's id or by the client's.
    pub request_id: Option<String>,
}
