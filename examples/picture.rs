//! Draws what a terminal of 80 columns showed, as SVG for light and dark pages.
//!
//! ```sh
//! examples/terminal.sh | cargo run --example picture > docs/terminal.svg
//! ```
//!
//! Reads text with the colours of ECMA-48 (`ESC [ … m`) on standard input. Other control sequences are left out.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

/// Width and height of a character, and the margin, in pixels.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 19.0;
const MARGIN: f64 = 16.0;
const COLUMNS: f64 = 80.0;

/// Colours by class: on a light page, and on a dark one. Each has a contrast of at least 4.5 : 1 (WCAG 2.2, 1.4.3).
const COLOURS: [(&str, &str, &str); 10] = [
    ("back", "#f6f8fa", "#161b22"),
    ("plain", "#1f2328", "#e6edf3"),
    ("dim", "#59636e", "#9198a1"),
    ("c1", "#b5202a", "#ff7b72"),
    ("c2", "#116329", "#56d364"),
    ("c3", "#7d4e00", "#e3b341"),
    ("c4", "#0550ae", "#79c0ff"),
    ("c5", "#8250df", "#d2a8ff"),
    ("c6", "#1b6b73", "#76e3ea"),
    ("frame", "#d1d9e0", "#3d444d"),
];

/// How text looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Look {
    /// A colour of the eight, from 1 to 6.
    colour: Option<u8>,
    is_bold: bool,
    is_dim: bool,
}

impl Look {
    /// Applies one parameter of `ESC [ … m`.
    fn apply(&mut self, parameter: &str) {
        match parameter.parse::<u8>().unwrap_or_default() {
            0 => *self = Look::default(),
            1 => self.is_bold = true,
            2 => self.is_dim = true,
            22 => (self.is_bold, self.is_dim) = (false, false),
            code @ (31..=36 | 91..=96) => self.colour = Some(code % 10),
            39 => self.colour = None,
            _ => {}
        }
    }

    fn class(self) -> String {
        let colour = match (self.colour, self.is_dim) {
            (Some(colour), _) => format!("c{colour}"),
            (None, true) => "dim".to_owned(),
            (None, false) => "plain".to_owned(),
        };
        if self.is_bold { format!("{colour} bold") } else { colour }
    }
}

/// Text of one look.
type Run = (Look, String);

/// Splits a line into runs.
fn runs(line: &str, look: &mut Look) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            let sequence: String = characters.by_ref().take_while(|c| !c.is_ascii_alphabetic()).collect();
            // Only sequences of colours have digits alone.
            if let Some(parameters) = sequence.strip_prefix('[') {
                parameters.split(';').for_each(|parameter| look.apply(parameter));
            }
        } else if !character.is_control() {
            match runs.last_mut() {
                Some((last, text)) if *last == *look => text.push(character),
                _ => runs.push((*look, character.to_string())),
            }
        }
    }
    runs
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn columns(text: &str) -> f64 {
    text.chars().map(|_| 1.0).sum()
}

fn draw(text: &str) -> Result<String, std::fmt::Error> {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let width = 2.0f64.mul_add(MARGIN, COLUMNS * WIDTH);
    let height = 2.0f64.mul_add(MARGIN, lines.iter().map(|_| HEIGHT).sum::<f64>());
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">"#
    )?;
    writeln!(svg, "<title>latchkey in a terminal</title>")?;
    writeln!(svg, "<style>")?;
    writeln!(
        svg,
        "text {{ font: 14px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; white-space: pre }}"
    )?;
    writeln!(svg, ".bold {{ font-weight: bold }}")?;
    for (class, light, _) in COLOURS {
        writeln!(svg, ".{class} {{ fill: {light} }}")?;
    }
    writeln!(svg, "@media (prefers-color-scheme: dark) {{")?;
    for (class, _, dark) in COLOURS {
        writeln!(svg, ".{class} {{ fill: {dark} }}")?;
    }
    writeln!(svg, "}}\n</style>")?;
    writeln!(svg, r#"<rect class="frame" width="{width}" height="{height}" rx="8"/>"#)?;
    let (inner_width, inner_height) = (width - 2.0, height - 2.0);
    writeln!(svg, r#"<rect class="back" x="1" y="1" width="{inner_width}" height="{inner_height}" rx="7"/>"#)?;
    let mut look = Look::default();
    let mut y = MARGIN - 5.0;
    for line in lines {
        y += HEIGHT;
        let mut x = MARGIN;
        for (look, text) in runs(line, &mut look) {
            let length = columns(&text) * WIDTH;
            if !text.trim().is_empty() {
                let (class, text) = (look.class(), escaped(&text));
                writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y}" textLength="{length:.1}">{text}</text>"#)?;
            }
            x += length;
        }
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    std::io::stdout().write_all(draw(&text)?.as_bytes())?;
    Ok(())
}
