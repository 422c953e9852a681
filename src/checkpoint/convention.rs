//! Conventions of storing a mask beside its values, read off the names of tensors.

use std::borrow::Cow;

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::IngredientsError;
use crate::checkpoint::StoredTensor;
use crate::format::compact::CompactKind;
use crate::tensor::Arithmetic;

/// Where the mask of a parameter is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Nowhere: the zeros of the tensor are its mask, if it has one.
    Plain,
    /// `X_orig` and `X_mask` in place of `X`, as torch's `nn.utils.prune` writes.
    TorchPrune,
    /// A buffer of NNCF whose name ends in `binary_mask`, beside `X`.
    Nncf,
    /// A buffer `_weight_mask` of NVIDIA ModelOpt, beside `weight`.
    ModelOpt,
    /// As bits beside the retained values.
    Compact(CompactKind),
    /// As the places of the retained values, in a sparse tensor of torch's.
    TorchSparse,
}

/// How masks are stored in an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskLayout {
    /// As the first input stores them.
    #[default]
    Keep,
    /// As zeros of plain tensors.
    Dense,
    /// As bits, beside the retained values alone; ours.
    Bitmask,
    /// The same in the `sparse-bitmask` format of the library compressed-tensors, where
    /// it has names for a tensor; else as zeros.
    CompressedTensors,
    /// As `X_mask` beside `X_orig`, as torch's `nn.utils.prune` does.
    TorchPrune,
}

/// One ingredient's tensors of a parameter, as indices into
/// [`Checkpoint::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The tensor of values.
    pub value: usize,
    /// The tensor of the mask, if one is stored.
    pub mask: Option<usize>,
    /// Where the mask is stored.
    pub convention: Convention,
}

/// The parameters of one checkpoint, sorted by name.
pub(super) struct Located<'a>(Vec<(Cow<'a, str>, Source)>);

impl<'a> Located<'a> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Source)> {
        self.0.iter().map(|(name, source)| (name.as_ref(), *source))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    pub(super) fn get(&self, name: &str) -> Option<Source> {
        let at = self
            .0
            .binary_search_by(|(other, _)| other.as_ref().cmp(name));
        at.ok().map(|at| self.0[at].1)
    }

    /// The parameters that `select` picks, stored masks taken together with their values.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        select: impl Fn(&str) -> bool,
    ) -> Result<Self, IngredientsError> {
        let mut located = locate(checkpoint)?;
        located.retain(|(name, _)| select(name));
        located.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = located.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(IngredientsError::StoredTwice {
                path: checkpoint.path().to_owned(),
                tensor: pair[0].0.to_string(),
            });
        }
        Ok(Self(located))
    }

    /// Refuses tensors that look like masks and were not taken together with values.
    pub(super) fn refuse_unknown_masks(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<(), IngredientsError> {
        let unknown = self.names().find_map(|name| {
            let what = unknown_mask(name).filter(|_| !is_copied(name, checkpoint))?;
            Some((name.to_owned(), what))
        });
        match unknown {
            None => Ok(()),
            Some((tensor, what)) => Err(IngredientsError::UnknownMask {
                path: checkpoint.path().to_owned(),
                tensor,
                what,
            }),
        }
    }
}

fn locate(checkpoint: &Checkpoint) -> Result<Vec<(Cow<'_, str>, Source)>, IngredientsError> {
    let tensors = checkpoint.tensors();
    let mut located = Vec::with_capacity(tensors.len());
    let mut used = vec![false; tensors.len()];
    for (mask, tensor) in tensors.iter().enumerate() {
        let Some((name, value_name, convention)) = masked_by(tensor, checkpoint) else {
            continue;
        };
        let Some(value) = checkpoint.find(&value_name) else {
            continue;
        };
        if tensors[value].dtype.arithmetic() != Arithmetic::Average {
            // What is only copied is copied with its mask.
            continue;
        }
        check_mask(checkpoint, tensor, &tensors[value])?;
        (used[mask], used[value]) = (true, true);
        let source = Source {
            value,
            mask: Some(mask),
            convention,
        };
        located.push((Cow::Owned(name), source));
    }
    for (value, tensor) in tensors.iter().enumerate() {
        if !used[value] {
            let source = Source {
                value,
                mask: None,
                convention: Convention::Plain,
            };
            located.push((Cow::Borrowed(tensor.name.as_str()), source));
        }
    }
    Ok(located)
}

