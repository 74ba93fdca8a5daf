//! A line of text in pieces, each with a tone.
//!
//! All output for people is a [`Text`], and a `Text` escapes its pieces. So nothing that a server sent reaches the
//! terminal unescaped.

use std::fmt;

use anstyle::{AnsiColor, Style};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::escape::escape;

/// The meaning of a piece of text, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Ordinary text.
    Plain,
    /// The subject of the line.
    Strong,
    /// Less important: titles, hints, times.
    Dim,
    /// In order.
    Good,
    /// Needs attention.
    Warn,
    /// Wrong or stopped.
    Bad,
}

impl Tone {
    const fn style(self) -> Style {
        let style = Style::new();
        match self {
            Tone::Plain => style,
            Tone::Strong => style.bold(),
            Tone::Dim => style.dimmed(),
            Tone::Good => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))),
            // Not yellow, which is unreadable on a white background.
            Tone::Warn => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Magenta))),
            Tone::Bad => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))),
        }
    }
}

/// A line of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pieces: Vec<(Tone, String)>,
}

impl Text {
    /// An empty line.
    pub(crate) fn new() -> Text {
        Text::default()
    }

    /// A line of one piece.
    pub(crate) fn toned(tone: Tone, text: impl AsRef<str>) -> Text {
        Text::new().and(tone, text)
    }

    /// Adds a piece.
    #[must_use]
    pub(crate) fn and(mut self, tone: Tone, text: impl AsRef<str>) -> Text {
        let text = text.as_ref();
        if !text.is_empty() {
            self.pieces.push((tone, escape(text).into_owned()));
        }
        self
    }

    /// Adds all pieces of another line.
    #[must_use]
    pub(crate) fn join(mut self, other: Text) -> Text {
        self.pieces.extend(other.pieces);
        self
    }

    /// Adds spaces up to `width` columns.
    #[must_use]
    pub(crate) fn padded(mut self, width: usize) -> Text {
        let missing = width.saturating_sub(self.width());
        if missing > 0 {
            self.pieces.push((Tone::Plain, " ".repeat(missing)));
        }
        self
    }

    /// Whether the line is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The width in columns of the terminal.
    pub(crate) fn width(&self) -> usize {
        self.symbols().iter().map(|symbol| symbol.columns).sum()
    }

    /// Cuts the line to `width` columns, with `…` for the rest.
    #[must_use]
    pub(crate) fn shortened(self, width: usize) -> Text {
        if self.width() <= width {
            return self;
        }
        let symbols = self.symbols();
        let mut room = width.saturating_sub(1);
        let kept = symbols.iter().take_while(|symbol| {
            let fits = symbol.columns <= room;
            room = room.saturating_sub(symbol.columns);
            fits
        });
        let kept = kept.count();
        let mut short = Text::of(symbols.get(..kept).unwrap_or_default());
        match (short.pieces.last_mut(), symbols.get(kept)) {
            (Some((tone, text)), Some(cut)) if *tone == cut.tone => text.push('…'),
            (_, cut) => short.pieces.push((cut.map_or(Tone::Plain, |cut| cut.tone), "…".to_owned())),
        }
        short
    }

    /// Wraps the line at spaces to `width` columns. Breaks a longer word where the line ends.
    pub(crate) fn wrapped(self, width: usize) -> Vec<Text> {
        self.broken(|symbols| line_end(symbols, width, false))
    }

    /// Wraps the line at spaces to `width` columns, for people who may copy from it: a longer word, such as a token, stays
    /// whole, and so does a command between backticks that fits into a line. Texts without spaces between wide symbols are
    /// broken where the line ends.
    pub(crate) fn flowed(self, width: usize) -> Vec<Text> {
        self.broken(|symbols| line_end(symbols, width, true))
    }

