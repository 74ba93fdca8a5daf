//! Tables with aligned columns that fit the terminal.

use super::text::{Text, Tone};

/// The spaces before the first column and between columns.
const GAP: usize = 2;
/// The smallest width of a column of free text.
const NARROWEST: usize = 8;

/// The width that a wrapped note needs at least. With less room, it goes below its row.
const NOTE_ROOM: usize = 28;
/// The prefix of a note below its row.
const BELOW: &str = "    ↳ ";

/// The head of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fixed,
    Free,
    Note,
}

impl Column {
    /// A column of short values, which are never cut.
    pub(crate) const fn fixed(title: &'static str) -> Column {
        Column { title, kind: Kind::Fixed }
    }

    /// A column of free text, which may be cut to fit.
    pub(crate) const fn free(title: &'static str) -> Column {
        Column { title, kind: Kind::Free }
    }

    /// A column of text that is wrapped and never cut. Only the last column can be one.
    pub(crate) const fn note(title: &'static str) -> Column {
        Column { title, kind: Kind::Note }
    }
}

/// The layout that the pages of a list share. Columns get no narrower from page to page, and titles are printed again
/// only when the columns change.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    natural: Vec<usize>,
    shown: Vec<bool>,
}

/// Rows of cells. An empty column is not printed.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Text>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one cell per column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Text>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lines to print. `width` is the width of the terminal; with `None`, nothing is cut or wrapped.
    pub(crate) fn lines(self, width: Option<usize>, layout: &mut Layout) -> Vec<Text> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        layout.natural = self.natural(&layout.natural);
        let mut widths = layout.natural.clone();
        if let Some(total) = width {
            self.fit(&mut widths, total);
        }
        let mut lines = Vec::new();
        let shown: Vec<bool> = widths.iter().map(|width| *width > 0).collect();
        if shown != layout.shown {
            let titles = self.columns.iter().map(|column| Text::toned(Tone::Dim, column.title)).collect();
            lines.push(line(titles, &widths));
            layout.shown = shown;
        }
        let notes = self.columns.last().is_some_and(|column| column.kind == Kind::Note);
        for mut cells in self.rows {
            let note = if notes { cells.pop() } else { None };
            lines.extend(with_note(cells, note.unwrap_or_default(), &widths, width));
        }
        lines
    }

    /// The width that each column needs. 0 for an empty column.
    fn natural(&self, before: &[usize]) -> Vec<usize> {
        let width = |(at, column): (usize, &Column)| {
            let widest = self.rows.iter().filter_map(|row| row.get(at)).map(Text::width).max().unwrap_or(0);
            let here = if widest == 0 { 0 } else { widest.max(column.title.len()) };
            here.max(before.get(at).copied().unwrap_or(0))
        };
        self.columns.iter().enumerate().map(width).collect()
    }

    /// Makes the columns fit. Narrows the note first, then the widest free text. A note of width 0 goes below its row.
    fn fit(&self, widths: &mut [usize], total: usize) {
        let taken =
            |widths: &[usize]| widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum::<usize>();
        if taken(widths) <= total {
            return;
        }
        if let (Some(note), Some(Kind::Note)) = (widths.last_mut(), self.columns.last().map(|column| column.kind)) {
            let wanted = std::mem::take(note);
            let room = total.saturating_sub(taken(widths) + GAP);
            if let Some(note) = widths.last_mut().filter(|_| room >= wanted.min(NOTE_ROOM)) {
                *note = room.min(wanted);
            }
        }
        let mut excess = taken(widths).saturating_sub(total);
        // Each iteration narrows the widest cell by one, so there are at most `excess` iterations.
        while excess > 0 {
            let free = widths.iter_mut().zip(&self.columns);
            let widest = free.filter(|(width, column)| column.kind == Kind::Free && **width > NARROWEST);
            let Some(width) = widest.map(|(width, _)| width).max() else { break };
            *width -= 1;
            excess -= 1;
        }
    }
}

