//! P3, P4: the rates of token checks and reads, compared with health checks. P6, P7: latencies beside hashing.

use std::path::Path;
use std::time::Duration;

use crate::database::Filled;
use crate::load::{Ask, Program, Saturation, quantile};
use crate::measure::{Goal, Row};
use crate::server::{LATCHKEYD, Server};
use crate::{Outcome, tell};

/// Duration of calls that are not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// Locks a second whose latency is measured.
const LOCKS: u32 = 100;
/// Token checks a second whose latency is measured.
const CHECKS: u32 = 400;
/// Absolute limit of the p99 of a lock, in milliseconds.
const LOCK_LIMIT_MS: f64 = 25.0;

/// Measures rates in turn with the rate of health checks on the same server.
pub(crate) async fn rates(rounds: u32, turn: Duration, filled: &Filled) -> Outcome<Vec<Row>> {
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let program = Program::enrol(&server, filled).await?;
    let asked = [Ask::Introspect, Ask::GetUser];
    for ask in [Ask::Health, Ask::Introspect, Ask::GetUser] {
        program.rate(ask, WARM_UP).await?;
    }
    let mut measured = [const { Vec::new() }; 2];
    for round in 1..=rounds {
        for (ask, rounds) in asked.into_iter().zip(&mut measured) {
            let ours = program.rate(ask, turn).await?;
            let limit = program.rate(Ask::Health, turn).await?;
            tell(&format!("round {round}: {ours:.0} of {ask:?}/s, {limit:.0} health checks/s\n"));
            rounds.push((ours, limit));
        }
    }
    server.stop().await?;
    // On a database that replicas share, rows must not be cached, so there is no goal.
    let goal = |ratio| filled.is_embedded().then_some(Goal::AtLeast(ratio));
    let [introspect, get_user] = measured;
    Ok(vec![
        Row::of("P3", "IntrospectToken : health check", "1/s", &introspect, goal(0.7)),
        Row::of("P4", "GetUser : health check", "1/s", &get_user, goal(0.15)),
    ])
}

/// Measures p99 latencies while sign-ins keep every core busy, compared with an idle server.
pub(crate) async fn behind_hashing(rounds: u32, turn: Duration, filled: &Filled) -> Outcome<Vec<Row>> {
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let program = Program::enrol(&server, filled).await?;
    let asked = [(Ask::Lock, LOCKS), (Ask::Introspect, CHECKS)];
    let mut measured = [const { Vec::new() }; 2];
    for (ask, pace) in &asked {
        program.latencies(*ask, *pace, WARM_UP).await?;
    }
    for round in 1..=rounds {
        let mut idle = Vec::new();
        for (ask, pace) in &asked {
            idle.push(program.latencies(*ask, *pace, turn).await?);
        }
        let saturation = Saturation::begin(&server, filled).await?;
        for (((ask, pace), idle), rounds) in asked.iter().zip(&idle).zip(&mut measured) {
            let busy = program.latencies(*ask, *pace, turn).await?;
            let [ours, limit] = [&busy, idle].map(|sorted| quantile(sorted, 0.99));
            let [median, idle_median] = [&busy, idle].map(|sorted| quantile(sorted, 0.5));
            tell(&format!(
                "round {round}: {ask:?} p99 {ours:.1} ms, idle {limit:.1} ms; median {median:.1} ms, idle {idle_median:.1} ms\n"
            ));
            rounds.push((ours, limit));
        }
        saturation.end()?;
    }
    server.stop().await?;
    let [locks, checks] = measured;
    let absolute: Vec<_> = locks.iter().map(|(ours, _)| (*ours, LOCK_LIMIT_MS)).collect();
    Ok(vec![
        Row::of("P6", "LockUser p99, cores full of sign-ins : idle", "ms", &locks, Some(Goal::AtMost(2.0))),
        Row::of("P6", "  the same : 25 ms", "ms", &absolute, Some(Goal::AtMost(1.0))),
        Row::of("P7", "IntrospectToken p99, so : idle", "ms", &checks, Some(Goal::AtMost(3.0))),
    ])
}
