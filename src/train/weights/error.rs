//! Why weights cannot be read or written.

use crate::checkpoint::map::SourceError;
use crate::format::replace::ReplaceError;
use crate::format::safetensors::LayoutError;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

use std::path::PathBuf;

use thiserror::Error;

/// Why weights cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The checkpoint lacks tensors of the model.
    #[error(
        "`{}` lacks tensor `{tensor}` of `{model}`{}; {hint}", path.display(), more(*others)
    )]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor that is missing.
        tensor: String,
        /// How many others are missing.
        others: usize,
        /// The model.
        model: String,
        /// What may be the reason, and what to do.
        hint: String,
    },
    /// The checkpoint has tensors that the model has not.
    #[error(
        "`{}` holds tensor `{}`, which `{model}` has not{}; {hint}",
        path.display(), Printable(tensor), more(*others)
    )]
    Unexpected {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor that does not belong to the model.
        tensor: String,
        /// How many others do not.
        others: usize,
        /// The model.
        model: String,
        /// What may be the reason, and what to do.
        hint: String,
    },
    /// A tensor has another shape than the model's.
    #[error(
        "tensor `{tensor}` of `{}` has shape {found}, expected {expected} of `{model}`; \
         is it a model with other widths, input or number of classes?",
        path.display()
    )]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape in the checkpoint.
        found: Shape,
        /// Shape in the model.
        expected: Shape,
        /// The model.
        model: String,
    },
    /// A tensor has an element type that is no weight's.
    #[error(
        "tensor `{tensor}` of `{}` has type {found}, expected {expected}; save it as {}",
        path.display(), expected.rsplit(' ').next().unwrap_or_default()
    )]
    Dtype {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Type in the checkpoint.
        found: Dtype,
        /// Types that can be read.
        expected: &'static str,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tensors make no safetensors file.
    #[error("the weights cannot be laid out as a file")]
    Layout(#[from] LayoutError),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] ReplaceError),
    /// Values and shape of a tensor differ in length.
    #[error(
        "tensor `{}` of shape {expected} cannot be written from {found} values",
        Printable(tensor)
    )]
    Length {
        /// The tensor.
        tensor: String,
        /// Its shape.
        expected: Shape,
        /// How many values there are.
        found: usize,
    },
}

/// How many more there are, in words.
fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    }
}
