//! Where weights were pruned, and what that saves.

use super::View;

use crate::cycle::findings::Cost;
use crate::cycle::findings::Layer;
use crate::cycle::report::contender::mean;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Column;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::number::count;
use crate::cycle::report::number::fixed_or_missing;
use crate::cycle::report::number::mean_percent;
use crate::cycle::report::number::missing;
use crate::cycle::report::summary::PhaseSummary;

/// Most layers that are shown without being unfolded.
const MOST_LAYERS: usize = 24;

/// Sparsity per layer.
pub(super) fn layers(view: View<'_>) -> Section {
    let mut blocks = Vec::new();
    if let Some(table) = layer_table(view) {
        let number = table.rows.len();
        if number > MOST_LAYERS {
            let title = format!("All {number} layers");
            blocks.push(Block::Fold(title, vec![Block::Table(table)]));
        } else {
            blocks.push(Block::Table(table));
        }
        blocks.push(Block::Note(
            "Means over the seeds. The bar is the last phase: what is retained stands out at \
             its right end."
                .to_owned(),
        ));
    }
    Section {
        id: "layers",
        name: "Layers",
        title: "Sparsity per layer",
        blocks,
    }
}

/// Pruned share; `None` of a tensor without elements.
fn sparsity(layer: &Layer) -> Option<f64> {
    let pruned = layer.numel.checked_sub(layer.retained)?;
    (layer.numel > 0).then(|| pruned as f64 / layer.numel as f64)
}

fn layer_table(view: View<'_>) -> Option<Table> {
    let phases = &view.summary.phases;
    let last = phases
        .iter()
        .rev()
        .find(|phase| view.at(phase).any(|(_, phase)| !phase.layers.is_empty()))?;
    let (_, listed) = view.at(last).find(|(_, phase)| !phase.layers.is_empty())?;
    let of = |phase: &PhaseSummary, name: &str| {
        let layers = view.at(phase).filter_map(|(_, phase)| {
            let mut layers = phase.layers.iter();
            layers.find(|layer| layer.name == name).cloned()
        });
        layers.collect::<Vec<_>>()
    };
    let mut columns = vec![
        Column::code("layer"),
        Column::number("weights"),
        Column::number("retained"),
        Column::bar(&format!("phase {}", last.phase)),
    ];
    let titles = phases
        .iter()
        .map(|phase| format!("phase {} (%)", phase.phase));
    columns.extend(titles.map(|title| Column::number(&title)));
    let row = |listed: &Layer| {
        let of_last = of(last, &listed.name);
        let retained = mean(of_last.iter().map(|layer| layer.retained as f64));
        let bar = mean(of_last.iter().filter_map(sparsity));
        let mut row = vec![
            Cell::from(listed.name.clone()),
            count(listed.numel).into(),
            retained
                .map_or_else(missing, |retained| count(retained.round() as u64))
                .into(),
            Cell::filled(bar),
        ];
        row.extend(phases.iter().map(|phase| {
            let layers = of(phase, &listed.name);
            Cell::from(mean_percent(layers.iter().filter_map(sparsity)))
        }));
        row
    };
    Some(Table {
        caption: String::new(),
        columns,
        rows: listed.layers.iter().map(row).collect(),
    })
}

/// Parameters and multiply-adds.
pub(super) fn cost(view: View<'_>) -> Section {
    let row = |phase: &PhaseSummary| {
        let costs = || view.at(phase).filter_map(|(_, phase)| phase.cost);
        let over = |value: fn(Cost) -> f64| mean(costs().map(value));
        let whole =
            |value: Option<f64>| value.map_or_else(missing, |value| count(value.round() as u64));
        let speedup = over(|cost| cost.theoretical_speedup)
            .map(|speedup| fixed_or_missing(Some(speedup), 2) + " ×");
        costs().next().map(|_| {
            vec![
                Cell::from(phase.phase.to_string()),
                mean_percent(phase.sparsity.map(|sparsity| sparsity.mean).into_iter()).into(),
                whole(over(|cost| cost.parameters as f64)).into(),
                whole(over(|cost| cost.multiply_adds as f64)).into(),
                speedup.unwrap_or_else(missing).into(),
            ]
        })
    };
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    if let Some(network) = &view.findings.network {
        rows.push(vec![
            "dense".into(),
            "0.00".into(),
            count(network.parameters).into(),
            count(network.multiply_adds).into(),
            "1.00 ×".into(),
        ]);
    }
    rows.extend(view.summary.phases.iter().filter_map(row));
    let mut blocks = Vec::new();
    if !rows.is_empty() {
        blocks.push(Block::Table(Table {
            caption: String::new(),
            columns: vec![
                Column::words("phase"),
                Column::number("sparsity (%)"),
                Column::number("parameters"),
                Column::number("multiply-adds per image"),
                Column::number("theoretical speed-up"),
            ],
            rows,
        }));
        blocks.push(Block::Note(
            "With retained weights only, means over the seeds. The speed-up is the ratio of \
             multiply-adds: a bound, not a measurement. Hardware and kernels reach less of it."
                .to_owned(),
        ));
    }
    Section {
        id: "cost",
        name: "Cost",
        title: "Cost",
        blocks,
    }
}
