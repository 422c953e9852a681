//! Masks of a network: weights or a mask file walk in, one optional [`Mask`] per
//! parameter walks out.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::SourceError;
use crate::connectivity::DENSE_ZERO_FRACTION;
use crate::graph::Graph;
use crate::graph::Role;
use crate::tensor::Arithmetic;
use crate::tensor::Digest;
use crate::tensor::Digester;
use crate::tensor::Dtype;
use crate::tensor::Mask;
use crate::tensor::Printable;
use crate::tensor::Shape;
use crate::train::Weights;
use crate::train::engine::Masks;

/// What a mask file may call the mask of `fc1.weight`, besides `fc1.weight`.
const SUFFIX: &str = "_mask";

/// Why a mask file cannot be used.
#[derive(Debug, Error)]
pub enum MaskError {
    /// It masks something that the model does not prune.
    #[error(
        "mask file `{}` has a mask for `{}`, which is no weight of a linear or convolution layer \
         of `{model}`", path.display(), Printable(tensor)
    )]
    Stray {
        /// The mask file.
        path: PathBuf,
        /// The tensor in it.
        tensor: String,
        /// The model.
        model: String,
    },
    /// A mask has another shape than its tensor.
    #[error(
        "mask `{}` in `{}` has shape {found}, expected {expected}", Printable(tensor), path.display()
    )]
    Shape {
        /// The mask file.
        path: PathBuf,
        /// The tensor in it.
        tensor: String,
        /// Its shape.
        found: Shape,
        /// Shape of the weight.
        expected: Shape,
    },
    /// A tensor has a type that masks do not have.
    #[error(
        "mask `{}` in `{}` is {found}; masks are BOOL, an integer type, or F16, BF16, F32, F64",
        Printable(tensor), path.display()
    )]
    Dtype {
        /// The mask file.
        path: PathBuf,
        /// The tensor in it.
        tensor: String,
        /// Its element type.
        found: Dtype,
    },
    /// A mask holds something else than zeros and ones.
    #[error(
        "mask `{}` in `{}` holds something else than 0 and 1 at index {idx}",
        Printable(tensor), path.display()
    )]
    Value {
        /// The mask file.
        path: PathBuf,
        /// The tensor in it.
        tensor: String,
        /// Row-major place of the first such element.
        idx: usize,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Masks that `weights` stand for: a weight of a linear or convolution layer is pruned
/// if more than [`DENSE_ZERO_FRACTION`] of its elements are zero.
pub fn masks_of_zeros(graph: &Graph, weights: &Weights) -> Masks {
    let parameters = graph.parameters.iter().zip(&weights.values);
    parameters
        .map(|(parameter, values)| {
            let zeros = values.iter().filter(|&&value| value == 0.0).count();
            let is_pruned = zeros as f64 > DENSE_ZERO_FRACTION * values.len() as f64;
            (parameter.role == Role::Weight && is_pruned).then(|| Mask::of_values(values))
        })
        .collect()
}

/// Masks that a mask file holds, under the names of the weights or these with `_mask`;
/// what it does not name is dense. Zeros are pruned.
///
/// # Errors
/// [`MaskError`] names the tensor.
pub fn read_masks(graph: &Graph, file: &Checkpoint) -> Result<Masks, MaskError> {
    let mut masks = vec![None; graph.parameters.len()];
    for (_, tensor, name) in file.masks() {
        let find = |name: &str| {
            let mut parameters = graph.parameters.iter();
            parameters.position(|other| other.name == name && other.role == Role::Weight)
        };
        let stripped = name.strip_suffix(SUFFIX);
        let found = find(name).or_else(|| stripped.and_then(find));
        let Some(idx) = found else {
            return Err(MaskError::Stray {
                path: file.path().to_owned(),
                tensor: tensor.name.clone(),
                model: graph.name.clone(),
            });
        };
        let expected = &graph.parameters[idx].shape;
        if &tensor.shape != expected {
            return Err(MaskError::Shape {
                path: file.path().to_owned(),
                tensor: tensor.name.clone(),
                found: tensor.shape.clone(),
                expected: expected.clone(),
            });
        }
        masks[idx] = Some(read_mask(file, tensor)?);
    }
    file.check_unchanged()?;
    Ok(masks)
}

/// The mask that a tensor of zeros and others stands for.
pub(super) fn read_mask(file: &Checkpoint, tensor: &StoredTensor) -> Result<Mask, MaskError> {
    let dtype = tensor.dtype;
    if dtype.arithmetic() == Arithmetic::Opaque || !dtype.bits().is_multiple_of(8) {
        return Err(MaskError::Dtype {
            path: file.path().to_owned(),
            tensor: tensor.name.clone(),
            found: dtype,
        });
    }
    let mut scratch = Vec::new();
    let numel = tensor.shape.numel();
    let bytes = file.read(tensor, 0, numel, &mut scratch)?;
    let width = (dtype.bits() / 8) as usize;
    let one = one(dtype);
    let sign = if dtype.is_float() { 0x80 } else { 0 };
    let element = |idx: usize| {
        let (element, mut bits) = (&bytes[idx * width..][..width], [0; 8]);
        bits[..width].copy_from_slice(element);
        bits
    };
    let is_zero = |idx: usize| {
        let mut bits = element(idx);
        // The sign of a float is in the last byte; -0 is a zero.
        bits[width - 1] &= !sign;
        bits == [0; 8]
    };
    let is_other = |&idx: &usize| element(idx) != one && !is_zero(idx);
    if let Some(idx) = (0..numel as usize).find(is_other) {
        return Err(MaskError::Value {
            path: file.path().to_owned(),
            tensor: tensor.name.clone(),
            idx,
        });
    }
    Ok(Mask::from_fn(numel as usize, |idx| !is_zero(idx)))
}

/// The bytes of 1, little-endian, zeros behind them.
fn one(dtype: Dtype) -> [u8; 8] {
    match dtype {
        Dtype::F16 => 0x3C00_u64,
        Dtype::BF16 => 0x3F80,
        Dtype::F32 => u64::from(1.0_f32.to_bits()),
        Dtype::F64 => 1.0_f64.to_bits(),
        _ => 1,
    }
    .to_le_bytes()
}

/// Digest of all masks: a dense tensor and a mask that retains all are different, as
/// they are to an engine that chooses by them.
pub fn masks_digest(graph: &Graph, masks: &Masks) -> Digest {
    let mut digester = Digester::new();
    for (parameter, mask) in graph.parameters.iter().zip(masks) {
        if let Some(mask) = mask {
            digester.push_text(&parameter.name);
            for word in mask.words() {
                digester.update(&word.to_le_bytes());
            }
        }
    }
    digester.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use safetensors::tensor::TensorView;

    use super::*;
    use crate::checkpoint::OpenOptions;
    use crate::graph::Features;
    use crate::graph::models::ModelSpec;
    use crate::graph::models::build;

    fn graph() -> Graph {
        let input = Features::vector(4);
        let mut spec = ModelSpec::new("mlp", input, 2);
        spec.options.insert("hidden".to_owned(), "500".to_owned());
        build(&spec).unwrap()
    }

    fn open(
        directory: &Path,
        tensors: &[(&str, safetensors::Dtype, Vec<usize>, &[u8])],
    ) -> Checkpoint {
        let views: BTreeMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                (
                    *name,
                    TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
                )
            })
            .collect();
        let path = directory.join("mask.st");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        Checkpoint::open(&path, &OpenOptions::default()).unwrap()
    }

    #[test]
    fn zeros_are_masks_where_there_are_many_in_a_weight() {
        let graph = graph();
        let mut weights = Weights::initial(&graph, 0);
        let names: Vec<&str> = graph.parameters.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
        let n_masks = |weights: &Weights| {
            let masks = masks_of_zeros(&graph, weights);
            masks.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        assert_eq!(n_masks(&weights), [false; 4]);
        weights.values[1].fill(0.0);
        // Two of 2000 are accidents, three of 2000 are not.
        weights.values[0][5] = 0.0;
        weights.values[0][6] = -0.0;
        assert_eq!(n_masks(&weights), [false; 4]);
        weights.values[0][7] = 0.0;
        assert_eq!(n_masks(&weights), [true, false, false, false]);
        let mask = masks_of_zeros(&graph, &weights)[0].clone().unwrap();
        assert_eq!((mask.retained(), mask.is_retained(6)), (1997, false));
    }

    #[test]
    fn masks_are_read_from_any_type_of_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let graph = graph();
        let bools: Vec<u8> = (0..2000).map(|idx| u8::from(idx % 3 == 0)).collect();
        let floats: Vec<u8> = (0..1000)
            .flat_map(|idx| [-0.0_f32, 1.0, 0.0, 1.0][idx % 4].to_le_bytes())
            .collect();
        use safetensors::Dtype::BOOL;
        use safetensors::Dtype::F32;
        let file = open(
            directory.path(),
            &[
                ("fc1.weight", BOOL, vec![500, 4], &bools),
                ("fc2.weight_mask", F32, vec![2, 500], &floats),
            ],
        );
        let masks = read_masks(&graph, &file).unwrap();
        let expected = |numel, retained: fn(usize) -> bool| Some(Mask::from_fn(numel, retained));
        assert_eq!(masks[0], expected(2000, |idx| idx % 3 == 0));
        assert_eq!(masks[2], expected(1000, |idx| idx % 2 == 1));
        assert_eq!((&masks[1], &masks[3]), (&None, &None));
        let other = vec![None, None, masks[2].clone(), None];
        assert_ne!(masks_digest(&graph, &masks), masks_digest(&graph, &other));
    }

    #[test]
    fn masks_that_do_not_fit_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let graph = graph();
        let check = |name, dtype, shape: Vec<usize>, bytes: &[u8], expected: &str| {
            let file = open(directory.path(), &[(name, dtype, shape, bytes)]);
            let error = read_masks(&graph, &file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        use safetensors::Dtype::F8_E4M3;
        use safetensors::Dtype::U8;
        check(
            "fc1.bias",
            U8,
            vec![1],
            &[1],
            "a mask for `fc1.bias`, which is no weight",
        );
        let shape = "has shape [1], expected [500, 4]";
        check("fc1.weight", U8, vec![1], &[1], shape);
        let mut bytes = [1; 2000];
        bytes[7] = 2;
        let value = "holds something else than 0 and 1 at index 7";
        check("fc1.weight", U8, vec![500, 4], &bytes, value);
        let bytes = [1; 2000];
        let dtype = "`fc1.weight_mask` in `";
        check("fc1.weight_mask", F8_E4M3, vec![500, 4], &bytes, dtype);
    }
}
