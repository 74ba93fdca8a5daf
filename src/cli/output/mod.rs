//! The one place that prints.
//!
//! Answers go to standard output, for people as text or for machines as JSON; questions, hints and errors go to
//! standard error. A reader that went away (`latchkey users list | head`) ends the command quietly.

pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod hint;
pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod words;

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Serialize;

use super::error::{Error, Exit};
use text::{Text, Tone};
use time::Clock;

/// Columns to assume where there is no terminal, for what is wrapped and for the last line of a list.
const WIDTH: usize = 80;

/// In which form answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: proto3 JSON of the answer.
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<Colour> for ColorChoice {
    fn from(colour: Colour) -> ColorChoice {
        match colour {
            Colour::Auto => ColorChoice::Auto,
            Colour::Always => ColorChoice::Always,
            Colour::Never => ColorChoice::Never,
        }
    }
}

/// Where answers go, and how.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    format: Format,
    colour: ColorChoice,
    width: Option<usize>,
    clock: Clock,
}

impl Screen {
    /// The standard streams.
    pub(crate) fn new(format: Format, colour: Colour) -> Screen {
        Screen { format, colour: colour.into(), width: terminal_width(), clock: Clock::system() }
    }

    /// The clock that relative times are told by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether answers are for machines.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line of an answer.
    pub(crate) fn line(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.write(&text.into().to_string())
    }

    /// Prints lines of an answer.
    pub(crate) fn lines(&self, lines: impl IntoIterator<Item = Text>) -> Result<(), Error> {
        lines.into_iter().try_for_each(|line| self.line(line))
    }

    /// Prints a table, or one page of it.
    pub(crate) fn table(&self, table: table::Table, layout: &mut table::Layout) -> Result<(), Error> {
        self.lines(table.lines(self.width, layout))
    }

    /// Prints lines of `name  text`, the names aligned, long texts wrapped. Those without text are left out.
    pub(crate) fn fields(&self, fields: impl IntoIterator<Item = (&'static str, Text)>) -> Result<(), Error> {
        self.lines(aligned(fields, self.width))
    }

    /// The last line of an answer: how much it was, and what to do next.
    pub(crate) fn footer(&self, amount: &str, next: Option<&str>) -> Result<(), Error> {
        let line = Text::new().and(Tone::Plain, "  ").and(Tone::Dim, amount);
        let Some(next) = next else { return self.line(line) };
        let next = Text::toned(Tone::Dim, "next: ").and(Tone::Plain, next);
        let place = self.width.unwrap_or(WIDTH).min(100).saturating_sub(next.width());
        self.line(line.and(Tone::Plain, "   ").padded(place).join(next))
    }

    /// Prints what to do next, after something was done.
    pub(crate) fn next(&self, command: &str) -> Result<(), Error> {
        self.line(Text::toned(Tone::Dim, "  next: ").and(Tone::Plain, command))
    }

    /// Prints `✔` and what was done.
    pub(crate) fn done(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.line(Text::toned(Tone::Good, "✔ ").join(text.into()))
    }

    /// Prints text that this program made itself, as it is.
    pub(crate) fn verbatim(&self, text: &str) -> Result<(), Error> {
        self.write(text.trim_end_matches('\n'))
    }

    /// Prints JSON over several lines.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Error> {
        self.write(&json::pretty(value)?)
    }

    /// Prints JSON on one line, for streams of objects.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Error> {
        self.write(&json::line(value)?)
    }

    /// Prints a line beside the answer, for the person who waits for it.
    pub(crate) fn note(&self, text: impl Into<Text>) {
        self.aside(&format!("{}\n", text.into()));
    }

    /// Prints a question; the answer is typed on the same line.
    pub(crate) fn question(&self, text: &str) {
        self.aside(&Text::toned(Tone::Strong, text).and(Tone::Plain, " ").to_string());
    }

    /// Prints lines of `name  text` beside the answer.
    pub(crate) fn note_fields(&self, fields: impl IntoIterator<Item = (&'static str, Text)>) {
        for line in aligned(fields, self.width) {
            self.note(line);
        }
    }

    /// Prints an error: to standard error, in the form that was asked for.
    pub(crate) fn error(&self, error: &Error) {
        if self.is_json() {
            if let Some(Ok(text)) = error.to_json().map(|value| json::line(&value)) {
                self.aside(&format!("{text}\n"));
            }
            return;
        }
        for line in error::lines(error) {
            self.note(line);
        }
    }

    /// Standard error is the last resort: if it is gone, there is nobody to tell.
    fn aside(&self, text: &str) {
        let mut stream = AutoStream::new(io::stderr(), self.colour).lock();
        let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let mut stream = AutoStream::new(io::stdout(), self.colour).lock();
        let written =
            stream.write_all(text.as_bytes()).and_then(|()| stream.write_all(b"\n")).and_then(|()| stream.flush());
        written.map_err(|fault| match fault.kind() {
            io::ErrorKind::BrokenPipe => Error::Silent(Exit::Done),
            _ => Error::unexpected(format!("cannot write to standard output: {fault}")),
        })
    }
}

fn aligned(fields: impl IntoIterator<Item = (&'static str, Text)>, width: Option<usize>) -> Vec<Text> {
    let fields: Vec<_> = fields.into_iter().filter(|(_, text)| !text.is_empty()).collect();
    let indent = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 4;
    let room = width.unwrap_or(WIDTH).saturating_sub(indent).max(20);
    let lines = |(name, text): (&'static str, Text)| {
        let name = Text::new().and(Tone::Plain, "  ").and(Tone::Dim, name).padded(indent);
        let mut names = std::iter::once(name).chain(std::iter::repeat_with(move || Text::new().padded(indent)));
        text.wrapped(room).into_iter().map(move |line| names.next().unwrap_or_default().join(line))
    };
    fields.into_iter().flat_map(lines).collect()
}

/// Columns of the terminal that standard output is; none if it is something else.
fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}
