//! An adapter: factors found by their names and put together.

use std::collections::BTreeMap;

use crate::adapter::error::AdapterError;
use crate::adapter::factor::Factor;
use crate::adapter::factor::NonFinite;
use crate::adapter::names::Naming;
use crate::adapter::names::Role;
use crate::adapter::names::role_of;
use crate::adapter::scaling::PEFT_PREFIX;
use crate::adapter::scaling::Scaling;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::tensor::Arithmetic;

/// An adapter, understood from the headers of a checkpoint and its configuration. Of its
/// tensors only those have been read that hold one number.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What is changed, by name.
    pub modules: BTreeMap<String, Module>,
    /// Where scales are said.
    pub scaling: Scaling,
    /// Whether the network stores weights as `(in, out)`.
    pub is_transposed: bool,
    /// Indices of the tensors that belong to no factor.
    pub others: Vec<usize>,
}

/// What an adapter adds to one weight of a network: `scale * up * down`.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Index of the factor that is applied first.
    pub down: usize,
    /// Index of the factor that is applied second.
    pub up: usize,
    /// Index of what the second factor adds.
    pub bias: Option<usize>,
    /// Index of the tensor with alpha.
    pub alpha_tensor: Option<usize>,
    /// How the factors are called.
    pub naming: Naming,
    /// Rank of the product.
    pub rank: u64,
    /// The numerator of the scale.
    pub alpha: f64,
    /// The denominator of the scale: the rank, or its root.
    pub divisor: f64,
}

impl Module {
    /// What the product of the factors is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.divisor
    }
}

/// The tensors of a module, while they are being found.
#[derive(Default)]
struct Parts {
    down: Option<usize>,
    up: Option<usize>,
    bias: Option<usize>,
    alpha: Option<usize>,
    naming: Option<Naming>,
}

impl Adapter {
    /// Understands the tensors of `checkpoint` that `select` picks.
    ///
    /// # Errors
    /// [`AdapterError`] if it is no adapter, or not one whose products are known.
    pub fn open(
        checkpoint: &Checkpoint,
        select: impl Fn(&str) -> bool,
    ) -> Result<Self, AdapterError> {
        let (parts, others) = find_parts(checkpoint, select)?;
        let mut pairs = parts.iter();
        let Some(naming) = pairs.find_map(|(_, parts)| parts.naming) else {
            return Err(AdapterError::NotAnAdapter {
                path: checkpoint.path().to_owned(),
            });
        };
        let has_alpha = parts.values().any(|parts| parts.alpha.is_some());
        let is_peft = parts.keys().any(|module| module.starts_with(PEFT_PREFIX));
        let scaling = Scaling::find(checkpoint, naming, has_alpha, is_peft)?;

        let modules = parts.into_iter().map(|(name, parts)| {
            let module = pair(checkpoint, &scaling, &name, &parts)?;
            Ok((name, module))
        });
        let modules = modules.collect::<Result<_, AdapterError>>()?;
        Ok(Self {
            modules,
            is_transposed: scaling.is_transposed(),
            scaling,
            others,
        })
    }
}

/// The tensors of each module, and the indices of those of none.
fn find_parts(
    checkpoint: &Checkpoint,
    select: impl Fn(&str) -> bool,
) -> Result<(BTreeMap<String, Parts>, Vec<usize>), AdapterError> {
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    let mut others = Vec::new();
    let tensors = checkpoint.tensors();
    let twice = |first: usize, second: usize| AdapterError::Twice {
        path: checkpoint.path().to_owned(),
        first: tensors[first].name.clone(),
        second: tensors[second].name.clone(),
    };
    for (index, tensor) in tensors.iter().enumerate() {
        if !select(&tensor.name) {
            continue;
        }
        let (module, place, naming): (_, fn(&mut Parts) -> &mut Option<usize>, _) =
            match role_of(&tensor.name) {
                Role::Down(module, naming) => (module, |parts| &mut parts.down, Some(naming)),
                Role::Up(module, naming) => (module, |parts| &mut parts.up, Some(naming)),
                Role::Bias(module) => (module, |parts| &mut parts.bias, None),
                Role::Alpha(module) => (module, |parts| &mut parts.alpha, None),
                Role::Foreign(adapter) => {
                    return Err(AdapterError::Foreign {
                        path: checkpoint.path().to_owned(),
                        tensor: tensor.name.clone(),
                        adapter,
                    });
                }
                Role::Other => {
                    others.push(index);
                    continue;
                }
            };
        let parts = parts.entry(module.to_owned()).or_default();
        parts.naming = parts.naming.or(naming);
        if let Some(first) = place(parts).replace(index) {
            return Err(twice(first, index));
        }
    }
    Ok((parts, others))
}

