//! A report before it is a page or a text: what it says, without saying how it looks.

use crate::cycle::report::svg::Chart;
use crate::cycle::report::svg::Style;

/// A report.
#[derive(Debug)]
pub(super) struct Document {
    /// What the run is called.
    pub(super) title: String,
    /// The first line: is the soup better?
    pub(super) headline: String,
    /// What was run, in a few words.
    pub(super) subject: String,
    /// What a reader must know before believing it.
    pub(super) warnings: Vec<String>,
    /// The rest.
    pub(super) sections: Vec<Section>,
    /// Name and version of the program.
    pub(super) tool: String,
}

/// A part with a heading.
#[derive(Debug)]
pub(super) struct Section {
    /// Its anchor.
    pub(super) id: &'static str,
    /// Its name in the list of contents.
    pub(super) name: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    /// What it holds.
    pub(super) blocks: Vec<Block>,
}

/// What stands below another.
#[derive(Debug)]
pub(super) enum Block {
    /// A paragraph.
    Text(String),
    /// A paragraph that explains what stands above it.
    Note(String),
    /// A heading below that of the section.
    Heading(String),
    /// A list.
    List(Vec<String>),
    /// Names and values.
    Facts(Vec<(String, String)>),
    /// A table.
    Table(Table),
    /// Plots. Whatever they show stands in a table too.
    Figure(Figure),
    /// Details that a reader unfolds.
    Fold(String, Vec<Block>),
    /// A file.
    Code(String),
}

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    /// What it shows.
    pub(super) caption: String,
    /// Titles of the columns.
    pub(super) columns: Vec<Column>,
    /// Cells, one per column. The first names the row.
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its title.
    pub(super) title: String,
    /// What it holds.
    pub(super) kind: Kind,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Words, to the left.
    Words,
    /// Names of things in files, to the left.
    Code,
    /// Numbers, to the right.
    Number,
    /// Bars.
    Bar,
}

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// Its text.
    pub(super) text: String,
    /// How dark it is, in [0, 1], in a table that is a heat map.
    pub(super) heat: Option<f64>,
    /// The filled share of its bar.
    pub(super) bar: Option<f64>,
    /// Whether it matters most in its row.
    pub(super) is_strong: bool,
}

/// Plots under one heading, with one legend.
#[derive(Debug)]
pub(super) struct Figure {
    /// What they show, unless the heading above says it.
    pub(super) title: String,
    /// Shapes and colours, and what they stand for.
    pub(super) legend: Vec<(Style, String)>,
    /// The plots, and what each is about if there are several.
    pub(super) panels: Vec<(String, Chart)>,
    /// How to read them.
    pub(super) note: String,
}

impl Column {
    /// A column of words.
    pub(super) fn words(title: &str) -> Self {
        Self::new(title, Kind::Words)
    }

    /// A column of numbers.
    pub(super) fn number(title: &str) -> Self {
        Self::new(title, Kind::Number)
    }

    /// A column of names of things in files.
    pub(super) fn code(title: &str) -> Self {
        Self::new(title, Kind::Code)
    }

    /// A column of bars.
    pub(super) fn bar(title: &str) -> Self {
        Self::new(title, Kind::Bar)
    }

    fn new(title: &str, kind: Kind) -> Self {
        Self {
            title: title.to_owned(),
            kind,
        }
    }
}

impl Cell {
    /// The cell, in the weight of what matters most.
    pub(super) fn strong(self) -> Self {
        Self {
            is_strong: true,
            ..self
        }
    }

    /// A cell of a heat map.
    pub(super) fn heated(text: String, heat: Option<f64>) -> Self {
        Self {
            text,
            heat,
            ..Self::default()
        }
    }

    /// A bar of which `share` is filled.
    pub(super) fn filled(share: Option<f64>) -> Self {
        Self {
            bar: share,
            ..Self::default()
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
