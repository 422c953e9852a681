//! Why a job failed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::IngredientsError;
use crate::checkpoint::OutputError;
use crate::checkpoint::RewriteError;
use crate::checkpoint::map::SourceError;
use crate::cycle::measure::MeasureError;
use crate::cycle::store::StoreError;
use crate::format::replace::ReplaceError;
use crate::kernel::WeightError;
use crate::merge::GreedyError;
use crate::merge::MergeError;
use crate::prune::PruneError;
use crate::tensor::Printable;
use crate::train::WeightsError;
use crate::train::device::DeviceError;
use crate::train::engine::EngineError;
use crate::train::masks::MaskError;
use crate::train::recalibrate::RecalibrateError;
use crate::train::trainer::FitError;

/// Why a job failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The run directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `job.json` is that of another version or step.
    #[error("`{}` holds the job of another step or version of this program", path.display())]
    OtherJob {
        /// The job's directory.
        path: PathBuf,
    },
    /// An input is missing or damaged.
    #[error("input `{role}`, `{}`, cannot be used: {fault}", path.display())]
    Input {
        /// What it is to the job.
        role: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The user's checkpoint is not the one that was looked up when the run began.
    #[error("`{}` has changed since the run began; start the run again", path.display())]
    OtherGiven {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A trainer wrote what is no number.
    #[error(
        "`{}` has elements in `{}` that are NaN or infinite, {count} of them: the training \
         diverged",
        path.display(),
        Printable(tensor)
    )]
    NonFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor that has such.
        tensor: String,
        /// How many.
        count: u64,
    },
    /// A job does not name an input that its kind needs.
    #[error("the job names no input `{role}`")]
    NoInput {
        /// What it would be to the job.
        role: String,
    },
    /// What was measured has no JSON form.
    #[error("the metrics cannot be written")]
    Metrics(#[source] serde_json::Error),
    /// A checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint cannot be read, or changed meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Checkpoints do not hold the same tensors.
    #[error(transparent)]
    Ingredients(#[from] IngredientsError),
    /// A checkpoint cannot be written again.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// A file cannot be put into its place.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// A checkpoint cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Weights cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Masks cannot be read.
    #[error(transparent)]
    Masks(#[from] MaskError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The training failed.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A model cannot be measured.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The pruning failed.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The recipe cannot be followed here.
    #[error(transparent)]
    Recipe(#[from] crate::cycle::recipe::RecipeError),
    /// The merge failed.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// Coefficients cannot be used.
    #[error(transparent)]
    Coefficients(#[from] WeightError),
    /// The greedy soup cannot be chosen.
    #[error(transparent)]
    Greedy(#[from] GreedyError),
    /// Nothing was pruned, so ALLR has nothing to scale its rates by.
    #[error(
        "the pruning before this training took no weight, so `allr` has no learning rates; use `llr`"
    )]
    NothingLost,
    /// The trainer revived pruned weights.
    #[error(
        "the trainer revived pruned weights: {found} of `{}` (the first at index {index}){}; apply \
         the mask after each step of the optimiser, or set `trainer.on_unmasked = \"remask\"`",
        Printable(tensor),
        match more_tensors { 0 => String::new(), n => format!(" and some of {n} more tensors") }
    )]
    Unmasked {
        /// The first tensor.
        tensor: String,
        /// Pruned weights of it that are not zero.
        found: u64,
        /// Row-major index of the first of them.
        index: u64,
        /// Other tensors with such weights.
        more_tensors: usize,
    },
    /// A mask masks nothing of the checkpoint, or something of another shape.
    #[error("`{}` of the mask does not fit `{}`: {why}", Printable(tensor), path.display())]
    MaskShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What differs.
        why: String,
    },
    /// The user's command cannot be started or watched.
    #[error("`{command}` cannot be run")]
    Spawn {
        /// The command as it was run.
        command: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user's command failed.
    #[error("`{command}` {how}; its output is in `{}`{}", log.display(), tail(last_lines))]
    Command {
        /// The command as it was run.
        command: String,
        /// How it ended.
        how: String,
        /// Where its output is.
        log: PathBuf,
        /// The end of its output.
        last_lines: Vec<String>,
    },
    /// The user's command ended well and left no checkpoint.
    #[error("`{command}` ended without writing `{}`; its output is in `{}`", path.display(), log.display())]
    NoCheckpoint {
        /// The command as it was run.
        command: String,
        /// Where the checkpoint should be.
        path: PathBuf,
        /// Where its output is.
        log: PathBuf,
    },
    /// What the user's command printed or wrote as its metrics is no number.
    #[error("the metrics of `{command}` cannot be used: {why}")]
    NoNumber {
        /// The command as it was run.
        command: String,
        /// What is wrong with them.
        why: String,
    },
    /// A file of the attempt cannot be written or read.
    #[error("`{}` cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The end of some output, to stand behind a message.
fn tail(last_lines: &[String]) -> String {
    if last_lines.is_empty() {
        return String::new();
    }
    format!("\n  and ends with\n    {}", last_lines.join("\n    "))
}

impl JobError {
    /// Whether the job was only asked to stop.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Measure(MeasureError::Interrupted)
                | Self::Merge(MergeError::Interrupted)
                | Self::Prune(PruneError::Interrupted)
                | Self::Greedy(GreedyError::Merge(MergeError::Interrupted))
        )
    }

    /// Whether another attempt would fail in the same way: what the inputs decide.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Unmasked { .. }
                | Self::MaskShape { .. }
                | Self::NonFinite { .. }
                | Self::Ingredients(_)
                | Self::Recipe(_)
                | Self::NothingLost
                | Self::Fit(FitError::NonFinite { .. })
                | Self::Prune(
                    PruneError::NothingPrunable { .. }
                        | PruneError::UnusedPattern { .. }
                        | PruneError::AlreadySparser { .. }
                        | PruneError::NonFinite { .. }
                )
                | Self::Measure(MeasureError::Device(DeviceError::NotBuilt))
                | Self::Measure(MeasureError::Recalibrate {
                    source: RecalibrateError::NoBatch { .. },
                    ..
                })
        )
    }
}
