//! Opening files: paths walk in, checkpoints whose headers are valid walk out.
//!
//! The first bytes of a file choose its opener ([`Checkpoint::open_file`]). An opener
//! returns one [`Opened`]: the shard, its tensors and, where the tensors of several
//! files go together, what has to be known of each.

mod torch;

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::Content;
use crate::checkpoint::FileFormat;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::Shard;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::derived::ResolveError;
use crate::checkpoint::derived::resolve;
use crate::checkpoint::directory::find_in_directory;
use crate::checkpoint::directory::has_suffix;
use crate::checkpoint::directory::others;
use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::SourceError;
use crate::checkpoint::onnx::is_model;
use crate::checkpoint::open::torch::open_torch;
use crate::checkpoint::seal::ShardSeal;
use crate::format::compact::BITMASK_KEY;
use crate::format::safetensors;
use crate::format::safetensors::Header;
use crate::format::safetensors::TensorInfo;
use crate::format::shard_index;
use crate::format::sniff::Foreign;
use crate::format::sniff::SNIFF_BYTES;
use crate::format::sniff::sniff;
use crate::format::torch::LeftOut;

/// Largest shard index that is read: 100,000 tensors take about 10 MB.
const INDEX_LIMIT: u64 = 256 << 20;

/// An open file.
struct Opened {
    shard: Shard,
    tensors: Vec<StoredTensor>,
    /// What it holds under names of its tensors' dict, and that is no tensor.
    left_out: Vec<LeftOut>,
    /// What the metadata says of compact tensors. It is about how tensors are stored,
    /// which nobody above sees, and no part of [`Checkpoint::metadata`].
    bitmask: Option<String>,
}

impl Checkpoint {
    pub(super) fn open_file(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let source = ByteSource::open(path, options.access)?;
        if is_model(path, first_bytes(&source, &mut Vec::new())?) {
            return Self::open_model(path, source, options);
        }
        let opened = open_shard(path, source, 0, options)?;
        let mut checkpoint = Self::new(vec![opened.shard], opened.tensors);
        checkpoint.left_out = opened.left_out;
        checkpoint.resolved(path, opened.bitmask.as_slice())
    }

    /// Opens a file or a shard index.
    pub(super) fn open_either(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        match has_suffix(path, ".json") {
            true => Self::open_index(path, options),
            false => Self::open_file(path, options),
        }
    }

    /// Opens the checkpoint of a directory. Where that is not whole, the error names
    /// another one that is.
    pub(super) fn open_directory(
        directory: &Path,
        options: &OpenOptions,
    ) -> Result<Self, CheckpointError> {
        let (file, opened) = match find_in_directory(directory) {
            Ok(file) => {
                let opened = Self::open_either(&file, options);
                (Some(file), opened)
            }
            Err(error) => (None, Err(error)),
        };
        opened.map_err(|mut error| {
            if let CheckpointError::MissingShard { usable, .. }
            | CheckpointError::ShardsWithoutIndex { usable, .. } = &mut error
            {
                let others = others(directory, file.as_deref());
                let mut others = others.into_iter();
                *usable = others.find(|other| Self::open_either(other, options).is_ok());
            }
            error
        })
    }

