//! Rounds, medians, and the table.

use std::fmt::Write as _;

use serde::Serialize;

use crate::database::Filled;

/// What is compared with what, and how it came out.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// As docs/performance.md names it.
    pub(crate) id: &'static str,
    /// What was done.
    pub(crate) work: String,
    /// What `ours` and `limit` are in.
    pub(crate) unit: &'static str,
    /// The median of what was done.
    pub(crate) ours: f64,
    /// The median of what it is held against.
    pub(crate) limit: f64,
    /// The median of the ratios of the rounds.
    pub(crate) ratio: f64,
    /// The lowest of them.
    pub(crate) lowest: f64,
    /// The highest.
    pub(crate) highest: f64,
    /// What the ratio should be.
    pub(crate) goal: Option<Goal>,
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Goal::AtLeast(least) => ratio >= least,
            Goal::AtMost(most) => ratio <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::AtMost(most) => format!("<= {most}"),
        }
    }
}

impl Row {
    /// From what the rounds measured: ours and the limit of each, taken in turn.
    pub(crate) fn of(
        id: &'static str,
        work: impl Into<String>,
        unit: &'static str,
        rounds: &[(f64, f64)],
        goal: Option<Goal>,
    ) -> Row {
        let ratios: Vec<f64> = rounds.iter().map(|(ours, limit)| ours / limit).collect();
        Row {
            id,
            work: work.into(),
            unit,
            ours: median(rounds.iter().map(|(ours, _)| *ours)),
            limit: median(rounds.iter().map(|(_, limit)| *limit)),
            ratio: median(ratios.iter().copied()),
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            goal,
        }
    }
}

/// The middle one; of an even number the higher of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The processor, as it calls itself.
    processor: String,
    /// Cores that could be used.
    cores: usize,
    /// Linux's `kernel.sched_autogroup_enabled`: whether it may share the cores out by session first, and within each by
    /// priority.
    sched_autogroup: bool,
    /// Whether the servers had `argon2.only_when_idle`.
    only_when_idle: bool,
    /// Which database.
    database: &'static str,
    /// Users in it.
    users: u64,
    /// Rounds.
    rounds: u32,
    /// The rows.
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn of(filled: &Filled, rounds: u32, rows: Vec<Row>) -> Report {
        Report {
            processor: processor(),
            cores: cores(),
            sched_autogroup: sched_autogroup(),
            only_when_idle: filled.only_when_idle,
            database: filled.kind(),
            users: filled.users,
            rounds,
            rows,
        }
    }

    /// For people to read.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} cores of {}, sched_autogroup {}, only_when_idle {}, {}, {} users, {} rounds\n\n",
            self.cores,
            self.processor,
            if self.sched_autogroup { "on" } else { "off" },
            if self.only_when_idle { "on" } else { "off" },
            self.database,
            self.users,
            self.rounds
        );
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<4} {:<44} {:>10} {:>10} {:<10} {:>7}  {:<15} goal",
            "row", "work", "ours", "limit", "unit", "ratio", "spread"
        );
        for row in &self.rows {
            let spread = format!("{:.3} to {:.3}", row.lowest, row.highest);
            let goal = row.goal.map_or_else(String::new, |goal| {
                format!("{} {}", goal.text(), if goal.is_met(row.ratio) { "met" } else { "MISSED" })
            });
            let _ = writeln!(
                text,
                "{:<4} {:<44} {:>10.2} {:>10.2} {:<10} {:>7.3}  {spread:<15} {goal}",
                row.id, row.work, row.ours, row.limit, row.unit, row.ratio
            );
        }
        text
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn sched_autogroup() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").is_ok_and(|value| value.trim() == "1")
}

fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "an unknown processor".to_owned(), |(_, name)| name.to_owned())
}
