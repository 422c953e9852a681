//! A report as Markdown: a [`Document`] walks in, text walks out. Plots are left out: what
//! they show stands in tables.

use std::fmt::Write as _;

use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Document;
use crate::cycle::report::document::Kind;
use crate::cycle::report::document::Table;
use crate::cycle::report::markup::visible;
use crate::cycle::report::number::percent;

/// The text, in GitHub's Markdown: <https://github.github.com/gfm/>.
pub(super) fn render(document: &Document) -> String {
    let mut text = format!("**{}**\n\n", escaped(&document.headline));
    let _ = writeln!(text, "# {}", escaped(&document.title));
    list(&mut text, &document.warnings);
    let _ = writeln!(text, "\n{}", escaped(&document.subject));
    for section in &document.sections {
        let _ = writeln!(text, "\n## {}", escaped(section.title));
        blocks(&mut text, &section.blocks, 3);
    }
    let _ = writeln!(text, "\nMade by {}.", escaped(&document.tool));
    text
}

/// Blocks below a heading; those that unfold on a page become headings of `level`.
fn blocks(text: &mut String, blocks_of: &[Block], level: usize) {
    let marks = "#".repeat(level.min(6));
    for block in blocks_of {
        match block {
            Block::Text(paragraph) | Block::Note(paragraph) => {
                let _ = writeln!(text, "\n{}", escaped(paragraph));
            }
            Block::Heading(heading) => {
                let _ = writeln!(text, "\n{marks} {}", escaped(heading));
            }
            Block::List(items) => list(text, items),
            Block::Table(content) => table(text, content),
            Block::Facts(facts) => {
                let fact = |(name, value): &(String, String)| format!("{name}: {value}");
                list(text, &facts.iter().map(fact).collect::<Vec<_>>());
            }
            Block::Figure(_) => {}
            Block::Fold(_, content) if content.iter().all(is_plot) => {}
            Block::Fold(title, content) => {
                let _ = writeln!(text, "\n{marks} {}", escaped(title));
                blocks(text, content, level + 1);
            }
            Block::Code(code) => {
                let fence = "`".repeat(longest_run(code).max(2) + 1);
                let code = visible(code);
                let end = if code.ends_with('\n') { "" } else { "\n" };
                let _ = writeln!(text, "\n{fence}toml\n{code}{end}{fence}");
            }
        }
    }
}

fn is_plot(block: &Block) -> bool {
    matches!(block, Block::Figure(_))
}

fn list(text: &mut String, items: &[String]) {
    if !items.is_empty() {
        text.push('\n');
    }
    for item in items {
        let _ = writeln!(text, "- {}", escaped(item));
    }
}

fn table(text: &mut String, table: &Table) {
    if !table.caption.is_empty() {
        let _ = writeln!(text, "\n{}:", escaped(&table.caption));
    }
    text.push('\n');
    let titles = table.columns.iter().map(|column| escaped(&column.title));
    row(text, titles);
    let rules = table.columns.iter().map(|column| match column.kind {
        Kind::Words | Kind::Code => "---".to_owned(),
        Kind::Number | Kind::Bar => "---:".to_owned(),
    });
    row(text, rules);
    for cells in &table.rows {
        let shown = |(cell, kind): (&Cell, Kind)| match (cell.bar, kind) {
            (Some(share), _) => percent(share) + " %",
            (None, Kind::Code) => code_span(&cell.text),
            (None, _) if cell.is_strong => format!("**{}**", escaped(&cell.text)),
            (None, _) => escaped(&cell.text),
        };
        let kinds = table.columns.iter().map(|column| column.kind);
        row(text, cells.iter().zip(kinds).map(shown));
    }
}

fn row(text: &mut String, cells: impl Iterator<Item = String>) {
    text.push('|');
    for cell in cells {
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}

/// Text on one line in which nothing is taken for Markdown.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in visible(text).chars() {
        match character {
            '\n' | '\t' => escaped.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '!' => {
                escaped.push('\\');
                escaped.push(character);
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A name from a file as code in a cell.
fn code_span(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    let text = visible(text).replace(['\n', '\t'], " ").replace('|', "\\|");
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Length of the longest run of backticks.
fn longest_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for character in text.chars() {
        run = if character == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
