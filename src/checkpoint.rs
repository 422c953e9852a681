//! From paths to checkpoints: files are opened, headers are checked, and no tensor
//! byte is read.

mod beside;
mod content;
mod convention;
mod derived;
mod directory;
mod error;
mod ingredients;
pub mod map;
mod names;
mod observer;
mod onnx;
mod open;
mod output;
mod quantised;
mod rewrite;
mod seal;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::FileIdentity;
use crate::checkpoint::map::SourceError;
use crate::checkpoint::seal::ShardSeal;
use crate::format::safetensors::DEFAULT_HEADER_LIMIT;
use crate::format::torch::LeftOut;
use crate::tensor::Dtype;
use crate::tensor::Shape;

pub use content::CERTIFICATE_KEY;
pub use content::RECALIBRATION_KEY;
pub(crate) use content::checkpoint_digest;
pub use convention::Convention;
pub use convention::MaskLayout;
pub use convention::Source;
pub use derived::Compact;
pub use derived::Content;
pub use derived::Extent;
pub use derived::Listed;
pub use derived::Strided;
pub use directory::Sharded;
pub use error::CheckpointError;
pub use error::CompactError;
pub use error::ContentError;
pub use ingredients::Difference;
pub use ingredients::DtypeRule;
pub use ingredients::Ingredients;
pub use ingredients::IngredientsError;
pub use ingredients::Parameter;
pub use ingredients::Pick;
pub use ingredients::Remedy;
pub use names::About;
pub use names::Note;
pub use observer::Observer;
pub use output::ConfigChanges;
pub(crate) use output::Contents;
pub use output::DataTarget;
pub use output::Destination;
pub use output::LeftReason;
pub use output::OutputError;
pub use output::Sidecars;
pub use output::SparseFormat;
pub(crate) use output::StagedOutput;
pub use output::Written;
pub(crate) use output::publish_model;
pub use output::refuse_named_input;
pub use output::refuse_other_name;
pub(crate) use output::write_pair;
pub(crate) use output::write_replaced;
pub use quantised::Quantiser;
pub use rewrite::RewriteError;
pub use rewrite::rewrite;
pub(crate) use seal::SEAL_BYTES;
pub use seal::SEAL_KEY;
pub use seal::Seal;
pub(crate) use seal::metadata_seal;

/// Name that readers look for when given a directory of shards.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// Name that readers look for when given a directory without an index.
pub const SINGLE_NAME: &str = "model.safetensors";

/// How checkpoints are opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// How bytes are reached.
    pub access: Access,
    /// Largest header in bytes that is parsed, or pickle of a checkpoint of torch.
    pub header_limit: u64,
    /// Key of the state dict in a checkpoint of torch; parts between dots lead from dict
    /// to dict.
    pub key: Option<String>,
    /// What is taken off the beginning of tensor names, one after the other. Names without
    /// it stay.
    pub strip_prefixes: Vec<String>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            access: Access::Mapped,
            header_limit: DEFAULT_HEADER_LIMIT,
            key: None,
            strip_prefixes: Vec::new(),
        }
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    source: ByteSource,
    format: FileFormat,
    metadata: BTreeMap<String, String>,
    seal: ShardSeal,
}

/// What a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileFormat {
    Safetensors,
    Torch,
    Onnx,
}

impl Shard {
    /// The bytes of the file.
    pub fn source(&self) -> &ByteSource {
        &self.source
    }
}

/// One tensor of a checkpoint: stored as it is, or made of what is.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, row-major.
    pub shape: Shape,
    /// Index of the shard that holds it.
    pub shard: usize,
    /// Offset in the shard's file of its first byte, or of the first that it is made of.
    pub offset: u64,
    /// Its length in bytes as it is read; [`stored_bytes`](Self::stored_bytes) are what
    /// it takes in the file.
    pub bytes: u64,
    /// Where its bytes come from.
    pub content: Content,
    /// The tensor that this one is the mask of, where the format and not a name says so.
    pub mask_of: Option<MaskOf>,
}

/// What a tensor is the mask of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskOf {
    /// Name of the tensor of values.
    pub tensor: String,
    /// How the two are stored.
    pub convention: Convention,
}

/// One or more open files whose headers are valid. No tensor byte has been read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    directory: Option<PathBuf>,
    index: Option<PathBuf>,
    shards: Vec<Shard>,
    tensors: Vec<StoredTensor>,
    /// What the files hold, where that is something else.
    stored: Option<Vec<StoredTensor>>,
    left_out: Vec<LeftOut>,
    is_renamed: bool,
    /// Prefixes that were to be taken off.
    prefixes: Vec<String>,
    /// What a model has beside its tensors.
    graph: Option<Box<onnx::Graph>>,
}

