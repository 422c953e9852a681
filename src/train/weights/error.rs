//! Why weights cannot be read or written.

use crate::checkpoint::map::SourceError;
use crate::format::replace::ReplaceError;
use crate::format::safetensors::LayoutError;
use crate::graph::FitError;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

use std::path::PathBuf;

use thiserror::Error;

/// Why weights cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The checkpoint holds other tensors than the model.
    #[error("`{}` is no checkpoint of `{model}`", path.display())]
    Fit {
        /// The checkpoint.
        path: PathBuf,
        /// The model.
        model: String,
        /// Which tensor differs, and how.
        source: Box<FitError>,
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
    /// A weight is no number that can be trained from.
    #[error("`{tensor}` of `{}` is {found} at index {idx}, expected a finite number", path.display())]
    NonFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major place of the first such element.
        idx: usize,
        /// What is there.
        found: f32,
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
