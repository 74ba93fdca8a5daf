//! A line of text in pieces, each with a tone.
//!
//! All output for people is a [`Text`], and a `Text` escapes its pieces. So nothing that a server sent reaches the
//! terminal unescaped.

use std::fmt;

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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
            Tone::Warn => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))),
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
        self.pieces.iter().map(|(_, text)| text.width()).sum()
    }

    /// Cuts the line to `width` columns, with `…` for the rest.
    #[must_use]
    pub(crate) fn shortened(self, width: usize) -> Text {
        if self.width() <= width {
            return self;
        }
        let mut room = width.saturating_sub(1);
        let mut short = Text::new();
        for (tone, text) in self.pieces {
            let mut kept = String::new();
            for symbol in text.chars() {
                let columns = symbol.width().unwrap_or(0);
                if columns > room {
                    kept.push('…');
                    short.pieces.push((tone, kept));
                    return short;
                }
                room -= columns;
                kept.push(symbol);
            }
            short.pieces.push((tone, kept));
        }
        short
    }

    /// Wraps the line at spaces to `width` columns. Breaks a longer word where the line ends.
    pub(crate) fn wrapped(self, width: usize) -> Vec<Text> {
        if self.width() <= width {
            return vec![self];
        }
        let symbols: Vec<(Tone, char)> =
            self.pieces.iter().flat_map(|(tone, text)| text.chars().map(move |symbol| (*tone, symbol))).collect();
        let mut rest = symbols.as_slice();
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(line_end(rest, width));
            lines.push(Text::of_symbols(line));
            rest = after;
            while let [(_, ' '), after @ ..] = rest {
                rest = after;
            }
        }
        lines
    }

    fn of_symbols(symbols: &[(Tone, char)]) -> Text {
        let mut text = Text::new();
        for run in symbols.chunk_by(|(before, _), (after, _)| before == after) {
            let tone = run.first().map_or(Tone::Plain, |(tone, _)| *tone);
            text.pieces.push((tone, run.iter().map(|(_, symbol)| symbol).collect()));
        }
        text
    }
}

/// The number of symbols in the first line, at least one.
fn line_end(symbols: &[(Tone, char)], width: usize) -> usize {
    let mut columns = 0;
    let mut last_space = None;
    for (at, (_, symbol)) in symbols.iter().enumerate() {
        if *symbol == ' ' {
            last_space = Some(at);
        }
        columns += symbol.width().unwrap_or(0);
        if columns > width {
            return last_space.filter(|space| *space > 0).unwrap_or(at).max(1);
        }
    }
    symbols.len()
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
    fn a_piece_is_escaped() {
        assert_eq!(plain(&Text::from("a\u{7}")), "a\\u{7}");
    }
}
