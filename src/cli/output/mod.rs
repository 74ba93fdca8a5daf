//! All output.
//!
//! Answers go to standard output, as text for people or as JSON for machines. Questions, hints and errors go to
//! standard error. When the reader closes standard output (`latchkey users list | head`), the command ends quietly.

pub(crate) mod delivery;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod hint;
pub(crate) mod json;
mod qr;
pub(crate) mod strength;
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

/// The assumed width without a terminal, for the last line of a list.
const WIDTH: usize = 80;
/// The widest last line of a list.
const FOOTER_MAX: usize = 100;
/// The label of the next command.
const NEXT: &str = "next: ";
const UNDO: &str = "undo: ";
/// The option of the local operator.
pub(crate) const LOCAL: &str = "--local";
/// The commands of users, which refuse it.
const REFUSE_LOCAL: [&str; 5] = ["login", "logout", "passwd", "password ", "email confirm"];

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
    /// The width of standard output. `None` if it is not a terminal: then nothing is wrapped, cut or left out.
    width: Option<usize>,
    /// The same of standard error.
    aside_width: Option<usize>,
    clock: Clock,
    /// The options by which this command reaches its server, as words of a shell. The next command needs them, too.
    reach: Vec<String>,
}

impl Screen {
    /// A screen over the standard streams, as wide as the terminal.
    pub(crate) fn new(format: Format, colour: Colour) -> Screen {
        let (width, aside_width) = (terminal_width(&io::stdout()), terminal_width(&io::stderr()));
        Screen { format, colour: colour.into(), width, aside_width, clock: Clock::system(), reach: Vec::new() }
    }

    /// The clock for relative times.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether answers are for machines.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line of an answer, wrapped at spaces.
    pub(crate) fn line(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.lines(flowed(text.into(), self.width, 0))
    }

    /// Prints lines of an answer as they are.
    fn lines(&self, lines: impl IntoIterator<Item = Text>) -> Result<(), Error> {
        lines.into_iter().try_for_each(|line| self.write(&line.to_string()))
    }

    /// Prints a table, or one page of it.
    pub(crate) fn table(&self, table: table::Table, layout: &mut table::Layout) -> Result<(), Error> {
        self.lines(table.lines(self.width, layout))
    }

