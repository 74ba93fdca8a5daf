//! Rounds, medians, and the table.

use std::fmt::Write as _;

use serde::Serialize;

use crate::database::Filled;

/// A row of the table: what is compared with what, and the result.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The name in docs/performance.md.
    pub(crate) id: &'static str,
    /// The work that was measured.
    pub(crate) work: String,
    /// The unit of `ours` and `limit`.
    pub(crate) unit: &'static str,
    /// The median of our figures.
    pub(crate) ours: f64,
    /// The median of the figures that ours are compared with.
    pub(crate) limit: f64,
    /// The median of the ratios of the rounds.
    pub(crate) ratio: f64,
    /// The lowest ratio of a round.
    pub(crate) lowest: f64,
    /// The highest ratio of a round.
    pub(crate) highest: f64,
    /// The goal for the ratio.
    pub(crate) goal: Option<Goal>,
}

/// The goal for a ratio.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
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
    /// Makes a row from the rounds, each with our figure and the limit, measured in turn.
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

/// The median; of an even number of values, the higher of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The result of a whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The model name of the processor.
    processor: String,
    /// Cores that the run could use.
    cores: usize,
    /// Linux's `kernel.sched_autogroup_enabled`: whether the scheduler shares cores between sessions first, and by
    /// priority only within a session.
    sched_autogroup: bool,
    /// The kind of database.
    database: &'static str,
    /// Users in the database.
    users: u64,
    /// Number of rounds.
    rounds: u32,
    /// The rows of the table.
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn of(filled: &Filled, rounds: u32, rows: Vec<Row>) -> Report {
        Report {
            processor: processor(),
            cores: cores(),
            sched_autogroup: sched_autogroup(),
            database: filled.kind(),
            users: filled.users,
            rounds,
            rows,
        }
    }

    /// The report as text.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} cores of {}, sched_autogroup {}, {}, {} users, {} rounds\n\n",
            self.cores,
            self.processor,
            if self.sched_autogroup { "on" } else { "off" },
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
