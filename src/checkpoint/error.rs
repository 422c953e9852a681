//! What can be wrong with a checkpoint.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::Sharded;
use crate::checkpoint::map::SourceError;
use crate::format::compact::BITMASK_KEY;
use crate::format::compact::BITMASK_VERSION;
use crate::format::onnx::read::OnnxError;
use crate::format::safetensors::HeaderError;
use crate::format::shard_index::ShardIndexError;
use crate::format::sniff::Foreign;
use crate::format::torch::TorchError;
use crate::tensor::Printable;

/// Why a checkpoint cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be opened or read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file is something else than a checkpoint.
    #[error("`{}` is no checkpoint but {found}; {}", path.display(), found.remedy())]
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
    /// The parts of a compact tensor do not go together.
    #[error("`{}` holds compact tensors that cannot be read", path.display())]
    Compact {
        /// The file or shard index.
        path: PathBuf,
        /// What is wrong.
        source: CompactError,
    },
    /// A checkpoint of torch is wrong, or holds what is refused.
    #[error("`{}` is not read", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TorchError,
    },
    /// Two tensors have one name once a prefix is taken off.
    #[error("without the prefix `{}`, `{}` has two tensors `{}`", Printable(prefix), path.display(), Printable(tensor))]
    StrippedTwice {
        /// The checkpoint.
        path: PathBuf,
        /// The prefix.
        prefix: String,
        /// Name of both tensors.
        tensor: String,
    },
    /// A model is wrong.
    #[error("`{}` cannot be read as an ONNX model", path.display())]
    Onnx {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: OnnxError,
    },
    /// A file beside a model cannot be opened.
    #[error(
        "`{}` keeps tensors in a file of its own, which must lie beside it; copy both",
        model.display()
    )]
    Beside {
        /// The model.
        model: PathBuf,
        /// Why not.
        source: Box<SourceError>,
    },
    /// A file beside a model is a link to one that does not belong to it.
    #[error(
        "`{}` keeps tensors in `{}`, a link out of the model's folder, which is not followed; \
         copy the file there in place of the link",
        model.display(), file.display()
    )]
    BesideOutside {
        /// The model.
        model: PathBuf,
        /// The link.
        file: PathBuf,
    },
    /// A file beside a model is too short.
    #[error(
        "`{}` says that initialiser `{}` ends at byte {expected} of `{}`, which has {found}",
        path.display(), Printable(tensor), file.display()
    )]
    ExternalData {
        /// The model.
        path: PathBuf,
        /// The initialiser.
        tensor: String,
        /// The file beside the model.
        file: PathBuf,
        /// Where the elements end.
        expected: u64,
        /// Bytes of the file.
        found: u64,
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
    /// The index says that a tensor is in a shard that is not there.
    #[error(
        "`{}` names `{}`, which does not exist ({missing} of its {total} files are missing); {}",
        path.display(), Printable(shard), instead(usable.as_deref(), "download what is missing")
    )]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The first file that is missing.
        shard: String,
        /// How many are missing.
        missing: usize,
        /// How many the index names.
        total: usize,
        /// Another file in the directory that was given, which can be opened.
        usable: Option<PathBuf>,
        /// What the system said.
        source: Box<SourceError>,
    },
    /// A directory holds shards and does not say what lies where.
    #[error(
        "`{}` holds {found} of {expected} shards and not their index `{}`; {}",
        path.display(), Printable(index), instead(usable.as_deref(), "download the index too")
    )]
    ShardsWithoutIndex {
        /// The directory.
        path: PathBuf,
        /// How many shards there are.
        found: usize,
        /// How many there should be by their names.
        expected: u64,
        /// Name of the index.
        index: String,
        /// Another file in the directory, which can be opened.
        usable: Option<PathBuf>,
    },
    /// A directory holds no checkpoint.
    #[error(
        "`{}` holds no `.safetensors`, `.st`, `.bin`, `.pt`, `.pth` or `.ckpt` file and no shard index{}",
        path.display(),
        sharded.map_or(String::new(), |sharded| format!("; {}", sharded.remedy()))
    )]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
        /// What it holds in place of one.
        sharded: Option<Sharded>,
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