/// A module of its tensors.
fn pair(
    checkpoint: &Checkpoint,
    scaling: &Scaling,
    name: &str,
    parts: &Parts,
) -> Result<Module, AdapterError> {
    let tensor = |index: usize| &checkpoint.tensors()[index];
    let path = || checkpoint.path().to_owned();
    let (down, up, naming) = match (parts.down, parts.up, parts.naming) {
        (Some(down), Some(up), Some(naming)) => (down, up, naming),
        (down, up, _) => {
            let alone = down.or(up).or(parts.bias).or(parts.alpha);
            return Err(AdapterError::Unpaired {
                path: path(),
                tensor: alone.map_or_else(String::new, |index| tensor(index).name.clone()),
                missing: match (down, up) {
                    (Some(_), None) => "the second factor (`lora_B` or `lora_up`)",
                    (None, Some(_)) => "the first factor (`lora_A` or `lora_down`)",
                    _ => "its factors",
                },
            });
        }
    };
    let rank = rank_of(tensor(down), tensor(up)).ok_or_else(|| AdapterError::Shapes {
        path: path(),
        module: name.to_owned(),
        down: tensor(down).shape.clone(),
        up: tensor(up).shape.clone(),
    })?;
    for index in [down, up].into_iter().chain(parts.bias) {
        let StoredTensor { name, dtype, .. } = tensor(index);
        if dtype.arithmetic() != Arithmetic::Average {
            return Err(AdapterError::FactorDtype {
                path: path(),
                tensor: name.clone(),
                dtype: *dtype,
            });
        }
    }
    let (alpha, divisor) = match (parts.alpha, scaling.of(name)) {
        (Some(index), _) => (read_alpha(checkpoint, tensor(index), name)?, rank as f64),
        (None, Some((expected, ..))) if expected != rank => {
            return Err(AdapterError::Rank {
                path: path(),
                module: name.to_owned(),
                expected,
                found: rank,
            });
        }
        (None, Some((_, alpha, divisor))) => (alpha, divisor),
        (None, None) => (rank as f64, rank as f64),
    };
    if !(alpha / divisor).is_finite() {
        return Err(AdapterError::Scale {
            path: path(),
            module: name.to_owned(),
            value: alpha / divisor,
        });
    }
    Ok(Module {
        down,
        up,
        bias: parts.bias,
        alpha_tensor: parts.alpha,
        naming,
        rank,
        alpha,
        divisor,
    })
}

/// The one number in a tensor.
fn read_alpha(
    checkpoint: &Checkpoint,
    tensor: &StoredTensor,
    module: &str,
) -> Result<f64, AdapterError> {
    let wrong = |value| AdapterError::Scale {
        path: checkpoint.path().to_owned(),
        module: module.to_owned(),
        value,
    };
    if tensor.shape.numel() != 1 {
        return Err(wrong(f64::NAN));
    }
    let value = Factor::read(checkpoint, tensor, NonFinite::Taken)?.values[0];
    value
        .is_finite()
        .then_some(value)
        .ok_or_else(|| wrong(value))
}

/// The rank of a product of these factors, if they have one.
fn rank_of(down: &StoredTensor, up: &StoredTensor) -> Option<u64> {
    let (down, up) = (down.shape.dims(), up.shape.dims());
    let (&[rank, ref inputs @ ..], &[_, columns, ref ones @ ..]) = (down, up) else {
        return None;
    };
    let is_product = !inputs.is_empty()
        && rank == columns
        && rank > 0
        && ones.iter().all(|&dim| dim == 1)
        && ones.len() <= inputs.len();
    is_product.then_some(rank)
}