    pub(super) fn open_index(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let index = read_index(path)?;
        let mut shard_names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        shard_names.sort_unstable();
        shard_names.dedup();
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut shards = Vec::with_capacity(shard_names.len());
        let mut tensors = Vec::with_capacity(index.weight_map.len());
        let mut records = Vec::new();
        let mut left_out = Vec::new();
        for &shard_name in &shard_names {
            let shard_path = directory.join(shard_name);
            let source = ByteSource::open(&shard_path, options.access);
            let source = source.map_err(|error| {
                let missing = shard_names
                    .iter()
                    .filter(|name| !directory.join(name).exists());
                missing_shard(
                    path,
                    shard_name,
                    (missing.count(), shard_names.len()),
                    error,
                )
            })?;
            let opened = open_shard(&shard_path, source, shards.len(), options)?;
            let is_placed = |tensor: &StoredTensor| {
                index.weight_map.get(&tensor.name).map(String::as_str) == Some(shard_name)
            };
            if let Some(stray) = opened.tensors.iter().find(|tensor| !is_placed(tensor)) {
                return Err(CheckpointError::NotInIndex {
                    path: path.to_owned(),
                    shard: shard_name.to_owned(),
                    tensor: stray.name.clone(),
                });
            }
            tensors.extend(opened.tensors);
            shards.push(opened.shard);
            records.extend(opened.bitmask);
            left_out.extend(opened.left_out);
        }
        let mut checkpoint = Self::new(shards, tensors);
        checkpoint.index = Some(path.to_owned());
        checkpoint.left_out = left_out;
        let mut placed = index.weight_map.iter();
        if let Some((tensor, shard)) = placed.find(|(tensor, _)| checkpoint.find(tensor).is_none())
        {
            return Err(CheckpointError::NotInShard {
                path: path.to_owned(),
                shard: shard.clone(),
                tensor: tensor.clone(),
            });
        }
        checkpoint.resolved(path, &records)
    }

    /// The checkpoint with its compact tensors in place of their parts.
    fn resolved(mut self, path: &Path, records: &[String]) -> Result<Self, CheckpointError> {
        for tensor in &self.tensors {
            if let Content::Listed(listed) = &tensor.content {
                listed.check(&self)?;
            }
        }
        let path = || path.to_owned();
        match resolve(&self, records.iter().map(String::as_str)) {
            Ok(None) => {}
            Ok(Some(logical)) => {
                self.stored = Some(std::mem::replace(&mut self.tensors, logical));
            }
            Err(ResolveError::Source(error)) => return Err(error.into()),
            Err(ResolveError::Compact(source)) => {
                let path = path();
                return Err(CheckpointError::Compact { path, source });
            }
        }
        Ok(self)
    }
}

/// Why a shard cannot be opened: of one that is not there, more than that.
fn missing_shard(
    index: &Path,
    shard: &str,
    (missing, total): (usize, usize),
    error: SourceError,
) -> CheckpointError {
    match error {
        SourceError::Missing { .. } => CheckpointError::MissingShard {
            path: index.to_owned(),
            shard: shard.to_owned(),
            missing,
            total,
            usable: None,
            source: Box::new(error),
        },
        error => error.into(),
    }
}

fn stored_tensors(tensors: Vec<TensorInfo>, shard: usize, data_begin: u64) -> Vec<StoredTensor> {
    let tensors = tensors.into_iter().map(|tensor| StoredTensor {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        shard,
        offset: data_begin + tensor.begin,
        bytes: tensor.end - tensor.begin,
        content: Content::Plain,
        mask_of: None,
    });
    tensors.collect()
}

/// The first bytes of a file.
fn first_bytes<'s>(
    source: &'s ByteSource,
    scratch: &'s mut Vec<u8>,
) -> Result<&'s [u8], SourceError> {
    let len = source.bytes().min(SNIFF_BYTES as u64) as usize;
    source.read(0, len, scratch)
}

/// Opens one file as shard `shard`.
fn open_shard(
    path: &Path,
    source: ByteSource,
    shard: usize,
    options: &OpenOptions,
) -> Result<Opened, CheckpointError> {
    let file_bytes = source.bytes();
    let mut scratch = Vec::new();
    let first = first_bytes(&source, &mut scratch)?;
    if let Some(found) = sniff(first) {
        return open_torch(source, found, shard, options);
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
    let mut header: Header = parsed.map_err(bad_header)?;
    source.release(0, data_begin);
    let seal = ShardSeal::take(&mut header.metadata);
    let bitmask = header.metadata.remove(BITMASK_KEY);
    let metadata = header.metadata;
    Ok(Opened {
        shard: Shard {
            source,
            format: FileFormat::Safetensors,
            metadata,
            seal,
        },
        tensors: stored_tensors(header.tensors, shard, data_begin),
        left_out: Vec::new(),
        bitmask,
    })
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
