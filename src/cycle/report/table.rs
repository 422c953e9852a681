//! The table at the end of a run, as text for the command line to lay out: a summary
//! walks in, rows of cells walk out.

use crate::cycle::report::Report;
use crate::cycle::report::contender::Contender;
use crate::cycle::report::number::Unit;
use crate::cycle::report::number::missing;
use crate::cycle::report::number::percent;
use crate::cycle::report::spread::Spread;

/// Titles of the columns. All but the first hold numbers.
pub const COLUMNS: [&str; 7] = [
    "phase",
    "sparsity",
    "IMP",
    "mean candidate",
    "best candidate",
    "soup",
    "soup - best",
];

/// One row per phase; means over the seeds, and standard deviations of more than one. ASCII.
pub fn rows(report: &Report<'_>) -> Vec<[String; COLUMNS.len()]> {
    let unit = Unit::of(report.findings);
    let rows = report.summary.phases.iter().map(|phase| {
        let accuracy = |contender: &Contender| unit.spread(phase.accuracy(contender));
        let sparsity = phase.sparsity.map(|Spread { mean, .. }| percent(mean));
        let difference = phase.soup_minus(&Contender::BestCandidate);
        [
            phase.phase.to_string(),
            sparsity.map_or_else(missing, |sparsity| sparsity + " %"),
            accuracy(&Contender::imp()),
            accuracy(&Contender::MeanCandidate),
            accuracy(&Contender::BestCandidate),
            accuracy(&Contender::Soup),
            difference.map_or_else(missing, |paired| unit.difference(paired.mean)),
        ]
    });
    rows.map(|row| row.map(|cell| ascii(&cell))).collect()
}

/// The signs that numbers have for readers, in ASCII.
fn ascii(text: &str) -> String {
    text.replace(['−', '–'], "-").replace('±', "+-")
}