    /// Prints lines of `name  text`, with aligned names and wrapped texts. Leaves out fields without text.
    pub(crate) fn fields(&self, fields: impl IntoIterator<Item = (&'static str, Text)>) -> Result<(), Error> {
        self.lines(aligned(fields, self.width))
    }

    /// The same screen, for a command line that reaches its server by these options.
    pub(crate) fn reaching(self, reach: Vec<String>) -> Screen {
        Screen { reach, ..self }
    }

    /// A command of this program as the user has to type it.
    fn typed(&self, command: &str) -> String {
        let Some(rest) = command.strip_prefix("latchkey ") else { return command.to_owned() };
        let refuses_local = REFUSE_LOCAL.iter().any(|name| rest.starts_with(name));
        let options = self.reach.iter().map(String::as_str).filter(|option| !(refuses_local && *option == LOCAL));
        std::iter::once("latchkey").chain(options).chain([rest]).collect::<Vec<_>>().join(" ")
    }

    /// A hint, which is a command or has some between backticks, as the user has to type them.
    fn typed_within(&self, hint: &str) -> String {
        if hint.starts_with("latchkey ") {
            return self.typed(hint);
        }
        let parts = hint.split('`').enumerate();
        let parts = parts.map(|(at, part)| if at % 2 == 1 { self.typed(part) } else { part.to_owned() });
        parts.collect::<Vec<_>>().join("`")
    }

    /// Prints the last line of a list: the number of entries, and the next command.
    pub(crate) fn footer(&self, amount: &str, next: Option<&str>) -> Result<(), Error> {
        let line = Text::new().and(Tone::Plain, "  ").and(Tone::Dim, amount);
        let Some(next) = next else { return self.line(line) };
        let command = Text::toned(Tone::Dim, NEXT).and(Tone::Plain, self.typed(next));
        let place = self.width.unwrap_or(WIDTH).min(FOOTER_MAX).saturating_sub(command.width());
        let side_by_side = line.clone().and(Tone::Plain, "   ").padded(place).join(command);
        if self.width.is_none_or(|width| side_by_side.width() <= width) {
            return self.lines([side_by_side]);
        }
        self.line(line)?;
        self.next(next)
    }

    /// Prints the next command, after something was done. A command that is too long goes on after a `\`, so that it can be
    /// copied. A remark may follow the command after a comma; it is printed below.
    pub(crate) fn next(&self, command: &str) -> Result<(), Error> {
        self.lines(command_lines(NEXT, &self.typed(command), self.width))
    }

    /// Prints the command that takes back what was done, as [`Screen::next`] prints one.
    pub(crate) fn undo(&self, command: &str) -> Result<(), Error> {
        self.lines(command_lines(UNDO, &self.typed(command), self.width))
    }

    /// Prints numbered steps, the first one after a label: commands as [`Screen::next`] prints one, and sentences.
    pub(crate) fn steps(&self, label: &str, steps: &[String]) -> Result<(), Error> {
        for (at, step) in steps.iter().enumerate() {
            let label = format!("{:5}{}  ", if at == 0 { label } else { "" }, at + 1);
            if step.starts_with("latchkey ") {
                self.lines(command_lines(&label, &self.typed(step), self.width))?;
                continue;
            }
            let text = Text::toned(Tone::Dim, format!("  {label}")).and(Tone::Plain, step);
            let below = label.trim_start().len();
            self.lines(flowed(text, self.width, below))?;
        }
        Ok(())
    }

    /// Prints `✔` and what was done.
    pub(crate) fn done(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.lines(flowed(Text::toned(Tone::Good, "✔ ").join(text.into()), self.width, 2))
    }

    /// Prints `!` and what was not done, or not all of it.
    pub(crate) fn caution(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.line(Text::toned(Tone::Warn, "! ").join(text.into()))
    }

    /// Prints a line with a secret that is shown only once.
    pub(crate) fn secret(&self, text: impl Into<Text>) -> Result<(), Error> {
        self.try_write(&text.into().to_string()).map_err(Error::Lost)
    }

    /// Draws a QR code of a secret, on a terminal that has colours and is wide enough. Returns whether it did.
    pub(crate) fn qr_code(&self, secret: &str) -> Result<bool, Error> {
        let has_colours = AutoStream::new(io::stdout(), self.colour).current_choice() != ColorChoice::Never;
        let Some(lines) = self.width.filter(|_| has_colours).and_then(|width| qr::lines(secret, width)) else {
            return Ok(false);
        };
        self.write(&lines.join("\n"))?;
        Ok(true)
    }

    /// Prints JSON that contains such a secret.
    pub(crate) fn secret_json(&self, value: &impl Serialize) -> Result<(), Error> {
        self.try_write(&json::pretty(value)?).map_err(Error::Lost)
    }

    /// Prints a text of this program, unescaped.
    pub(crate) fn verbatim(&self, text: &str) -> Result<(), Error> {
        self.write(text.trim_end_matches('\n'))
    }

    /// Prints a help of clap's, which wraps all but the usage.
    pub(crate) fn help(&self, styled: &str) -> Result<(), Error> {
        styled.trim_end_matches('\n').lines().try_for_each(|line| {
            let plain = Text::from(anstream::adapter::strip_str(line).to_string());
            if self.width.is_none_or(|width| plain.width() <= width) {
                return self.write(line);
            }
            self.lines(flowed(plain, self.width, 2))
        })
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
        for line in flowed(text.into(), self.aside_width, 0) {
            self.aside(&format!("{line}\n"));
        }
    }

    /// Shows a line on the terminal of standard error, instead of the one before. Does nothing elsewhere, and for machines.
    pub(crate) fn spin(&self, text: impl Into<Text>) {
        if let Some(width) = self.aside_width.filter(|_| !self.is_json()).map(|width| width.saturating_sub(1)) {
            self.aside(&format!("\r{}", text.into().shortened(width).padded(width)));
        }
    }

    /// Clears the line of [`Screen::spin`].
    pub(crate) fn stop_spinning(&self) {
        if let Some(width) = self.aside_width.filter(|_| !self.is_json()).map(|width| width.saturating_sub(1)) {
            self.aside(&format!("\r{}\r", " ".repeat(width)));
        }
    }

    /// Prints a question. The answer is typed on the same line.
    pub(crate) fn question(&self, text: &str) {
        let lines = flowed(Text::toned(Tone::Strong, text), self.aside_width.map(|width| width - 1), 0);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        self.aside(&format!("{} ", lines.join("\n")));
    }

    /// Prints lines of `name  text` to standard error.
    pub(crate) fn note_fields(&self, fields: impl IntoIterator<Item = (&'static str, Text)>) {
        for line in aligned(fields, self.aside_width) {
            self.aside(&format!("{line}\n"));
        }
    }

    /// Prints what is wrong with the command line to standard error.
    pub(crate) fn usage(&self, text: &str) {
        for line in text.lines() {
            self.note(match line.strip_prefix("error: ") {
                Some(message) => Text::toned(Tone::Bad, "error: ").and(Tone::Plain, message),
                None => Text::from(line),
            });
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
        for line in error::lines(error, &self.clock, |hint| self.typed_within(hint)) {
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

/// A line of prose, wrapped to the width of a terminal. Further lines are indented as the first one, and by `more` columns.
fn flowed(text: Text, width: Option<usize>, more: usize) -> Vec<Text> {
    match width {
        Some(width) => text.flowed_below(width, more),
        None => vec![text],
    }
}

fn aligned(fields: impl IntoIterator<Item = (&'static str, Text)>, width: Option<usize>) -> Vec<Text> {
    let fields: Vec<_> = fields.into_iter().filter(|(_, text)| !text.is_empty()).collect();
    let indent = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 4;
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(20));
    let lines = |(name, text): (&'static str, Text)| {
        let name = Text::new().and(Tone::Plain, "  ").and(Tone::Dim, name).padded(indent);
        let mut names = std::iter::once(name).chain(std::iter::repeat_with(move || Text::new().padded(indent)));
        text.flowed(room).into_iter().map(move |line| names.next().unwrap_or_default().join(line))
    };
    fields.into_iter().flat_map(lines).collect()
}

/// The lines of a command, and below it those of the remark that follows it after a comma, so that the command alone can be
/// copied.
fn command_lines(label: &str, command: &str, width: Option<usize>) -> Vec<Text> {
    let (command, remark) =
        command.split_once(", ").map_or((command, None), |(command, remark)| (command, Some(remark)));
    let label = Text::toned(Tone::Dim, format!("  {label}"));
    let remark = remark.map(|remark| Text::new().padded(label.width()).and(Tone::Dim, remark));
    let whole = label.clone().and(Tone::Plain, command);
    let mut lines = match width {
        Some(width) if whole.width() > width => broken_command(label, command, width),
        _ => vec![whole],
    };
    lines.extend(remark.into_iter().flat_map(|remark| flowed(remark, width, 0)));
    lines
}

/// The lines of a command that is too long for one: each but the last ends with a `\`.
fn broken_command(label: Text, command: &str, width: usize) -> Vec<Text> {
    let indent = label.width();
    let mut lines = vec![label];
    for (at, word) in shell_words(command).into_iter().enumerate() {
        let Some(line) = lines.last_mut() else { break };
        let space = if at == 0 { "" } else { " " };
        // Two columns are left for the ` \` of a line that goes on.
        if at > 0 && line.width() + 1 + Text::from(word).width() + 2 > width {
            *line = std::mem::take(line).and(Tone::Plain, " \\");
            lines.push(Text::new().padded(indent + 2).and(Tone::Plain, word));
        } else {
            *line = std::mem::take(line).and(Tone::Plain, space).and(Tone::Plain, word);
        }
    }
    lines
}

/// The words of a command, with their quotes.
fn shell_words(command: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let is_space = |symbol: char| {
        is_quoted ^= symbol == '\'';
        symbol == ' ' && !is_quoted
    };
    command.split(is_space).filter(|word| !word.is_empty()).collect()
}

/// The width of a terminal in columns. `None` if the stream is not a terminal.
fn terminal_width(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(lines: &[Text]) -> Vec<String> {
        lines.iter().map(|line| anstream::adapter::strip_str(&line.to_string()).to_string()).collect()
    }

    #[test]
    fn a_long_command_can_be_copied() {
        let command = "latchkey tokens create 'a b' --name TEXT --scope SCOPE, when it is needed";
        assert_eq!(
            plain(&command_lines(NEXT, command, None)),
            ["  next: latchkey tokens create 'a b' --name TEXT --scope SCOPE", "        when it is needed"]
        );
        assert_eq!(
            plain(&command_lines(NEXT, command, Some(40))),
            [
                "  next: latchkey tokens create 'a b' \\",
                "          --name TEXT --scope SCOPE",
                "        when it is needed",
            ]
        );
    }

    #[test]
    fn a_command_reaches_the_same_server_as_this_one() {
        let reach = ["--socket '/a b'", LOCAL].map(str::to_owned).to_vec();
        let screen = Screen::new(Format::Text, Colour::Never).reaching(reach);
        assert_eq!(screen.typed("latchkey users list"), "latchkey --socket '/a b' --local users list");
        assert_eq!(screen.typed("latchkey login ada"), "latchkey --socket '/a b' login ada");
        let hint = "see `latchkeyd config check`, or `latchkey status`; latchkey is older";
        assert_eq!(
            screen.typed_within(hint),
            "see `latchkeyd config check`, or `latchkey --socket '/a b' --local status`; latchkey is older"
        );
    }

    #[test]
    fn a_pipe_gets_the_whole_text() {
        let fields = || [("scopes", Text::from("users.read ".repeat(20).trim_end()))];
        assert_eq!(aligned(fields(), None).len(), 1);
        let lines = aligned(fields(), Some(60));
        assert!(lines.len() > 1 && lines.iter().all(|line| line.width() <= 60), "{:#?}", plain(&lines));
    }
}