impl Checkpoint {
    /// Opens a safetensors file, a file that `torch.save` wrote, a shard index, or a
    /// directory that holds one of these.
    ///
    /// A directory's checkpoint is its `model.safetensors.index.json`, else its
    /// only `*.safetensors.index.json`, else its `model.safetensors`, else its
    /// only `*.safetensors` file, else the same with `*.st`; else with
    /// `pytorch_model.bin` and `*.bin`, `*.pt` and `*.pth`, else its only `*.ckpt`.
    /// Symbolic links are followed.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and what is wrong with it.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let directory = path.is_dir().then(|| path.to_owned());
        let mut checkpoint = match &directory {
            Some(directory) => Self::open_directory(directory, options)?,
            None => Self::open_either(path, options)?,
        };
        path.clone_into(&mut checkpoint.path);
        checkpoint.directory = directory;
        for prefix in &options.strip_prefixes {
            checkpoint.strip_prefix(prefix)?;
        }
        checkpoint.prefixes.clone_from(&options.strip_prefixes);
        Ok(checkpoint)
    }

    fn new(shards: Vec<Shard>, mut tensors: Vec<StoredTensor>) -> Self {
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Self {
            path: PathBuf::new(),
            directory: None,
            index: None,
            shards,
            tensors,
            stored: None,
            left_out: Vec::new(),
            is_renamed: false,
            prefixes: Vec::new(),
            graph: None,
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that was given, if it was one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The shard index that was read, if there is one.
    pub fn index(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Last component of the path, which names the checkpoint in reports and
    /// metadata: paths differ between machines, and so would the soup's bytes.
    pub fn display_name(&self) -> String {
        let name = self.path.file_name().map(OsStr::to_owned);
        let name = name.or_else(|| {
            fs::canonicalize(&self.path)
                .ok()?
                .file_name()
                .map(OsStr::to_owned)
        });
        name.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether tensors have other names than in the files: a prefix was taken off.
    pub fn is_renamed(&self) -> bool {
        self.is_renamed
    }

    /// Free text by key, of each file.
    pub fn shard_metadata(&self) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.shards.iter().map(|shard| &shard.metadata)
    }

    /// Free text by key; of several files, the first's that has the key.
    pub fn metadata(&self) -> BTreeMap<&str, &str> {
        let mut all = BTreeMap::new();
        for (key, value) in self.shard_metadata().flatten() {
            all.entry(key.as_str()).or_insert(value.as_str());
        }
        all
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The tensors, sorted by name. A compact one is two of them, values and mask, under
    /// the names of the tensor and of its bitmask.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The tensors that the files hold, sorted by name: the parts of compact ones too.
    pub fn stored_tensors(&self) -> &[StoredTensor] {
        self.stored.as_deref().unwrap_or(&self.tensors)
    }

    /// The tensors of a checkpoint of weights: those that are not the masks of others by
    /// the format.
    pub fn weights(&self) -> impl Iterator<Item = &StoredTensor> {
        let tensors = self.tensors.iter();
        tensors.filter(|tensor| tensor.mask_of.is_none())
    }

    /// The tensors of a file of masks, with their indices and the names of what they
    /// mask: of a compact tensor the bitmask.
    pub fn masks(&self) -> impl Iterator<Item = (usize, &StoredTensor, &str)> {
        let masked: BTreeSet<&str> = self.tensors.iter().filter_map(masked_name).collect();
        let tensors = self.tensors.iter().enumerate();
        tensors.filter_map(move |(index, tensor)| match masked_name(tensor) {
            Some(name) => Some((index, tensor, name)),
            None if masked.contains(tensor.name.as_str()) => None,
            None => Some((index, tensor, tensor.name.as_str())),
        })
    }

    /// Index in [`tensors`](Self::tensors) of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tensors
            .binary_search_by(|tensor| tensor.name.as_str().cmp(name))
            .ok()
    }

    /// Bytes of all tensors in the files.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(StoredTensor::stored_bytes).sum()
    }

    /// Checks that no file has changed since it was opened.
    ///
    /// # Errors
    /// [`SourceError::Changed`] and the errors of a fault.
    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        self.shards
            .iter()
            .try_for_each(|shard| shard.source.check_unchanged())
    }

    /// Identity of every file.
    pub fn identities(&self) -> impl Iterator<Item = FileIdentity> {
        self.shards.iter().map(|shard| shard.source.identity())
    }
}

/// Name of the tensor that another is the mask of by the format.
fn masked_name(tensor: &StoredTensor) -> Option<&str> {
    tensor.mask_of.as_ref().map(|of| of.tensor.as_str())
}

#[cfg(test)]
mod tests;
