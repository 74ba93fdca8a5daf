//! Bounds the log lines of calls. A flood of calls would otherwise fill the disk: tens of thousands a second, some 300 bytes
//! each.
//!
//! A call gets a line of its own while its caller has written few. Further calls are gathered: those of one method, code and
//! reason share a line a second, with their number and some of their callers. Operators on the local socket always get lines
//! of their own.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::caller::Source;
use crate::token_bucket::{TokenBucket, TokenBuckets};

/// Lines at once, and lines a second, for calls of unknown callers from one source: about a megabyte an hour.
const LINES_OF_SOURCE: (f64, f64) = (10.0, 1.0);
/// The same for all sources together: ten megabytes an hour.
const LINES_OF_SOURCES: (f64, f64) = (10.0, 10.0);
/// The same for failures of the server itself, which an operator must see even while strangers flood.
const LINES_OF_FAULTS: (f64, f64) = (10.0, 10.0);
/// The same for one principal or application. More than people and most programs need.
const LINES_OF_PRINCIPAL: (f64, f64) = (1000.0, 20.0);
/// The same for gathered calls: two megabytes an hour. If more kinds of calls are gathered, their lines wait longer.
const GATHERED_LINES: (f64, f64) = (20.0, 2.0);

/// Time between two reports of gathered calls.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Kinds of calls that are gathered apart. Further kinds share one, named [`OTHERS`].
const MAX_KINDS: usize = 64;
/// The method of the kind that all further kinds share.
const OTHERS: &str = "other";

/// Callers that the line of a kind names.
const NAMED_CALLERS: usize = 5;

/// The lines that may be written, and the calls that wait for a common one.
#[derive(Debug)]
pub(crate) struct CallLines(Mutex<State>);

#[derive(Debug)]
struct State {
    by_source: TokenBuckets<Source>,
    all_sources: TokenBucket,
    faults: TokenBucket,
    by_principal: TokenBuckets<String>,
    gathered_lines: TokenBucket,
    gathered: HashMap<Kind, Gathered>,
}

/// What the calls of a line have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) method: String,
    pub(crate) code: &'static str,
    /// Empty if there is none.
    pub(crate) reason: &'static str,
    /// Whether the server failed.
    pub(crate) is_fault: bool,
}

/// The caller of a call, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// The id of the principal, or the name of the application.
    pub(crate) principal: Option<&'a str>,
    /// The address of the client. `None` on the local socket.
    pub(crate) address: Option<IpAddr>,
}

/// Calls of one kind that share a line.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) calls: u64,
    pub(crate) sources: Vec<Source>,
    pub(crate) principals: Vec<String>,
    /// When the first of them ended.
    since: Instant,
}

impl CallLines {
    pub(crate) fn new(now: Instant) -> CallLines {
        let bucket = |(at_once, per_second): (f64, f64)| TokenBucket::full(at_once, per_second, now);
        CallLines(Mutex::new(State {
            by_source: TokenBuckets::full(LINES_OF_SOURCE.0, LINES_OF_SOURCE.1, now),
            all_sources: bucket(LINES_OF_SOURCES),
            faults: bucket(LINES_OF_FAULTS),
            by_principal: TokenBuckets::full(LINES_OF_PRINCIPAL.0, LINES_OF_PRINCIPAL.1, now),
            gathered_lines: bucket(GATHERED_LINES),
            gathered: HashMap::new(),
        }))
    }

    /// Returns whether a call gets a line of its own. Otherwise the call is gathered.
    pub(crate) fn admit(&self, kind: Kind, origin: Origin<'_>, now: Instant) -> bool {
        let Some(address) = origin.address else { return true };
        let source = Source::of(address);
        let mut state = self.lock();
        let admitted = match origin.principal {
            Some(principal) => state.by_principal.try_take(principal.to_owned(), now),
            None if kind.is_fault => state.faults.try_take(now),
            None => state.by_source.try_take(source, now).and_then(|()| state.all_sources.try_take(now)),
        };
        if admitted.is_err() {
            state.gather(kind, source, origin.principal, now);
        }
        admitted.is_ok()
    }

