//! A checkpoint again, with other bytes in some tensors: all other bits stay.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::FileFormat;
use crate::checkpoint::SEAL_KEY;
use crate::checkpoint::Seal;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::SourceError;
use crate::checkpoint::metadata_seal;
use crate::format::compact::BITMASK_KEY;
use crate::format::replace::Durability;
use crate::format::replace::ReplaceError;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::LayoutError;
use crate::tensor::Printable;

/// Most bytes that are copied at once.
const BLOCK_BYTES: u64 = 1 << 20;

/// Why there is no copy.
#[derive(Debug, Error)]
pub enum RewriteError {
    /// The checkpoint cannot be read, or changed meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The copy has no legal layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The copy cannot be written.
    #[error(transparent)]
    Output(#[from] ReplaceError),
    /// The checkpoint is a model, of which no safetensors are made here.
    #[error(
        "`{}` is an ONNX model; merge its ingredients to `-o SOUP.st` and go on with that",
        path.display()
    )]
    Model {
        /// The model.
        path: PathBuf,
    },
    /// The new bytes of a tensor are more or fewer than the old ones.
    #[error(
        "`{}` takes {expected} bytes, and {found} are to be written",
        Printable(tensor)
    )]
    Length {
        /// Name of the tensor.
        tensor: String,
        /// Its bytes.
        expected: u64,
        /// New bytes.
        found: u64,
    },
}

/// Writes all tensors of `checkpoint` into one file, with `metadata` in place of its
/// own, and with the bytes in `replaced` for the tensors named there. Returns the bytes
/// of the file.
///
/// Without replaced tensors, a checkpoint of one safetensors file that has this metadata
/// and these names is copied byte for byte.
///
/// # Errors
/// [`RewriteError`]; then the target holds what it held.
pub fn rewrite(
    checkpoint: &Checkpoint,
    metadata: &BTreeMap<String, String>,
    replaced: &BTreeMap<String, Vec<u8>>,
    target: &Target,
    durability: Durability,
) -> Result<u64, RewriteError> {
    if checkpoint.model().is_some() {
        return Err(RewriteError::Model {
            path: checkpoint.path().to_owned(),
        });
    }
    let own: BTreeMap<&str, &str> = checkpoint.metadata();
    let is_own = own.len() == metadata.len()
        && own
            .iter()
            .all(|(key, value)| metadata.get(*key).map(String::as_str) == Some(value));
    let is_same = is_own && replaced.is_empty() && !checkpoint.is_renamed();
    if let [shard] = checkpoint.shards()
        && is_same
        && shard.format == FileFormat::Safetensors
    {
        let bytes = shard.source().bytes();
        let file = StagedFile::create(target, bytes, durability)?;
        copy(&file, 0, shard.source(), 0..bytes)?;
        checkpoint.check_unchanged()?;
        file.publish()?;
        return Ok(bytes);
    }
    let mut metadata = metadata.clone();
    if let Some(record) = checkpoint.bitmask_record() {
        metadata.insert(BITMASK_KEY.to_owned(), record.to_json());
    }
    // What does not hold is not made to hold.
    if metadata.contains_key(CERTIFICATE_KEY) && checkpoint.seal()? == Seal::Holds {
        let seal = metadata_seal(&metadata).to_string();
        metadata.insert(SEAL_KEY.to_owned(), seal);
    }
    let mut tensors: Vec<&StoredTensor> = checkpoint.stored_tensors().iter().collect();
    tensors.sort_by_key(|tensor| (tensor.shard, tensor.offset));
    let entries = tensors.iter().map(|tensor| Entry {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
    });
    let layout = Layout::new(entries.collect())?;
    let header = layout.header(&metadata)?;
    let bytes = header.len() as u64 + layout.data_bytes();
    let file = StagedFile::create(target, bytes, durability)?;
    file.write_at(&header, 0)?;
    for (tensor, place) in tensors.into_iter().zip(layout.tensors()) {
        let offset = header.len() as u64 + place.begin;
        match replaced.get(&tensor.name) {
            Some(bytes) if bytes.len() as u64 == tensor.bytes => file.write_at(bytes, offset)?,
            Some(bytes) => {
                return Err(RewriteError::Length {
                    tensor: tensor.name.clone(),
                    expected: tensor.bytes,
                    found: bytes.len() as u64,
                });
            }
            None => {
                copy_tensor(&file, offset, checkpoint, tensor)?;
            }
        }
    }
    checkpoint.check_unchanged()?;
    file.publish()?;
    Ok(bytes)
}

/// Copies `range` of `source` to `offset`, block by block.
fn copy(
    file: &StagedFile,
    offset: u64,
    source: &ByteSource,
    range: Range<u64>,
) -> Result<(), RewriteError> {
    let mut scratch = Vec::new();
    let mut begin = range.start;
    while begin < range.end {
        let count = BLOCK_BYTES.min(range.end - begin);
        let block = source.read(begin, count as usize, &mut scratch)?;
        file.write_at(block, offset + begin - range.start)?;
        begin += count;
    }
    Ok(())
}

/// Writes the bytes of a tensor to `offset`, block by block.
fn copy_tensor(
    file: &StagedFile,
    mut offset: u64,
    checkpoint: &Checkpoint,
    tensor: &StoredTensor,
) -> Result<(), RewriteError> {
    let mut scratch = Vec::new();
    let (mut begin, numel) = (0, tensor.shape.numel());
    while begin < numel {
        // A whole number of bytes in every type.
        let count = (BLOCK_BYTES / 8).min(numel - begin);
        let block = checkpoint.read(tensor, begin, count, &mut scratch)?;
        file.write_at(block, offset)?;
        (begin, offset) = (begin + count, offset + block.len() as u64);
    }
    Ok(())
}
