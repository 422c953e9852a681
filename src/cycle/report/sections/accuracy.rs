//! Who is how good, and by how much the soup is better.

use super::View;

use crate::cycle::report::contender::Contender;
use crate::cycle::report::contender::at_phase;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Column;
use crate::cycle::report::document::Figure;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::number::mean_percent;
use crate::cycle::report::number::missing;
use crate::cycle::report::number::percent;
use crate::cycle::report::spread::Paired;
use crate::cycle::report::spread::Spread;
use crate::cycle::report::summary::PhaseSummary;
use crate::cycle::report::svg::Bar;
use crate::cycle::report::svg::Bars;
use crate::cycle::report::svg::Chart;
use crate::cycle::report::svg::Lines;
use crate::cycle::report::svg::Place;
use crate::cycle::report::svg::Rule;
use crate::cycle::report::svg::Series;
use crate::cycle::report::svg::Size;
use crate::cycle::report::svg::Style;

/// Most phases of which the verdicts are shown without being unfolded.
const MOST_VERDICTS: usize = 5;

/// Accuracy against sparsity.
pub(super) fn section(view: View<'_>) -> Section {
    let mut blocks = Vec::new();
    if !view.summary.phases.is_empty() {
        blocks.extend(figure(view).map(Block::Figure));
        let verdicts = Block::List(view.verdicts());
        blocks.push(if view.summary.phases.len() > MOST_VERDICTS {
            Block::Fold("The verdict of each phase".to_owned(), vec![verdicts])
        } else {
            verdicts
        });
        blocks.extend(view.summary.same_budget.clone().map(Block::Text));
        blocks.push(Block::Table(table(view)));
        blocks.push(Block::Note(note(view)));
    }
    Section {
        id: "accuracy",
        name: "Accuracy",
        title: "Accuracy against sparsity",
        blocks,
    }
}

fn note(view: View<'_>) -> String {
    let spread = if view.summary.seeds > 1 {
        " Numbers are means over the seeds ± the sample standard deviation."
    } else {
        ""
    };
    format!(
        "Test {} of every model, statistics of batch norm estimated again for each that was \
         trained or averaged.{spread} The best candidate is the ingredient of the highest test accuracy: a choice that no \
         one could make without the test images, and that favours the soup's opponent. Best \
         by validation is the choice that one could make.",
        view.unit.noun()
    )
}

/// Where phases lie: evenly, if each prunes the same share of what remains.
fn across(sparsity: f64) -> f64 {
    // A network of which nothing remains is put where a millionth would.
    -(1.0 - sparsity).max(1e-6).ln()
}

fn figure(view: View<'_>) -> Option<Figure> {
    let phases = &view.summary.phases;
    let sparsity = |phase: &PhaseSummary| phase.sparsity.map(|sparsity| sparsity.mean);
    let shown = [
        Contender::MeanCandidate,
        Contender::BestCandidate,
        Contender::imp(),
        Contender::imp_m_times(),
        Contender::Soup,
    ];
    let series = shown.iter().map(|contender| {
        let place = |phase: &PhaseSummary| {
            let accuracy = phase.accuracy(contender)?;
            Some(Place {
                x: across(sparsity(phase)?),
                y: view.unit.scaled(accuracy.mean),
                error: accuracy.deviation.map(|error| view.unit.scaled(error)),
            })
        };
        Series {
            name: contender.name().to_owned(),
            style: Style::of(contender),
            places: phases.iter().filter_map(place).collect(),
        }
    });
    let series: Vec<Series> = series.filter(|series| !series.places.is_empty()).collect();
    let ticks = phases.iter().filter_map(|phase| {
        let sparsity = sparsity(phase)?;
        Some((across(sparsity), percent(sparsity)))
    });
    let dense = phases.last()?.accuracy(&Contender::Dense);
    let mut legend: Vec<(Style, String)> = series
        .iter()
        .map(|series| (series.style, series.name.clone()))
        .collect();
    // The soup is drawn last and named first.
    legend.rotate_right(usize::from(
        series
            .last()
            .is_some_and(|series| series.name == Contender::Soup.name()),
    ));
    if dense.is_some() {
        legend.push((Style::of(&Contender::Dense), "dense".to_owned()));
    }
    let chart = Lines {
        size: Size::Wide,
        description: format!("{} The table below has the numbers.", view.summary.headline),
        title: format!("{} against sparsity", view.title_of_accuracy()),
        x_label: "sparsity (%), spaced by the logarithm of what remains".to_owned(),
        y_label: format!("test {}", view.unit.title()),
        x_ticks: ticks.collect(),
        bands: Vec::new(),
        rule: dense.map(|dense| Rule {
            y: view.unit.scaled(dense.mean),
            name: "dense".to_owned(),
        }),
        series,
    };
    let note = if view.summary.seeds > 1 {
        "Error bars are standard deviations over the seeds; marks stand side by side so that \
         they can be told apart."
    } else {
        "One seed: how much another seed would differ is not known."
    };
    (!chart.is_empty()).then(|| Figure {
        title: String::new(),
        legend,
        panels: vec![(String::new(), Chart::Lines(chart))],
        note: note.to_owned(),
    })
}

