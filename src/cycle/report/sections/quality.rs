//! What accuracy does not say: calibration, the worst class, and corrupted images.

use super::View;

use crate::cycle::findings::Model;
use crate::cycle::report::contender::Contender;
use crate::cycle::report::contender::Metric;
use crate::cycle::report::contender::mean;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Column;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::number::Unit;
use crate::cycle::report::number::fixed_or_missing;
use crate::cycle::report::spread::Paired;
use crate::cycle::report::spread::Spread;
use crate::cycle::report::summary::PhaseSummary;

/// What a column shows of a model.
type Measure = (&'static str, fn(&Model) -> Option<f64>, Shown);

/// How a number is shown.
#[derive(Clone, Copy)]
enum Shown {
    Percent,
    Plain,
}

const MEASURES: [Measure; 4] = [
    (
        "worst class (%)",
        |model| model.scores.worst_class_accuracy,
        Shown::Percent,
    ),
    ("ECE (%)", |model| model.scores.ece, Shown::Percent),
    ("MCE (%)", |model| model.scores.mce, Shown::Percent),
    ("loss (nats)", |model| model.scores.loss, Shown::Plain),
];

/// Calibration and the worst class.
pub(super) fn calibration(view: View<'_>) -> Section {
    let mut blocks = view.by_phase(|phase| {
        let table = calibration_table(view, phase);
        table.map(Block::Table).into_iter().collect()
    });
    if !blocks.is_empty() {
        blocks.push(Block::Note(
            "On the test images, means over the seeds. ECE and MCE are the expected and the \
             maximum calibration error (15 bins, L1): lower is better."
                .to_owned(),
        ));
    }
    Section {
        id: "calibration",
        name: "Calibration",
        title: "Calibration and worst class",
        blocks,
    }
}

fn spread(view: View<'_>, phase: &PhaseSummary, who: &Contender, metric: Metric) -> Option<Spread> {
    let studies = view.at(phase);
    Spread::of(studies.filter_map(|(study, phase)| who.measure(study, phase, metric)))
}

fn calibration_table(view: View<'_>, phase: &PhaseSummary) -> Option<Table> {
    let contenders = view.contenders();
    let is_measured = |(_, metric, _): &&Measure| {
        let mut contenders = contenders.iter();
        contenders.any(|who| spread(view, phase, who, metric).is_some())
    };
    let measures: Vec<&Measure> = MEASURES.iter().filter(is_measured).collect();
    if measures.is_empty() {
        return None;
    }
    let mut columns = vec![Column::words("")];
    columns.extend(measures.iter().map(|(title, _, _)| Column::number(title)));
    let row = |who: &Contender| {
        let cells = measures.iter().map(|(_, metric, shown)| {
            let spread = spread(view, phase, who, metric);
            let text = match shown {
                Shown::Percent => Unit::Share.spread(spread),
                Shown::Plain => Unit::Number.spread(spread),
            };
            let cell = Cell::from(text);
            match who {
                Contender::Soup => cell.strong(),
                _ => cell,
            }
        });
        let name = Cell::from(who.name());
        std::iter::once(name).chain(cells).collect::<Vec<_>>()
    };
    let is_empty = |row: &Vec<Cell>| row[1..].iter().all(|cell| cell.text == "–");
    let rows = contenders.iter().map(row).filter(|row| !is_empty(row));
    Some(Table {
        caption: format!("On the test images{}", view.spread_label()),
        columns,
        rows: rows.collect(),
    })
}

/// Corrupted images.
pub(super) fn corrupted(view: View<'_>) -> Section {
    let mut blocks = view.by_phase(|phase| {
        let table = corrupted_table(view, phase);
        table.map(Block::Table).into_iter().collect()
    });
    if !blocks.is_empty() {
        blocks.push(Block::Note(format!(
            "Mean {} over severities 1 to 5 and over the seeds. The best candidate is the one \
             that is best on the test images as they are.",
            view.unit.noun()
        )));
    }
    Section {
        id: "corrupted",
        name: "Corrupted",
        title: "On corrupted images",
        blocks,
    }
}

/// Mean accuracy over the severities of one corruption, or over all corruptions.
fn under(model: &Model, corruption: Option<&str>) -> Option<f64> {
    let is_meant = |name: &str| corruption.is_none_or(|corruption| corruption == name);
    let shifted = model
        .shifted
        .iter()
        .filter(|shifted| is_meant(&shifted.corruption));
    mean(shifted.flat_map(|shifted| shifted.accuracies.iter().copied()))
}

fn corrupted_table(view: View<'_>, phase: &PhaseSummary) -> Option<Table> {
    let mut corruptions: Vec<&str> = Vec::new();
    for (_, phase) in view.at(phase) {
        for shifted in &phase.soup.model.shifted {
            if !corruptions.contains(&shifted.corruption.as_str()) {
                corruptions.push(&shifted.corruption);
            }
        }
    }
    if corruptions.is_empty() {
        return None;
    }
    let shown = [
        Contender::Soup,
        Contender::BestCandidate,
        Contender::imp(),
        Contender::imp_m_times(),
    ];
    let is_measured =
        |who: &&Contender| spread(view, phase, who, &|model| under(model, None)).is_some();
    let shown: Vec<&Contender> = shown.iter().filter(is_measured).collect();
    let mut columns = vec![Column::words("corruption")];
    columns.extend(shown.iter().map(|who| Column::number(who.name())));
    let is_compared = shown.contains(&&Contender::BestCandidate);
    if is_compared {
        columns.extend([Column::number("soup − best"), Column::number("s.e.")]);
    }
    let row = |name: &str, corruption: Option<&str>| {
        let metric = |model: &Model| under(model, corruption);
        let mut row = vec![Cell::from(name)];
        row.extend(shown.iter().map(|who| {
            let cell = Cell::from(view.unit.spread(spread(view, phase, who, &metric)));
            match who {
                Contender::Soup => cell.strong(),
                _ => cell,
            }
        }));
        if is_compared {
            let paired = Paired::of(view.at(phase).filter_map(|(study, phase)| {
                let soup = Contender::Soup.measure(study, phase, &metric)?;
                Some((
                    soup,
                    Contender::BestCandidate.measure(study, phase, &metric)?,
                ))
            }));
            let mean = paired.map(|paired| view.unit.difference(paired.mean));
            row.push(mean.unwrap_or_else(|| fixed_or_missing(None, 0)).into());
            let error = paired.and_then(|paired| paired.standard_error);
            row.push(fixed_or_missing(error.map(|error| view.unit.scaled(error)), 2).into());
        }
        row
    };
    let mut rows = vec![row("all of them", None)];
    rows.extend(corruptions.iter().map(|name| row(name, Some(name))));
    Some(Table {
        caption: format!(
            "{} on corrupted images{}",
            view.title_of_accuracy(),
            view.spread_label()
        ),
        columns,
        rows,
    })
}
