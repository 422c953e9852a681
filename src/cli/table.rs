//! Tables for people: titles and cells walk in, aligned text that fits a terminal walks out.
//! Nothing is ever cut off: what is too long goes on in the next line.
//!
//! Where a table is too wide, titles are broken first; then a name in the first column that
//! is too long gets a line of its own, and other names go on in the next line; then the last
//! columns follow in a second table. Numbers are never broken.

use unicode_width::UnicodeWidthChar;
use unicode_width::UnicodeWidthStr;

use crate::cli::terminal;
use crate::cli::terminal::Stream;

/// Columns of a terminal between two columns of a table.
const GAP: usize = 2;

/// Least width of a first column whose longer names have lines of their own.
const LEAST_FIRST: usize = 12;

/// Least width to which other names are broken.
const LEAST_NAME: usize = 16;

/// What names are broken behind.
const SEPARATORS: [char; 7] = [' ', '/', '.', '_', '-', ',', ':'];

/// Whether a column of a table holds names or numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Aligned to the left.
    Name,
    /// Aligned to the right, and never broken.
    Number,
}

/// A table without rules for standard output. Cells must be clean.
pub(crate) fn table(columns: &[(&str, Column)], rows: &[Vec<String>]) -> String {
    table_for(Stream::Out, columns, rows)
}

/// A table without rules that fits the terminal behind `stream`, if there is one. Cells must
/// be clean.
pub(crate) fn table_for(
    stream: Stream,
    columns: &[(&str, Column)],
    rows: &[Vec<String>],
) -> String {
    lay_out(columns, rows, terminal::columns(stream))
}

/// A sentence as lines that end between words, for the terminal behind `stream`. Of one that
/// is indented, further lines are indented more.
pub(crate) fn prose(stream: Stream, text: &str) -> String {
    folded(text, terminal::columns(stream).unwrap_or(usize::MAX))
}

fn folded(text: &str, limit: usize) -> String {
    let words = text.trim_start();
    let indent = text.len() - words.len();
    let more = " ".repeat(if indent == 0 { 0 } else { indent + GAP });
    let mut lines = vec![" ".repeat(indent)];
    let mut is_empty = true;
    for word in words.split(' ') {
        let last = lines.last().map_or(0, |line| line.width());
        let needed = last + usize::from(!is_empty) + word.width();
        if needed > limit && !is_empty {
            lines.push(more.clone());
            is_empty = true;
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if is_empty { "" } else { " " });
            line.push_str(word);
        }
        is_empty = false;
    }
    lines.join("\n") + "\n"
}

/// A column, and how wide what it holds is.
struct Measured<'a> {
    title: &'a str,
    column: Column,
    /// Its place in a row.
    place: usize,
    /// Width of the widest cell.
    cell: usize,
    /// Width of the longest part of a cell that is not broken.
    part: usize,
    /// Width of the longest word of the title.
    word: usize,
}

/// Columns that stand side by side.
struct Block<'a> {
    columns: &'a [&'a Measured<'a>],
    widths: Vec<usize>,
    /// Width of a line, if it is limited.
    limit: Option<usize>,
}

fn lay_out(columns: &[(&str, Column)], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let measured: Vec<Measured<'_>> = columns
        .iter()
        .enumerate()
        .map(|(place, &(title, column))| Measured::new(title, column, place, rows))
        .collect();
    let mut rest: Vec<&Measured<'_>> = measured.iter().collect();
    let mut text = String::new();
    while !rest.is_empty() {
        // The first column, which names the rows, and as many as fit beside it.
        let fitting = (1..=rest.len())
            .rev()
            .find_map(|count| Some((count, widths(&rest[..count], limit)?)));
        let (count, widths) = fitting.filter(|&(count, _)| count > 1).unwrap_or_else(|| {
            let count = rest.len().min(2);
            (count, rest[..count].iter().map(|one| one.least()).collect())
        });
        let block = Block {
            columns: &rest[..count],
            widths,
            limit,
        };
        block.write(rows, &mut text);
        let further = rest.split_off(count);
        rest.truncate(1);
        rest.extend(further);
        if rest.len() == 1 {
            break;
        }
        text.push('\n');
    }
    text
}

