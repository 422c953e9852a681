//! `--plan`: what a merge would do walks in, a table or an object walks out.

use serde::Serialize;
use sms_merge::checkpoint::Ingredients;
use sms_merge::connectivity::Expectation;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::merge::Action;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::MergeArguments;
use crate::cli::device::device_names;
use crate::cli::greedy;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::plural;
use crate::cli::text::table;

/// Bytes per second that the estimate of the time is made with: what a disk of
/// the middle sort gives. Files in the page cache are several times faster.
const ASSUMED_RATE: u64 = 1_000_000_000;

/// What `--plan --json` prints.
#[derive(Serialize)]
struct PlanObject {
    schema: u32,
    plan: Plan,
}

#[derive(Serialize)]
struct Plan {
    ingredients: Vec<String>,
    output: Option<String>,
    /// Not known before candidates are evaluated.
    coefficients: Option<Vec<f64>>,
    n_evaluations: usize,
    bytes_to_read: u64,
    bytes_to_write: u64,
    n_files: usize,
    n_threads: usize,
    devices: Vec<String>,
    peak_memory_bytes: u64,
    estimated_secs: f64,
    tensors: Vec<PlannedObject>,
}

#[derive(Serialize)]
struct PlannedObject {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    action: &'static str,
    mask: &'static str,
    shard: usize,
}

/// Passes over the bytes of the ingredients: a policy other than refusing must know
/// all masks before it can make one of them, and a compact soup of ingredients that are
/// not has its layout once they have been counted.
pub(crate) fn passes(plan: &MergePlan, ingredients: &Ingredients, options: &MergeOptions) -> u64 {
    let resolves = options.rules.policy != MismatchPolicy::Error;
    1 + u64::from(resolves) + u64::from(plan.counts_masks(ingredients, options))
}

/// The word for how a tensor comes about.
pub(crate) fn action_word(action: Action) -> &'static str {
    match action {
        Action::Average => "average",
        Action::PooledVariance { .. } => "pooled-variance",
        Action::Identical => "identical",
        Action::Maximum => "maximum",
        Action::First => "first",
        Action::FromFirst => "from-first",
    }
}

fn mask_word(expectation: Expectation) -> &'static str {
    match expectation {
        Expectation::Dense => "none",
        Expectation::FromZeros => "zeros decide",
        Expectation::Pruned => "zeros",
        Expectation::Explicit => "given",
    }
}

/// Prints the plan.
pub(crate) fn show(
    plan: &MergePlan,
    ingredients: &Ingredients,
    options: &MergeOptions,
    arguments: &MergeArguments,
) -> anyhow::Result<()> {
    let parameters = ingredients.parameters();
    let is_greedy = greedy::is_asked_for(arguments);
    let (n_reads, n_writes) = match is_greedy {
        true => greedy::most_passes(ingredients.count()),
        false => (passes(plan, ingredients, options) as f64, 1),
    };
    let read = (plan.bytes_to_read as f64 * n_reads) as u64;
    let write = plan.bytes_to_write * n_writes;
    let seconds = (read + write) as f64 / ASSUMED_RATE as f64;
    let tensors = plan.tensors.iter().map(|planned| PlannedObject {
        name: planned.slot.name.clone(),
        dtype: planned.slot.dtype.name(),
        shape: parameters[planned.parameter].shape.dims().to_vec(),
        action: action_word(planned.action),
        mask: mask_word(planned.expectation),
        shard: planned.slot.shard,
    });
    let lossy = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let object = Plan {
        ingredients: ingredients
            .checkpoints()
            .iter()
            .map(|checkpoint| lossy(checkpoint.path()))
            .collect(),
        output: arguments.output.as_deref().map(lossy),
        coefficients: (!is_greedy).then(|| options.weights.coefficients()),
        n_evaluations: match is_greedy {
            true => greedy::evaluations(ingredients.count()),
            false => 0,
        },
        bytes_to_read: read,
        bytes_to_write: write,
        n_files: plan.layouts.len(),
        n_threads: plan.threads,
        devices: device_names(&options.workers),
        peak_memory_bytes: plan.peak_memory,
        estimated_secs: seconds,
        tensors: tensors.collect(),
    };
    if arguments.report.json {
        let object = PlanObject {
            schema: SCHEMA,
            plan: object,
        };
        text::print(&text::json(&object)?)?;
        return Ok(());
    }
    text::print(&object.text(passes(plan, ingredients, options)))?;
    Ok(())
}

impl Plan {
    fn text(&self, passes: u64) -> String {
        let rows: Vec<Vec<String>> = self
            .tensors
            .iter()
            .map(|tensor| {
                vec![
                    Printable(&tensor.name).to_string(),
                    tensor.dtype.to_owned(),
                    format!("{:?}", tensor.shape),
                    tensor.action.to_owned(),
                    tensor.mask.to_owned(),
                ]
            })
            .collect();
        let columns = [
            ("tensor", Column::Name),
            ("dtype", Column::Name),
            ("shape", Column::Name),
            ("action", Column::Name),
            ("mask", Column::Name),
        ];
        let mut text = table(&columns, &rows);
        text.push('\n');
        let coefficients = self.coefficients.as_ref().map(|coefficients| {
            let coefficients: Vec<String> = coefficients.iter().map(f64::to_string).collect();
            coefficients.join(", ")
        });
        let coefficients = coefficients.unwrap_or_else(|| {
            let evaluations = plural(self.n_evaluations as u64, "evaluation");
            format!("chosen by {evaluations}, whose time is not counted")
        });
        let rows = [
            ("coefficients", coefficients),
            (
                "read",
                format!(
                    "{} in {}",
                    human_bytes(self.bytes_to_read),
                    match passes {
                        _ if self.coefficients.is_none() => {
                            "several passes, if every ingredient is kept".to_owned()
                        }
                        1 => "one pass".to_owned(),
                        passes => format!("{passes} passes"),
                    }
                ),
            ),
            (
                "write",
                format!(
                    "{} in {}",
                    human_bytes(self.bytes_to_write),
                    plural(self.n_files as u64, "file")
                ),
            ),
            ("device", {
                let devices = self.devices.join(", ");
                if devices.is_empty() {
                    "cpu".to_owned()
                } else {
                    devices
                }
            }),
            (
                "memory",
                format!(
                    "at most {}, with {}",
                    human_bytes(self.peak_memory_bytes),
                    plural(self.n_threads as u64, "thread")
                ),
            ),
            (
                "time",
                format!(
                    "about {:.1} s at {} bytes per second",
                    self.estimated_secs,
                    count(ASSUMED_RATE)
                ),
            ),
        ];
        for (name, value) in rows {
            text.push_str(&format!("{name:<13} {value}\n"));
        }
        text.push_str("nothing was read but headers, and nothing was written\n");
        text
    }
}
