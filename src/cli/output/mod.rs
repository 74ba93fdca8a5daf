//! All output.
//!
//! Answers go to standard output, as text for people or as JSON for machines. Questions, hints and errors go to
//! standard error. When the reader closes standard output (`latchkey users list | head`), the command ends quietly.

pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod hint;
pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod typed_time;
pub(crate) mod words;

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Serialize;

use super::error::{Error, Exit};
use text::{Text, Tone};
use time::Clock;

/// The assumed width without a terminal, for wrapped texts and for the last line of a list.
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

/// The standard streams, and the form of the output.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    format: Format,
    colour: ColorChoice,
    width: Option<usize>,
    clock: Clock,
}

impl Screen {
    /// A screen over the standard streams, as wide as the terminal.
    pub(crate) fn new(format: Format, colour: Colour) -> Screen {
        Screen { format, colour: colour.into(), width: terminal_width(), clock: Clock::system() }
    }

    /// The clock for relative times.
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

    /// Prints lines of `name  text`, with aligned names and wrapped texts. Leaves out fields without text.
    pub(crate) fn fields(&self, fields: impl IntoIterator<Item = (&'static str, Text)>) -> Result<(), Error> {
        self.lines(aligned(fields, self.width))
    }

    /// Prints the last line of a list: the number of entries, and the next command.
    pub(crate) fn footer(&self, amount: &str, next: Option<&str>) -> Result<(), Error> {
        let line = Text::new().and(Tone::Plain, "  ").and(Tone::Dim, amount);
        let Some(next) = next else { return self.line(line) };
        let next = Text::toned(Tone::Dim, "next: ").and(Tone::Plain, next);
        let place = self.width.unwrap_or(WIDTH).min(100).saturating_sub(next.width());
        self.line(line.and(Tone::Plain, "   ").padded(place).join(next))
    }

    /// Prints the next command, after something was done.
    pub(crate) fn next(&self, command: &str) -> Result<(), Error> {
        self.line(Text::toned(Tone::Dim, "  next: ").and(Tone::Plain, command))
    }

    /// Prints `✔` and what was done.
    pub(crate) fn done(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.line(Text::toned(Tone::Good, "✔ ").join(text.into()))
    }

    /// Prints `!` and what was not done, or not all of it.
    pub(crate) fn caution(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.line(Text::toned(Tone::Warn, "! ").join(text.into()))
    }

    /// Prints a line with a secret that is shown only once.
    pub(crate) fn secret(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.try_write(&text.into().to_string()).map_err(Error::Lost)
    }

    /// Prints JSON that contains such a secret.
    pub(crate) fn secret_json(&self, value: &impl Serialize) -> Result<(), Error> {
        self.try_write(&json::pretty(value)?).map_err(Error::Lost)
    }

    /// Prints a text of this program, unescaped.
    pub(crate) fn verbatim(&self, text: &str) -> Result<(), Error> {
        self.write(text.trim_end_matches('\n'))
    }

    /// Prints JSON on several lines.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Error> {
        self.write(&json::pretty(value)?)
    }

    /// Prints JSON on one line, for streams of objects.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Error> {
        self.write(&json::line(value)?)
    }

    /// Prints a line to standard error, for the person at the terminal.
    pub(crate) fn note(&self, text: impl Into<Text>) {
        self.aside(&format!("{}\n", text.into()));
    }

    /// Prints a question. The answer is typed on the same line.
    pub(crate) fn question(&self, text: &str) {
        self.aside(&Text::toned(Tone::Strong, text).and(Tone::Plain, " ").to_string());
    }

    /// Prints lines of `name  text` to standard error.
    pub(crate) fn note_fields(&self, fields: impl IntoIterator<Item = (&'static str, Text)>) {
        for line in aligned(fields, self.width) {
            self.note(line);
        }
    }

    /// Prints an error to standard error, as text or as JSON.
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

    /// Writes to standard error. A failure is ignored, since there is nowhere left to report it.
    fn aside(&self, text: &str) {
        let mut stream = AutoStream::new(io::stderr(), self.colour).lock();
        let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    }

    fn try_write(&self, text: &str) -> io::Result<()> {
        let mut stream = AutoStream::new(io::stdout(), self.colour).lock();
        stream.write_all(text.as_bytes())?;
        stream.write_all(b"\n")?;
        stream.flush()
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        self.try_write(text).map_err(|fault| match fault.kind() {
            io::ErrorKind::BrokenPipe => Error::Silent(Exit::Done),
            _ => Error::unwritten(&fault),
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

/// The width of the terminal in columns. `None` if standard output is not a terminal.
fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}
