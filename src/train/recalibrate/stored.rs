//! Statistics as a checkpoint stores them.

use std::collections::BTreeMap;

use half::bf16;
use half::f16;

use super::RecalibrateError;
use crate::checkpoint::Checkpoint;
use crate::graph::Graph;
use crate::graph::Role;
use crate::tensor::Dtype;
use crate::train::Weights;

/// The bytes of all statistics of batch norm in `weights`, by name, each rounded to the
/// type that `checkpoint` stores it in. A count that is not there is not added.
///
/// # Errors
/// [`RecalibrateError::Value`] where a statistic is no finite number of that type.
pub fn stored_statistics(
    graph: &Graph,
    weights: &Weights,
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<String, Vec<u8>>, RecalibrateError> {
    let mut stored = BTreeMap::new();
    for (idx, parameter) in graph.parameters.iter().enumerate() {
        let name = &parameter.name;
        let bytes = match parameter.role {
            Role::BatchCount if checkpoint.find(name).is_none() => continue,
            Role::BatchCount => weights.counts[idx].to_le_bytes().to_vec(),
            Role::RunningMean | Role::RunningVariance => {
                let tensor = checkpoint.find(name);
                let dtype = tensor.map_or(Dtype::F32, |idx| checkpoint.tensors()[idx].dtype);
                encode(name, &weights.values[idx], dtype)?
            }
            Role::Weight | Role::Bias | Role::Scale | Role::Shift => continue,
        };
        stored.insert(name.clone(), bytes);
    }
    Ok(stored)
}

fn encode(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>, RecalibrateError> {
    let mut bytes = Vec::with_capacity(values.len() * 8);
    for &value in values {
        let rounded = match dtype {
            Dtype::F16 => f16::from_f32(value).to_f32(),
            Dtype::BF16 => bf16::from_f32(value).to_f32(),
            _ => value,
        };
        if !rounded.is_finite() {
            return Err(RecalibrateError::Value {
                tensor: name.to_owned(),
                value,
                dtype,
            });
        }
        match dtype {
            Dtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            Dtype::F64 => bytes.extend(f64::from(value).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_their_type() {
        let check = |dtype, expected: &[u8]| {
            assert_eq!(encode("a", &[1.0, -2.5], dtype).unwrap(), expected);
        };
        check(Dtype::F32, &[0, 0, 128, 63, 0, 0, 32, 192]);
        check(Dtype::F16, &[0, 60, 0, 193]);
        check(Dtype::BF16, &[128, 63, 32, 192]);
        check(
            Dtype::F64,
            &[0, 0, 0, 0, 0, 0, 240, 63, 0, 0, 0, 0, 0, 0, 4, 192],
        );
    }

    #[test]
    fn what_a_type_cannot_hold_is_refused() {
        for (value, dtype) in [(1e5, Dtype::F16), (f32::NAN, Dtype::F32)] {
            let error = encode("bn1.running_var", &[value], dtype).unwrap_err();
            assert!(matches!(error, RecalibrateError::Value { dtype: d, .. } if d == dtype));
        }
    }
}
