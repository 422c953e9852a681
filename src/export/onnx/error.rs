//! Why there is no ONNX model.

use std::path::PathBuf;

use thiserror::Error;

use super::Encoding;
use crate::checkpoint::map::SourceError;
use crate::format::onnx::write::MOST_BYTES;
use crate::format::replace::ReplaceError;
use crate::graph::FitError;
use crate::tensor::Dtype;
use crate::tensor::Printable;

/// Why a checkpoint cannot be exported as an ONNX model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The checkpoint is not one of the model.
    #[error("`{}` is no checkpoint of `{model}`", path.display())]
    Fit {
        /// The checkpoint.
        path: PathBuf,
        /// The model.
        model: String,
        /// How they differ.
        source: Box<FitError>,
    },
    /// A tensor has a type that nothing computes with.
    #[error("tensor `{}` in `{}` is {found}, expected F16, BF16, F32 or F64", Printable(tensor), path.display())]
    Dtype {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Dtype,
    },
    /// A mask holds something else than zeros and ones.
    #[error("mask `{}` in `{}` holds something else than 0 and 1 at index {index}", Printable(mask), path.display())]
    NotAMask {
        /// The file.
        path: PathBuf,
        /// The mask.
        mask: String,
        /// Row-major place of the first such element.
        index: u64,
    },
    /// A checkpoint does not have the mask that was given.
    #[error(
        "the mask file prunes `{}` at index {index}, and the checkpoint retains it; \
         `sms-merge mask apply` prunes a checkpoint by a mask",
        Printable(tensor)
    )]
    OffMask {
        /// The tensor.
        tensor: String,
        /// Row-major place of the first such element.
        index: u64,
    },
    /// A batch norm has no scale.
    #[error(
        "batch norm cannot be folded into `{}`: the scale of channel {channel} is {found}; \
         keep it",
        Printable(tensor)
    )]
    Fold {
        /// The weight that it would be folded into.
        tensor: String,
        /// The channel.
        channel: usize,
        /// The scale, or the bias, that it would have.
        found: f64,
    },
    /// A weight with the scale of its batch norm is no number of single precision.
    #[error(
        "batch norm cannot be folded into `{}`: a weight of channel {channel} would be {found}; \
         keep it",
        Printable(tensor)
    )]
    FoldedWeight {
        /// The weight.
        tensor: String,
        /// The channel.
        channel: usize,
        /// What an element would be.
        found: f64,
    },
    /// The file would be larger than protobuf allows.
    #[error(
        "the model would take {found} bytes, and an ONNX file has at most {}; \
         `--external-data` leaves the weights in the checkpoint, `--external-data=file` \
         writes them to a file of their own",
        MOST_BYTES
    )]
    TooLarge {
        /// Bytes that it would take.
        found: u64,
    },
    /// Sparse initialisers cannot be stored outside.
    #[error(
        "sparse initialisers are stored inside: onnx's checker does not read their indices \
         from another file; another `--onnx-encoding` may be stored outside"
    )]
    SparseOutside,
    /// A checkpoint does not hold encoded weights.
    #[error(
        "the checkpoint does not hold weights in the encoding `{}`; \
         `--external-data=file` writes them to a file of their own",
        encoding.name()
    )]
    EncodedOutside {
        /// What was asked for.
        encoding: Encoding,
    },
    /// A tensor is not in the checkpoint as the model needs it.
    #[error(
        "`{}` is not in the checkpoint as the model needs it: {reason}; \
         `--external-data=file` writes it to a file of its own",
        Printable(tensor)
    )]
    NotInCheckpoint {
        /// The tensor.
        tensor: String,
        /// Why not.
        reason: &'static str,
    },
    /// The checkpoint is not where a model can refer to it.
    #[error(
        "`{}` is not below `{}`: readers of ONNX look for weights beside the model or \
         below; write the model there, or use `--external-data=file`",
        path.display(), directory.display()
    )]
    NotBeside {
        /// The checkpoint's file.
        path: PathBuf,
        /// Directory of the model.
        directory: PathBuf,
    },
    /// The checkpoint is a link or its name no text.
    #[error(
        "`{}` cannot be referred to: {reason}; use `--external-data=file`", path.display()
    )]
    Unreferable {
        /// The checkpoint's file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The checkpoint cannot be read, or changed meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model cannot be written.
    #[error(transparent)]
    Output(#[from] ReplaceError),
    /// The run was asked to end.
    #[error("interrupted")]
    Interrupted,
}
