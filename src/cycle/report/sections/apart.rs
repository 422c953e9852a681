//! How far ingredients are apart, and what lies between them.

use std::collections::BTreeMap;

use super::View;

use crate::cycle::findings::Distances;
use crate::cycle::findings::Segment;
use crate::cycle::report::contender::mean;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Column;
use crate::cycle::report::document::Figure;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::number::fixed_or_missing;
use crate::cycle::report::number::missing;
use crate::cycle::report::number::plural;
use crate::cycle::report::summary::PhaseSummary;
use crate::cycle::report::svg::Band;
use crate::cycle::report::svg::Chart;
use crate::cycle::report::svg::Lines;
use crate::cycle::report::svg::Place;
use crate::cycle::report::svg::Series;
use crate::cycle::report::svg::Size;
use crate::cycle::report::svg::Style;

/// Accuracy along the segments.
pub(super) fn segments(view: View<'_>) -> Section {
    let panels = view.summary.phases.iter().filter_map(|phase| {
        let chart = chart(view, phase);
        (!chart.is_empty()).then(|| (view.phase_name(phase), Chart::Lines(chart)))
    });
    let panels: Vec<(String, Chart)> = panels.collect();
    let mut blocks = Vec::new();
    if !panels.is_empty() {
        let noun = view.unit.noun();
        blocks.push(Block::Figure(Figure {
            title: format!("Test {noun} on the way from one ingredient to another"),
            legend: vec![(Style::bare(), "mean over pairs and seeds".to_owned())],
            panels,
            note: "The band reaches from the worst pair to the best. Statistics of batch norm \
                   are estimated again at each point."
                .to_owned(),
        }));
        blocks.push(Block::Table(barriers(view)));
        blocks.push(Block::Note(format!(
            "The barrier of a pair is how far {noun} falls below the straight line between its \
             ends, at worst. Where it is high, the ingredients do not lie in one basin, and \
             their average is worse than they are."
        )));
    }
    Section {
        id: "segments",
        name: "Segments",
        title: "Between the ingredients",
        blocks,
    }
}

/// Accuracies of all pairs, by the second ingredient's share.
fn by_share(view: View<'_>, phase: &PhaseSummary) -> Vec<(f64, Vec<f64>)> {
    // Keys are bits of numbers that are not negative, and so in the numbers' order.
    let mut shares: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for segment in view.at(phase).flat_map(|(_, phase)| &phase.segments) {
        for &(share, accuracy) in &segment.points {
            if share >= 0.0 && share.is_finite() && accuracy.is_finite() {
                let accuracies = shares.entry((share + 0.0).to_bits()).or_default();
                accuracies.push(view.unit.scaled(accuracy));
            }
        }
    }
    let number = |(bits, accuracies)| (f64::from_bits(bits), accuracies);
    shares.into_iter().map(number).collect()
}

fn chart(view: View<'_>, phase: &PhaseSummary) -> Lines {
    let shares = by_share(view, phase);
    let place = |(share, accuracies): &(f64, Vec<f64>)| {
        Some(Place {
            x: *share,
            y: mean(accuracies.iter().copied())?,
            error: None,
        })
    };
    let edge = |(share, accuracies): &(f64, Vec<f64>)| {
        let low = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
        let high = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (*share, low, high)
    };
    Lines {
        size: Size::Panel,
        title: format!("Between ingredients, phase {}", phase.phase),
        description: "The table below has the barriers.".to_owned(),
        x_label: "share of the second ingredient".to_owned(),
        y_label: format!("test {}", view.unit.title()),
        x_ticks: Vec::new(),
        bands: vec![Band {
            edges: shares.iter().map(edge).collect(),
        }],
        rule: None,
        series: vec![Series {
            name: "mean over pairs and seeds".to_owned(),
            style: Style::bare(),
            places: shares.iter().filter_map(place).collect(),
        }],
    }
}

fn barriers(view: View<'_>) -> Table {
    let row = |phase: &PhaseSummary| {
        let segments = || {
            let of_studies = view.at(phase);
            of_studies.flat_map(|(study, phase)| {
                let segments = phase.segments.iter();
                segments.map(move |segment| (study.seed, segment))
            })
        };
        let highest = segments()
            .map(|(seed, segment)| (seed, segment, segment.barrier()))
            .reduce(|worst, next| if next.2 > worst.2 { next } else { worst });
        let (seed, worst, barrier) = highest?;
        let midpoint = |(_, segment): (u64, &Segment)| {
            let (_, first) = *segment.points.first()?;
            let (_, last) = *segment.points.last()?;
            let middle = segment.points.iter().find(|(share, _)| *share == 0.5)?;
            Some(middle.1 - (first + last) / 2.0)
        };
        let accuracy =
            |value: Option<f64>| value.map_or_else(missing, |value| view.unit.value(value));
        let middle = mean(segments().filter_map(midpoint));
        let of_pair = if barrier > 0.0 {
            format!("seed {seed}, {} to {}", worst.from, worst.to)
        } else {
            missing()
        };
        Some(vec![
            Cell::from(phase.phase.to_string()),
            segments().count().to_string().into(),
            middle
                .map_or_else(missing, |middle| view.unit.difference(middle))
                .into(),
            accuracy(mean(segments().map(|(_, segment)| segment.barrier()))).into(),
            accuracy(Some(barrier)).into(),
            of_pair.into(),
        ])
    };
    let points = match view.unit.points() {
        "" => "",
        _ => " (points)",
    };
    Table {
        caption: "Barriers".to_owned(),
        columns: vec![
            Column::words("phase"),
            Column::number("pairs"),
            Column::number(&format!("midpoint minus ends{points}")),
            Column::number(&format!("mean barrier{points}")),
            Column::number(&format!("highest{points}")),
            Column::words("of pair"),
        ],
        rows: view.summary.phases.iter().filter_map(row).collect(),
    }
}

