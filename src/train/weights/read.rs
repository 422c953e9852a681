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
    /// is rounded to the nearest f32. A count of batches that is not there is 0. A pair
    /// `X_orig` and `X_mask`, as torch's `nn.utils.prune` stores `X`, is read as `X`.
    ///
    /// # Errors
    /// [`WeightsError`] names the tensor: one that is missing or that the graph has
    /// not, another shape or type.
    pub fn read(graph: &Graph, checkpoint: &Checkpoint) -> Result<Self, WeightsError> {
        let tensors = checkpoint.weights();
        graph
            .check_tensors(
                tensors.filter_map(|tensor| Some((logical(checkpoint, tensor)?, &tensor.shape))),
            )
            .map_err(|source| WeightsError::Fit {
                path: checkpoint.path().to_owned(),
                model: graph.name.clone(),
                source: Box::new(source),
            })?;
        let mut stored = Vec::with_capacity(graph.parameters.len());
        // All that headers can tell is told before any value is read.
        for parameter in &graph.parameters {
            let found = checkpoint.find(&parameter.name);
            let pair = pair(checkpoint, &parameter.name);
            let tensor = match found {
                Some(idx) => Some(&checkpoint.tensors()[idx]),
                None => pair.map(|(values, _)| values),
            };
            let mask = pair.filter(|_| found.is_none()).map(|(_, mask)| mask);
            if let Some(tensor) = tensor {
                check_dtype(checkpoint, parameter, tensor)?;
            }
            stored.push((tensor, mask));
        }
        let mut values = Vec::with_capacity(stored.len());
        let mut counts = Vec::with_capacity(stored.len());
        let mut scratch = Vec::new();
        for (parameter, (tensor, mask)) in graph.parameters.iter().zip(stored) {
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
            if let Some(mask) = mask {
                put_mask(checkpoint, mask, &mut of_parameter, &mut scratch)?;
            }
            counts.push(count);
            values.push(of_parameter);
        }
        checkpoint.check_unchanged()?;
        Ok(Self { values, counts })
    }
}

/// The two tensors that torch's `nn.utils.prune` stores `name` as, if they are there.
fn pair<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
) -> Option<(&'a StoredTensor, &'a StoredTensor)> {
    let find = |end: &str| {
        let idx = checkpoint.find(&format!("{name}{end}"))?;
        Some(&checkpoint.tensors()[idx])
    };
    let (values, mask) = (find("_orig")?, find("_mask")?);
    let is_read = matches!(
        mask.dtype,
        Dtype::Bool | Dtype::U8 | Dtype::I8 | Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64
    );
    (is_read && values.shape == mask.shape).then_some((values, mask))
}

/// What a tensor is to a network: of a pair, the values stand for both.
fn logical<'a>(checkpoint: &Checkpoint, tensor: &'a StoredTensor) -> Option<&'a str> {
    let name = tensor.name.as_str();
    let of_pair = |end: &str| {
        let base = name.strip_suffix(end)?;
        let is_whole = checkpoint.find(base).is_none() && pair(checkpoint, base).is_some();
        is_whole.then_some(base)
    };
    match of_pair("_mask") {
        Some(_) => None,
        None => Some(of_pair("_orig").unwrap_or(name)),
    }
}

/// Makes what a mask of zeros and others prunes `+0`.
fn put_mask(
    checkpoint: &Checkpoint,
    mask: &StoredTensor,
    values: &mut [f32],
    scratch: &mut Vec<u8>,
) -> Result<(), SourceError> {
    let retained: Vec<bool> = match mask.dtype {
        Dtype::Bool | Dtype::U8 | Dtype::I8 => {
            let bytes = checkpoint.read(mask, 0, mask.shape.numel(), scratch)?;
            bytes.iter().map(|&byte| byte != 0).collect()
        }
        _ => {
            let values = read_values(checkpoint, mask, scratch)?;
            values.iter().map(|&value| value != 0.0).collect()
        }
    };
    for (value, is_retained) in values.iter_mut().zip(retained) {
        if !is_retained {
            *value = 0.0;
        }
    }
    Ok(())
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
