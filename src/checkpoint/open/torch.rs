//! Checkpoints of torch: an open file walks in, its tensors and their places walk out.
//!
//! Of the file are read: of an archive its directory, its pickle and what stands before
//! the bytes of each tensor; of a legacy file its pickles and the lengths between its
//! storages. No tensor byte is read, and none is copied later: a tensor is a range of
//! the mapped file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::Content;
use crate::checkpoint::Convention;
use crate::checkpoint::FileFormat;
use crate::checkpoint::MaskOf;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::Shard;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::derived::List;
use crate::checkpoint::derived::Listed;
use crate::checkpoint::derived::Strided;
use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::SourceError;
use crate::checkpoint::open::Opened;
use crate::checkpoint::seal::ShardSeal;
use crate::format::sniff::Foreign;
use crate::format::torch::Archive;
use crate::format::torch::ArchiveError;
use crate::format::torch::ArchiveKind;
use crate::format::torch::Entry;
use crate::format::torch::LeftOut;
use crate::format::torch::Legacy;
use crate::format::torch::LegacyError;
use crate::format::torch::PickleError;
use crate::format::torch::Places;
use crate::format::torch::SparseView;
use crate::format::torch::StateDict;
use crate::format::torch::TAIL_BYTES;
use crate::format::torch::TorchError;
use crate::format::torch::View;
use crate::format::torch::check_byte_order;
use crate::format::torch::find_directory;
use crate::format::torch::parse_directory;
use crate::format::torch::parse_legacy;
use crate::format::torch::parse_state_dict;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;

/// Bytes of a legacy file that are read at first where it is not mapped; then four times
/// as many, until its pickles are whole.
const FRONT_BYTES: u64 = 64 << 10;

/// The tensors of a file of torch.
struct TorchTensors {
    /// The tensors.
    views: Vec<View>,
    sparse: Vec<SparseView>,
    /// Where each storage begins in the file.
    begins: Vec<u64>,
    /// What the state dict holds besides.
    left_out: Vec<LeftOut>,
}

