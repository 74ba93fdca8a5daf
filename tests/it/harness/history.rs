//! What clients did and were told, and the judge of it.
//!
//! The audit log is taken at its word: it is the order in which changes are said to have happened. Played back, it must
//! allow every answer that a client got, lie within the time of each call, and end at what is in the database.

use std::collections::{BTreeMap, BTreeSet};

use latchkey::proto::v1::{Event, EventOutcome, EventType};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Create,
    Delete,
    Lock,
    Unlock,
    Reset,
    Complete,
    Change,
    SignIn,
    /// A sign-in with a password that nobody ever had.
    Guess,
    Refresh,
}

/// What a client got.
#[derive(Clone, Debug, Default)]
pub struct Gain {
    pub replayed: bool,
    pub password: Option<String>,
    pub session: Option<String>,
    pub access: Option<String>,
    pub refresh: Option<String>,
    pub ticket: Option<String>,
}

/// What a client was told.
#[derive(Clone, Debug)]
pub enum End {
    Done(Gain),
    /// With this reason.
    Refused(String),
    /// The connection ended before the answer, or the server does not know itself.
    Unknown,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Order {
    pub what: What,
    pub user: String,
    /// Empty: none.
    pub key: String,
    /// The password, the ticket or the token that it rests on.
    pub sent: String,
    /// The password to be. Empty: the server's choice.
    pub new_password: String,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Entry {
    pub request_id: String,
    pub order: Order,
    /// Microseconds since the epoch, by the clock that the server has.
    pub began: i64,
    pub ended: i64,
    pub end: End,
}

/// What is in the database. Accounts by their names.
#[derive(Debug, Default)]
pub struct Stored {
    /// `name version locked`
    pub users: BTreeSet<String>,
    /// `name session`
    pub sessions: BTreeSet<String>,
    pub tickets: BTreeSet<String>,
    pub keys: BTreeSet<String>,
}

/// An account as the audit log tells it.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub version: i64,
    pub locked: bool,
    pub deleted: bool,
    /// None: nobody was told.
    pub password: Option<String>,
    pub former_passwords: Vec<String>,
    ticket: Ticket,
    sessions: BTreeSet<String>,
}

/// The ticket that lives.
#[derive(Clone, Debug, Default, PartialEq)]
enum Ticket {
    #[default]
    None,
    /// Nobody was told its secret.
    Untold,
    Told(String),
}

/// The judge.
pub struct Judge<'a> {
    entries: BTreeMap<&'a str, &'a Entry>,
    pub accounts: BTreeMap<String, Account>,
    /// When sessions ended.
    session_ends: BTreeMap<String, i64>,
    /// Main events by request.
    told: BTreeMap<&'a str, Vec<&'a Event>>,
    pub faults: Vec<String>,
}

fn main_event(what: What) -> Option<EventType> {
    Some(match what {
        What::Create => EventType::UserCreated,
        What::Delete => EventType::UserDeleted,
        What::Lock => EventType::UserLocked,
        What::Unlock => EventType::UserUnlocked,
        What::Reset => EventType::PasswordResetByOperator,
        What::Complete | What::Change => EventType::PasswordChanged,
        What::SignIn | What::Guess => EventType::SignInSucceeded,
        What::Refresh => return None,
    })
}

fn micros(event: &Event) -> i64 {
    let at = event.time.expect("a time");
    at.seconds * 1_000_000 + i64::from(at.nanos) / 1000
}

/// Judges a history that has ended: nothing is under way any more.
pub fn judge<'a>(entries: &'a [Entry], events: &'a [Event], stored: &Stored) -> Judge<'a> {
    let mut judge = Judge {
        entries: entries.iter().map(|entry| (entry.request_id.as_str(), entry)).collect(),
        accounts: BTreeMap::new(),
        session_ends: BTreeMap::new(),
        told: BTreeMap::new(),
        faults: Vec::new(),
    };
    for event in events {
        judge.play(event);
    }
    for entry in entries {
        judge.check_told(entry);
    }
    judge.check_keys(entries, stored);
    judge.check_refreshes(entries);
    judge.check_stored(stored);
    judge
}

impl<'a> Judge<'a> {
    fn fault(&mut self, invariant: &str, text: impl std::fmt::Display) {
        self.faults.push(format!("{invariant}: {text}"));
    }

