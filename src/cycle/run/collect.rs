//! From receipts to findings.

use std::collections::BTreeMap;

use super::RunError;
use crate::cycle::findings::Cost;
use crate::cycle::findings::Data;
use crate::cycle::findings::Delivered;
use crate::cycle::findings::FORMAT_VERSION;
use crate::cycle::findings::Findings;
use crate::cycle::findings::Ingredient;
use crate::cycle::findings::Layer;
use crate::cycle::findings::Model;
use crate::cycle::findings::Network;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Soup;
use crate::cycle::findings::Study;
use crate::cycle::job::Metrics;
use crate::cycle::plan::ENSEMBLE;
use crate::cycle::plan::PhasePlan;
use crate::cycle::plan::Plan;
use crate::cycle::recipe::Recipe;
use crate::cycle::scene::Scene;
use crate::cycle::store::Receipt;
use crate::graph::Role;
use crate::train::data::Split;

/// A step that is done.
struct Step {
    metrics: Metrics,
    model: Model,
}

/// Everything that the receipts of a run say: phases whose soup is done.
///
/// # Errors
/// [`RunError::Metrics`] if a receipt says something that cannot be understood.
pub fn collect(
    recipe: &Recipe,
    scene: &Scene,
    plan: &Plan,
    receipts: &[Option<&Receipt>],
) -> Result<Findings, RunError> {
    let steps = receipts
        .iter()
        .map(|receipt| receipt.map(Step::of).transpose());
    let steps: Vec<Option<Step>> = steps.collect::<Result<_, _>>()?;
    let mut studies = Vec::new();
    for study in &plan.studies {
        let Some(dense) = &steps[study.dense] else {
            continue;
        };
        let phases = study.phases.iter();
        studies.push(Study {
            seed: study.seed,
            dense: dense.model.clone(),
            phases: phases
                .filter_map(|phase| phase_of(recipe, scene, plan, &steps, phase))
                .collect(),
        });
    }
    let elapsed = receipts
        .iter()
        .flatten()
        .map(|receipt| receipt.elapsed_secs);
    Ok(Findings {
        format_version: FORMAT_VERSION,
        tool: format!("sms-merge {}", env!("CARGO_PKG_VERSION")),
        title: recipe.title.clone(),
        recipe: recipe.to_text(),
        network: scene.network.as_ref().map(|network| Network {
            name: network.graph.name.clone(),
            parameters: network.graph.learned(),
            multiply_adds: network.graph.multiply_adds(),
        }),
        data: data(recipe, scene),
        n_ingredients: recipe.n_ingredients(),
        n_phases: recipe.sparsities().len(),
        n_seeds: recipe.seeds.len(),
        studies,
        delivered: delivered(plan, receipts),
        computing_secs: elapsed.sum(),
    })
}

/// Whose soup the run delivers, if that is done.
fn delivered(plan: &Plan, receipts: &[Option<&Receipt>]) -> Option<Delivered> {
    let study = plan.studies.first()?;
    let phase = study.phases.last()?;
    receipts[phase.soup].map(|_| Delivered {
        seed: study.seed,
        phase: phase.phase,
    })
}

impl Step {
    fn of(receipt: &Receipt) -> Result<Self, RunError> {
        let metrics: Metrics =
            serde_json::from_value(receipt.metrics.clone()).map_err(|source| {
                RunError::Metrics {
                    label: receipt.label.clone(),
                    source,
                }
            })?;
        let mut model = metrics.model.clone().unwrap_or_default();
        let checkpoint = receipt.outputs.get("checkpoint");
        model.digest = checkpoint.map(|artefact| artefact.digest);
        Ok(Self { metrics, model })
    }
}

fn data(recipe: &Recipe, scene: &Scene) -> Option<Data> {
    let dataset = &scene.images.as_ref()?.dataset;
    let (fraction, seed) = (recipe.data.validation, recipe.data.validation_seed);
    let split = Split::of(dataset.train.len(), fraction, seed).ok()?;
    let most = recipe.data.limit_train.unwrap_or(usize::MAX);
    Some(Data {
        name: dataset.name.clone(),
        train: split.train.len().min(most),
        validation: split.validation.len(),
        test: dataset.test.len(),
        classes: dataset.classes(),
    })
}

