//! Tables with aligned columns that fit the terminal.

use super::text::{Text, Tone};

/// The spaces before the first column and between columns.
const GAP: usize = 2;
/// The smallest widths of a column of text that is cut, and of one that is wrapped. The first pair is tried with every choice
/// of columns before the second.
const NARROWEST: [Narrowest; 2] = [Narrowest { cut: 16, wrapped: 32 }, Narrowest { cut: 8, wrapped: 12 }];

/// The width that a wrapped note needs at least. With less room, it goes below its row.
const NOTE_ROOM: usize = 28;
/// The prefix of a note below its row.
const BELOW: &str = "    ↳ ";

#[derive(Debug, Clone, Copy)]
struct Narrowest {
    cut: usize,
    wrapped: usize,
}

/// The head of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    kind: Kind,
    /// The turn in which the column is left out if the others do not fit. `None` if it never is.
    turn: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fixed,
    Free,
    Wrapped,
    Note,
}

impl Column {
    /// A column of values that are never cut: short ones, and those that are typed in the next command.
    pub(crate) const fn fixed(title: &'static str) -> Column {
        Column { title, kind: Kind::Fixed, turn: None }
    }

    /// A column of free text, which may be cut to fit.
    pub(crate) const fn free(title: &'static str) -> Column {
        Column { title, kind: Kind::Free, turn: None }
    }

    /// A column of free text, which is wrapped to fit.
    pub(crate) const fn wrapped(title: &'static str) -> Column {
        Column { title, kind: Kind::Wrapped, turn: None }
    }

    /// A column of text that is wrapped and never cut. Only the last column can be one.
    pub(crate) const fn note(title: &'static str) -> Column {
        Column { title, kind: Kind::Note, turn: None }
    }