/// Widths with which `columns` fit, if there are such.
fn widths(columns: &[&Measured<'_>], limit: Option<usize>) -> Option<Vec<usize>> {
    let total = |widths: &[usize]| {
        let gaps = GAP * widths.len().saturating_sub(1);
        widths.iter().sum::<usize>() + gaps
    };
    let mut widths: Vec<usize> = columns.iter().map(|one| one.natural()).collect();
    let Some(limit) = limit.filter(|&limit| total(&widths) > limit) else {
        return Some(widths);
    };
    for (width, one) in widths.iter_mut().zip(columns) {
        *width = one.cell.max(one.word);
    }
    // The first column gives way first, because its names stay whole; then the others, from
    // the left.
    for (idx, one) in columns.iter().enumerate() {
        let excess = total(&widths).saturating_sub(limit);
        let least = one.least();
        widths[idx] = widths[idx].saturating_sub(excess).max(least);
    }
    (total(&widths) <= limit).then_some(widths)
}

impl<'a> Measured<'a> {
    fn new(title: &'a str, column: Column, place: usize, rows: &[Vec<String>]) -> Self {
        let cells = || rows.iter().filter_map(|row| row.get(place));
        let longest = |text: &str| parts(text).map(UnicodeWidthStr::width).max();
        Self {
            title,
            column,
            place,
            cell: cells().map(|cell| cell.width()).max().unwrap_or(0),
            part: cells().filter_map(|cell| longest(cell)).max().unwrap_or(0),
            word: title.split(' ').map(str::width).max().unwrap_or(0),
        }
    }

    fn natural(&self) -> usize {
        self.cell.max(self.title.width())
    }

    fn least(&self) -> usize {
        let cell = match (self.column, self.place) {
            (Column::Number, _) => self.cell,
            (Column::Name, 0) => self.cell.min(LEAST_FIRST),
            (Column::Name, _) => self.cell.min(self.part.min(LEAST_NAME)),
        };
        cell.max(self.word)
    }
}

impl Block<'_> {
    fn write(&self, rows: &[Vec<String>], text: &mut String) {
        let titles: Vec<Vec<String>> = self
            .columns
            .iter()
            .zip(&self.widths)
            .map(|(one, &width)| broken(one.title, width))
            .collect();
        let height = titles.iter().map(Vec::len).max().unwrap_or(0);
        let titles: Vec<Vec<String>> = titles
            .into_iter()
            .map(|lines| {
                // The last lines of all titles stand side by side, above the cells.
                let mut padded = vec![String::new(); height - lines.len()];
                padded.extend(lines);
                padded
            })
            .collect();
        self.write_lines(&titles, text);

        for row in rows {
            let mut cells = Vec::with_capacity(self.columns.len());
            for (one, &width) in self.columns.iter().zip(&self.widths) {
                let cell = row.get(one.place).map_or("", String::as_str);
                let is_own_line = one.place == 0 && cell.width() > width;
                cells.push(match one.column {
                    Column::Name if is_own_line => {
                        for line in broken(cell, self.limit.unwrap_or(usize::MAX)) {
                            text.push_str(&line);
                            text.push('\n');
                        }
                        Vec::new()
                    }
                    Column::Name => broken(cell, width),
                    Column::Number => vec![cell.to_owned()],
                });
            }
            let is_alone = self.columns.len() == 1 && cells[0].is_empty();
            if !is_alone {
                self.write_lines(&cells, text);
            }
        }
    }

    /// Writes cells of one row, which may have several lines each.
    fn write_lines(&self, cells: &[Vec<String>], text: &mut String) {
        let height = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for line in 0..height {
            let mut shown = String::new();
            for ((one, &width), cell) in self.columns.iter().zip(&self.widths).zip(cells) {
                let part = cell.get(line).map_or("", String::as_str);
                let padding = " ".repeat(width.saturating_sub(part.width()));
                match one.column {
                    Column::Name => shown.extend([part, &padding]),
                    Column::Number => shown.extend([&padding, part]),
                }
                shown.push_str(&" ".repeat(GAP));
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
    }
}

/// The parts of `text` that end behind a separator.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(SEPARATORS)
}

/// `text` in lines of at most `width`, broken behind separators where that is possible.
fn broken(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for part in parts(text) {
        let fits = |line: &String| line.width() + part.trim_end().width() <= width;
        if !lines.last().is_some_and(fits) {
            lines.push(String::new());
        }
        for character in part.chars() {
            let last = lines.last().map_or(0, |line| line.width());
            let is_over = last + character.width().unwrap_or(0) > width.max(1);
            if is_over && character != ' ' {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(character);
            }
        }
    }
    let lines = lines.into_iter().map(|line| line.trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [(&str, Column); 4] = [
        ("tensor", Column::Name),
        ("shape", Column::Name),
        ("weights retained", Column::Number),
        ("sparsity", Column::Number),
    ];

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        vec![
            row(["head.weight", "(10, 64)", "640", "dense"]),
            row([
                "model.layers.0.self_attn.q_proj.weight",
                "(4096, 4096)",
                "1,677,722",
                "90.00 %",
            ]),
        ]
    }

    #[track_caller]
    fn check(limit: Option<usize>, expected: &[&str]) {
        let found = lay_out(&COLUMNS, &rows(), limit);
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines, expected);
        if let Some(limit) = limit {
            assert!(lines.iter().all(|line| line.width() <= limit));
        }
    }

    #[test]
    fn a_table_that_fits_is_left_alone() {
        let natural = [
            "tensor                                  shape         weights retained  sparsity",
            "head.weight                             (10, 64)                   640     dense",
            "model.layers.0.self_attn.q_proj.weight  (4096, 4096)         1,677,722   90.00 %",
        ];
        check(None, &natural);
        check(Some(80), &natural);
    }

    #[test]
    fn titles_are_broken_first() {
        let broken = [
            "                                                        weights",
            "tensor                                  shape          retained  sparsity",
            "head.weight                             (10, 64)            640     dense",
            "model.layers.0.self_attn.q_proj.weight  (4096, 4096)  1,677,722   90.00 %",
        ];
        check(Some(79), &broken);
        check(Some(73), &broken);
    }

    #[test]
    fn long_names_get_lines_of_their_own() {
        let expected = [
            "                                 weights",
            "tensor           shape          retained  sparsity",
            "head.weight      (10, 64)            640     dense",
            "model.layers.0.self_attn.q_proj.weight",
            "                 (4096, 4096)  1,677,722   90.00 %",
        ];
        check(Some(50), &expected);
    }

    #[test]
    fn what_does_not_fit_follows_below_with_the_names() {
        let expected = [
            "                 weights",
            "tensor          retained",
            "head.weight          640",
        ];
        let found = lay_out(&COLUMNS, &rows(), Some(24));
        let tables: Vec<&str> = found.split("\n\n").collect();
        assert_eq!(tables.len(), 3, "{found}");
        assert!(tables[1].starts_with(&expected.join("\n")), "{found}");
        assert!(tables[2].contains("90.00 %"), "{found}");
        assert!(found.lines().all(|line| line.width() <= 24), "{found}");
        for name in ["(4096,", "1,677,722"] {
            assert!(found.contains(name), "{found}");
        }
    }

    #[test]
    fn sentences_are_folded_between_words() {
        let check = |text: &str, limit: usize, expected: &str| {
            assert_eq!(folded(text, limit), expected);
        };
        check("one two three", usize::MAX, "one two three\n");
        check("one two three", 7, "one two\nthree\n");
        check("  one two three", 9, "  one two\n    three\n");
        check("extraordinary one", 5, "extraordinary\none\n");
        check("", 5, "\n");
    }

    #[test]
    fn lines_are_broken_behind_separators() {
        let check = |text: &str, width: usize, expected: &[&str]| {
            assert_eq!(broken(text, width), expected, "{text} {width}");
        };
        check("short", 5, &["short"]);
        check("best candidate", 9, &["best", "candidate"]);
        check("runs/a/soup.st", 8, &["runs/a/", "soup.st"]);
        check("abcdefgh", 3, &["abc", "def", "gh"]);
        check("", 3, &[""]);
        check("ああああ", 4, &["ああ", "ああ"]);
    }

    #[test]
    fn tables_align_and_end_without_spaces() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long name".to_owned(), "1000".to_owned()],
            vec!["... 2 more".to_owned()],
        ];
        let columns = [("tensor", Column::Name), ("numel", Column::Number)];
        assert_eq!(
            table(&columns, &rows),
            "tensor      numel\na               1\nlong name    1000\n... 2 more\n"
        );
    }
}
