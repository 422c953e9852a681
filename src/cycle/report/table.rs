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

/// A row of means for each phase, and where there are several seeds, one below it of standard
/// deviations, `+- 0.73`. ASCII.
pub fn rows(report: &Report<'_>) -> Vec<[String; COLUMNS.len()]> {
    let unit = Unit::of(report.findings);
    let mut rows = Vec::new();
    for phase in &report.summary.phases {
        let contenders = [
            Contender::imp(),
            Contender::MeanCandidate,
            Contender::BestCandidate,
            Contender::Soup,
        ];
        let accuracies = contenders.map(|contender| phase.accuracy(&contender));
        let [imp, mean, best, soup] =
            accuracies.map(|found| found.map_or_else(missing, |found| unit.value(found.mean)));
        let sparsity = phase.sparsity.map(|Spread { mean, .. }| percent(mean));
        let difference = phase.soup_minus(&Contender::BestCandidate);
        rows.push([
            phase.phase.to_string(),
            sparsity.map_or_else(missing, |sparsity| sparsity + " %"),
            imp,
            mean,
            best,
            soup,
            difference.map_or_else(missing, |paired| unit.difference(paired.mean)),
        ]);

        let deviations = accuracies.map(|found| found?.deviation);
        if deviations.iter().any(Option::is_some) {
            let [imp, mean, best, soup] = deviations.map(|deviation| {
                deviation.map_or_else(String::new, |value| format!("± {}", unit.value(value)))
            });
            let blank = String::new;
            rows.push([blank(), blank(), imp, mean, best, soup, blank()]);
        }
    }
    rows.into_iter()
        .map(|row| row.map(|cell| ascii(&cell)))
        .collect()
}

/// What the numbers of [`rows`] are, in a sentence. ASCII.
pub fn legend(report: &Report<'_>) -> String {
    let measured = match Unit::of(report.findings) {
        Unit::Share => "test accuracy in per cent",
        Unit::Number => "score on the test images",
    };
    match report.summary.seeds {
        0 | 1 => format!("{measured}, of one seed"),
        seeds => format!("{measured}: mean of {seeds} seeds, +- their standard deviation"),
    }
}

/// The signs that numbers have for readers, in ASCII.
fn ascii(text: &str) -> String {
    text.replace(['−', '–'], "-").replace('±', "+-")
}