/// What to do where a file cannot be used, and perhaps another one can.
fn instead(usable: Option<&Path>, otherwise: &str) -> String {
    match usable {
        Some(usable) => format!("`{}` is whole: give that one", usable.display()),
        None => otherwise.to_owned(),
    }
}

/// Why headers do not describe compact tensors.
#[derive(Debug, Error)]
pub enum CompactError {
    /// The record in the metadata is no such record.
    #[error("metadata `{BITMASK_KEY}` is not an object of `version` and `tensors`")]
    Record {
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The record was written by a later version of this program.
    #[error(
        "metadata `{BITMASK_KEY}` has version {found}, and this program knows {BITMASK_VERSION}"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// Two shards declare one tensor.
    #[error("tensor `{}` is compact in two shards", Printable(tensor))]
    DeclaredTwice {
        /// The tensor.
        tensor: String,
    },
    /// The dimensions are negative or pass what can be counted.
    #[error(
        "the dimensions of `{}` are negative or have a product above 2^63 - 1",
        Printable(tensor)
    )]
    Shape {
        /// The tensor.
        tensor: String,
    },
    /// An element type that is unknown, or whose tensors are not stored so.
    #[error(
        "`{}` has elements of type `{}`; compact tensors are F16, BF16, F32 or F64",
        Printable(tensor),
        Printable(found)
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its element type.
        found: String,
    },
    /// A part of a tensor is not there.
    #[error(
        "`{}` is compact, and its part `{}` is missing",
        Printable(tensor),
        Printable(part)
    )]
    Missing {
        /// The tensor.
        tensor: String,
        /// The part.
        part: String,
    },
    /// A part of a tensor has another type or shape.
    #[error("`{}` should be {expected}, and is {found}", Printable(part))]
    Part {
        /// The part.
        part: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A part is a view whose elements do not lie one after the other.
    #[error(
        "`{}` is compact, and the elements of its part `{}` do not lie one after the other; \
         save it with `.contiguous()`",
        Printable(tensor),
        Printable(part)
    )]
    NotContiguous {
        /// The tensor.
        tensor: String,
        /// The part.
        part: String,
    },
    /// A tensor is stored both compact and plain.
    #[error("`{}` is stored twice, compact and as it is", Printable(tensor))]
    Twice {
        /// The tensor.
        tensor: String,
    },
}

/// Why no tensor can be made of what a file holds: found when it is read.
#[derive(Debug, Error)]
pub enum ContentError {
    /// A model holds something else than when it was opened.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A bitmask retains more or fewer elements than there are values.
    #[error(
        "bitmask `{}` retains {found} elements, and `{}` holds {expected} values",
        Printable(bitmask),
        Printable(values)
    )]
    Count {
        /// The tensor of values.
        values: String,
        /// The tensor of bits.
        bitmask: String,
        /// Number of values.
        expected: u64,
        /// Number of set bits, or of those that were seen.
        found: u64,
    },
    /// A bitmask retains elements that the tensor does not have.
    #[error(
        "bitmask `{}` has bits set behind the last element of row {row}",
        Printable(bitmask)
    )]
    Padding {
        /// The tensor of bits.
        bitmask: String,
        /// The row.
        row: u64,
    },
    /// The place of an element of a sparse tensor is wrong.
    #[error("entry {entry} of the sparse tensor `{}` {what}", Printable(tensor))]
    Place {
        /// The tensor.
        tensor: String,
        /// Number of the entry.
        entry: u64,
        /// What is wrong with its place, and what to do if that is known.
        what: &'static str,
    },
    /// A row begins at another value than the file says.
    #[error(
        "row {row} of bitmask `{}` begins at value {expected}, and its row offset says {found}",
        Printable(bitmask)
    )]
    RowOffset {
        /// The tensor of bits.
        bitmask: String,
        /// The row.
        row: u64,
        /// Number of set bits before it.
        expected: u64,
        /// What the file says.
        found: i64,
    },
}