    /// Removes and returns the gathered calls that may be logged now, those that have waited longest first.
    pub(crate) fn due(&self, now: Instant) -> Vec<(Kind, Gathered)> {
        let mut state = self.lock();
        let mut kinds: Vec<(Instant, Kind)> =
            state.gathered.iter().map(|(kind, gathered)| (gathered.since, kind.clone())).collect();
        kinds.sort_by_key(|(since, _)| *since);
        let State { gathered, gathered_lines, .. } = &mut *state;
        let due = kinds.into_iter().take_while(|_| gathered_lines.try_take(now).is_ok());
        due.filter_map(|(_, kind)| gathered.remove_entry(&kind)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn gather(&mut self, kind: Kind, source: Source, principal: Option<&str>, now: Instant) {
        let is_room = self.gathered.len() < MAX_KINDS || self.gathered.contains_key(&kind);
        let kind = if is_room { kind } else { Kind { method: OTHERS.to_owned(), code: "", reason: "", ..kind } };
        let empty = || Gathered { calls: 0, sources: Vec::new(), principals: Vec::new(), since: now };
        let gathered = self.gathered.entry(kind).or_insert_with(empty);
        gathered.calls += 1;
        if gathered.sources.len() < NAMED_CALLERS && !gathered.sources.contains(&source) {
            gathered.sources.push(source);
        }
        if let Some(principal) = principal
            && gathered.principals.len() < NAMED_CALLERS
            && !gathered.principals.iter().any(|named| named == principal)
        {
            gathered.principals.push(principal.to_owned());
        }
    }
}

/// Logs gathered calls.
pub(crate) fn log(kind: &Kind, gathered: &Gathered) {
    let (method, code, calls) = (kind.method.as_str(), Some(kind.code).filter(|code| !code.is_empty()), gathered.calls);
    // `None` leaves the field out of the line.
    let reason = Some(kind.reason).filter(|reason| !reason.is_empty());
    let addresses = list(&gathered.sources);
    let principals = list(&gathered.principals);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                rpc.method = method,
                rpc.code = code,
                rpc.reason = reason,
                calls,
                principal.ids = principals,
                client.addresses = addresses,
                "rpc, gathered"
            )
        };
    }
    if kind.is_fault { line!(error) } else { line!(info) }
}

fn list(items: &[impl Display]) -> Option<String> {
    (!items.is_empty()).then(|| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: &str) -> Kind {
        Kind { method: method.to_owned(), code: "UNAUTHENTICATED", reason: "TOKEN_INVALID", is_fault: false }
    }

    fn from(last: u8) -> Origin<'static> {
        Origin { principal: None, address: Some([192, 0, 2, last].into()) }
    }

    fn own_lines(lines: &CallLines, calls: usize, kind: &Kind, origin: Origin<'_>, now: Instant) -> usize {
        (0..calls).filter(|_| lines.admit(kind.clone(), origin, now)).count()
    }

    #[test]
    fn of_a_flood_the_first_ten_calls_get_lines_of_their_own_and_the_rest_share_one() {
        let now = Instant::now();
        let lines = CallLines::new(now);
        assert_eq!(own_lines(&lines, 5000, &kind("unknown"), from(1), now), 10);
        assert_eq!(own_lines(&lines, 5000, &kind("unknown"), from(2), now), 0, "ten for all sources together");
        let due = lines.due(now);
        let [(found, gathered)] = &due[..] else { unreachable!("{due:?}") };
        assert_eq!((found, gathered.calls), (&kind("unknown"), 9990));
        assert_eq!(gathered.sources, [1, 2].map(|last| Source::of([192, 0, 2, last].into())));
        assert!(lines.due(now).is_empty(), "each call is reported once");

        let later = now + Duration::from_secs(3);
        assert_eq!(own_lines(&lines, 5000, &kind("unknown"), from(1), later), 3, "one a second for each source");
    }

    #[test]
    fn an_hour_of_every_kind_of_call_from_one_source_is_three_lines_a_second() {
        let began = Instant::now();
        let lines = CallLines::new(began);
        let (mut own, mut gathered, mut calls) = (0, 0, 0);
        for second in 0..3600 {
            let now = began + Duration::from_secs(second);
            for number in 0..300 {
                own += usize::from(lines.admit(kind(&number.to_string()), from(1), now));
            }
            let due = lines.due(now);
            gathered += due.len();
            calls += due.iter().map(|(_, gathered)| gathered.calls).sum::<u64>();
            assert!(lines.lock().gathered.len() <= MAX_KINDS + 1);
        }
        assert!(own <= 3610 && gathered <= 7220, "{own} {gathered}");
        let waiting: u64 = lines.lock().gathered.values().map(|gathered| gathered.calls).sum();
        assert_eq!(u64::try_from(own).ok().map(|own| own + calls + waiting), Some(3600 * 300), "no call is forgotten");
    }

    #[test]
    fn a_gathered_line_names_at_most_five_callers() {
        let now = Instant::now();
        let lines = CallLines::new(now);
        for last in 1..200 {
            own_lines(&lines, 20, &kind("unknown"), from(last), now);
        }
        let due = lines.due(now);
        assert!(due.iter().all(|(_, gathered)| gathered.sources.len() == NAMED_CALLERS), "{due:?}");
    }

    #[test]
    fn a_flood_of_strangers_takes_no_line_from_principals_faults_and_the_local_socket() {
        let now = Instant::now();
        let lines = CallLines::new(now);
        own_lines(&lines, 5000, &kind("unknown"), from(1), now);
        let operator = Origin { principal: Some("ada"), ..from(1) };
        assert_eq!(own_lines(&lines, 5000, &kind("LockUser"), operator, now), 1000);
        let fault = Kind { is_fault: true, ..kind("SignIn") };
        assert_eq!(own_lines(&lines, 5000, &fault, from(1), now), 10);
        let local = Origin { principal: None, address: None };
        assert_eq!(own_lines(&lines, 5000, &kind("LockUser"), local, now), 5000);
    }
}
