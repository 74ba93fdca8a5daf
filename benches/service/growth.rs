//! P12: the cost of everything with all users, compared with a thousand users.

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

/// Locks a second whose latency is measured.
const LOCKS: u32 = 100;

/// A figure of one turn on one database; less is better.
#[derive(Clone, Copy)]
struct Cost {
    work: &'static str,
    unit: &'static str,
    value: f64,
}

/// Measures the large database in turn with the small one.
pub(crate) async fn measure(rounds: u32, turn: Duration, large: &Filled, small: &Filled) -> Outcome<Vec<Row>> {
    let mut turns = Vec::new();
    for round in 1..=rounds {
        turns.push((costs(turn, large).await?, costs(turn, small).await?));
        tell(&format!("round {round} of growth\n"));
    }
    let (first, _) = turns.first().ok_or("no round was measured")?;
    let row = |(at, cost): (usize, &Cost)| {
        let pairs: Vec<_> = turns.iter().filter_map(|(ours, limit)| Some((ours.get(at)?, limit.get(at)?))).collect();
        let pairs: Vec<_> = pairs.into_iter().map(|(ours, limit)| (ours.value, limit.value)).collect();
        let work = format!("{} : with {} users", cost.work, small.users);
        Row::of("P12", work, cost.unit, &pairs, Some(Goal::AtMost(1.25)))
    };
    Ok(first.iter().enumerate().map(row).collect())
}

async fn costs(turn: Duration, filled: &Filled) -> Outcome<Vec<Cost>> {
    let start = start_once(filled).await?;
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let program = Program::enrol(&server, filled).await?;
    let sign_in = Load::of(filled).beside_hashing(&server, turn).await?;
    let introspect = 1e6 / program.rate(Ask::Introspect, turn).await?;
    let get_user = 1e6 / program.rate(Ask::GetUser, turn).await?;
    let lock = quantile(&program.latencies(Ask::Lock, LOCKS, turn).await?, 0.5);
    let page = first_page_ms(&server).await?;
    server.stop().await?;
    let cost = |work, unit, value| Cost { work, unit, value };
    Ok(vec![
        cost("SignIn, processor time beside the hash", "ms", sign_in),
        cost("IntrospectToken", "us", introspect),
        cost("GetUser", "us", get_user),
        cost("LockUser, median", "ms", lock),
        cost("first page of 100", "ms", page),
        cost("start", "ms", start),
    ])
}
