//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::map::SourceError;
use crate::format::safetensors::HeaderError;
use crate::format::shard_index::ShardIndexError;
use crate::format::sniff::Foreign;
use crate::tensor::Printable;

/// Why a checkpoint cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be opened or read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file is something else than a checkpoint.
    #[error("`{}` is not a safetensors file but {found}; {}", path.display(), found.remedy())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: Foreign,
    },
    /// The header of a file is wrong.
    #[error("`{}` has a bad header", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// A shard index is wrong.
    #[error("`{}` is a bad shard index", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        source: ShardIndexError,
    },
    /// A shard index is too large to be one.
    #[error("`{}` is too large for a shard index: {found} bytes, expected at most {limit}", path.display())]
    IndexTooLarge {
        /// The index.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Largest size in bytes.
        limit: u64,
    },
    /// The index says that a shard holds a tensor, and it does not.
    #[error("`{}` says that `{shard}` holds tensor `{}`, and it does not", path.display(), Printable(tensor))]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// A shard holds a tensor that the index does not place there.
    #[error("`{shard}` holds tensor `{}`, which `{}` does not place there", Printable(tensor), path.display())]
    NotInIndex {
        /// The index.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// A directory cannot be listed.
    #[error("`{}` cannot be listed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory holds no checkpoint.
    #[error("`{}` holds no `*.safetensors` file and no shard index", path.display())]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A directory holds several candidates.
    #[error("`{}` holds several checkpoints ({}); name one of them", path.display(), found.join(", "))]
    AmbiguousDirectory {
        /// The directory.
        path: PathBuf,
        /// The candidates' names.
        found: Vec<String>,
    },
}
