//! Draws the results of the benchmark as SVG, from its JSON.
//!
//! ```console
//! $ cargo bench --bench service -- --json target/bench.json
//! $ cargo run --example plot -- target/bench.json > goals.svg
//! $ cargo run --example plot -- --without P5 target/bench.json > summary.svg
//! ```
//!
//! Each row with a goal is a bar, which shows how far the ratio is beyond its goal. The vertical line is the goal.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use serde::Deserialize;

/// A run, as `benches/service` writes it, without the fields that are not drawn.
#[derive(Deserialize)]
struct Report {
    processor: String,
    cores: usize,
    database: String,
    users: u64,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    work: String,
    ratio: f64,
    lowest: f64,
    highest: f64,
    goal: Option<Goal>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// How far a ratio is beyond the goal: 1 just meets it, 2 is twice as good, 0.5 half as good.
    fn score(self, ratio: f64) -> f64 {
        match self {
            Goal::AtLeast(least) => ratio / least,
            Goal::AtMost(most) => most / ratio,
        }
    }

    fn text(self) -> String {
        match self {
            Goal::AtLeast(least) => format!("≥ {least}"),
            Goal::AtMost(most) => format!("≤ {most}"),
        }
    }
}

const WIDTH: f64 = 960.0;
const LINE: f64 = 22.0;
/// The x coordinate at which bars begin, and the width of the scale.
const LEFT: f64 = 430.0;
const SCALE: f64 = 330.0;
/// The scale goes from half of the goal to eight times the goal, in powers of two.
const LOWEST: f64 = -1.0;
const HIGHEST: f64 = 3.0;

fn main() -> ExitCode {
    match draw(std::env::args().skip(1)) {
        Ok(svg) => match std::io::stdout().write_all(svg.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw(words: impl Iterator<Item = String>) -> Result<String, Box<dyn std::error::Error>> {
    let mut words = words.peekable();
    let without = words.next_if_eq("--without").and_then(|_| words.next());
    let reports = words
        .map(|path| {
            let text = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
            let mut report: Report = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
            report.rows.retain(|row| Some(&row.id) != without.as_ref());
            Ok::<_, String>(report)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if reports.is_empty() {
        return Err("name the JSON files of one or more runs".into());
    }
    let (mut body, mut top) = (String::new(), 12.0);
    for report in &reports {
        top = panel(&mut body, report, top)?;
    }
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" viewBox=\"0 0 {WIDTH} {top}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    ))
}

/// Draws one run below `top`. Returns the y coordinate at which it ends.
fn panel(body: &mut String, report: &Report, top: f64) -> Result<f64, std::fmt::Error> {
    let rows: Vec<_> = report.rows.iter().filter_map(|row| row.goal.map(|goal| (row, goal))).collect();
    let title = format!(
        "{}, {} users, {} cores of {}",
        report.database,
        thousands(report.users),
        report.cores,
        report.processor.trim()
    );
    text(body, 16.0, top + 20.0, "start", "font-weight=\"600\" font-size=\"15\"", &title)?;
    let first = top + 62.0;
    let end = first + LINE * count(rows.len());
    for power in [-1_i32, 0, 1, 2, 3] {
        let x = place(2_f64.powi(power));
        let (colour, width) = if power == 0 { ("#24292f", 1.5) } else { ("#d0d7de", 1.0) };
        writeln!(
            body,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{end:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            first - 8.0
        )?;
        let label = if power == 0 { "goal".to_owned() } else { format!("{}×", 2_f64.powi(power)) };
        text(body, x, first - 14.0, "middle", "fill=\"#57606a\" font-size=\"11\"", &label)?;
    }
    for (number, (row, goal)) in rows.into_iter().enumerate() {
        bar(body, row, goal, first + LINE * count(number))?;
    }
    Ok(end + 22.0)
}

fn bar(body: &mut String, row: &Row, goal: Goal, top: f64) -> std::fmt::Result {
    let baseline = top + 15.0;
    text(body, 16.0, baseline, "start", "font-weight=\"600\"", &row.id)?;
    text(body, 58.0, baseline, "start", "", row.work.trim())?;
    let (from, to) = (place(1.0), place(goal.score(row.ratio)));
    let colour = if goal.score(row.ratio) >= 1.0 { "#2da44e" } else { "#d4731c" };
    let (x, width) = (from.min(to), (to - from).abs().max(1.5));
    writeln!(body, "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"13\" fill=\"{colour}\"/>", top + 4.0)?;
    let (a, b) = (place(goal.score(row.lowest)), place(goal.score(row.highest)));
    let middle = top + 10.5;
    writeln!(
        body,
        "<line x1=\"{a:.1}\" y1=\"{middle:.1}\" x2=\"{b:.1}\" y2=\"{middle:.1}\" stroke=\"#24292f\" stroke-width=\"1\"/>"
    )?;
    let figures = format!("{:.2}  ({})", row.ratio, goal.text());
    text(body, WIDTH - 16.0, baseline, "end", "fill=\"#57606a\"", &figures)
}

/// The x coordinate of a score. The scale is logarithmic.
fn place(score: f64) -> f64 {
    let power = score.max(1e-6).log2().clamp(LOWEST, HIGHEST);
    LEFT + SCALE * (power - LOWEST) / (HIGHEST - LOWEST)
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, more: &str, what: &str) -> std::fmt::Result {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{what}</text>")
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// `1 000 000`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(" ")
}
