//! Audit events: what the log holds. An event is written with the change it tells of, or neither is.

use std::collections::BTreeMap;

use super::caller::{Call, Principal};
use super::id::EventId;
use super::reason::Reason;
use super::time::Timestamp;
use super::user::User;

macro_rules! event_types {
    ($($variant:ident = $text:literal,)*) => {
        /// What happened. Each is documented at its namesake in `proto/latchkey/v1/events.proto`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
        #[expect(missing_docs, reason = "documented in events.proto, where auditors read it")]
        pub enum EventType { $($variant,)* }

        impl EventType {
            /// All of them.
            pub const ALL: &[EventType] = &[$(EventType::$variant,)*];

            /// As it stands in the contract, without its prefix, and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(EventType::$variant => $text,)* }
            }

            /// The reverse of [`EventType::as_str`].
            pub fn parse(text: &str) -> Option<EventType> {
                match text { $($text => Some(EventType::$variant),)* _ => None }
            }
        }
    };
}

event_types! {
    SignInSucceeded = "SIGN_IN_SUCCEEDED",
    SignInFailed = "SIGN_IN_FAILED",
    ThrottleBegan = "THROTTLE_BEGAN",
    ThrottleEnded = "THROTTLE_ENDED",
    SessionRevoked = "SESSION_REVOKED",
    RefreshReused = "REFRESH_REUSED",
    UserCreated = "USER_CREATED",
    UserUpdated = "USER_UPDATED",
    RolesChanged = "ROLES_CHANGED",
    EmailChanged = "EMAIL_CHANGED",
    UserDeleted = "USER_DELETED",
    UserLocked = "USER_LOCKED",
    UserUnlocked = "USER_UNLOCKED",
    PasswordChanged = "PASSWORD_CHANGED",
    PasswordResetByOperator = "PASSWORD_RESET_BY_OPERATOR",
    PasswordChangeRequired = "PASSWORD_CHANGE_REQUIRED",
    PasswordChangeWaived = "PASSWORD_CHANGE_WAIVED",
    ApiTokenCreated = "API_TOKEN_CREATED",
    ApiTokenRevoked = "API_TOKEN_REVOKED",
    KeyRotated = "KEY_ROTATED",
    AccessDenied = "ACCESS_DENIED",
}

/// A chain of events with a retention of its own, so that a flood of wrong passwords cannot evict what operators did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventClass {
    /// What operators did.
    Administration,
    /// Sign-ins and failures.
    SignIn,
}

impl EventType {
    /// The chain it belongs to.
    pub fn class(self) -> EventClass {
        match self {
            EventType::SignInSucceeded
            | EventType::SignInFailed
            | EventType::ThrottleBegan
            | EventType::ThrottleEnded
            | EventType::RefreshReused
            // Anybody can be refused as often as they like.
            | EventType::AccessDenied => EventClass::SignIn,
            _ => EventClass::Administration,
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Outcome {
    /// It was done.
    Succeeded,
    /// Tried and failed.
    Failed,
    /// Not allowed to try.
    Denied,
}

/// Who did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// Id of the principal. Empty for the server itself and for strangers.
    pub principal_id: String,
    /// Its name at that time.
    pub name: String,
    /// The session, if there was one.
    pub session_id: String,
    /// The API token, if one was used.
    pub api_token_id: String,
    /// The application that carried the call.
    pub app: String,
    /// Address it came from.
    pub client_address: String,
    /// What the client called itself.
    pub user_agent: String,
}

impl Actor {
    /// The principal of a call.
    pub fn of(principal: &Principal, call: &Call) -> Actor {
        let (session_id, api_token_id) = match principal {
            Principal::User { session_id, .. } => (session_id.to_string(), String::new()),
            Principal::ApiToken { id, .. } => (String::new(), id.to_string()),
            Principal::Nobody | Principal::Local { .. } => (String::new(), String::new()),
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

/// To whom something was done, with the name at that time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Empty for an unknown name.
    pub user_id: String,
    /// For an unknown login, a keyed digest of what was typed: people type passwords into name fields.
    pub username: String,
}

impl Target {
    /// This user.
    pub fn of(user: &User) -> Target {
        Target { user_id: user.id.to_string(), username: user.username.as_str().to_owned() }
    }
}

/// What happened, before it is known by whom and when.
#[derive(Debug, Clone)]
pub struct Event {
    /// What.
    pub kind: EventType,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not succeed: the true cause.
    pub reason: Option<Reason>,
    /// To whom.
    pub target: Target,
    /// The session or API token it is about.
    pub subject_id: String,
    /// Names of the fields that changed, without values.
    pub changed_fields: Vec<&'static str>,
    /// What the operator wrote.
    pub note: String,
    /// Anything else.
    pub details: BTreeMap<&'static str, String>,
}

impl Event {
    /// Something that was done.
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

    /// Something that was tried and failed.
    pub fn failed(kind: EventType, target: Target, reason: Reason) -> Event {
        Event { outcome: Outcome::Failed, reason: Some(reason), ..Event::new(kind, target) }
    }

    /// Something that was not allowed.
    pub fn denied(target: Target, reason: Reason) -> Event {
        Event { outcome: Outcome::Denied, reason: Some(reason), ..Event::new(EventType::AccessDenied, target) }
    }

    /// With what the operator wrote.
    #[must_use]
    pub fn note(mut self, note: Option<&super::profile::Note>) -> Event {
        self.note = note.map(|note| note.as_str().to_owned()).unwrap_or_default();
        self
    }

    /// About this session or API token.
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

    /// With one more detail.
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
    /// Unique.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventType,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not succeed.
    pub reason: Option<Reason>,
    /// Who.
    pub actor: Actor,
    /// To whom.
    pub target: Target,
    /// The session or API token it is about.
    pub subject_id: String,
    /// Names of the fields that changed.
    pub changed_fields: Vec<String>,
    /// What the operator wrote.
    pub note: String,
    /// Anything else.
    pub details: BTreeMap<String, String>,
    /// The method.
    pub method: String,
    /// The request.
    pub request_id: String,
}

/// Selects events: set members must all hold, the elements of one list are alternatives.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct EventFilter {
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
    /// Any of these types.
    pub kinds: Vec<EventType>,
    /// Any of these outcomes.
    pub outcomes: Vec<Outcome>,
    /// Done by any of these: ids or names.
    pub actors: Vec<String>,
    /// Done to any of these: ids or usernames.
    pub targets: Vec<String>,
    /// In the course of this request.
    pub request_id: Option<String>,
}
