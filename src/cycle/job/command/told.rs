//! What a trainer of the user's is told.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use crate::cycle::job::Bench;
use crate::cycle::work::CommandWork;
use crate::train::choices::Choices;

/// Version of the fields of a trainer's `job.json`.
pub const TOLD_VERSION: u32 = 1;

/// Placeholders of a trainer's command, which are also variables of its environment:
/// `{base}` is `SMS_MERGE_BASE`. What does not apply is empty.
pub const PLACEHOLDERS: [&str; 13] = [
    "job",
    "base",
    "mask",
    "output",
    "metrics",
    "seed",
    "phase",
    "ingredient",
    "sparsity",
    "epochs",
    "learning_rate",
    "weight_decay",
    "threads",
];

/// What a trainer is told: the content of its `job.json`. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Version of these fields: [`TOLD_VERSION`].
    pub schema: u32,
    /// This file.
    pub job: PathBuf,
    /// What the job is called.
    pub label: String,
    /// The checkpoint to begin with; `null` for the dense network, which begins as the
    /// trainer likes.
    pub base: Option<PathBuf>,
    /// One BOOL tensor per pruned weight, 1 where it is retained; `null` for the dense
    /// network.
    pub mask: Option<PathBuf>,
    /// Where the trained checkpoint goes.
    pub output: PathBuf,
    /// Where metrics may go, as one JSON object: `accuracy`, `loss`,
    /// `validation_accuracy`, and `epochs`, a list of objects with `epoch`, `train_loss`,
    /// `train_accuracy`, `validation_accuracy` and `learning_rate`.
    pub metrics: PathBuf,
    /// Names the random choices.
    pub seed: u64,
    /// Phase, from 1; 0 for the dense network.
    pub phase: u32,
    /// Ordinal of the ingredient, from 1; 0 for the dense network.
    pub ingredient: usize,
    /// Sparsity of the mask.
    pub sparsity: f64,
    /// Threads that the trainer should use.
    pub threads: usize,
    /// What the recipe says of the training.
    pub hyperparameters: Choices,
    /// What the recipe passes on.
    pub parameters: serde_json::Value,
}

impl Told {
    /// What the trainer of an attempt is told.
    pub(super) fn new(bench: &Bench<'_>, work: &CommandWork) -> Self {
        let scratch = bench.attempt.scratch();
        Self {
            schema: TOLD_VERSION,
            job: bench.attempt.directory().join("job.json"),
            label: bench.job.label.clone(),
            base: bench.optional("base"),
            mask: bench.optional("mask"),
            output: scratch.join("output.st"),
            metrics: scratch.join("metrics.json"),
            seed: work.seed,
            phase: work.phase,
            ingredient: work.ingredient,
            sparsity: work.sparsity,
            threads: bench.around.threads,
            hyperparameters: work.training.clone(),
            parameters: work.parameters.clone(),
        }
    }

    /// Values of the placeholders.
    pub(super) fn places(&self) -> Vec<(&'static str, OsString)> {
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default().into_os_string();
        let number =
            |value: Option<f64>| value.map_or_else(OsString::new, |value| value.to_string().into());
        let choices = &self.hyperparameters;
        let epochs = choices.epochs.map(|epochs| epochs.to_string());
        let values = [
            self.job.clone().into_os_string(),
            path(&self.base),
            path(&self.mask),
            self.output.clone().into_os_string(),
            self.metrics.clone().into_os_string(),
            self.seed.to_string().into(),
            self.phase.to_string().into(),
            self.ingredient.to_string().into(),
            self.sparsity.to_string().into(),
            epochs.unwrap_or_default().into(),
            number(choices.learning_rate),
            number(choices.weight_decay),
            self.threads.to_string().into(),
        ];
        PLACEHOLDERS.into_iter().zip(values).collect()
    }
}
