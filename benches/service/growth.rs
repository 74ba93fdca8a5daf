//! P12: what everything costs with all users, against a thousand.

use std::path::Path;
use std::time::Duration;

use crate::database::Filled;
use crate::footprint::start_once;
use crate::list::first_page_ms;
use crate::load::{Ask, Program, quantile};
use crate::measure::{Goal, Row};
use crate::server::{LATCHKEYD, Server};
use crate::sign_in::Load;
use crate::{Outcome, tell};

/// Locks a second whose latency is looked at.
const LOCKS: u32 = 100;

/// What one turn on one database came to: a cost each, so that less is better.
struct Costs([(&'static str, &'static str, f64); 6]);

/// Measures the large database in turn with the small one.
pub(crate) async fn measure(rounds: u32, turn: Duration, large: &Filled, small: &Filled) -> Outcome<Vec<Row>> {
    let mut measured: Vec<(&str, &str, Vec<(f64, f64)>)> = Vec::new();
    for round in 1..=rounds {
        let (Costs(ours), Costs(limit)) = (costs(turn, large).await?, costs(turn, small).await?);
        tell(&format!("round {round} of growth\n"));
        for (at, ((work, unit, ours), (_, _, limit))) in ours.into_iter().zip(limit).enumerate() {
            match measured.get_mut(at) {
                Some((_, _, rounds)) => rounds.push((ours, limit)),
                None => measured.push((work, unit, vec![(ours, limit)])),
            }
        }
    }
    let goal = Some(Goal::AtMost(1.25));
    let row = |(work, unit, rounds): &(&str, &'static str, Vec<(f64, f64)>)| {
        Row::of("P12", format!("{work} : with {} users", small.users), unit, rounds, goal)
    };
    Ok(measured.iter().map(row).collect())
}

async fn costs(turn: Duration, filled: &Filled) -> Outcome<Costs> {
    let start = start_once(filled).await?;
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let program = Program::enrol(&server, filled).await?;
    let sign_in = Load::of(filled).beside_hashing(&server, turn).await?;
    let mut microseconds = [0.0; 2];
    for (ask, cost) in [Ask::Introspect, Ask::GetUser].into_iter().zip(&mut microseconds) {
        *cost = 1e6 / program.rate(ask, turn).await?;
    }
    let [introspect, get_user] = microseconds;
    let locks = program.latencies(Ask::Lock, LOCKS, turn).await?;
    let page = first_page_ms(&server).await?;
    server.stop().await?;
    Ok(Costs([
        ("SignIn, processor time beside hashing", "ms", sign_in),
        ("IntrospectToken", "us", introspect),
        ("GetUser", "us", get_user),
        ("LockUser, median", "ms", quantile(&locks, 0.5)),
        ("first page of 100", "ms", page),
        ("start", "ms", start),
    ]))
}
