//! From the tensors of a file to those they stand for: the parts of a compact tensor
//! become its values and its mask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CompactError;
use crate::checkpoint::Convention;
use crate::checkpoint::MaskOf;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::derived::Compact;
use crate::checkpoint::derived::Content;
use crate::checkpoint::derived::Extent;
use crate::checkpoint::map::SourceError;
use crate::format::compact::BITMASK_VERSION;
use crate::format::compact::BitmaskRecord;
use crate::format::compact::CompactKind;
use crate::format::compact::PartNames;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Most dimensions of a tensor that says them in a tensor.
const MOST_DIMS: u64 = 64;

/// Why the tensors of a checkpoint are not those of a compact layout.
#[derive(Debug)]
pub(in crate::checkpoint) enum ResolveError {
    /// They are malformed.
    Compact(CompactError),
    /// They cannot be read.
    Source(SourceError),
}

impl From<CompactError> for ResolveError {
    fn from(error: CompactError) -> Self {
        Self::Compact(error)
    }
}

impl From<SourceError> for ResolveError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// A compact tensor as a file declares it.
struct Declared {
    name: String,
    kind: CompactKind,
    /// `None` where the values tell.
    dtype: Option<Dtype>,
    shape: Shape,
    names: PartNames,
}

/// The logical tensors that the stored ones of `checkpoint` stand for, or `None` if they
/// are the same. `records` are the values of the metadata key of the bitmask layout.
pub(in crate::checkpoint) fn resolve<'r>(
    checkpoint: &Checkpoint,
    records: impl Iterator<Item = &'r str>,
) -> Result<Option<Vec<StoredTensor>>, ResolveError> {
    let mut declared = declared_in_metadata(records)?;
    declared_by_name(checkpoint, &mut declared)?;
    if declared.is_empty() {
        return Ok(None);
    }
    let mut is_part = vec![false; checkpoint.tensors().len()];
    let mut logical = Vec::new();
    for declared in &declared {
        let [values, mask] = build(checkpoint, declared, &mut is_part)?;
        logical.extend([values, mask]);
    }
    let stored = checkpoint.tensors().iter().zip(&is_part);
    logical.extend(
        stored
            .filter(|(_, is_part)| !**is_part)
            .map(|(tensor, _)| tensor.clone()),
    );
    logical.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match logical.windows(2).find(|pair| pair[0].name == pair[1].name) {
        None => Ok(Some(logical)),
        Some(pair) => Err(CompactError::Twice {
            tensor: pair[0].name.clone(),
        }
        .into()),
    }
}

/// What the metadata declares: our layout.
fn declared_in_metadata<'r>(
    records: impl Iterator<Item = &'r str>,
) -> Result<Vec<Declared>, CompactError> {
    let mut declared = BTreeMap::new();
    for text in records {
        let record: BitmaskRecord =
            serde_json::from_str(text).map_err(|source| CompactError::Record { source })?;
        if record.version != BITMASK_VERSION {
            return Err(CompactError::Version {
                found: record.version,
            });
        }
        for (name, entry) in record.tensors {
            let Some(shape) = Shape::new(entry.shape) else {
                return Err(CompactError::Shape { tensor: name });
            };
            let Some(dtype) = Dtype::from_name(&entry.dtype)
                .filter(|&dtype| CompactKind::Bitmask.takes(dtype, &shape))
            else {
                return Err(CompactError::Dtype {
                    tensor: name,
                    found: entry.dtype,
                });
            };
            let names = CompactKind::Bitmask.part_names(&name);
            let names = names.expect("the bitmask layout has names for every tensor");
            let tensor = Declared {
                name: name.clone(),
                kind: CompactKind::Bitmask,
                dtype: Some(dtype),
                shape,
                names,
            };
            if let Some(other) = declared.insert(name, tensor) {
                let tensor = other.name;
                return Err(CompactError::DeclaredTwice { tensor });
            }
        }
    }
    Ok(declared.into_values().collect())
}

/// What names declare: `P.compressed` beside `P.bitmask`.
fn declared_by_name(
    checkpoint: &Checkpoint,
    declared: &mut Vec<Declared>,
) -> Result<(), ResolveError> {
    for tensor in checkpoint.tensors() {
        let Some(module) = tensor.name.strip_suffix(".compressed") else {
            continue;
        };
        let name = format!("{module}.weight");
        let names = CompactKind::CompressedTensors.part_names(&name);
        let Some(mut names) = names.filter(|names| checkpoint.find(&names.bitmask).is_some())
        else {
            continue;
        };
        names.row_offsets = names
            .row_offsets
            .filter(|name| checkpoint.find(name).is_some());
        let shape_name = names.shape.as_deref().unwrap_or_default();
        let shape = read_shape(checkpoint, &name, shape_name)?;
        // The format of two of every four has half of the columns, and no row offsets.
        let half = CompactKind::Sparse24.values_shape(&shape, tensor.shape.numel());
        let is_half = CompactKind::Sparse24.takes(tensor.dtype, &shape)
            && half.as_ref() == Some(&tensor.shape);
        let kind = match is_half && names.row_offsets.is_none() {
            true => CompactKind::Sparse24,
            false => CompactKind::CompressedTensors,
        };
        declared.push(Declared {
            name,
            kind,
            dtype: None,
            shape,
            names,
        });
    }
    Ok(())
}