fn table(view: View<'_>) -> Table {
    let contenders = view.contenders();
    let phases = &view.summary.phases;
    let has_pruned = phases
        .iter()
        .flat_map(|phase| at_phase(view.findings, phase.phase))
        .any(|(_, phase)| {
            phase
                .pruned
                .as_ref()
                .is_some_and(|pruned| pruned.accuracy.is_some())
        });
    let mut columns = vec![Column::words("phase and sparsity")];
    columns.extend(phases.iter().map(|phase| {
        let sparsity = phase.sparsity.map(|sparsity| sparsity.mean);
        let sparsity = mean_percent(sparsity.into_iter());
        Column::number(&format!("{}: {sparsity} %", phase.phase))
    }));
    let row = |name: &str, cell: &dyn Fn(&PhaseSummary) -> String| {
        let cells = phases.iter().map(|phase| Cell::from(cell(phase)));
        std::iter::once(name.into())
            .chain(cells)
            .collect::<Vec<Cell>>()
    };
    let mut rows: Vec<Vec<Cell>> = contenders
        .iter()
        .map(|who| row(who.name(), &|phase| view.unit.spread(phase.accuracy(who))))
        .collect();
    if let Some(soup) = rows
        .first_mut()
        .filter(|_| contenders[0] == Contender::Soup)
    {
        soup.iter_mut().for_each(|cell| cell.is_strong = true);
    }
    if has_pruned {
        rows.push(row("before retraining", &|phase| {
            let pruned = view
                .at(phase)
                .filter_map(|(_, phase)| phase.pruned.as_ref()?.accuracy);
            view.unit.spread(Spread::of(pruned))
        }));
    }
    if view.summary.seeds > 1 {
        rows.push(row("seeds with a soup", &|phase| {
            let soups = phase.accuracy(&Contender::Soup);
            soups.map_or(0, |soups| soups.count).to_string()
        }));
    }
    Table {
        caption: format!("Test {}{}", view.unit.title(), view.spread_label()),
        columns,
        rows,
    }
}

/// Soup minus everyone else.
pub(super) fn differences(view: View<'_>) -> Section {
    let mut blocks: Vec<Block> = difference_figure(view)
        .map(Block::Figure)
        .into_iter()
        .collect();
    blocks.extend(view.by_phase(|phase| {
        let table = difference_table(view, phase);
        table.map(Block::Table).into_iter().collect()
    }));
    if !blocks.is_empty() {
        blocks.push(Block::Note(
            "Differences are paired: taken within each seed, then averaged. The standard error \
             (s.e.) is that of their mean. The soup is called better or worse if the mean is \
             further from 0 than the seeds scatter, by Student's t at 95 %; this is not corrected \
             for the number of comparisons."
                .to_owned(),
        ));
    }
    Section {
        id: "differences",
        name: "Differences",
        title: "Soup minus the others",
        blocks,
    }
}

fn difference_figure(view: View<'_>) -> Option<Figure> {
    let best = Contender::BestCandidate;
    let bar = |phase: &PhaseSummary| {
        let paired = phase.soup_minus(&best)?;
        let values = view.at(phase).filter_map(|(study, phase)| {
            let of = |contender: &Contender| {
                contender.measure(study, phase, &|model| model.scores.accuracy)
            };
            Some(view.unit.scaled(of(&Contender::Soup)? - of(&best)?))
        });
        Some(Bar {
            name: mean_percent(phase.sparsity.map(|sparsity| sparsity.mean).into_iter()),
            value: view.unit.scaled(paired.mean),
            error: paired.standard_error.map(|error| view.unit.scaled(error)),
            values: values.collect(),
        })
    };
    let bars: Vec<Bar> = view.summary.phases.iter().filter_map(bar).collect();
    let title = "Soup minus best candidate".to_owned();
    (!bars.is_empty()).then(|| Figure {
        legend: Vec::new(),
        note: if view.summary.seeds > 1 {
            "Bars are means over the seeds, their lines standard errors; each ring is a seed. \
             Below 0 the soup loses."
        } else {
            "One seed. Below 0 the soup loses."
        }
        .to_owned(),
        panels: vec![(
            String::new(),
            Chart::Bars(Bars {
                size: Size::Wide,
                title: title.clone(),
                description: view.verdicts().join(" "),
                x_label: "sparsity (%)".to_owned(),
                y_label: format!("difference{}", in_points(view)),
                bars,
            }),
        )],
        title,
    })
}

fn in_points(view: View<'_>) -> String {
    match view.unit.points().trim() {
        "" => String::new(),
        points => format!(" ({points})"),
    }
}

fn difference_table(view: View<'_>, phase: &PhaseSummary) -> Option<Table> {
    let row = |contender: &Contender, paired: Paired| {
        let verdict = match paired.is_clear {
            Some(true) if paired.mean > 0.0 => "better",
            Some(true) => "worse",
            Some(false) => "too close to call",
            None => "one seed",
        };
        let error = paired.standard_error;
        vec![
            contender.name().into(),
            Cell::from(view.unit.difference(paired.mean)).strong(),
            error
                .map_or_else(missing, |error| view.unit.value(error))
                .into(),
            paired.won.to_string().into(),
            paired.lost.to_string().into(),
            paired.tied.to_string().into(),
            verdict.into(),
        ]
    };
    let standings = phase.standings.iter();
    let rows: Vec<Vec<Cell>> = standings
        .filter_map(|standing| Some(row(&standing.contender, standing.soup_minus?)))
        .collect();
    (!rows.is_empty()).then(|| Table {
        caption: String::new(),
        columns: vec![
            Column::words("soup minus"),
            Column::number(&format!("mean{}", in_points(view))),
            Column::number("s.e."),
            Column::number("seeds won"),
            Column::number("lost"),
            Column::number("tied"),
            Column::words(""),
        ],
        rows,
    })
}
