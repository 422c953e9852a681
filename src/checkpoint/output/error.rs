//! Why nothing was written.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::map::SourceError;
use crate::format::replace::ReplaceError;
use crate::tensor::Printable;

/// Why a checkpoint cannot be written to its place.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The output cannot be written.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// There is not enough space for the output.
    #[error("`{}` needs {needed} bytes, and {free} are free there", path.display())]
    Space {
        /// The output.
        path: PathBuf,
        /// Bytes that the output takes.
        needed: u64,
        /// Bytes that are free for this user.
        free: u64,
    },
    /// The output is one of the inputs.
    #[error(
        "the output `{}` is the input `{}`; inputs are never written to, choose another output",
        output.display(), input.display()
    )]
    IsInput {
        /// The output as given.
        output: PathBuf,
        /// The input that it is.
        input: PathBuf,
    },
    /// A model is to be written, and the first ingredient is none.
    #[error(
        "`{}` needs a graph, and `{}` has weights alone; write `-o SOUP.st`, then \
         `sms-merge export SOUP.st -o {}` with `--model` or `--template`",
        output.display(), input.display(), output.display()
    )]
    NoGraph {
        /// The output as given.
        output: PathBuf,
        /// The first ingredient.
        input: PathBuf,
    },
    /// Safetensors are written, and the output is called something else.
    #[error("`{}` is named like {format}, and safetensors are written; call it `.st`", path.display())]
    OtherFormat {
        /// The output as given.
        path: PathBuf,
        /// What it is called.
        format: &'static str,
    },
    /// Standard output was meant.
    #[error(
        "nothing is written to standard output: a file appears whole or not at all; name one \
         (one that is called `-` is `./-`)"
    )]
    Stream,
    /// The name of a model cannot be part of what it says of the file beside it.
    #[error("`{}` is no name that a model can give the file beside it: it is not UTF-8", path.display())]
    ModelName {
        /// The output as given.
        path: PathBuf,
    },
    /// The model that gives the graph cannot be read.
    #[error(transparent)]
    Template(#[from] SourceError),
    /// The first ingredient stores a tensor without its pruned elements, and the soup
    /// retains others.
    #[error(
        "`{}` is sparse in `{}`, and the soup retains other elements; write `-o SOUP.st`",
        Printable(tensor), template.display()
    )]
    OffMask {
        /// The tensor.
        tensor: String,
        /// The first ingredient.
        template: PathBuf,
    },
    /// Shards were asked for, and the output is named like a file.
    #[error("shards go into a directory, and `{}` is named like a file; write `-o DIRECTORY/`", path.display())]
    ShardsNeedDirectory {
        /// The output as given.
        path: PathBuf,
    },
}
