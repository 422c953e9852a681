//! From ingredients to a soup: what will be written is planned, then one pass over
//! the bytes checks the masks, combines, digests and writes.
//!
//! [`Ingredients`](crate::checkpoint::Ingredients) and options walk in; a file and
//! a report walk out. A soup is staged while masks are still being compared, and
//! published only with a [`Connectivity`](crate::connectivity::Connectivity) in
//! hand. Knows neither candle nor what accuracy is.

mod accelerator;
mod adapters;
mod apply;
mod certificate;
mod copy;
mod difference;
mod distance;
mod draft;
mod execute;
mod file_digest;
mod frame;
mod greedy;
mod hollow;
mod job;
mod ledger;
mod options;
mod patterns;
mod place;
mod plan;
mod recalibrated;
mod recorded;
mod rows;
mod run;
mod selected;
mod selection;
mod sink;
mod storage;
mod tile;
mod verify;
mod worker;
mod written;

use std::path::PathBuf;

use thiserror::Error;

use crate::adapter::AdapterError;
use crate::checkpoint::IngredientsError;
use crate::checkpoint::OutputError;
use crate::checkpoint::Quantiser;
use crate::checkpoint::map::SourceError;
use crate::connectivity::Mismatch;
use crate::format::safetensors::LayoutError;
use crate::kernel::KernelError;
use crate::kernel::WeightError;
use crate::kernel::cuda::DeviceError;
use crate::tensor::Dtype;
use crate::tensor::Printable;

pub use crate::checkpoint::CERTIFICATE_KEY;
pub use crate::checkpoint::Destination;
pub use crate::checkpoint::MaskLayout;
pub use crate::checkpoint::Observer;
pub use crate::checkpoint::Sidecars;
pub use crate::checkpoint::refuse_named_input;
pub use accelerator::Accelerator;
pub use adapters::AdapterPlan;
pub use adapters::AdapterRecord;
pub use adapters::AdapterSoup;
pub use adapters::Member;
pub use adapters::MergedModule;
pub use adapters::PlannedModule;
pub use adapters::Products;
pub use adapters::Rule;
pub use adapters::merge_adapters;
pub use adapters::understand;
pub use apply::APPLICATION_KEY;
pub use apply::Applied;
pub use apply::Changed;
pub use apply::apply;
pub use certificate::Certificate;
pub use certificate::CertificateError;
pub use certificate::IngredientRecord;
pub use certificate::MaskRecord;
pub use certificate::RecordedOptions;
pub use certificate::SoupRecord;
pub use certificate::TensorRecord;
pub use copy::Copied;
pub use copy::copy;
pub use difference::Difference;
pub use distance::DistanceTally;
pub use distance::Distances;
pub use distance::PairDistance;
pub use file_digest::FileDigest;
pub use file_digest::sha256;
pub use greedy::Evaluate;
pub use greedy::Event;
pub use greedy::Greedy;
pub use greedy::GreedyError;
pub use greedy::choose;
pub use ledger::Outcome;
pub use ledger::TensorOutcome;
pub use options::IntegerPolicy;
pub use options::MOST_FOR_DISTANCES;
pub use options::MergeOptions;
pub use options::Method;
pub use options::Workers;
pub use options::default_threads;
pub use patterns::refuse_idle_exclusions;
pub use plan::Action;
pub use plan::MergePlan;
pub use plan::PlannedTensor;
pub use run::Merged;
pub use run::Scanned;
pub use run::merge;
pub use run::scan;
pub use selection::Better;
pub use selection::Candidate;
pub use selection::Decision;
pub use selection::OnTie;
pub use selection::Selection;
pub use storage::Compacted;
pub use verify::SelfCheck;
pub use verify::recompute;
pub use verify::self_check;

