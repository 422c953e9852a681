//! What a run found, for readers: [`Findings`] walk in; a summary, a page, a text, JSON
//! and the rows of a table walk out. Pure: neither files nor the clock.
//!
//! A run that goes on can be reported too: what was not measured yet is left out, and the
//! headline says so.

mod contender;
mod document;
mod html;
mod markdown;
mod markup;
mod number;
mod sections;
mod spread;
mod summary;
mod svg;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use serde::Serialize;

use crate::cycle::findings::Findings;
use crate::cycle::report::sections::document;

pub use contender::Contender;
pub use spread::{Paired, Spread};
pub use summary::{PhaseSummary, Standing, Summary};
pub use table::{COLUMNS, legend, rows};

/// Findings with what they add up to. As JSON it is the fields of the findings and
/// `summary`.
#[derive(Clone, Debug, Serialize)]
pub struct Report<'a> {
    /// What was found.
    #[serde(flatten)]
    pub findings: &'a Findings,
    /// What that adds up to.
    pub summary: Summary,
}

impl<'a> Report<'a> {
    /// Adds up what was found.
    pub fn of(findings: &'a Findings) -> Self {
        Self {
            findings,
            summary: Summary::of(findings),
        }
    }

    /// One HTML page that needs neither network nor script. Well-formed XML.
    pub fn html(&self) -> String {
        html::render(&document(self))
    }

    /// The same as Markdown, with tables in place of plots.
    pub fn markdown(&self) -> String {
        markdown::render(&document(self))
    }

    /// `report.json`: [`Findings`] can be read from it.
    ///
    /// # Errors
    /// None that findings of this program could cause; serde's contract has one.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}
