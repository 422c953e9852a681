//! `sms-merge cycle --plan`: what would be done, and what it would take.

use std::time::Duration;
use std::time::Instant;

use serde::Serialize;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::recipe::Keep;
use sms_merge::cycle::recipe::Recipe;
use sms_merge::cycle::scene::Scene;
use sms_merge::cycle::work::TrainerWork;
use sms_merge::cycle::work::Work;
use sms_merge::graph::Role;
use sms_merge::tensor::DeviceKind;
use sms_merge::train::Objective;
use sms_merge::train::Weights;
use sms_merge::train::data::Assembler;
use sms_merge::train::data::Batch;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::StepSeed;
use sms_merge::train::native::Native;
use sms_merge::train::trainer;

use crate::cli::SCHEMA;
use crate::cli::args::cycle::CycleArguments;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::plural;

/// Steps that are timed for the estimate.
const TIMED_STEPS: u64 = 3;

#[derive(Serialize)]
struct PlanObject<'a> {
    schema: u32,
    steps: Vec<StepObject<'a>>,
    epochs: u64,
    disk_bytes: Option<u64>,
    estimated_secs: Option<f64>,
}

#[derive(Serialize)]
struct StepObject<'a> {
    label: &'a str,
    kind: &'static str,
    epochs: u64,
}

/// Shows the plan.
pub(super) fn show(
    arguments: &CycleArguments,
    recipe: &Recipe,
    scene: &Scene,
    plan: &Plan,
    slots: usize,
) -> anyhow::Result<()> {
    let disk = disk_bytes(recipe, scene, plan);
    let estimate = match recipe.device {
        DeviceKind::Cpu => estimate(scene, plan)?,
        // It may not be there where the plan is made.
        DeviceKind::Cuda => None,
    };
    if arguments.report.json {
        let steps = plan.steps.iter().map(|step| StepObject {
            label: &step.label,
            kind: step.work.kind(),
            epochs: step.epochs,
        });
        let object = PlanObject {
            schema: SCHEMA,
            steps: steps.collect(),
            epochs: plan.epochs(),
            disk_bytes: disk,
            estimated_secs: estimate.map(|time| time.as_secs_f64()),
        };
        text::print(&text::json(&object)?)?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .map(|step| {
            let epochs = match step.epochs {
                0 => String::new(),
                epochs => epochs.to_string(),
            };
            let label = Clean(&step.label).to_string();
            vec![label, step.work.kind().to_owned(), epochs]
        })
        .collect();
    let columns = [
        ("step", Column::Name),
        ("kind", Column::Name),
        ("epochs", Column::Number),
    ];
    let mut out = text::table(&columns, &rows);
    out.push_str(&format!(
        "{}, {} of training, {slots} at a time",
        plural(plan.steps.len() as u64, "step"),
        plural(plan.epochs(), "epoch"),
    ));
    if let Some(bytes) = disk {
        out.push_str(&format!("; about {} on disk", human_bytes(bytes)));
    }
    if let Some(time) = estimate {
        out.push_str(&format!("; about {} of training", words(time)));
    }
    out.push('\n');
    text::print(&out)?;
    Ok(())
}

/// A time as words, roughly.
fn words(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 120.0 {
        format!("{secs:.0} s")
    } else if secs < 7200.0 {
        format!("{:.0} minutes", secs / 60.0)
    } else {
        format!("{:.1} hours", secs / 3600.0)
    }
}

/// Bytes of all that stays on disk, if the network is known.
fn disk_bytes(recipe: &Recipe, scene: &Scene, plan: &Plan) -> Option<u64> {
    let graph = &scene.network.as_ref()?.graph;
    let (mut all, mut weights) = (0, 0);
    for parameter in &graph.parameters {
        let numel = parameter.shape.numel();
        all += numel
            * if parameter.role == Role::BatchCount {
                8
            } else {
                4
            };
        weights += if parameter.role == Role::Weight {
            numel
        } else {
            0
        };
    }
    let bytes = plan
        .steps
        .iter()
        .map(|step| match (&step.work, recipe.run.keep) {
            (Work::Import(_) | Work::Merge(_), _) => all,
            (Work::Train(_), Keep::All) => all,
            (Work::Train(_), Keep::Soups) if step.inputs.is_empty() => all,
            (Work::Train(_), Keep::Soups) => 0,
            (Work::Prune(_) | Work::Reprune(_), Keep::All) => all + weights,
            (Work::Prune(_) | Work::Reprune(_), Keep::Soups) => weights,
        });
    Some(bytes.sum())
}

/// Time that the trainings take if all run one after the other with all cores, from a few
/// steps of the dense network; `None` where the user's own trainer trains.
fn estimate(scene: &Scene, plan: &Plan) -> anyhow::Result<Option<Duration>> {
    let (Some(network), Some(images)) = (&scene.network, &scene.images) else {
        return Ok(None);
    };
    let mut total = Duration::ZERO;
    let mut per_step: Vec<(usize, Duration)> = Vec::new();
    for step in &plan.steps {
        let Work::Train(train) = &step.work else {
            continue;
        };
        let TrainerWork::Embedded { recipe, .. } = &train.trainer else {
            return Ok(None);
        };
        let batch_size = recipe.batch_size;
        let known = per_step.iter().find(|(size, _)| *size == batch_size);
        let time = match known {
            Some(&(_, time)) => time,
            None => {
                let weights = Weights::initial(&network.graph, 0);
                let masks = vec![None; network.graph.parameters.len()];
                let graph = network.graph.clone();
                let threads = sms_merge::merge::default_threads();
                let mut engine = Native::new(graph, &weights, masks, threads)?;
                let time = time_step(&mut engine, images, batch_size)?;
                per_step.push((batch_size, time));
                time
            }
        };
        let mut recipe = recipe.as_ref().clone();
        // Only lengths are asked for; what ALLR lost is not known.
        recipe.pace = sms_merge::train::recipe::Recipe::default().pace;
        recipe.average = sms_merge::train::recipe::Average::None;
        recipe.epochs = recipe.epochs.max(2);
        let steps = trainer::Plan::new(&images.dataset, &recipe)?.steps_per_epoch() * step.epochs;
        total += time * u32::try_from(steps).unwrap_or(u32::MAX);
    }
    Ok(Some(total))
}

/// Time of a training step.
fn time_step(
    engine: &mut dyn Engine,
    images: &sms_merge::cycle::scene::Images,
    batch_size: usize,
) -> anyhow::Result<Duration> {
    let dataset = &images.dataset;
    let assembler = Assembler::new(&dataset.train, &dataset.normalisation);
    let mut batch = Batch::default();
    let indices: Vec<u32> = dataset
        .train
        .indices()
        .into_iter()
        .take(batch_size)
        .collect();
    assembler.fill(&indices, None, &mut batch);
    let mut best = Duration::MAX;
    for step in 0..TIMED_STEPS {
        let started = Instant::now();
        let seed = StepSeed { seed: 0, step };
        engine.backpropagate(batch.images(), &batch.labels, &Objective::default(), seed)?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}