/// What a tensor called `name` is, if it looks like the mask of other tensors.
fn unknown_mask(name: &str) -> Option<&'static str> {
    if name.ends_with("_binary_filter_pruning_mask") {
        Some("a mask of whole filters (NNCF)")
    } else if name.contains("__nncf_hooks.post_hooks.") && name.ends_with(".mask") {
        Some("the scores that a mask is made of (NNCF, regularisation-based)")
    } else if name.ends_with("._binary_mask") || name.ends_with(".binary_mask") {
        Some("a mask (NNCF) whose weights were not found")
    } else if name == "_weight_mask" || name.ends_with("._weight_mask") {
        Some("a mask (ModelOpt) whose weights were not found")
    } else {
        None
    }
}

/// Whether a mask called `name` belongs to a tensor that is copied, as it is itself.
fn is_copied(name: &str, checkpoint: &Checkpoint) -> bool {
    let value = masked_by_name(name, checkpoint).and_then(|(_, value, _)| checkpoint.find(&value));
    value.is_some_and(|value| checkpoint.tensors()[value].dtype.arithmetic() != Arithmetic::Average)
}

/// The parameter, and the tensor of its values, that a tensor would mask.
fn masked_by(
    tensor: &StoredTensor,
    checkpoint: &Checkpoint,
) -> Option<(String, String, Convention)> {
    match &tensor.mask_of {
        Some(of) => Some((of.tensor.clone(), of.tensor.clone(), of.convention)),
        None => masked_by_name(&tensor.name, checkpoint),
    }
}

/// The parameter, and the tensor of its values, that a tensor called `name` would mask.
fn masked_by_name(name: &str, checkpoint: &Checkpoint) -> Option<(String, String, Convention)> {
    if let Some(base) = name.strip_suffix("_mask") {
        let orig = format!("{base}_orig");
        if checkpoint.find(&orig).is_some() {
            return Some((base.to_owned(), orig, Convention::TorchPrune));
        }
    }
    if let Some(module) = name
        .strip_suffix("_weight_mask")
        .filter(|module| module.is_empty() || module.ends_with('.'))
    {
        let weight = format!("{module}weight");
        return Some((weight.clone(), weight, Convention::ModelOpt));
    }
    let weight = nncf_weight(name)?;
    Some((weight.clone(), weight, Convention::Nncf))
}

/// The tensor that an NNCF mask buffer belongs to.
///
/// NNCF 2: `M.pre_ops.0.op._binary_mask` masks `M.weight`; with movement sparsity,
/// `M.pre_ops.0.op.bias_ctx._binary_mask` masks `M.bias`. NNCF 3:
/// `__nncf_hooks.post_hooks.block:0:weight__0.0.binary_mask` masks the output of port 0
/// of the node `block.0.weight`.
fn nncf_weight(name: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(operation) = name.strip_suffix("._binary_mask") {
        let (module, operation) = operation.rsplit_once(".pre_ops.")?;
        let (number, rest) = operation.split_once('.')?;
        let parameter = match rest {
            "op" | "op.weight_ctx" => "weight",
            "op.bias_ctx" => "bias",
            _ => return None,
        };
        return is_number(number).then(|| format!("{module}.{parameter}"));
    }
    let hook = name.strip_suffix(".binary_mask")?;
    let (prefix, hook) = hook.split_once("__nncf_hooks.post_hooks.")?;
    let (node, port_and_index) = hook.rsplit_once("__")?;
    let (port, index) = port_and_index.split_once('.')?;
    (port == "0" && is_number(index)).then(|| format!("{prefix}{}", node.replace(':', ".")))
}

/// Checks that a tensor can be the mask of another.
pub(super) fn check_mask(
    checkpoint: &Checkpoint,
    mask: &StoredTensor,
    value: &StoredTensor,
) -> Result<(), IngredientsError> {
    if mask.shape != value.shape {
        return Err(IngredientsError::MaskShape {
            path: checkpoint.path().to_owned(),
            mask: mask.name.clone(),
            tensor: value.name.clone(),
            expected: value.shape.clone(),
            found: mask.shape.clone(),
        });
    }
    if mask.dtype.arithmetic() == Arithmetic::Opaque {
        return Err(IngredientsError::MaskDtype {
            path: checkpoint.path().to_owned(),
            mask: mask.name.clone(),
            found: mask.dtype,
        });
    }
    Ok(())
}
