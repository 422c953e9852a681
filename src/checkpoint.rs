//! From paths to checkpoints: files are opened, headers are checked, and no tensor
//! byte is read.

mod content;
mod convention;
mod directory;
mod error;
mod ingredients;
pub mod map;
mod observer;
mod output;
mod rewrite;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::directory::find_in_directory;
use crate::checkpoint::directory::has_suffix;
use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::FileIdentity;
use crate::checkpoint::map::SourceError;
use crate::format::safetensors;
use crate::format::safetensors::DEFAULT_HEADER_LIMIT;
use crate::format::safetensors::Header;
use crate::format::safetensors::TensorInfo;
use crate::format::shard_index;
use crate::format::sniff::Foreign;
use crate::format::sniff::SNIFF_BYTES;
use crate::format::sniff::sniff;
use crate::tensor::Dtype;
use crate::tensor::Shape;

pub use content::CERTIFICATE_KEY;
pub use content::RECALIBRATION_KEY;
pub(crate) use content::checkpoint_digest;
pub use convention::Convention;
pub use convention::MaskLayout;
pub use convention::Source;
pub use error::CheckpointError;
pub use ingredients::Difference;
pub use ingredients::DtypeRule;
pub use ingredients::Ingredients;
pub use ingredients::IngredientsError;
pub use ingredients::Parameter;
pub use observer::Observer;
pub use output::Destination;
pub use output::OutputError;
pub use output::Sidecars;
pub(crate) use output::StagedOutput;
pub use output::refuse_named_input;
pub use rewrite::RewriteError;
pub use rewrite::rewrite;

/// Name that readers look for when given a directory of shards.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// Name that readers look for when given a directory without an index.
pub const SINGLE_NAME: &str = "model.safetensors";
/// Largest shard index that is read: 100,000 tensors take about 10 MB.
const INDEX_LIMIT: u64 = 256 << 20;

/// How checkpoints are opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How bytes are reached.
    pub access: Access,
    /// Largest header in bytes that is parsed.
    pub header_limit: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            access: Access::Mapped,
            header_limit: DEFAULT_HEADER_LIMIT,
        }
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    source: ByteSource,
    metadata: BTreeMap<String, String>,
}

impl Shard {
    /// The bytes of the file.
    pub fn source(&self) -> &ByteSource {
        &self.source
    }
}

/// One stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, row-major.
    pub shape: Shape,
    /// Index of the shard that holds it.
    pub shard: usize,
    /// Offset of its first byte in the shard's file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// One or more open files whose headers are valid. No tensor byte has been read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    directory: Option<PathBuf>,
    index: Option<PathBuf>,
    shards: Vec<Shard>,
    tensors: Vec<StoredTensor>,
}

