//! Weights from a checkpoint: names and shapes must be exactly those of the graph.

use std::path::Path;

use super::Weights;
use super::WeightsError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::SourceError;
use crate::graph::Graph;
use crate::graph::Parameter;
use crate::graph::Role;
use crate::tensor::Dtype;

use half::bf16;
use half::f16;

/// Elements that are read at once.
const BLOCK: u64 = 1 << 16;

impl Weights {
    /// Fails if a value is not finite; `path` is where the values come from.
    ///
    /// # Errors
    /// [`WeightsError::NonFinite`] names the first such value.
    pub fn check_finite(&self, graph: &Graph, path: &Path) -> Result<(), WeightsError> {
        for (parameter, values) in graph.parameters.iter().zip(&self.values) {
            if let Some(idx) = values.iter().position(|value| !value.is_finite()) {
                return Err(WeightsError::NonFinite {
                    path: path.to_owned(),
                    tensor: parameter.name.clone(),
                    idx,
                    found: values[idx],
                });
            }
        }
        Ok(())
    }

    /// The weights and statistics of a checkpoint. F16 and BF16 are widened to f32, F64
    /// is rounded to the nearest f32. A count of batches that is not there is 0.
    ///
    /// # Errors
    /// [`WeightsError`] names the tensor: one that is missing or that the graph has
    /// not, another shape or type.
    pub fn read(graph: &Graph, checkpoint: &Checkpoint) -> Result<Self, WeightsError> {
        let tensors = checkpoint.weights();
        graph
            .check_tensors(tensors.map(|tensor| (tensor.name.as_str(), &tensor.shape)))
            .map_err(|source| WeightsError::Fit {
                path: checkpoint.path().to_owned(),
                model: graph.name.clone(),
                source: Box::new(source),
            })?;
        let mut stored = Vec::with_capacity(graph.parameters.len());
        // All that headers can tell is told before any value is read.
        for parameter in &graph.parameters {
            let found = checkpoint.find(&parameter.name);
            let tensor = found.map(|idx| &checkpoint.tensors()[idx]);
            if let Some(tensor) = tensor {
                check_dtype(checkpoint, parameter, tensor)?;
            }
            stored.push(tensor);
        }
        let mut values = Vec::with_capacity(stored.len());
        let mut counts = Vec::with_capacity(stored.len());
        let mut scratch = Vec::new();
        for (parameter, tensor) in graph.parameters.iter().zip(stored) {
            let mut count = 0;
            let mut of_parameter = Vec::new();
            match tensor {
                Some(tensor) if parameter.role == Role::BatchCount => {
                    let bytes = checkpoint.read(tensor, 0, 1, &mut scratch)?;
                    count = elements(bytes, i64::from_le_bytes).next().unwrap_or(0);
                }
                Some(tensor) => of_parameter = read_values(checkpoint, tensor, &mut scratch)?,
                None => {}
            }
            counts.push(count);
            values.push(of_parameter);
        }
        checkpoint.check_unchanged()?;
        Ok(Self { values, counts })
    }
}

fn check_dtype(
    checkpoint: &Checkpoint,
    parameter: &Parameter,
    tensor: &StoredTensor,
) -> Result<(), WeightsError> {
    let (is_known, expected) = match parameter.role {
        Role::BatchCount => (tensor.dtype == Dtype::I64, "I64"),
        _ => (
            matches!(
                tensor.dtype,
                Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64
            ),
            "F16, BF16, F64 or F32",
        ),
    };
    if is_known {
        return Ok(());
    }
    Err(WeightsError::Dtype {
        path: checkpoint.path().to_owned(),
        tensor: tensor.name.clone(),
        found: tensor.dtype,
        expected,
    })
}

fn read_values(
    checkpoint: &Checkpoint,
    tensor: &StoredTensor,
    scratch: &mut Vec<u8>,
) -> Result<Vec<f32>, SourceError> {
    let numel = tensor.shape.numel();
    let mut values = Vec::with_capacity(numel as usize);
    let mut begin = 0;
    while begin < numel {
        let count = BLOCK.min(numel - begin);
        let bytes = checkpoint.read(tensor, begin, count, scratch)?;
        match tensor.dtype {
            Dtype::F16 => {
                values.extend(elements(bytes, |raw| f16::from_le_bytes(raw).to_f32()));
            }
            Dtype::BF16 => {
                values.extend(elements(bytes, |raw| bf16::from_le_bytes(raw).to_f32()));
            }
            Dtype::F64 => values.extend(elements(bytes, |raw| f64::from_le_bytes(raw) as f32)),
            _ => values.extend(elements(bytes, f32::from_le_bytes)),
        }
        begin += count;
    }
    Ok(values)
}

/// Elements of a little-endian tensor, which may begin at any byte.
fn elements<const WIDTH: usize, T>(
    bytes: &[u8],
    decode: impl Fn([u8; WIDTH]) -> T,
) -> impl Iterator<Item = T> {
    let (elements, _) = bytes.as_chunks::<WIDTH>();
    elements.iter().map(move |raw| decode(*raw))
}