    /// The same column, left out where the others do not fit; a note goes below its row instead. Those with a smaller `turn` go
    /// first, a note without one last.
    pub(crate) const fn left_out(self, turn: u8) -> Column {
        Column { turn: Some(turn), ..self }
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

    /// The lines to print. `width` is the width of the terminal; with `None`, nothing is cut, wrapped or left out.
    ///
    /// Rows that do not fit in any other way are printed as records, one line for each cell.
    pub(crate) fn lines(self, width: Option<usize>, layout: &mut Layout) -> Vec<Text> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        layout.natural = self.natural(&layout.natural);
        let widths = match width {
            None => Some(layout.natural.clone()),
            Some(total) => self.fit(&layout.natural, total),
        };
        let Some(widths) = widths else {
            return self.records(width.unwrap_or(usize::MAX));
        };
        let mut lines = Vec::new();
        let shown: Vec<bool> = widths.iter().map(|width| *width > 0).collect();
        if shown != layout.shown {
            let titles = self.columns.iter().map(|column| vec![Text::toned(Tone::Dim, column.title)]).collect();
            lines.extend(side_by_side(titles, &widths));
            layout.shown = shown;
        }
        let has_note = self.columns.last().is_some_and(|column| column.kind == Kind::Note);
        for mut cells in self.rows {
            let note = if has_note && widths.last() == Some(&0) { cells.pop() } else { None };
            let cells = cells.into_iter().zip(&self.columns).zip(&widths);
            lines.extend(side_by_side(
                cells.map(|((cell, column), width)| column.cell(cell, *width)).collect(),
                &widths,
            ));
            lines.extend(note.into_iter().flat_map(|note| below(note, width)));
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

    /// The widths with which the columns fit. Columns are left out in turn, and a note goes below its row in its turn, which
    /// is width 0; then columns come back for which that made room. `None` if even the last columns do not fit.
    fn fit(&self, natural: &[usize], total: usize) -> Option<Vec<usize>> {
        let turn = |column: &Column| column.turn.or((column.kind == Kind::Note).then_some(u8::MAX));
        let mut turns: Vec<(u8, usize)> =
            self.columns.iter().enumerate().filter_map(|(at, column)| Some((turn(column)?, at))).collect();
        turns.sort_unstable();
        let turns: Vec<usize> = turns.into_iter().map(|(_, at)| at).collect();
        let without = |gone: &[usize], narrowest: Narrowest| {
            let widths = natural.iter().enumerate().map(|(at, width)| if gone.contains(&at) { 0 } else { *width });
            self.narrowed(widths.collect(), total, narrowest)
        };
        for narrowest in NARROWEST {
            let mut gone: Vec<usize> = Vec::new();
            let mut next = turns.iter();
            let mut widths = without(&gone, narrowest);
            while let (None, Some(at)) = (&widths, next.next()) {
                gone.push(*at);
                widths = without(&gone, narrowest);
            }
            let Some(mut widths) = widths else { continue };
            // A note below its row leaves room for columns that went before it. The last to go comes back first.
            let is_note = |at: &usize| self.columns.get(*at).is_some_and(|column| column.kind == Kind::Note);
            for at in gone.clone().into_iter().rev().skip_while(is_note) {
                let fewer: Vec<usize> = gone.iter().copied().filter(|other| *other != at).collect();
                let Some(more) = without(&fewer, narrowest) else { break };
                (gone, widths) = (fewer, more);
            }
            return Some(widths);
        }
        None
    }

    /// Narrows the note, then the widest free text, until the columns fit. `None` if they cannot be made to.
    fn narrowed(&self, mut widths: Vec<usize>, total: usize, narrowest: Narrowest) -> Option<Vec<usize>> {
        let taken: usize = widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum();
        let mut excess = taken.saturating_sub(total);
        if let (Some(note), Some(Kind::Note)) = (widths.last_mut(), self.columns.last().map(|column| column.kind)) {
            let less = note.saturating_sub(NOTE_ROOM).min(excess);
            *note -= less;
            excess -= less;
        }
        // Each iteration narrows the widest cell by one, so there are at most `excess` iterations.
        while excess > 0 {
            let flexible = widths
                .iter_mut()
                .zip(&self.columns)
                .filter(|(width, column)| column.least(narrowest).is_some_and(|least| **width > least));
            let widest = flexible.map(|(width, _)| width).max()?;
            *widest -= 1;
            excess -= 1;
        }
        Some(widths)
    }

    /// Each row as lines of `TITLE  cell` below its first cell.
    fn records(self, total: usize) -> Vec<Text> {
        let indent = GAP * 2 + self.columns.iter().map(|column| column.title.len()).max().unwrap_or(0) + GAP;
        let room = total.saturating_sub(indent);
        let mut lines = Vec::new();
        for cells in self.rows {
            let mut cells = cells.into_iter().zip(&self.columns);
            lines.extend(cells.next().map(|(first, _)| Text::from(" ".repeat(GAP)).join(first)));
            for (cell, column) in cells.filter(|(cell, _)| !cell.is_empty()) {
                let title = Text::from(" ".repeat(GAP * 2)).and(Tone::Dim, column.title).padded(indent);
                let mut heads = std::iter::once(title).chain(std::iter::repeat_with(|| Text::new().padded(indent)));
                let cell = if column.kind == Kind::Fixed { cell.flowed(room) } else { cell.wrapped(room) };
                lines.extend(cell.into_iter().filter_map(|line| Some(heads.next()?.join(line))));
            }
        }
        lines
    }
}

impl Column {
    /// The least width, if the column may be narrowed.
    fn least(self, narrowest: Narrowest) -> Option<usize> {
        match self.kind {
            Kind::Free => Some(narrowest.cut),
            Kind::Wrapped => Some(narrowest.wrapped),
            Kind::Fixed | Kind::Note => None,
        }
    }

    /// The lines of a cell.
    fn cell(self, cell: Text, width: usize) -> Vec<Text> {
        match self.kind {
            Kind::Fixed => vec![cell],
            Kind::Free => vec![cell.shortened(width)],
            Kind::Wrapped | Kind::Note => cell.wrapped(width),
        }
    }
}

/// The lines of a note below its row.
fn below(note: Text, total: Option<usize>) -> Vec<Text> {
    if note.is_empty() {
        return Vec::new();
    }
    let indent = BELOW.chars().count();
    let room = total.map_or(usize::MAX, |total| total.saturating_sub(indent).max(NOTE_ROOM));
    let mut heads =
        std::iter::once(Text::toned(Tone::Dim, BELOW)).chain(std::iter::repeat_with(|| Text::from(" ".repeat(indent))));
    note.wrapped(room).into_iter().filter_map(|line| Some(heads.next()?.join(line))).collect()
}

/// The lines of a row of cells, without trailing spaces.
fn side_by_side(cells: Vec<Vec<Text>>, widths: &[usize]) -> Vec<Text> {
    let cells: Vec<(Vec<Text>, usize)> =
        cells.into_iter().zip(widths.iter().copied()).filter(|(_, width)| *width > 0).collect();
    let height = cells.iter().map(|(lines, _)| lines.len()).max().unwrap_or(0);
    let line = |at: usize| {
        let cell = |lines: &[Text]| lines.get(at).cloned().unwrap_or_default();
        let last = cells.iter().rposition(|(lines, _)| !cell(lines).is_empty()).unwrap_or(0);
        let mut line = Text::new();
        for (place, (lines, width)) in cells.iter().enumerate().take(last + 1) {
            let cell = if place == last { cell(lines) } else { cell(lines).padded(*width) };
            line = line.and(Tone::Plain, " ".repeat(GAP)).join(cell);
        }
        line
    };
    (0..height).map(line).collect()
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

    fn wide() -> Table {
        let mut table = Table::new(&[
            Column::fixed("USER"),
            Column::free("NAME").left_out(2),
            Column::fixed("STATE"),
            Column::fixed("SIGNED IN").left_out(1),
        ]);
        table.row(
            ["maximiliana.wintersberger", "Maximiliana Wintersberger-Öztürk", "● active", "3 d ago"].map(Text::from),
        );
        table.row(["wei", "张伟明张伟明", "✖ locked 22m", "never"].map(Text::from));
        table
    }

    #[test]
    fn columns_are_left_out_in_their_turn_and_what_is_typed_next_is_never_cut() {
        let titles = |width| shown(wide(), Some(width)).into_iter().next().unwrap_or_default();
        assert!(titles(100).contains("NAME") && titles(100).contains("SIGNED IN"));
        assert!(titles(68).contains("NAME") && !titles(68).contains("SIGNED IN"));
        assert!(!titles(50).contains("NAME") && titles(50).contains("STATE"));
        for width in 30..120 {
            let lines = shown(wide(), Some(width));
            assert!(lines.iter().any(|line| line.contains("maximiliana.wintersberger")), "{width}: {lines:#?}");
            let widest = lines.iter().map(|line| Text::from(line.as_str()).width()).max().unwrap_or(0);
            assert!(widest <= width.max(27), "{width}: {lines:#?}");
        }
    }

    #[test]
    fn what_does_not_fit_in_columns_is_a_record() {
        assert_eq!(
            shown(wide(), Some(30)),
            [
                "  maximiliana.wintersberger",
                "    NAME       Maximiliana",
                "               Wintersberger-Ö",
                "               ztürk",
                "    STATE      ● active",
                "    SIGNED IN  3 d ago",
                "  wei",
                "    NAME       张伟明张伟明",
                "    STATE      ✖ locked 22m",
                "    SIGNED IN  never",
            ]
        );
    }
}
