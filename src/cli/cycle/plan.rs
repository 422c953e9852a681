//! `sms-merge cycle --plan`: what would be done, and what it would take.

use std::time::Duration;

use serde::Serialize;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::recipe::Keep;
use sms_merge::cycle::recipe::Recipe;
use sms_merge::cycle::scene::Scene;
use sms_merge::cycle::work::Work;
use sms_merge::graph::Role;
use sms_merge::tensor::DeviceKind;
use sms_merge::train::memory::available_bytes;

use crate::cli::SCHEMA;
use crate::cli::args::cycle::CycleArguments;
use crate::cli::cycle::estimate;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::plural;

#[derive(Serialize)]
struct PlanObject<'a> {
    schema: u32,
    steps: Vec<StepObject<'a>>,
    epochs: u64,
    disk_bytes: Option<u64>,
    estimated_secs: Option<f64>,
    /// Bytes that a training on the processor takes at least.
    memory_bytes: Option<u64>,
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
        DeviceKind::Cpu => estimate::time(scene, plan)?,
        // It may not be there where the plan is made.
        DeviceKind::Cuda => None,
    };
    let memory = match recipe.device {
        DeviceKind::Cpu => estimate::need(scene, plan).map(|(need, _)| need.bytes()),
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
            memory_bytes: memory,
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
    if let Some(bytes) = memory {
        out.push_str(&format!("; at least {} of memory", human_bytes(bytes)));
    }
    out.push('\n');
    text::print(&out)?;
    if let (Some(bytes), Some(left)) = (memory, available_bytes())
        && bytes > left
        && !arguments.report.quiet
    {
        text::note(&format!(
            "warning: a training takes {} of memory at least, and {} are available here",
            human_bytes(bytes),
            human_bytes(left)
        ));
    }
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