/// Distances and angles, over all pairs.
pub(super) fn distances(view: View<'_>) -> Section {
    let row = |phase: &PhaseSummary| {
        let all = || {
            view.at(phase)
                .filter_map(|(_, phase)| phase.distances.as_ref())
        };
        let l2 = mean(all().flat_map(|distances| pairs(&distances.l2)))?;
        let angle = mean(all().flat_map(|distances| pairs(&distances.angles)));
        let to_soup = mean(all().flat_map(|distances| distances.to_soup.iter().copied()));
        Some(vec![
            Cell::from(phase.phase.to_string()),
            all().count().to_string().into(),
            fixed_or_missing(Some(l2), 3).into(),
            fixed_or_missing(angle, 2).into(),
            fixed_or_missing(to_soup, 3).into(),
        ])
    };
    let rows: Vec<Vec<Cell>> = view.summary.phases.iter().filter_map(row).collect();
    let mut blocks = Vec::new();
    if !rows.is_empty() {
        blocks.push(Block::Table(Table {
            caption: "Means over pairs and seeds".to_owned(),
            columns: vec![
                Column::words("phase"),
                Column::number("seeds"),
                Column::number("L2 distance"),
                Column::number("angle (degrees)"),
                Column::number("L2 distance from the soup"),
            ],
            rows,
        }));
        if let Some((name, maps)) = last_maps(view) {
            blocks.push(Block::Heading(name));
            blocks.extend(maps);
        }
        blocks.push(Block::Note(
            "Over retained coordinates only. The maps of the other seeds and phases are below."
                .to_owned(),
        ));
    }
    Section {
        id: "distances",
        name: "Distances",
        title: "Distances and angles",
        blocks,
    }
}

/// The maps of the first seed's last phase that has some.
fn last_maps(view: View<'_>) -> Option<(String, Vec<Block>)> {
    view.findings.studies.iter().find_map(|study| {
        let phase = study
            .phases
            .iter()
            .rev()
            .find(|phase| phase.distances.is_some())?;
        let maps = maps(phase.distances.as_ref()?);
        let name = format!(
            "Seed {}, phase {}: {}",
            study.seed,
            phase.phase,
            plural(phase.ingredients.len(), "ingredient")
        );
        (!maps.is_empty()).then_some((name, maps))
    })
}

/// Entries above the diagonal.
fn pairs(matrix: &[Vec<f64>]) -> impl Iterator<Item = f64> {
    let rows = matrix.iter().enumerate();
    rows.flat_map(|(idx, row)| row.iter().skip(idx + 1).copied())
}

/// Distances and angles as heat maps.
pub(super) fn maps(distances: &Distances) -> Vec<Block> {
    let l2 = map("L2 distances", &distances.l2, 3);
    let angles = map("Angles (degrees)", &distances.angles, 1);
    l2.into_iter().chain(angles).map(Block::Table).collect()
}

/// Barriers between the ingredients as a heat map.
pub(super) fn barrier_map(view: View<'_>, segments: &[Segment]) -> Option<Block> {
    let ends = segments
        .iter()
        .flat_map(|segment| [segment.from, segment.to]);
    let count = ends.max()?;
    // Ordinals come from a file; a run has no more ingredients than this.
    if count > MOST_INGREDIENTS {
        return None;
    }
    let mut matrix = vec![vec![f64::NAN; count]; count];
    for (idx, row) in matrix.iter_mut().enumerate() {
        row[idx] = 0.0;
    }
    for segment in segments {
        let (from, to) = (segment.from.checked_sub(1)?, segment.to.checked_sub(1)?);
        let barrier = view.unit.scaled(segment.barrier());
        matrix[from][to] = barrier;
        matrix[to][from] = barrier;
    }
    let caption = match view.unit.points() {
        "" => "Barriers",
        _ => "Barriers (points)",
    };
    map(caption, &matrix, 2).map(Block::Table)
}

/// Most ingredients of which a map is drawn.
const MOST_INGREDIENTS: usize = 64;

/// A square matrix; darker is more. `None` of fewer than two ingredients, or of too many.
fn map(caption: &str, matrix: &[Vec<f64>], digits: usize) -> Option<Table> {
    if !(2..=MOST_INGREDIENTS).contains(&matrix.len()) {
        return None;
    }
    let finite = matrix
        .iter()
        .flatten()
        .copied()
        .filter(|value| value.is_finite());
    let most = finite.fold(0.0, f64::max);
    let mut columns = vec![Column::words("")];
    columns.extend((1..=matrix.len()).map(|ordinal| Column::number(&ordinal.to_string())));
    let rows = matrix.iter().enumerate().map(|(row_idx, row)| {
        let cells = row.iter().enumerate().map(|(column_idx, &value)| {
            let heat = (most > 0.0 && value.is_finite()).then(|| value / most);
            match row_idx == column_idx {
                true => Cell::heated(String::new(), Some(0.0)),
                false => Cell::heated(fixed_or_missing(Some(value), digits), heat),
            }
        });
        let name = Cell::from((row_idx + 1).to_string());
        std::iter::once(name).chain(cells).collect()
    });
    Some(Table {
        caption: caption.to_owned(),
        columns,
        rows: rows.collect(),
    })
}
