//! How ingredients were trained, and which of them the greedy soup took.

use super::View;

use crate::cycle::findings::Epoch;
use crate::cycle::findings::Ingredient;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Study;
use crate::cycle::report::contender::mean;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Column;
use crate::cycle::report::document::Figure;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::number::fixed_or_missing;
use crate::cycle::report::number::missing;
use crate::cycle::report::summary::PhaseSummary;
use crate::cycle::report::svg::Chart;
use crate::cycle::report::svg::Lines;
use crate::cycle::report::svg::Place;
use crate::cycle::report::svg::Rule;
use crate::cycle::report::svg::Series;
use crate::cycle::report::svg::Size;
use crate::cycle::report::svg::Style;

/// Learning curves of the ingredients.
pub(super) fn section(view: View<'_>) -> Section {
    let mut figures = view.findings.studies.iter().filter_map(|study| {
        let figure = curves(view, study)?;
        Some((format!("Seed {}", study.seed), Block::Figure(figure)))
    });
    let mut blocks = Vec::new();
    if let Some((_, first)) = figures.next() {
        blocks.push(first);
        blocks.extend(figures.map(|(name, figure)| Block::Fold(name, vec![figure])));
        blocks.push(Block::Table(table(view)));
    }
    Section {
        id: "curves",
        name: "Curves",
        title: "Learning curves of the ingredients",
        blocks,
    }
}

/// What is plotted of an epoch: held-out accuracy where there is one.
fn shown(epoch: &Epoch, has_validation: bool) -> Option<f64> {
    if has_validation {
        epoch.validation_accuracy
    } else {
        epoch.train_accuracy
    }
}

fn has_validation(phase: &Phase) -> bool {
    let curves = phase
        .ingredients
        .iter()
        .flat_map(|ingredient| &ingredient.model.curve);
    curves
        .into_iter()
        .any(|epoch| epoch.validation_accuracy.is_some())
}

fn curves(view: View<'_>, study: &Study) -> Option<Figure> {
    let is_held_out = study.phases.iter().any(has_validation);
    let images = if is_held_out {
        "validation"
    } else {
        "training"
    };
    let mut legend: Vec<(Style, String)> = Vec::new();
    let mut panels = Vec::new();
    for phase in &study.phases {
        let series = phase.ingredients.iter().map(|ingredient| Series {
            name: name(ingredient),
            style: Style::nth(ingredient.ordinal.saturating_sub(1)),
            places: places(view, ingredient, is_held_out),
        });
        let soup = phase.soup.model.scores.validation_accuracy;
        let chart = Lines {
            size: Size::Panel,
            title: format!(
                "Learning curves of seed {}, phase {}",
                study.seed, phase.phase
            ),
            description: format!(
                "{} of {images} images after each epoch, a line per ingredient.",
                view.title_of_accuracy()
            ),
            x_label: "epoch".to_owned(),
            y_label: format!("{images} {}", view.unit.title()),
            x_ticks: Vec::new(),
            bands: Vec::new(),
            rule: soup.filter(|_| is_held_out).map(|soup| Rule {
                y: view.unit.scaled(soup),
                name: "soup".to_owned(),
            }),
            series: series.collect(),
        };
        if chart.is_empty() {
            continue;
        }
        for series in &chart.series {
            if !legend.iter().any(|(style, _)| *style == series.style) {
                legend.push((series.style, series.name.clone()));
            }
        }
        if chart.rule.is_some() && !legend.iter().any(|(_, name)| name == "soup") {
            legend.insert(0, (Style::dashed(), "soup".to_owned()));
        }
        panels.push((format!("Phase {}", phase.phase), Chart::Lines(chart)));
    }
    (!panels.is_empty()).then(|| Figure {
        title: format!(
            "Seed {}: {images} {} after each epoch",
            study.seed,
            view.unit.noun()
        ),
        legend,
        panels,
        note: String::new(),
    })
}

fn name(ingredient: &Ingredient) -> String {
    format!("ingredient {}", ingredient.ordinal)
}

fn places(view: View<'_>, ingredient: &Ingredient, is_held_out: bool) -> Vec<Place> {
    let place = |epoch: &Epoch| {
        Some(Place {
            x: epoch.epoch as f64,
            y: view.unit.scaled(shown(epoch, is_held_out)?),
            error: None,
        })
    };
    ingredient.model.curve.iter().filter_map(place).collect()
}

/// Means over ingredients and seeds, where trainings begin and end.
fn table(view: View<'_>) -> Table {
    let row = |phase: &PhaseSummary| {
        let curves = || {
            let phases = view.at(phase).flat_map(|(_, phase)| &phase.ingredients);
            let curves = phases.map(|ingredient| ingredient.model.curve.as_slice());
            curves.filter(|curve| !curve.is_empty())
        };
        let over = |value: fn(&[Epoch]) -> Option<f64>| mean(curves().filter_map(value));
        let accuracy = |value: Option<f64>| {
            Cell::from(value.map_or_else(missing, |value| view.unit.value(value)))
        };
        vec![
            phase.phase.to_string().into(),
            fixed_or_missing(over(|curve| Some(curve.last()?.epoch as f64)), 1).into(),
            fixed_or_missing(over(|curve| curve.first()?.train_loss), 4).into(),
            fixed_or_missing(over(|curve| curve.last()?.train_loss), 4).into(),
            accuracy(over(|curve| curve.last()?.train_accuracy)),
            accuracy(over(|curve| curve.first()?.validation_accuracy)),
            accuracy(over(|curve| curve.last()?.validation_accuracy)),
        ]
    };
    Table {
        caption: "Means over ingredients and seeds".to_owned(),
        columns: vec![
            Column::words("phase"),
            Column::number("epochs"),
            Column::number("first loss"),
            Column::number("last loss"),
            Column::number(&format!("last training {}", view.unit.title())),
            Column::number("first validation"),
            Column::number("last validation"),
        ],
        rows: view.summary.phases.iter().map(row).collect(),
    }
}

/// How many ingredients the greedy soups kept.
pub(super) fn greedy(view: View<'_>) -> Section {
    let row = |phase: &PhaseSummary| {
        let decisions = || {
            let soups = view.at(phase).map(|(_, phase)| &phase.soup.decisions);
            soups.filter(|decisions| !decisions.is_empty())
        };
        let kept = decisions().map(|decisions| decisions.iter().filter(|one| one.kept).count());
        let seen = decisions().map(Vec::len);
        let kept = mean(kept.map(|kept| kept as f64))?;
        Some(vec![
            Cell::from(phase.phase.to_string()),
            decisions().count().to_string().into(),
            fixed_or_missing(mean(seen.map(|seen| seen as f64)), 1).into(),
            fixed_or_missing(Some(kept), 1).into(),
        ])
    };
    let rows: Vec<Vec<Cell>> = view.summary.phases.iter().filter_map(row).collect();
    let mut blocks = Vec::new();
    if !rows.is_empty() {
        blocks.push(Block::Table(Table {
            caption: String::new(),
            columns: vec![
                Column::words("phase"),
                Column::number("seeds"),
                Column::number("candidates, mean"),
                Column::number("kept, mean"),
            ],
            rows,
        }));
        blocks.push(Block::Note(
            "Candidates are tried in the order of their validation scores; one is kept if the \
             soup with it is as good as the recipe asks. Each decision is listed below, by seed \
             and phase."
                .to_owned(),
        ));
    }
    Section {
        id: "greedy",
        name: "Greedy",
        title: "What the greedy soup kept",
        blocks,
    }
}
