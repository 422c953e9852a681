//! Every seed and phase, the recipe, and what files there are.

use super::View;
use super::apart;

use crate::cycle::findings::Decision;
use crate::cycle::findings::Ingredient;
use crate::cycle::findings::Model;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Study;
use crate::cycle::report::contender::Contender;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Column;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::number::fixed_or_missing;
use crate::cycle::report::number::missing;
use crate::cycle::report::number::percent;

/// A fold per seed, and in it one per phase.
pub(super) fn section(view: View<'_>) -> Section {
    let studies = view.findings.studies.iter();
    let folds = studies
        .filter(|study| !study.phases.is_empty())
        .map(|study| {
            let phases = study.phases.iter().map(|phase| {
                let title = format!(
                    "Phase {}, {} % sparse",
                    phase.phase,
                    percent(phase.sparsity)
                );
                Block::Fold(title, one(view, phase))
            });
            Block::Fold(format!("Seed {}", study.seed), phases.collect())
        });
    Section {
        id: "details",
        name: "Details",
        title: "Every seed and phase",
        blocks: folds.collect(),
    }
}

fn one(view: View<'_>, phase: &Phase) -> Vec<Block> {
    let mut blocks = vec![Block::Table(models(view, phase))];
    if !phase.soup.decisions.is_empty() {
        blocks.push(Block::Table(decisions(view, &phase.soup.decisions)));
    }
    blocks.extend(phase.distances.iter().flat_map(apart::maps));
    blocks.extend(apart::barrier_map(view, &phase.segments));
    if !phase.soup.missing.is_empty() {
        blocks.push(Block::Text("Missing ingredients:".to_owned()));
        blocks.push(Block::List(phase.soup.missing.clone()));
    }
    blocks
}

/// The soup, its ingredients and the baselines.
fn models(view: View<'_>, phase: &Phase) -> Table {
    let accuracy =
        |value: Option<f64>| Cell::from(value.map_or_else(missing, |value| view.unit.value(value)));
    let row =
        |name: String, varied: String, weight: String, distance: Option<f64>, model: &Model| {
            let epochs = model.curve.last().map(|epoch| epoch.epoch as f64);
            vec![
                Cell::from(name),
                varied.into(),
                weight.into(),
                fixed_or_missing(epochs, 0).into(),
                accuracy(model.scores.accuracy),
                accuracy(model.scores.validation_accuracy),
                fixed_or_missing(model.scores.loss, 4).into(),
                fixed_or_missing(distance, 3).into(),
            ]
        };
    let soup = &phase.soup;
    let mut rows = vec![row(
        "soup".to_owned(),
        soup.method.clone(),
        String::new(),
        None,
        &soup.model,
    )];
    for cell in &mut rows[0] {
        cell.is_strong = true;
    }
    let to_soup = phase.distances.as_ref().map(|distances| &distances.to_soup);
    rows.extend(
        phase
            .ingredients
            .iter()
            .enumerate()
            .map(|(idx, ingredient)| {
                let distance = to_soup.and_then(|distances| distances.get(idx)).copied();
                let weight = fixed_or_missing(Some(ingredient.coefficient), 3);
                let name = ingredient.ordinal.to_string();
                row(
                    name,
                    varied(ingredient),
                    weight,
                    distance,
                    &ingredient.model,
                )
            }),
    );
    rows.extend(phase.baselines.iter().map(|(key, model)| {
        let name = Contender::Baseline(key.clone()).name().to_owned();
        row(name, String::new(), String::new(), None, model)
    }));
    Table {
        caption: "Models".to_owned(),
        columns: vec![
            Column::words(""),
            Column::words("varied"),
            Column::number("coefficient"),
            Column::number("epochs"),
            Column::number(&format!("test {}", view.unit.title())),
            Column::number("validation"),
            Column::number("loss (nats)"),
            Column::number("from the soup (L2)"),
        ],
        rows,
    }
}

/// `seed 3, weight decay 0.0005`.
fn varied(ingredient: &Ingredient) -> String {
    let varied = ingredient.varied.iter();
    let varied: Vec<String> = varied
        .map(|(name, value)| format!("{} {value}", name.replace('_', " ")))
        .collect();
    varied.join(", ")
}

fn decisions(view: View<'_>, decisions: &[Decision]) -> Table {
    let row = |decision: &Decision| {
        let before = decision.before.map(|before| view.unit.value(before));
        let change = decision
            .before
            .map(|before| view.unit.difference(decision.score - before));
        vec![
            Cell::from(decision.ordinal.to_string()),
            before.unwrap_or_else(missing).into(),
            view.unit.value(decision.score).into(),
            change.unwrap_or_else(missing).into(),
            if decision.kept { "kept" } else { "dropped" }.into(),
        ]
    };
    Table {
        caption: "Decisions of the greedy soup, in order".to_owned(),
        columns: vec![
            Column::words("ingredient"),
            Column::number("score without it"),
            Column::number("with it"),
            Column::number("change"),
            Column::words(""),
        ],
        rows: decisions.iter().map(row).collect(),
    }
}

/// The recipe as it was run, and digests of all files.
pub(super) fn recipe(view: View<'_>) -> Section {
    let mut blocks = vec![Block::Facts(view.facts())];
    if !view.findings.recipe.trim().is_empty() {
        blocks.push(Block::Code(view.findings.recipe.clone()));
    }
    let folds = view.findings.studies.iter().filter_map(|study| {
        let table = digests(study);
        let title = format!("Digests of seed {}", study.seed);
        (!table.rows.is_empty()).then(|| Block::Fold(title, vec![Block::Table(table)]))
    });
    let folds: Vec<Block> = folds.collect();
    if !folds.is_empty() {
        blocks.extend(folds);
        blocks.push(Block::Note(
            "Digests are XXH3 (128 bits) of the files: they find accidents, not adversaries."
                .to_owned(),
        ));
    }
    Section {
        id: "recipe",
        name: "Recipe",
        title: "What was run",
        blocks,
    }
}

fn digests(study: &Study) -> Table {
    let mut rows = Vec::new();
    let mut push = |name: String, model: &Model| {
        if let Some(digest) = model.digest {
            rows.push(vec![Cell::from(name), digest.to_string().into()]);
        }
    };
    push("dense".to_owned(), &study.dense);
    for phase in &study.phases {
        let number = phase.phase;
        push(format!("phase {number}, soup"), &phase.soup.model);
        for ingredient in &phase.ingredients {
            let name = format!("phase {number}, ingredient {}", ingredient.ordinal);
            push(name, &ingredient.model);
        }
        for (key, model) in &phase.baselines {
            let name = Contender::Baseline(key.clone()).name().to_owned();
            push(format!("phase {number}, {name}"), model);
        }
    }
    Table {
        caption: String::new(),
        columns: vec![Column::words("model"), Column::code("digest")],
        rows,
    }
}