/// A phase, if its soup is done.
fn phase_of(
    recipe: &Recipe,
    scene: &Scene,
    plan: &Plan,
    steps: &[Option<Step>],
    phase: &PhasePlan,
) -> Option<Phase> {
    let prune = steps[phase.prune].as_ref()?;
    let soup = steps[phase.soup].as_ref()?;
    let layers = prune.metrics.layers.clone();
    let numel: u64 = layers.iter().map(|layer| layer.numel).sum();
    let retained: u64 = layers.iter().map(|layer| layer.retained).sum();
    // Places in the soup's list of the ingredients that there are.
    let there: Vec<usize> = (0..phase.ingredients.len())
        .filter(|&place| steps[phase.ingredients[place]].is_some())
        .collect();
    let ordinal = |place: usize| there.get(place - 1).map_or(place, |&place| place + 1);
    let varied = recipe.ingredients();
    let mut ingredients = Vec::new();
    for (place, &idx) in there.iter().enumerate() {
        let mut differing = varied[idx].varied.clone();
        if let Some(seed) = seed_of(plan, phase.ingredients[idx]) {
            differing.insert("seed".to_owned(), seed.to_string());
        }
        let coefficients = &soup.metrics.coefficients;
        ingredients.push(Ingredient {
            ordinal: idx + 1,
            varied: differing,
            coefficient: coefficients.get(place).copied().unwrap_or_default(),
            model: steps[phase.ingredients[idx]].as_ref()?.model.clone(),
        });
    }
    let missing = (0..phase.ingredients.len()).filter(|place| !there.contains(place));
    let mut decisions = soup.metrics.decisions.clone();
    for decision in &mut decisions {
        decision.ordinal = ordinal(decision.ordinal);
    }
    let mut segments = soup.metrics.segments.clone();
    for segment in &mut segments {
        (segment.from, segment.to) = (ordinal(segment.from), ordinal(segment.to));
    }
    Some(Phase {
        phase: phase.phase,
        target: phase.target,
        sparsity: 1.0 - retained as f64 / numel.max(1) as f64,
        cost: cost(scene, &layers),
        layers,
        pruned: prune
            .metrics
            .model
            .as_ref()
            .map(|model| model.scores.clone()),
        ingredients,
        soup: Soup {
            method: recipe.merge.method.name().to_owned(),
            model: soup.model.clone(),
            decisions,
            missing: missing
                .map(|place| plan.steps[phase.ingredients[place]].label.clone())
                .collect(),
        },
        baselines: baselines(steps, phase),
        distances: soup.metrics.distances.clone(),
        segments,
    })
}

fn baselines(steps: &[Option<Step>], phase: &PhasePlan) -> BTreeMap<String, Model> {
    let mut found = BTreeMap::new();
    for (&name, &idx) in &phase.baselines {
        let Some(step) = &steps[idx] else { continue };
        let model = if name == ENSEMBLE {
            step.metrics.ensemble.clone()
        } else {
            Some(step.model.clone())
        };
        if let Some(model) = model {
            found.insert(name.to_owned(), model);
        }
    }
    found
}

/// The seed of a training.
fn seed_of(plan: &Plan, step: usize) -> Option<u64> {
    use crate::cycle::work::TrainerWork;
    use crate::cycle::work::Work;

    match &plan.steps[step].work {
        Work::Train(train) => Some(match &train.trainer {
            TrainerWork::Embedded { recipe, .. } => recipe.seed,
            TrainerWork::Command(command) => command.seed,
        }),
        _ => None,
    }
}

/// What an image costs with the retained weights only.
fn cost(scene: &Scene, layers: &[Layer]) -> Option<Cost> {
    let graph = &scene.network.as_ref()?.graph;
    let retained_of = |name: &str, numel: u64| {
        let layer = layers.iter().find(|layer| layer.name == name);
        layer.map_or(numel, |layer| layer.retained)
    };
    let retained: Vec<u64> = graph
        .parameters
        .iter()
        .map(|parameter| retained_of(&parameter.name, parameter.shape.numel()))
        .collect();
    let multiply_adds = graph.sparse_multiply_adds(&retained);
    let learned = graph.parameters.iter().zip(&retained);
    let learned = learned.filter(|(parameter, _)| parameter.role != Role::BatchCount);
    Some(Cost {
        parameters: learned
            .filter(|(parameter, _)| parameter.role.is_learned())
            .map(|(_, &retained)| retained)
            .sum(),
        multiply_adds,
        theoretical_speedup: graph.multiply_adds() as f64 / multiply_adds.max(1) as f64,
    })
}
