//! Why a checkpoint cannot be pruned as asked.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::IngredientsError;
use crate::checkpoint::OutputError;
use crate::checkpoint::map::SourceError;
use crate::format::safetensors::LayoutError;
use crate::kernel::KernelError;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// Why nothing was pruned.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The checkpoint and the mask file do not go together.
    #[error(transparent)]
    Ingredients(#[from] IngredientsError),
    /// An input cannot be read, or changed while it was read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The output has no legal layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A fraction is outside of its range.
    #[error("{what} is {found}, expected at least 0 and less than 1")]
    Fraction {
        /// Which fraction.
        what: &'static str,
        /// What was given.
        found: f64,
    },
    /// A schedule has no such phase.
    #[error("phase {phase} of {phases}, expected 1 to {phases}")]
    Phase {
        /// The phase asked for.
        phase: u32,
        /// Number of phases.
        phases: u32,
    },
    /// No tensor is prunable.
    #[error(
        "`{}` has no prunable tensor: weights of 2 to 5 dimensions, other than norms, embeddings and \
         biases; a pattern to include names others",
        path.display()
    )]
    NothingPrunable {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A name pattern matches nothing.
    #[error(
        "pattern `{pattern}` to {list} matches no tensor; `sms-merge inspect` lists their names"
    )]
    UnusedPattern {
        /// What the pattern was to do: `include` or `exclude`.
        list: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A tensor is to be pruned whose elements have no magnitude here.
    #[error(
        "`{}` is {found}, expected F16, BF16, F32 or F64 for a tensor to prune",
        Printable(tensor)
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its element type.
        found: Dtype,
    },
    /// More is pruned already than the target allows.
    #[error(
        "{} has {pruned} of {numel} weights pruned already, and the target allows {allowed}: masks are \
         nested, a pruned weight never returns",
        tensor.as_ref().map_or("the checkpoint".to_owned(), |tensor| format!("`{}`", Printable(tensor)))
    )]
    AlreadySparser {
        /// The tensor, or `None` for all prunable tensors together.
        tensor: Option<String>,
        /// Its elements, or channels.
        numel: u64,
        /// Those that are pruned already.
        pruned: u64,
        /// Those that would be pruned in the end.
        allowed: u64,
    },
    /// A weight is NaN or infinite.
    #[error(
        "`{}` is {value} at index {index} (coordinate {coordinate:?}) in `{}`; such a weight has no rank",
        Printable(tensor), path.display()
    )]
    NonFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the element.
        index: u64,
        /// Its coordinate.
        coordinate: Vec<u64>,
        /// The element.
        value: f64,
    },
    /// A stored mask holds something else than 0 and 1.
    #[error("mask `{}` in `{}` holds something else than 0 and 1 at index {index}", Printable(mask), path.display())]
    NotAMask {
        /// The checkpoint or mask file.
        path: PathBuf,
        /// The mask tensor.
        mask: String,
        /// Row-major index of the element.
        index: u64,
    },
    /// The mask that was given retains what the checkpoint's own mask prunes.
    #[error(
        "the given mask retains `{}` at index {index}, which is pruned already: masks are nested, a \
         pruned weight never returns; `sms-merge mask intersect` makes a mask that is",
        Printable(tensor)
    )]
    Revived {
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element.
        index: u64,
    },
    /// A pattern that cannot be made here.
    #[error(
        "no pattern {n}:{m} is known; m is 2, 4, 8, 16 or 32, and n at least 1 and less than m"
    )]
    Pattern {
        /// Retained weights of a group.
        n: u64,
        /// Weights of a group.
        m: u64,
    },
    /// A tensor has no whole groups along its input dimension.
    #[error(
        "`{}` of shape {shape} has no whole groups of {m} along its input dimension{}; exclude such tensors",
        Printable(tensor),
        if *others == 0 { String::new() } else { format!(" (and {others} more)") }
    )]
    Groups {
        /// The first such tensor.
        tensor: String,
        /// Its dimensions.
        shape: Shape,
        /// Weights of a group.
        m: u8,
        /// How many more there are.
        others: usize,
    },
    /// Two inputs have a tensor in different shapes.
    #[error(
        "`{}` has shape {found} in `{}`, and {expected} in the inputs before it",
        Printable(tensor), path.display()
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// The input.
        path: PathBuf,
        /// The shape in the inputs before it.
        expected: Shape,
        /// The shape in this one.
        found: Shape,
    },
    /// An input has a mask for a tensor that another input lacks.
    #[error(
        "`{}` has a mask in `{}`, and `{}` has no such tensor; exclude it",
        Printable(tensor), path.display(), lacking.display()
    )]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The input that has it.
        path: PathBuf,
        /// The input that lacks it.
        lacking: PathBuf,
    },
    /// No input has a mask.
    #[error(
        "none of the inputs has a mask: no tensor of two or more dimensions has more than 0.1 % zeros"
    )]
    NoMask,
    /// The user asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// A mistake in this program.
    #[error("internal error, please report it")]
    Kernel(#[from] KernelError),
}
