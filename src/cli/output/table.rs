//! Aligned columns, fitted to the terminal.

use super::text::{Text, Tone};

/// Columns before the first and between two.
const GAP: usize = 2;
/// A column of free text is not made narrower than this.
const NARROWEST: usize = 8;

/// The head of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    free: bool,
}

impl Column {
    /// Of words that are read whole, or not at all.
    pub(crate) const fn fixed(title: &'static str) -> Column {
        Column { title, free: false }
    }

    /// Of free text, which may be cut to fit.
    pub(crate) const fn free(title: &'static str) -> Column {
        Column { title, free: true }
    }
}

/// Rows of cells. A column that has nothing in it is left out.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Text>>,
}

impl Table {
    /// Without rows.
    pub(crate) fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Text>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines to print. `width` is that of the terminal; without one nothing is cut.
    pub(crate) fn lines(self, width: Option<usize>) -> Vec<Text> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let widths = self.widths(width);
        let titles = self.columns.iter().map(|column| Text::toned(Tone::Dim, column.title));
        let mut lines = vec![line(titles, &widths)];
        lines.extend(self.rows.into_iter().map(|cells| line(cells, &widths)));
        lines
    }

    /// The width of each column; 0 leaves it out.
    fn widths(&self, total: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let widest = self.rows.iter().filter_map(|row| row.get(at)).map(Text::width).max().unwrap_or(0);
                if widest == 0 { 0 } else { widest.max(column.title.len()) }
            })
            .collect();
        let Some(total) = total else { return widths };
        let taken: usize = widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum();
        let mut excess = taken.saturating_sub(total);
        // Each turn takes a column off the widest cell, so there are no more turns than columns to lose.
        while excess > 0 {
            let widest = widths
                .iter_mut()
                .zip(&self.columns)
                .filter(|(width, column)| column.free && **width > NARROWEST)
                .map(|(width, _)| width)
                .max();
            let Some(width) = widest else { break };
            *width -= 1;
            excess -= 1;
        }
        widths
    }
}

/// Nothing follows the last cell that has something in it.
fn line(cells: impl IntoIterator<Item = Text>, widths: &[usize]) -> Text {
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
        table.lines(width).iter().map(|line| anstream::adapter::strip_str(&line.to_string()).to_string()).collect()
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
}
