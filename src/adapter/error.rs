//! Why an adapter cannot be understood, merged or applied.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::map::SourceError;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// Modules that a message names; of more it says how many.
const MOST_NAMED: usize = 5;

/// Why an adapter cannot be understood, merged or applied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The tensors of this kind of adapter mean nothing one by one.
    #[error(
        "`{}` of `{}` belongs to a {adapter} adapter, whose tensors are not averaged or applied; \
         merge each adapter into its network first (`merge_and_unload` of peft does)",
        Printable(tensor), path.display()
    )]
    Foreign {
        /// The adapter.
        path: PathBuf,
        /// One of its tensors.
        tensor: String,
        /// The kind of adapter.
        adapter: &'static str,
    },
    /// A factor or number of a module has no partner.
    #[error(
        "`{}` of `{}` stands alone: its module lacks {missing}",
        Printable(tensor), path.display()
    )]
    Unpaired {
        /// The adapter.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is missing.
        missing: &'static str,
    },
    /// Two tensors of one file are the same factor of a module.
    #[error(
        "`{}` and `{}` of `{}` are the same factor of one module; the file holds more than one adapter: save them apart",
        Printable(first), Printable(second), path.display()
    )]
    Twice {
        /// The adapter.
        path: PathBuf,
        /// A tensor.
        first: String,
        /// Another.
        second: String,
    },
    /// The shapes of two factors make no product.
    #[error(
        "`{}` of `{}` is {up}, and the first factor {down}: expected (rank, in, ..) and (out, rank, 1, ..) \
         of one rank",
        Printable(module), path.display()
    )]
    Shapes {
        /// The adapter.
        path: PathBuf,
        /// The module.
        module: String,
        /// Shape of the first factor.
        down: Shape,
        /// Shape of the second.
        up: Shape,
    },
    /// A tensor has a type without arithmetic.
    #[error(
        "`{}` of `{}` is {dtype}; expected F16, BF16, F32 or F64: dequantise it first",
        Printable(tensor), path.display()
    )]
    FactorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A scale is no number.
    #[error(
        "the scale of `{}` in `{}` is {value}, expected a finite number",
        Printable(module), path.display()
    )]
    Scale {
        /// The adapter.
        path: PathBuf,
        /// The module.
        module: String,
        /// What it is.
        value: f64,
    },
    /// Nothing says how products are scaled.
    #[error(
        "`{}` has factors named as peft names them, and no adapter_config.json beside it says \
         their scale; put the one that was saved with it there",
        path.display()
    )]
    NoConfig {
        /// The adapter.
        path: PathBuf,
    },
    /// What says how products are scaled cannot be read.
    #[error("`{}`: {reason}", path.display())]
    Config {
        /// adapter_config.json, or a file with the same in its metadata.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The rank of the configuration is not that of the tensors.
    #[error(
        "`{}` of `{}` has rank {found}, and its configuration says {expected}",
        Printable(module), path.display()
    )]
    Rank {
        /// The adapter.
        path: PathBuf,
        /// The module.
        module: String,
        /// As the configuration has it.
        expected: u64,
        /// As the tensors have it.
        found: u64,
    },
    /// Two inputs are not adapters of one kind.
    #[error(
        "`{}` and `{}` are not adapters of one kind: {reason}",
        first.display(), other.display()
    )]
    Mixed {
        /// An input.
        first: PathBuf,
        /// Another.
        other: PathBuf,
        /// How they differ.
        reason: String,
    },
    /// An option makes no sense for adapters.
    #[error("{what} {reason}")]
    Option {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// What should be an adapter is none.
    #[error(
        "`{}` is no adapter: none of its tensors is called like a factor, such as `lora_A` or \
         `lora_down`",
        path.display()
    )]
    NotAnAdapter {
        /// The file.
        path: PathBuf,
    },
    /// What an adapter changes is not in the network.
    #[error(
        "`{}` changes {}, of which `{}` has no weight",
        path.display(), Listed(modules), network.display()
    )]
    Unmatched {
        /// The adapter.
        path: PathBuf,
        /// The network.
        network: PathBuf,
        /// Modules of the adapter.
        modules: Vec<String>,
    },
    /// What an adapter changes could be one or another tensor of the network.
    #[error(
        "`{}` changes `{}`, which could be {} of `{}`",
        path.display(), Printable(module), Listed(tensors), network.display()
    )]
    Ambiguous {
        /// The adapter.
        path: PathBuf,
        /// The network.
        network: PathBuf,
        /// Module of the adapter.
        module: String,
        /// Tensors of the network.
        tensors: Vec<String>,
    },
    /// A product does not fit the weight that it changes.
    #[error(
        "`{}` of `{}` makes a change of {found}, and `{}` is {expected}",
        Printable(module), path.display(), Printable(tensor)
    )]
    TargetShape {
        /// The adapter.
        path: PathBuf,
        /// Module of the adapter.
        module: String,
        /// Shape of the change.
        found: Shape,
        /// Tensor of the network.
        tensor: String,
        /// Its shape.
        expected: Shape,
    },
    /// A factor holds NaN or an infinity.
    #[error(
        "`{}` of `{}` is {value} at index {index}",
        Printable(tensor), path.display()
    )]
    NonFinite {
        /// The adapter.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the element.
        index: usize,
        /// The element.
        value: f64,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// The first few of many names.
struct Listed<'a>(&'a [String]);

impl std::fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, name) in self.0.iter().take(MOST_NAMED).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}`{}`", Printable(name))?;
        }
        match self.0.len().checked_sub(MOST_NAMED) {
            Some(more @ 1..) => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}