/// Why there are none.
enum Failure {
    Source(SourceError),
    Torch(TorchError),
    Foreign(Foreign),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<TorchError> for Failure {
    fn from(error: TorchError) -> Self {
        Self::Torch(error)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::Torch(error.into())
    }
}

impl From<LegacyError> for Failure {
    fn from(error: LegacyError) -> Self {
        Self::Torch(error.into())
    }
}

/// Opens a file that is an archive or a pickle by its first bytes, as shard `shard`.
pub(super) fn open_torch(
    source: ByteSource,
    found: Foreign,
    shard: usize,
    options: &OpenOptions,
) -> Result<Opened, CheckpointError> {
    let opened = match found {
        Foreign::Zip => open_archive(&source, options),
        Foreign::Pickle => open_legacy(&source, options),
        other => Err(Failure::Foreign(other)),
    };
    // What was read from pages that are gone says nothing about the file.
    source.check_fault()?;
    let path = || source.path().to_owned();
    let torch = opened.map_err(|failure| match failure {
        Failure::Source(error) => error.into(),
        Failure::Torch(source) => CheckpointError::Torch {
            path: path(),
            source,
        },
        Failure::Foreign(found) => CheckpointError::Foreign {
            path: path(),
            found,
        },
    })?;
    let place = |view: View| {
        let begin = torch.begins[view.storage] + view.begin;
        stored_tensor(view, shard, begin)
    };
    let mut tensors: Vec<StoredTensor> = torch.views.into_iter().map(place).collect();
    push_sparse(torch.sparse, place, &mut tensors);
    Ok(Opened {
        tensors,
        left_out: torch.left_out,
        bitmask: None,
        shard: Shard {
            source,
            format: FileFormat::Torch,
            metadata: BTreeMap::new(),
            seal: ShardSeal::Absent,
        },
    })
}

/// Adds sparse tensors: values, and the masks of those that are averaged.
fn push_sparse(
    sparse: Vec<SparseView>,
    place: impl Fn(View) -> StoredTensor,
    tensors: &mut Vec<StoredTensor>,
) {
    if sparse.is_empty() {
        return;
    }
    let mut names: BTreeSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    names.extend(sparse.iter().map(|view| view.name.clone()));
    for view in sparse {
        let values = place(view.values);
        let list = match view.places {
            Places::Coordinates(indices) => List::Coordinates(place(indices)),
            Places::Rows(rows, columns) => List::Rows(place(rows), place(columns)),
        };
        let first = match &list {
            List::Coordinates(indices) | List::Rows(indices, _) => indices.offset,
        };
        let (dtype, offset) = (values.dtype, values.offset);
        let tensor = |name: String, dtype: Dtype, offset: u64, content, mask_of| StoredTensor {
            name,
            dtype,
            shape: view.shape.clone(),
            shard: values.shard,
            offset,
            bytes: dtype.byte_len(view.shape.numel()).unwrap_or(u64::MAX),
            content,
            mask_of,
        };
        let shard_values = values.clone();
        let listed = Listed::new(view.name.clone(), &view.shape, shard_values, list);
        let listed = Arc::new(listed);
        let content = Content::Listed(listed.clone());
        tensors.push(tensor(view.name.clone(), dtype, offset, content, None));
        if dtype.arithmetic() != Arithmetic::Average {
            // What is only copied has no mask.
            continue;
        }
        let mut name = format!("{}.indices", view.name);
        while !names.insert(name.clone()) {
            name.push('_');
        }
        let mask_of = MaskOf {
            tensor: view.name.clone(),
            convention: Convention::TorchSparse,
        };
        let content = Content::ListedMask(listed);
        tensors.push(tensor(name, Dtype::Bool, first, content, Some(mask_of)));
    }
}

fn stored_tensor(view: View, shard: usize, begin: u64) -> StoredTensor {
    let width = view.dtype.bits() / 8;
    let content = match view.is_contiguous() {
        true => Content::Plain,
        false => {
            let dims = view.shape.dims();
            let strided = Strided::new((shard, begin), width, dims, &view.strides);
            Content::Strided(Arc::new(strided))
        }
    };
    StoredTensor {
        bytes: view.shape.numel() * width,
        name: view.name,
        dtype: view.dtype,
        shape: view.shape,
        shard,
        offset: begin,
        content,
        mask_of: None,
    }
}

fn open_archive(source: &ByteSource, options: &OpenOptions) -> Result<TorchTensors, Failure> {
    let (file_bytes, limit) = (source.bytes(), options.header_limit);
    let mut scratch = Vec::new();
    let tail_bytes = file_bytes.min(TAIL_BYTES as u64);
    let tail = source.read(file_bytes - tail_bytes, tail_bytes as usize, &mut scratch)?;
    let directory = find_directory(tail, file_bytes, limit)?;
    let range = directory.range.clone();
    let bytes = source.read(
        range.start,
        (range.end - range.start) as usize,
        &mut scratch,
    )?;
    let archive = parse_directory(bytes, &directory)?;
    let ArchiveKind::Torch(folder) = archive.kind()? else {
        return Err(Failure::Foreign(Foreign::Zip));
    };
    if let Some(record) = archive.byte_order(&folder) {
        check_byte_order(read_entry(source, record, limit, &mut scratch)?)?;
    }
    let entry = archive.pickle(&folder)?;
    let pickle = read_entry(source, entry, limit, &mut scratch)?;
    let state_dict = parse_state_dict(pickle, options.key.as_deref(), limit)?;
    source.release(0, file_bytes);
    place_entries(source, &archive, &folder, state_dict)
}

/// The bytes of an entry of at most `limit` bytes, which are those that were written.
fn read_entry<'s>(
    source: &'s ByteSource,
    entry: &Entry,
    limit: u64,
    scratch: &'s mut Vec<u8>,
) -> Result<&'s [u8], Failure> {
    entry.require_within(limit)?;
    let begin = entry_begin(source, entry)?;
    let bytes = source.read(begin, entry.bytes() as usize, scratch)?;
    entry.check(bytes)?;
    Ok(bytes)
}