    /// Plays one event back.
    fn play(&mut self, event: &'a Event) {
        let Some(entry) = self.entries.get(event.request_id.as_str()).copied() else {
            if event.r#type().as_str_name().contains("USER_") {
                self.fault("I7", format!("an event of nobody's: {event:?}"));
            }
            return;
        };
        if event.outcome() == EventOutcome::Succeeded && main_event(entry.order.what) == Some(event.r#type()) {
            self.told.entry(&entry.request_id).or_default().push(event);
        }
        let mut account = self.accounts.remove(&entry.order.user).unwrap_or_default();
        let mut faults = Vec::new();
        let ended = account.play(event, &entry.order, &entry.end, &mut faults);
        self.session_ends.extend(ended.into_iter().map(|session| (session, micros(event))));
        for fault in faults {
            self.fault("I2 I3 I4 I9", format!("{fault}\n  {event:?}\n  {entry:?}"));
        }
        self.accounts.insert(entry.order.user.clone(), account);
    }

    /// One event for each change that was acknowledged, none for what was refused, at most one for what is unknown; and
    /// within the time of the call.
    fn check_told(&mut self, entry: &'a Entry) {
        let Some(kind) = main_event(entry.order.what) else { return };
        let events = self.told.get(entry.request_id.as_str()).cloned().unwrap_or_default();
        if entry.order.what == What::Guess && matches!(entry.end, End::Done(_)) {
            self.fault("I9", format!("signed in with a guess: {entry:?}"));
        }
        let allowed = match &entry.end {
            End::Done(gain) if gain.replayed => 0..=0,
            _ if entry.order.what == What::Guess => 0..=0,
            // There may be nothing to lift.
            End::Done(_) if entry.order.what == What::Unlock => 0..=1,
            End::Done(_) => 1..=1,
            End::Refused(_) => 0..=0,
            End::Unknown => 0..=1,
        };
        if !allowed.contains(&events.len()) {
            self.fault("I1 I7", format!("{} events {kind:?} for {entry:?}", events.len()));
        }
        for event in events {
            let at = micros(event);
            // What is unknown may have gone on after its client was cut off, but not before it asked.
            if at < entry.began || (at > entry.ended && !matches!(entry.end, End::Unknown)) {
                self.fault("I7", format!("not within its call: {event:?} of {entry:?}"));
            }
        }
    }

    /// Whatever the tries with one key came to, it was done at most once; and once if anybody was told so.
    fn check_keys(&mut self, entries: &'a [Entry], stored: &Stored) {
        let mut tries: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.order.key.is_empty()) {
            tries.entry(&entry.order.key).or_default().push(entry);
        }
        let mut used = BTreeSet::new();
        for (key, tries) in tries {
            let events: usize =
                tries.iter().map(|entry| self.told.get(entry.request_id.as_str()).map_or(0, Vec::len)).sum();
            let acknowledged = tries.iter().any(|entry| matches!(entry.end, End::Done(_)));
            if events > 1 || (acknowledged && events == 0) {
                self.fault("I1", format!("{events} changes by {tries:?}"));
            }
            if events > 0 {
                used.insert(key.to_owned());
            }
        }
        if used != stored.keys {
            let differing: Vec<_> = used.symmetric_difference(&stored.keys).collect();
            self.fault("I2", format!("keys without their change, or changes without their key: {differing:?}"));
        }
    }

    /// A token has one successor, and none after its session has ended.
    fn check_refreshes(&mut self, entries: &'a [Entry]) {
        let mut successors: BTreeMap<&str, &str> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.order.what == What::Refresh) {
            let End::Done(gain) = &entry.end else { continue };
            let (Some(refresh), Some(session)) = (&gain.refresh, &gain.session) else { continue };
            let first = *successors.entry(&entry.order.sent).or_insert(refresh);
            if first != refresh {
                self.fault("I4", format!("two successors: {entry:?}"));
            }
            if self.session_ends.get(session).is_some_and(|ended| *ended < entry.began) {
                self.fault("I3 I9", format!("refreshed after the end of its session: {entry:?}"));
            }
        }
    }

    /// The database is where the audit log ends.
    fn check_stored(&mut self, stored: &Stored) {
        let mut told = Stored { keys: stored.keys.clone(), ..Stored::default() };
        for (name, account) in self.accounts.iter().filter(|(_, account)| !account.deleted && account.version > 0) {
            told.users.insert(format!("{name} {} {}", account.version, i32::from(account.locked)));
            told.sessions.extend(account.sessions.iter().map(|session| format!("{name} {session}")));
            if account.ticket != Ticket::None {
                told.tickets.insert(name.clone());
            }
        }
        for (what, told, stored) in [
            ("users", &told.users, &stored.users),
            ("sessions", &told.sessions, &stored.sessions),
            ("tickets", &told.tickets, &stored.tickets),
        ] {
            if told != stored {
                let untold: Vec<_> = stored.difference(told).collect();
                let missing: Vec<_> = told.difference(stored).collect();
                self.fault(
                    "I2 I7",
                    format!("{what} that the log does not tell: {untold:?}; that it tells: {missing:?}"),
                );
            }
        }
    }
}