/// Why there is no soup.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A soup needs at least two ingredients.
    #[error("a soup takes two or more ingredients, found {found}")]
    TooFew {
        /// Number of ingredients.
        found: usize,
    },
    /// The number of weights is not that of the ingredients.
    #[error("{found} weights for {expected} ingredients; give one per ingredient")]
    WeightCount {
        /// Number of ingredients.
        expected: usize,
        /// Number of weights.
        found: usize,
    },
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The checkpoints are no ingredients of one soup.
    #[error(transparent)]
    Ingredients(#[from] IngredientsError),
    /// The ingredients have names and shapes of weights, and not the weights.
    #[error(
        "`{}` of `{}` has no elements{}, as where DeepSpeed's ZeRO-3 shares weights among \
         processes: make whole checkpoints with its `zero_to_fp32.py`, or save with \
         `stage3_gather_16bit_weights_on_model_save`",
        Printable(tensor), path.display(),
        match more {
            0 => String::new(),
            more => format!(", nor have {more} more of {total} tensors"),
        }
    )]
    Hollow {
        /// The first ingredient.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// How many more there are.
        more: usize,
        /// Number of tensors.
        total: usize,
    },
    /// The masks of the ingredients differ.
    #[error("the ingredients do not share one connectivity")]
    Connectivity(Box<Mismatch>),
    /// An input cannot be read, or changed while it was read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The output has no legal layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A stored mask holds something else than 0 and 1.
    #[error(
        "mask `{}` in `{}` holds something else than 0 and 1 at index {index}",
        Printable(mask), path.display()
    )]
    NotAMask {
        /// The checkpoint or mask file.
        path: PathBuf,
        /// The mask tensor.
        mask: String,
        /// Row-major index of the element.
        index: u64,
    },
    /// An input or a result is NaN or infinite.
    #[error(
        "`{}` is {value} at index {index} in {}; `--allow-non-finite` merges it all the same",
        Printable(tensor),
        path.as_ref().map_or("the soup, whose element type cannot hold it".to_owned(), |path| format!("`{}`", path.display()))
    )]
    NonFinite {
        /// The checkpoint, or `None` if only the result is not finite.
        path: Option<PathBuf>,
        /// The tensor.
        tensor: String,
        /// Row-major index of the element.
        index: u64,
        /// The element.
        value: f64,
    },
    /// An integer tensor differs between ingredients.
    #[error(
        "`{}` ({dtype}) differs between `{}` and `{}` at index {index}; integers are not averaged, \
         `--on-integer-mismatch first` or `max` chooses, `--exclude` leaves it out",
        Printable(tensor), first.display(), other.display()
    )]
    IntegerMismatch {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// The first ingredient.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// Row-major index of the first difference.
        index: u64,
    },
    /// A quantised weight differs between ingredients.
    #[error(
        "`{}` and `{}` hold weights quantised {quantiser}, which are not averaged, and which \
         differ: `{}` at index {index}; {}",
        first.display(), other.display(), Printable(tensor), quantiser.remedy()
    )]
    Quantised {
        /// The tensor of codes, or of what belongs to them.
        tensor: String,
        /// Who quantised it.
        quantiser: Quantiser,
        /// The first ingredient.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// Row-major index of the first difference.
        index: u64,
    },
    /// A tensor whose type cannot be averaged differs between ingredients.
    #[error(
        "`{}` is {dtype} and differs between `{}` and `{}` at index {index}; {dtype} is copied if identical and never \
         averaged: `--from-first` takes the first's, `--exclude` leaves it out",
        Printable(tensor), first.display(), other.display()
    )]
    OpaqueMismatch {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// The first ingredient.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// Row-major index of the first difference.
        index: u64,
    },
    /// An ingredient is no longer what it was when it was chosen.
    #[error("`{}` changed after it was evaluated", path.display())]
    NotAsJudged {
        /// The ingredient.
        path: PathBuf,
    },
    /// `--dtype` names a type that cannot be averaged.
    #[error("soups are F16, BF16, F32 or F64, not {dtype}")]
    OutputDtype {
        /// The type.
        dtype: Dtype,
    },
    /// A name pattern matches nothing.
    #[error("`{option} {pattern}` matches no tensor; `sms-merge inspect` lists their names")]
    UnusedPattern {
        /// The option.
        option: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A mask was another when it was counted than when it was written.
    #[error("the mask of `{}` changed while it was read", Printable(tensor))]
    MaskChanged {
        /// The tensor.
        tensor: String,
    },
    /// A model is asked for that the first ingredient's graph does not allow.
    #[error("{reason}; write `-o SOUP.st`, which takes every option")]
    Model {
        /// What is not allowed, and why.
        reason: &'static str,
    },
    /// An adapter cannot be merged or applied.
    #[error(transparent)]
    Adapter(Box<AdapterError>),
    /// A sum does not fit the type that is stored.
    #[error(
        "`{}` of `{}` becomes {value} at index {index}, which {dtype} cannot hold",
        Printable(tensor), path.display()
    )]
    Overflow {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the element.
        index: u64,
        /// The sum.
        value: f64,
        /// The element type.
        dtype: Dtype,
    },
    /// A device cannot be used, or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The user asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// A mistake in this program.
    #[error("internal error, please report it")]
    Kernel(#[from] KernelError),
}

impl From<AdapterError> for MergeError {
    fn from(error: AdapterError) -> Self {
        Self::Adapter(Box::new(error))
    }
}
