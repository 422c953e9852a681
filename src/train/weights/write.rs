//! Tensors in memory to a safetensors file that appears whole or not at all.

use super::Weights;
use super::WeightsError;
use crate::format::replace::Durability;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::natural_cmp;
use crate::graph::Graph;
use crate::graph::Role;
use crate::tensor::Dtype;
use crate::tensor::Mask;
use crate::tensor::Shape;

use std::collections::BTreeMap;
use std::ops::Range;

/// Elements that are encoded at once.
const BLOCK: usize = 1 << 16;

/// Values of a tensor that is to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values<'a> {
    /// Row-major, written as F32.
    F32(&'a [f32]),
    /// Row-major, written as F64.
    F64(&'a [f64]),
    /// Row-major, written as I64.
    I64(&'a [i64]),
    /// Written as BOOL, 1 where retained.
    Mask(&'a Mask),
}

impl Values<'_> {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F64(_) => Dtype::F64,
            Self::I64(_) => Dtype::I64,
            Self::Mask(_) => Dtype::Bool,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Mask(mask) => mask.numel(),
        }
    }

    /// Appends the bytes of a part.
    fn encode(self, part: Range<usize>, block: &mut Vec<u8>) {
        match self {
            Self::F32(values) => block.extend(values[part].iter().flat_map(|x| x.to_le_bytes())),
            Self::F64(values) => block.extend(values[part].iter().flat_map(|x| x.to_le_bytes())),
            Self::I64(values) => block.extend(values[part].iter().flat_map(|x| x.to_le_bytes())),
            Self::Mask(mask) => block.extend(part.map(|idx| u8::from(mask.is_retained(idx)))),
        }
    }
}

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor<'a> {
    /// Its name.
    pub name: String,
    /// Its dimensions, row-major.
    pub shape: Shape,
    /// As many values as the shape has elements.
    pub values: Values<'a>,
}

impl Weights {
    /// All tensors of a graph with their values, in the order of torch's `state_dict`:
    /// F32, and a scalar I64 for each count of batches.
    pub fn tensors<'a>(&'a self, graph: &Graph) -> Vec<NamedTensor<'a>> {
        let stored = self.values.iter().zip(&self.counts);
        let named = graph.parameters.iter().zip(stored);
        named
            .map(|(parameter, (values, count))| NamedTensor {
                name: parameter.name.clone(),
                shape: parameter.shape.clone(),
                values: match parameter.role {
                    Role::BatchCount => Values::I64(std::slice::from_ref(count)),
                    _ => Values::F32(values),
                },
            })
            .collect()
    }

    /// Writes a checkpoint with torch's names, types and shapes; see [`write_tensors`].
    ///
    /// # Errors
    /// [`WeightsError::Output`]; [`WeightsError::Length`] if these are not the graph's
    /// weights.
    pub fn write(
        &self,
        graph: &Graph,
        metadata: &BTreeMap<String, String>,
        target: &Target,
        durability: Durability,
    ) -> Result<(), WeightsError> {
        write_tensors(self.tensors(graph), metadata, target, durability)
    }
}

/// Writes tensors in the order that safetensors' readers are used to (widest type
/// first, then by name). The metadata gets `format` = `pt` where it has no `format`,
/// which transformers asks for.
///
/// # Errors
/// [`WeightsError::Length`], [`WeightsError::Layout`], [`WeightsError::Output`].
pub fn write_tensors(
    mut tensors: Vec<NamedTensor<'_>>,
    metadata: &BTreeMap<String, String>,
    target: &Target,
    durability: Durability,
) -> Result<(), WeightsError> {
    for tensor in &tensors {
        if tensor.shape.numel() != tensor.values.len() as u64 {
            return Err(WeightsError::Length {
                tensor: tensor.name.clone(),
                expected: tensor.shape.clone(),
                found: tensor.values.len(),
            });
        }
    }
    tensors.sort_by(|a, b| natural_cmp(&entry(a), &entry(b)));
    let layout = Layout::new(tensors.iter().map(entry).collect())?;
    let mut metadata = metadata.clone();
    metadata
        .entry("format".to_owned())
        .or_insert_with(|| "pt".to_owned());
    let header = layout.header(&metadata)?;
    let file_bytes = header.len() as u64 + layout.data_bytes();
    let file = StagedFile::create(target, file_bytes, durability)?;
    file.write_at(&header, 0)?;
    let mut block = Vec::new();
    for (tensor, place) in tensors.iter().zip(layout.tensors()) {
        let mut offset = header.len() as u64 + place.begin;
        let width = tensor.values.dtype().bits() as usize / 8;
        for begin in (0..tensor.values.len()).step_by(BLOCK) {
            let end = tensor.values.len().min(begin + BLOCK);
            block.clear();
            tensor.values.encode(begin..end, &mut block);
            file.write_at(&block, offset)?;
            offset += ((end - begin) * width) as u64;
        }
    }
    file.publish()?;
    Ok(())
}

fn entry(tensor: &NamedTensor<'_>) -> Entry {
    Entry {
        name: tensor.name.clone(),
        dtype: tensor.values.dtype(),
        shape: tensor.shape.clone(),
    }
}