impl Account {
    /// Answers the sessions that this event ended.
    fn play(&mut self, event: &Event, order: &Order, end: &End, faults: &mut Vec<String>) -> Vec<String> {
        let gain = if let End::Done(gain) = end { gain.clone() } else { Gain::default() };
        if event.outcome() != EventOutcome::Succeeded && event.r#type() != EventType::RefreshReused {
            return Vec::new();
        }
        let so_far = format!("{self:?}");
        let mut must = |holds: bool, text: &str| {
            if !holds {
                faults.push(format!("{text}; by the log so far it was {so_far}"));
            }
        };
        must(!self.deleted, "after its deletion");
        match event.r#type() {
            EventType::UserCreated => {
                must(self.version == 0, "created twice");
                self.version = 1;
                self.set_password(order, gain.password);
                Vec::new()
            }
            EventType::UserDeleted => {
                self.deleted = true;
                self.end_all()
            }
            EventType::UserLocked => {
                self.version += 1;
                self.locked = true;
                self.end_all()
            }
            EventType::UserUnlocked => {
                let lifted = event.details.get("lockLifted").is_some_and(|lifted| lifted == "true");
                must(lifted == self.locked, "lifted a lock that was none, or left one");
                self.version += i64::from(lifted);
                self.locked = false;
                Vec::new()
            }
            EventType::PasswordResetByOperator => {
                must(!self.locked, "reset in spite of a lock");
                self.version += 1;
                self.set_password(order, gain.password);
                self.end_all()
            }
            EventType::PasswordChanged => {
                must(!self.locked, "changed in spite of a lock");
                let rests_on_password = self.password.as_ref().is_none_or(|password| *password == order.sent);
                let rests_on_ticket = match &self.ticket {
                    Ticket::None => false,
                    Ticket::Untold => true,
                    Ticket::Told(secret) => *secret == order.sent,
                };
                must(if order.what == What::Change { rests_on_password } else { rests_on_ticket }, "rests on nothing");
                self.version += 1;
                self.set_password(order, None);
                let own = std::mem::take(&mut self.sessions);
                self.ticket = Ticket::None;
                // Signed in, a change spares the session that makes it.
                let caller = event.actor.as_ref().map(|actor| actor.session_id.as_str()).unwrap_or_default();
                let spared = |session: &String| order.what == What::Change && session == caller;
                let (kept, ended) = own.into_iter().partition(spared);
                self.sessions = kept;
                ended.into_iter().collect()
            }
            EventType::SignInSucceeded => {
                must(!self.locked, "signed in in spite of a lock");
                let known = self.password.as_ref().filter(|_| order.what != What::Complete);
                must(known.is_none_or(|password| *password == order.sent), "signed in with another password");
                if event.details.contains_key("step") {
                    self.ticket = gain.ticket.map_or(Ticket::Untold, Ticket::Told);
                } else {
                    self.sessions.insert(event.subject_id.clone());
                }
                Vec::new()
            }
            EventType::SessionRevoked | EventType::RefreshReused => {
                self.sessions.remove(&event.subject_id);
                vec![event.subject_id.clone()]
            }
            _ => Vec::new(),
        }
    }

    fn set_password(&mut self, order: &Order, shown: Option<String>) {
        self.former_passwords.extend(self.password.take());
        self.password = Some(order.new_password.clone()).filter(|chosen| !chosen.is_empty()).or(shown);
    }

    fn end_all(&mut self) -> Vec<String> {
        self.ticket = Ticket::None;
        std::mem::take(&mut self.sessions).into_iter().collect()
    }
}
