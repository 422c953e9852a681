//! Why a training cannot go on from a file.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::map::SourceError;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// Why a training cannot go on from a file.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file is no state.
    #[error(
        "`{}` is not the state of a training; to begin from trained weights, pass `--init`",
        path.display()
    )]
    NoState {
        /// The file.
        path: PathBuf,
    },
    /// Its metadata cannot be understood.
    #[error("the state `{}` is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It was written by another version of the program.
    #[error("the state `{}` has version {found}, expected {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What this program knows.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// It belongs to another training.
    #[error(
        "`{}` is the state of another training: `{field}` is {found} there and {expected} here; \
         repeat the command that wrote it, or begin anew without `--resume`",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// What it is in this training, as JSON.
        expected: String,
        /// What it is in the file, as JSON.
        found: String,
    },
    /// It says more steps than the training has.
    #[error("the state `{}` is at step {found} of {steps}", path.display())]
    Step {
        /// The file.
        path: PathBuf,
        /// Steps of the training.
        steps: u64,
        /// What the file says.
        found: u64,
    },
    /// A tensor is missing.
    #[error("the state `{}` lacks tensor `{tensor}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor does not belong there.
    #[error("the state `{}` has {found} tensors, expected {expected}", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A tensor is not what it should be.
    #[error(
        "tensor `{}` of the state `{}` is {found} {found_shape}, expected {expected} \
         {expected_shape}", Printable(tensor), path.display()
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Type that it should have.
        expected: Dtype,
        /// Type that it has.
        found: Dtype,
        /// Shape that it should have.
        expected_shape: Shape,
        /// Shape that it has.
        found_shape: Shape,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}