fn entry_begin(source: &ByteSource, entry: &Entry) -> Result<u64, Failure> {
    let mut scratch = Vec::new();
    let local = entry.local_range();
    let local_bytes = (local.end - local.start) as usize;
    let local = source.read(local.start, local_bytes, &mut scratch)?;
    Ok(entry.range(local)?.start)
}

fn place_entries(
    source: &ByteSource,
    archive: &Archive,
    folder: &str,
    state_dict: StateDict,
) -> Result<TorchTensors, Failure> {
    let mut begins: Vec<Option<u64>> = vec![None; state_dict.storages.len()];
    let parts = state_dict.sparse.iter().flat_map(SparseView::parts);
    for view in state_dict.tensors.iter().chain(parts) {
        if begins[view.storage].is_none() {
            let storage = &state_dict.storages[view.storage];
            let begin = entry_begin(source, archive.storage(folder, storage)?)?;
            begins[view.storage] = Some(begin);
        }
    }
    Ok(TorchTensors {
        views: state_dict.tensors,
        sparse: state_dict.sparse,
        // Of those that no tensor looks into, nothing is asked.
        begins: begins.into_iter().map(Option::unwrap_or_default).collect(),
        left_out: state_dict.left_out,
    })
}

fn open_legacy(source: &ByteSource, options: &OpenOptions) -> Result<TorchTensors, Failure> {
    let legacy = read_pickles(source, options)?;
    source.release(0, source.bytes());
    let mut begins = vec![0; legacy.state_dict.storages.len()];
    let mut scratch = Vec::new();
    let mut end = legacy.begin;
    for &idx in &legacy.order {
        let key = || legacy.state_dict.storages[idx].key.clone();
        let begin = end + Legacy::LENGTH_BYTES as u64;
        if begin > source.bytes() {
            return Err(LegacyError::PastEnd { key: key() }.into());
        }
        let length = source.read(end, Legacy::LENGTH_BYTES, &mut scratch)?;
        let length = *length.first_chunk().expect("as many bytes were read");
        begins[idx] = begin;
        end = legacy.storage_end(idx, length, begin, source.bytes())?;
    }
    if end != source.bytes() {
        let (expected, found) = (end, source.bytes());
        return Err(LegacyError::TrailingBytes { expected, found }.into());
    }
    Ok(TorchTensors {
        views: legacy.state_dict.tensors,
        sparse: legacy.state_dict.sparse,
        begins,
        left_out: legacy.state_dict.left_out,
    })
}

fn read_pickles(source: &ByteSource, options: &OpenOptions) -> Result<Legacy, Failure> {
    let most = options.header_limit.min(source.bytes());
    let mut front_bytes = match source.access() {
        Access::Mapped => most,
        Access::Pread => FRONT_BYTES.min(most),
    };
    let mut scratch = Vec::new();
    loop {
        let front = source.read(0, front_bytes as usize, &mut scratch)?;
        match parse_legacy(front, options.key.as_deref(), options.header_limit) {
            Err(TorchError::Pickle(PickleError::CutShort { .. })) if front_bytes < most => {
                front_bytes = front_bytes.saturating_mul(4).min(most);
            }
            Err(TorchError::Pickle(PickleError::CutShort { .. })) if most < source.bytes() => {
                let limit = options.header_limit;
                return Err(LegacyError::Limit { limit }.into());
            }
            Err(TorchError::Legacy(LegacyError::NotTorch)) => {
                return Err(Failure::Foreign(Foreign::Pickle));
            }
            parsed => return Ok(parsed?),
        }
    }
}
