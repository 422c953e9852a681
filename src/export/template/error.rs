//! Why a template cannot take a soup's weights.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::OutputError;
use crate::checkpoint::map::SourceError;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// Why a template is not filled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is no model.
    #[error("`{}` is no ONNX model, and a template is one", path.display())]
    NotAModel {
        /// The template.
        path: PathBuf,
    },
    /// The bytes of an initialiser are those of no tensor of the source.
    #[error(
        "initialiser `{}` of `{}` has the bytes of no tensor of the source: weights were changed \
         when it was exported, or from another checkpoint; export again with `optimize=False` \
         (torch's default exporter), or with `do_constant_folding=False` and \
         `training=TrainingMode.PRESERVE` (`dynamo=False`); if it is a constant of the graph, \
         `--keep` it",
        Printable(initializer), path.display()
    )]
    Unknown {
        /// The template.
        path: PathBuf,
        /// The initialiser.
        initializer: String,
    },
    /// A tensor of the source is no initialiser of the template.
    #[error(
        "`{}` of `{}` is no initialiser of the template: it was folded into another, or is a \
         constant of a node, which would stay as it is; export again with `optimize=False`, or \
         with `do_constant_folding=False`; if the model does without it, `--keep` it",
        Printable(tensor), path.display()
    )]
    Unused {
        /// The source.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An initialiser of the template leaves pruned elements out.
    #[error(
        "initialiser `{}` of `{}` is sparse; a template is dense, so that every mask fits",
        Printable(initializer), path.display()
    )]
    Sparse {
        /// The template.
        path: PathBuf,
        /// The initialiser.
        initializer: String,
    },
    /// Several tensors of the source have the bytes of an initialiser, and the soup has
    /// others for each.
    #[error(
        "initialiser `{}` may be `{}` or `{}`: they are the same in the source, and differ in the \
         soup; export a template from a checkpoint in which they differ",
        Printable(initializer),
        Printable(first),
        Printable(other)
    )]
    Ambiguous {
        /// The initialiser.
        initializer: String,
        /// One of the tensors.
        first: String,
        /// Another.
        other: String,
    },
    /// The soup lacks a tensor of the source.
    #[error("the soup has no tensor `{}`, and the source has", Printable(tensor))]
    NotInSoup {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another type or shape in the soup.
    #[error(
        "`{}` is {} of shape {} in the soup, and {} of shape {} in the source",
        Printable(tensor), found.0, found.1, expected.0, expected.1
    )]
    Other {
        /// The tensor.
        tensor: String,
        /// Type and shape in the source.
        expected: (Dtype, Box<Shape>),
        /// Type and shape in the soup.
        found: (Dtype, Box<Shape>),
    },
    /// An input cannot be read, or changed while it was read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The user asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
}