    /// Wraps like [`flowed`](Self::flowed). Further lines are indented as the first one, and by `more` columns.
    pub(crate) fn flowed_below(self, width: usize, more: usize) -> Vec<Text> {
        if self.width() <= width {
            return vec![self];
        }
        let indent = self.symbols().iter().take_while(|symbol| symbol.text == " ").count();
        let below = Text::new().padded(indent + more);
        let mut lines = Vec::new();
        let mut rest = self.flowed_once(width);
        while let (line, Some(after)) = rest {
            lines.push(line);
            rest = below.clone().join(after).flowed_once(width);
        }
        lines.push(rest.0);
        lines
    }

    /// The first line, and the rest. `None` if there is no rest, or if the line cannot be broken.
    fn flowed_once(self, width: usize) -> (Text, Option<Text>) {
        let symbols = self.symbols();
        let indent = symbols.iter().take_while(|symbol| symbol.text == " ").count();
        let text = symbols.get(indent..).unwrap_or_default();
        let end = line_end(text, width.saturating_sub(indent), true);
        let (line, rest) = symbols.split_at((indent + end).min(symbols.len()));
        let rest = without_spaces(rest);
        (Text::of(line), (!rest.is_empty()).then(|| Text::of(rest)))
    }

    fn broken(self, end: impl Fn(&[Symbol<'_>]) -> usize) -> Vec<Text> {
        let symbols = self.symbols();
        let mut rest = symbols.as_slice();
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(end(rest).clamp(1, rest.len()));
            lines.push(Text::of(line));
            rest = without_spaces(after);
        }
        if lines.is_empty() { vec![Text::new()] } else { lines }
    }

    fn symbols(&self) -> Vec<Symbol<'_>> {
        let mut symbols = Vec::new();
        for (tone, text) in &self.pieces {
            let (tone, graphemes) = (*tone, text.graphemes(true));
            symbols.extend(graphemes.map(|text| Symbol { tone, text, columns: text.width() }));
        }
        symbols
    }

    fn of(symbols: &[Symbol<'_>]) -> Text {
        let mut text = Text::new();
        for run in symbols.chunk_by(|before, after| before.tone == after.tone) {
            let tone = run.first().map_or(Tone::Plain, |symbol| symbol.tone);
            text.pieces.push((tone, run.iter().map(|symbol| symbol.text).collect()));
        }
        text
    }
}

/// What a reader sees as one symbol: a letter with its marks, or an emoji of several code points.
#[derive(Debug, Clone, Copy)]
struct Symbol<'a> {
    tone: Tone,
    text: &'a str,
    columns: usize,
}

fn without_spaces<'a, 'b>(symbols: &'a [Symbol<'b>]) -> &'a [Symbol<'b>] {
    let spaces = symbols.iter().take_while(|symbol| symbol.text == " ").count();
    symbols.get(spaces..).unwrap_or_default()
}

