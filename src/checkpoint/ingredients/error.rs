//! What can be wrong between checkpoints that are to be ingredients.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::map::SourceError;
use crate::checkpoint::quantised::Quantiser;
use crate::format::onnx::read::GraphDifference;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// What one checkpoint has and another has not, or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has the tensor.
    OnlyFirst(String),
    /// Only the other has the tensor.
    OnlyOther(String),
    /// The shapes differ.
    Shape(String, Shape, Shape),
    /// The element types differ.
    Dtype(String, Dtype, Dtype),
}

impl Difference {
    /// Name of the tensor.
    pub fn name(&self) -> &str {
        match self {
            Self::OnlyFirst(name) | Self::OnlyOther(name) => name,
            Self::Shape(name, ..) | Self::Dtype(name, ..) => name,
        }
    }
}

/// What makes mergeable what two checkpoints have in common: patterns that match the
/// tensors in which they differ, and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// Tensors that the first can give: it has them, otherwise than the other or alone.
    pub first_gives: Vec<String>,
    /// Tensors that only the other has: they can be left out.
    pub only_other: Vec<String>,
    /// The element type that floating tensors of several types are merged into.
    pub dtype: Option<Dtype>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyFirst(name) => write!(f, "only the first has `{}`", Printable(name)),
            Self::OnlyOther(name) => write!(f, "only the second has `{}`", Printable(name)),
            Self::Shape(name, first, other) => {
                write!(
                    f,
                    "`{}` has shape {first} in the first and {other} in the second",
                    Printable(name)
                )
            }
            Self::Dtype(name, first, other) => {
                write!(
                    f,
                    "`{}` is {first} in the first and {other} in the second",
                    Printable(name)
                )
            }
        }
    }
}

/// Why checkpoints are no ingredients of one soup.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IngredientsError {
    /// The graphs of two models differ.
    #[error(
        "the graphs of `{}` and `{}` differ, first in {place}; \
         models of one architecture, exported alike, have one graph",
        first.display(), other.display()
    )]
    Graph {
        /// The first model.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// Where.
        place: GraphDifference,
    },
    /// A model is to be merged with something that has no graph.
    #[error(
        "`{}` is an ONNX model and `{}` is not: whether its weights were folded when it was \
         exported cannot be seen; export both, or merge the checkpoints",
        model.display(), other.display()
    )]
    ModelAndOther {
        /// The model.
        model: PathBuf,
        /// What is none.
        other: PathBuf,
    },
    /// A model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no checkpoint.
    #[error("there is no checkpoint to read")]
    None,
    /// Tensors differ in name, shape or element type.
    #[error(
        "`{}` and `{}` do not hold the same tensors: {}{}{}",
        first.display(), other.display(), differences[0],
        more(differences), hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    Different {
        /// The first checkpoint.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// All differences, in order of name; at least one.
        differences: Vec<Difference>,
        /// What to do next, if there is something to do.
        hint: Option<Box<str>>,
        /// What makes the rest mergeable, if it is most of what there is.
        remedy: Option<Box<Remedy>>,
    },
    /// Tensors differ, and they are parts of quantised weights.
    #[error(
        "`{}` and `{}` do not go together: {difference}, which is part of a weight quantised \
         {quantiser}; {}",
        first.display(), other.display(), quantiser.remedy()
    )]
    Quantised {
        /// The first checkpoint.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// The first difference.
        difference: Box<Difference>,
        /// Who quantised the weight.
        quantiser: Quantiser,
    },
    /// A stored mask does not have the shape of its values.
    #[error(
        "mask `{}` in `{}` has shape {found}, expected {expected} as `{}` has",
        Printable(mask), path.display(), Printable(tensor)
    )]
    MaskShape {
        /// The checkpoint or mask file.
        path: PathBuf,
        /// The mask tensor.
        mask: String,
        /// The tensor that it masks.
        tensor: String,
        /// The tensor's shape.
        expected: Shape,
        /// The mask's shape.
        found: Shape,
    },
    /// A stored mask has an element type that masks do not have.
    #[error(
        "mask `{}` in `{}` is {found}; masks are BOOL, an integer type of 8 bits or more, or F16, BF16, F32, F64",
        Printable(mask), path.display()
    )]
    MaskDtype {
        /// The checkpoint or mask file.
        path: PathBuf,
        /// The mask tensor.
        mask: String,
        /// Its element type.
        found: Dtype,
    },
    /// A checkpoint stores a parameter twice, in two conventions.
    #[error(
        "`{}` stores `{}` twice: plainly and as a pair `_orig`, `_mask`; remove one of them",
        path.display(), Printable(tensor)
    )]
    StoredTwice {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        tensor: String,
    },
    /// A mask file has a mask for a tensor that does not exist.
    #[error("mask file `{}` has a mask for `{}`, which the ingredients do not have", path.display(), Printable(tensor))]
    StrayMask {
        /// The mask file.
        path: PathBuf,
        /// The tensor it names.
        tensor: String,
    },
    /// A mask file has a mask for a tensor whose type is not averaged.
    #[error(
        "mask file `{}` has a mask for `{}`, which is {found}; only F16, BF16, F32 and F64 tensors are pruned",
        path.display(), Printable(tensor)
    )]
    MaskedDtype {
        /// The mask file.
        path: PathBuf,
        /// The tensor it names.
        tensor: String,
        /// The tensor's element type.
        found: Dtype,
    },
    /// A checkpoint stores a mask in a way that is not understood.
    #[error(
        "`{}` holds `{}`, {what}: the weights that it masks would be taken for dense; have its library apply \
         its masks to the weights and save them again, or `--exclude` it",
        path.display(), Printable(tensor)
    )]
    UnknownMask {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor that is a mask.
        tensor: String,
        /// What it is.
        what: &'static str,
    },
    /// A checkpoint without a tensor.
    #[error("`{}` holds no tensor; was another file meant?", path.display())]
    Empty {
        /// The checkpoint.
        path: PathBuf,
    },
    /// No tensor is left to merge.
    #[error("no tensor is left to merge; look at `--include` and `--exclude`")]
    Nothing,
}

/// Names of further differences that a message shows.
const MOST_NAMED: usize = 3;

fn more(differences: &[Difference]) -> String {
    let rest = differences.get(1..).unwrap_or_default();
    if rest.is_empty() {
        return String::new();
    }
    let names = rest.iter().take(MOST_NAMED).map(Difference::name);
    let names: Vec<String> = names.map(|name| format!("`{}`", Printable(name))).collect();
    let dots = if rest.len() > MOST_NAMED { ", ..." } else { "" };
    format!(" (and {} more: {}{dots})", rest.len(), names.join(", "))
}