/// The dimensions that a small tensor holds, a list or, in `sparse-24-bitmask`, a column.
fn read_shape(checkpoint: &Checkpoint, name: &str, part: &str) -> Result<Shape, ResolveError> {
    let tensor = part_of(checkpoint, name, part)?;
    let is_list = tensor.dtype == Dtype::I64
        && tensor.shape.dims().first() == Some(&tensor.shape.numel())
        && (1..=MOST_DIMS).contains(&tensor.shape.numel());
    if !is_list {
        return Err(CompactError::Part {
            part: part.to_owned(),
            expected: format!("I64 of shape [n], n up to {MOST_DIMS}"),
            found: format!("{} of shape {}", tensor.dtype, tensor.shape),
        }
        .into());
    }
    let mut scratch = Vec::new();
    let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch)?;
    let dims: Result<Vec<u64>, _> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&dim| u64::try_from(i64::from_le_bytes(dim)))
        .collect();
    checkpoint.shards()[tensor.shard].source().check_fault()?;
    let shape = dims.ok().and_then(Shape::new);
    Ok(shape.ok_or_else(|| CompactError::Shape {
        tensor: name.to_owned(),
    })?)
}

fn part_of<'c>(
    checkpoint: &'c Checkpoint,
    tensor: &str,
    part: &str,
) -> Result<&'c StoredTensor, CompactError> {
    let found = checkpoint
        .find(part)
        .map(|index| &checkpoint.tensors()[index]);
    found.ok_or_else(|| CompactError::Missing {
        tensor: tensor.to_owned(),
        part: part.to_owned(),
    })
}

/// The values and the mask of a declared tensor.
fn build(
    checkpoint: &Checkpoint,
    declared: &Declared,
    is_part: &mut [bool],
) -> Result<[StoredTensor; 2], CompactError> {
    let Declared {
        name, kind, shape, ..
    } = declared;
    let PartNames {
        values: values_name,
        bitmask: bitmask_name,
        shape: shape_name,
        row_offsets: row_name,
    } = &declared.names;
    let part = |part: &str| part_of(checkpoint, name, part);
    let values = part(values_name)?;
    let dtype = declared.dtype.unwrap_or(values.dtype);
    if !kind.takes(dtype, shape) {
        return Err(CompactError::Dtype {
            tensor: name.clone(),
            found: dtype.name().to_owned(),
        });
    }
    let retained = values.shape.numel();
    let fits = values.dtype == dtype && (values.shape.rank() == 1 || *kind != CompactKind::Bitmask);
    if !fits || retained > shape.numel() {
        return Err(CompactError::Part {
            part: values_name.clone(),
            expected: format!("{dtype} of shape [n], n up to {}", shape.numel()),
            found: format!("{} of shape {}", values.dtype, values.shape),
        });
    }
    let check = |tensor: &StoredTensor, dtype: Dtype, shape: &Shape| {
        if tensor.dtype == dtype && tensor.shape == *shape {
            return Ok(());
        }
        Err(CompactError::Part {
            part: tensor.name.clone(),
            expected: format!("{dtype} of shape {shape}"),
            found: format!("{} of shape {}", tensor.dtype, tensor.shape),
        })
    };
    let bitmask = part(bitmask_name)?;
    check(bitmask, Dtype::U8, &kind.bitmask_shape(shape))?;
    let row_offsets = row_name.as_deref().map(part).transpose()?;
    if let Some(row_offsets) = row_offsets {
        check(row_offsets, Dtype::I64, &kind.row_shape(shape))?;
    }
    let names = [values_name, bitmask_name].into_iter();
    for name in names.chain(shape_name).chain(row_name) {
        if let Some(index) = checkpoint.find(name) {
            is_part[index] = true;
        }
    }
    let extent = |tensor: &StoredTensor| match tensor.content {
        Content::Plain => Ok(Extent {
            shard: tensor.shard,
            begin: tensor.offset,
            end: tensor.offset + tensor.bytes,
        }),
        _ => Err(CompactError::NotContiguous {
            tensor: name.clone(),
            part: tensor.name.clone(),
        }),
    };
    let compact = Arc::new(Compact {
        kind: *kind,
        names: (values_name.clone(), bitmask_name.clone()),
        dtype,
        numel: shape.numel(),
        row_elements: kind.row_elements(shape),
        retained,
        is_decoded: false,
        values: extent(values)?,
        bitmask: extent(bitmask)?,
        row_offsets: row_offsets
            .filter(|_| shape.rank() == 2)
            .map(extent)
            .transpose()?,
        ranks: OnceLock::new(),
        counting: Mutex::new(()),
    });
    let logical = |name: &str, dtype: Dtype, place: &StoredTensor, content, mask_of| StoredTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.clone(),
        shard: place.shard,
        offset: place.offset,
        bytes: dtype.byte_len(shape.numel()).unwrap_or(u64::MAX),
        content,
        mask_of,
    };
    let mask_of = MaskOf {
        tensor: name.clone(),
        convention: Convention::Compact(*kind),
    };
    Ok([
        logical(name, dtype, values, Content::Values(compact.clone()), None),
        logical(
            bitmask_name,
            Dtype::Bool,
            bitmask,
            Content::Mask(compact),
            Some(mask_of),
        ),
    ])
}