impl Checkpoint {
    /// Opens a safetensors file, a shard index, or a directory that holds either.
    ///
    /// A directory's checkpoint is its `model.safetensors.index.json`, else its
    /// only `*.safetensors.index.json`, else its `model.safetensors`, else its
    /// only `*.safetensors` file. Symbolic links are followed.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and what is wrong with it.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let directory = path.is_dir().then(|| path.to_owned());
        let file = match &directory {
            Some(directory) => find_in_directory(directory)?,
            None => path.to_owned(),
        };
        let mut checkpoint = if has_suffix(&file, ".json") {
            Self::open_index(&file, options)?
        } else {
            Self::open_file(&file, options)?
        };
        path.clone_into(&mut checkpoint.path);
        checkpoint.directory = directory;
        Ok(checkpoint)
    }

    fn open_file(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let (shard, tensors, data_begin) = open_shard(path, options)?;
        let tensors = stored_tensors(tensors, 0, data_begin).collect();
        Ok(Self::new(vec![shard], tensors))
    }

    fn open_index(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let index = read_index(path)?;
        let mut shard_names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        shard_names.sort_unstable();
        shard_names.dedup();
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut shards = Vec::with_capacity(shard_names.len());
        let mut tensors = Vec::with_capacity(index.weight_map.len());
        for shard_name in shard_names {
            let (shard, in_shard, data_begin) = open_shard(&directory.join(shard_name), options)?;
            let is_placed = |tensor: &TensorInfo| {
                index.weight_map.get(&tensor.name).map(String::as_str) == Some(shard_name)
            };
            if let Some(stray) = in_shard.iter().find(|tensor| !is_placed(tensor)) {
                return Err(CheckpointError::NotInIndex {
                    path: path.to_owned(),
                    shard: shard_name.to_owned(),
                    tensor: stray.name.clone(),
                });
            }
            tensors.extend(stored_tensors(in_shard, shards.len(), data_begin));
            shards.push(shard);
        }
        let mut checkpoint = Self::new(shards, tensors);
        checkpoint.index = Some(path.to_owned());
        let mut placed = index.weight_map.iter();
        if let Some((tensor, shard)) = placed.find(|(tensor, _)| checkpoint.find(tensor).is_none())
        {
            return Err(CheckpointError::NotInShard {
                path: path.to_owned(),
                shard: shard.clone(),
                tensor: tensor.clone(),
            });
        }
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

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Index in [`tensors`](Self::tensors) of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tensors
            .binary_search_by(|tensor| tensor.name.as_str().cmp(name))
            .ok()
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Elements `[begin, begin + count)` of a tensor: borrowed from the mapping,
    /// or read into `scratch`. `begin` and `count` must be whole bytes of a
    /// sub-byte type.
    ///
    /// # Errors
    /// [`SourceError`] if the file has become shorter or cannot be read.
    pub fn read<'a>(
        &'a self,
        tensor: &StoredTensor,
        begin: u64,
        count: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], SourceError> {
        let bits = tensor.dtype.bits();
        let offset = tensor.offset + begin * bits / 8;
        self.shards[tensor.shard]
            .source
            .read(offset, (count * bits / 8) as usize, scratch)
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

fn stored_tensors(
    tensors: Vec<TensorInfo>,
    shard: usize,
    data_begin: u64,
) -> impl Iterator<Item = StoredTensor> {
    tensors.into_iter().map(move |tensor| StoredTensor {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        shard,
        offset: data_begin + tensor.begin,
        bytes: tensor.end - tensor.begin,
    })
}

/// Opens one file: its tensors in the order of their bytes, and where these begin.
fn open_shard(
    path: &Path,
    options: &OpenOptions,
) -> Result<(Shard, Vec<TensorInfo>, u64), CheckpointError> {
    let source = ByteSource::open(path, options.access)?;
    let file_bytes = source.bytes();
    let mut scratch = Vec::new();
    let first = source.read(0, file_bytes.min(SNIFF_BYTES as u64) as usize, &mut scratch)?;
    if let Some(found) = sniff(first) {
        return Err(CheckpointError::Foreign {
            path: path.to_owned(),
            found,
        });
    }
    let bad_header = |source| CheckpointError::Header {
        path: path.to_owned(),
        source,
    };
    let header_bytes =
        safetensors::header_len(first, file_bytes, options.header_limit).map_err(bad_header)?;
    let json = source.read(8, header_bytes as usize, &mut scratch)?;
    let data_begin = 8 + header_bytes;
    let parsed = safetensors::parse(json, file_bytes - data_begin);
    // A header read from pages that are gone says nothing about the file.
    source.check_fault()?;
    let header: Header = parsed.map_err(bad_header)?;
    source.release(0, data_begin);
    Ok((
        Shard {
            source,
            metadata: header.metadata,
        },
        header.tensors,
        data_begin,
    ))
}

fn read_index(path: &Path) -> Result<shard_index::ShardIndex, CheckpointError> {
    let source = ByteSource::open(path, Access::Pread)?;
    if source.bytes() > INDEX_LIMIT {
        return Err(CheckpointError::IndexTooLarge {
            path: path.to_owned(),
            found: source.bytes(),
            limit: INDEX_LIMIT,
        });
    }
    let mut scratch = Vec::new();
    let text = source.read(0, source.bytes() as usize, &mut scratch)?;
    if let Some(found) = sniff(text).filter(|&found| found != Foreign::Json) {
        return Err(CheckpointError::Foreign {
            path: path.to_owned(),
            found,
        });
    }
    shard_index::parse(text).map_err(|source| CheckpointError::Index {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