/// A row with its note, wrapped in the last column or below the row.
fn with_note(mut cells: Vec<Text>, note: Text, widths: &[usize], total: Option<usize>) -> Vec<Text> {
    let column = widths.last().copied().filter(|_| cells.len() < widths.len()).unwrap_or(0);
    if note.is_empty() {
        return vec![line(cells, widths)];
    }
    let before: usize = widths.iter().take(cells.len()).filter(|width| **width > 0).map(|width| width + GAP).sum();
    let (indent, room) = match total {
        _ if column > 0 => (before + GAP, column),
        Some(total) => (BELOW.chars().count(), total.saturating_sub(BELOW.chars().count())),
        None => (0, usize::MAX),
    };
    let mut wrapped = note.wrapped(room.max(NARROWEST)).into_iter();
    let mut lines = Vec::new();
    if column > 0 {
        cells.push(wrapped.next().unwrap_or_default());
        lines.push(line(cells, widths));
    } else {
        lines.push(line(cells, widths));
        lines.extend(wrapped.next().map(|first| Text::toned(Tone::Dim, BELOW).join(first)));
    }
    lines.extend(wrapped.map(|more| Text::from(" ".repeat(indent)).join(more)));
    lines
}

/// A line of cells, without trailing spaces.
fn line(cells: Vec<Text>, widths: &[usize]) -> Text {
    let cells: Vec<(Text, usize)> =
        cells.into_iter().zip(widths.iter().copied()).filter(|(_, width)| *width > 0).collect();
    let last = cells.iter().rposition(|(cell, _)| !cell.is_empty()).unwrap_or(0);
    let mut line = Text::new();
    for (at, (cell, width)) in cells.into_iter().enumerate().take(last + 1) {
        let cell = cell.shortened(width);
        line = line.and(Tone::Plain, " ".repeat(GAP)).join(if at == last { cell } else { cell.padded(width) });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[Column::fixed("USER"), Column::free("NAME"), Column::free("ATTENTION")];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS);
        table.row(["alan", "Alan Turing", "locked by root: laptop lost"].map(Text::from));
        table.row(["grace", "Grace Hopper", ""].map(Text::from));
        table
    }

    fn shown(table: Table, width: Option<usize>) -> Vec<String> {
        plain(&table.lines(width, &mut Layout::default()))
    }

    fn plain(lines: &[Text]) -> Vec<String> {
        lines.iter().map(|line| anstream::adapter::strip_str(&line.to_string()).to_string()).collect()
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(
            shown(table(), None),
            [
                "  USER   NAME          ATTENTION",
                "  alan   Alan Turing   locked by root: laptop lost",
                "  grace  Grace Hopper",
            ]
        );
    }

    #[test]
    fn the_widest_free_text_gives_way() {
        let row = |width| shown(table(), Some(width)).into_iter().nth(1).unwrap_or_default();
        assert_eq!(row(40), "  alan   Alan Turing   locked by root: …");
        assert_eq!(row(30), "  alan   Alan Turi…  locked b…");
    }

    #[test]
    fn an_empty_column_is_left_out() {
        let mut table = Table::new(COLUMNS);
        table.row(["grace", "", "must change"].map(Text::from));
        assert_eq!(shown(table, None), ["  USER   ATTENTION", "  grace  must change"]);
    }

    fn noted() -> Table {
        let mut table = Table::new(&[Column::fixed("USER"), Column::free("NAME"), Column::note("ATTENTION")]);
        table.row(["alan", "Alan Turing", "locked by root: laptop lost on a train; must change"].map(Text::from));
        table.row(["grace", "Grace Hopper", "must change"].map(Text::from));
        table
    }

    #[test]
    fn a_note_is_wrapped_in_its_column() {
        assert_eq!(
            shown(noted(), Some(60)),
            [
                "  USER   NAME          ATTENTION",
                "  alan   Alan Turing   locked by root: laptop lost on a",
                "                       train; must change",
                "  grace  Grace Hopper  must change",
            ]
        );
    }

    #[test]
    fn a_note_without_room_goes_below_its_row() {
        assert_eq!(
            shown(noted(), Some(40)),
            [
                "  USER   NAME",
                "  alan   Alan Turing",
                "    ↳ locked by root: laptop lost on a",
                "      train; must change",
                "  grace  Grace Hopper",
                "    ↳ must change",
            ]
        );
    }

    #[test]
    fn a_second_page_keeps_the_columns_and_has_no_titles() {
        let mut layout = Layout::default();
        assert_eq!(plain(&noted().lines(None, &mut layout)).len(), 3);
        let mut second = Table::new(&[Column::fixed("USER"), Column::free("NAME"), Column::note("ATTENTION")]);
        second.row(["al", "", "must change"].map(Text::from));
        assert_eq!(plain(&second.lines(None, &mut layout)), ["  al                   must change"]);
    }
}