/// The number of symbols in the first line, at least one. A `✔` stays with its word. With `whole`, a word of narrow symbols and a short command between
/// backticks are not broken.
fn line_end(symbols: &[Symbol<'_>], width: usize, whole: bool) -> usize {
    let mut columns = 0;
    let mut last_space = None;
    let mut command_end = 0;
    let mut before = " ";
    for (at, symbol) in symbols.iter().enumerate() {
        if whole && symbol.text == "`" && at >= command_end {
            command_end = end_of_command(symbols, at, width);
        }
        if symbol.text == " " && !matches!(before, " " | "✔") && at >= command_end {
            last_space = Some(at);
        }
        before = symbol.text;
        columns += symbol.columns;
        if columns <= width {
            continue;
        }
        let next = symbols.iter().enumerate().skip(at.max(command_end)).find(|(_, symbol)| symbol.text == " ");
        let next = next.map_or(symbols.len(), |(at, _)| at);
        let word = last_space.map_or(0, |space| space + 1)..next;
        let word = without_spaces(symbols.get(word).unwrap_or_default());
        let is_breakable = !whole || word.iter().any(|symbol| symbol.columns > 1);
        // A new line does not help a word that is longer than a line.
        let is_too_long = !is_breakable && word.iter().map(|symbol| symbol.columns).sum::<usize>() > width;
        return match last_space.filter(|space| *space > 0) {
            _ if is_too_long => next,
            Some(space) => space,
            None => at.max(1),
        };
    }
    symbols.len()
}

/// The end of the command whose opening backtick is at `start`. `start` if it is too long for a line, or is not closed.
fn end_of_command(symbols: &[Symbol<'_>], start: usize, width: usize) -> usize {
    let mut columns = 1;
    for (at, symbol) in symbols.iter().enumerate().skip(start + 1) {
        columns += symbol.columns;
        match symbol.text {
            _ if columns > width => break,
            "`" => return at,
            _ => {}
        }
    }
    start
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::toned(Tone::Plain, text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::toned(Tone::Plain, text)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (tone, text) in &self.pieces {
            let style = tone.style();
            write!(f, "{style}{text}{style:#}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &Text) -> String {
        text.pieces.iter().map(|(_, piece)| piece.as_str()).collect()
    }

    #[test]
    fn width_counts_columns() {
        assert_eq!(Text::from("张伟").width(), 4);
        assert_eq!(Text::from("✖ ok").width(), 4);
    }

    #[test]
    fn a_long_text_is_cut_to_the_column() {
        let text = Text::from("locked by ").and(Tone::Bad, "root: laptop");
        assert_eq!(plain(&text.clone().shortened(13)), "locked by ro…");
        assert_eq!(plain(&text.clone().shortened(10)), "locked by…");
        assert_eq!(plain(&text.clone().shortened(22)), "locked by root: laptop");
        assert_eq!(plain(&Text::from("张伟明").shortened(4)), "张…");
    }

    #[test]
    fn a_long_text_is_wrapped_at_spaces() {
        let wrapped = |text: Text, width| text.wrapped(width).iter().map(plain).collect::<Vec<_>>();
        let text = Text::from("users.read users.lock ").and(Tone::Bad, "users.reset");
        assert_eq!(wrapped(text.clone(), 21), ["users.read users.lock", "users.reset"]);
        assert_eq!(wrapped(text.clone(), 20), ["users.read", "users.lock", "users.reset"]);
        assert_eq!(wrapped(text, 33), ["users.read users.lock users.reset"]);
        assert_eq!(wrapped(Text::from("张伟明 abc"), 4), ["张伟", "明", "abc"]);
        assert_eq!(wrapped(Text::from("abcdef"), 0), ["a", "b", "c", "d", "e", "f"]);
    }

    #[test]
    fn a_symbol_of_several_code_points_is_one() {
        let family = "👩\u{200d}👩\u{200d}👧";
        assert_eq!(Text::from(family).width(), 2);
        assert_eq!(plain(&Text::from(format!("{family}{family}")).shortened(3)), format!("{family}…"));
        assert_eq!(Text::from("e\u{301}").width(), 1);
        assert_eq!(Text::from("علی\u{200c}رضا").width(), 6);
        let wrapped: Vec<String> = Text::from(format!("{family}{family}")).wrapped(2).iter().map(plain).collect();
        assert_eq!(wrapped, [family, family]);
    }

    #[test]
    fn what_is_to_be_copied_stays_whole() {
        let flowed = |text: &str, width| Text::from(text).flowed(width).iter().map(plain).collect::<Vec<_>>();
        assert_eq!(flowed("see `latchkey users list` now", 22), ["see", "`latchkey users list`", "now"]);
        assert_eq!(flowed("lka_0123456789 shown once", 8), ["lka_0123456789", "shown", "once"]);
        assert_eq!(flowed("✔ lka_0123456789 shown", 8), ["✔ lka_0123456789", "shown"]);
        assert_eq!(flowed("✔ free  ✔ fit", 9), ["✔ free", "✔ fit"]);
        assert_eq!(flowed("张伟明张伟明", 4), ["张伟", "明张", "伟明"]);
        let below: Vec<String> = Text::from("  one two three").flowed_below(9, 2).iter().map(plain).collect();
        assert_eq!(below, ["  one two", "    three"]);
    }

    #[test]
    fn a_piece_is_escaped() {
        assert_eq!(plain(&Text::from("a\u{7}")), "a\\u{7}");
    }
}
