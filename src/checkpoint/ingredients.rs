//! From checkpoints to ingredients: the same parameters, in the same order.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

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

/// A tensor that all ingredients have.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name, without the suffix of a stored mask convention.
    pub name: String,
    /// Its dimensions, row-major.
    pub shape: Shape,
    /// Where each ingredient has it.
    pub sources: Box<[Source]>,
    /// Index of its mask in the mask file.
    pub given_mask: Option<usize>,
}

/// Whether ingredients may store a parameter in different floating types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtypeRule {
    /// They may not.
    Same,
    /// They may, among F16, BF16, F32 and F64.
    AnyFloat,
}

/// What one checkpoint has and another has not, or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has the tensor.
    OnlyFirst(String),
    /// Only the other has the tensor.
    OnlyOther(String),
    /// The shapes differ.
    Shape(String, Shape, Shape),
    /// The element types differ.
    Dtype(String, Dtype, Dtype),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyFirst(name) => write!(f, "only the first has `{}`", Printable(name)),
            Self::OnlyOther(name) => write!(f, "only the second has `{}`", Printable(name)),
            Self::Shape(name, first, other) => {
                write!(
                    f,
                    "`{}` has shape {first} in the first and {other} in the second",
                    Printable(name)
                )
            }
            Self::Dtype(name, first, other) => {
                write!(
                    f,
                    "`{}` is {first} in the first and {other} in the second",
                    Printable(name)
                )
            }
        }
    }
}

/// Why checkpoints are no ingredients of one soup.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IngredientsError {
    /// There is no checkpoint.
    #[error("there is no checkpoint to read")]
    None,
    /// Tensors differ in name, shape or element type.
    #[error(
        "`{}` and `{}` do not hold the same tensors: {}{}{}",
        first.display(), other.display(), differences[0],
        more(differences.len()), hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    Different {
        /// The first checkpoint.
        first: PathBuf,
        /// The one that differs from it.
        other: PathBuf,
        /// All differences, in order of name; at least one.
        differences: Vec<Difference>,
        /// What to do next, if there is something to do.
        hint: Option<String>,
    },
    /// A stored mask does not have the shape of its values.
    #[error(
        "mask `{}` in `{}` has shape {found}, expected {expected} as `{}` has",
        Printable(mask), path.display(), Printable(tensor)
    )]
    MaskShape {
        /// The checkpoint or mask file.
        path: PathBuf,
        /// The mask tensor.
        mask: String,
        /// The tensor that it masks.
        tensor: String,
        /// The tensor's shape.
        expected: Shape,
        /// The mask's shape.
        found: Shape,
    },
    /// A stored mask has an element type that masks do not have.
    #[error(
        "mask `{}` in `{}` is {found}; masks are BOOL, an integer type of 8 bits or more, or F16, BF16, F32, F64",
        Printable(mask), path.display()
    )]
    MaskDtype {
        /// The checkpoint or mask file.
        path: PathBuf,
        /// The mask tensor.
        mask: String,
        /// Its element type.
        found: Dtype,
    },
    /// A checkpoint stores a parameter twice, in two conventions.
    #[error(
        "`{}` stores `{}` twice: plainly and as a pair `_orig`, `_mask`; remove one of them",
        path.display(), Printable(tensor)
    )]
    StoredTwice {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        tensor: String,
    },
    /// A mask file has a mask for a tensor that does not exist.
    #[error("mask file `{}` has a mask for `{}`, which the ingredients do not have", path.display(), Printable(tensor))]
    StrayMask {
        /// The mask file.
        path: PathBuf,
        /// The tensor it names.
        tensor: String,
    },
    /// A mask file has a mask for a tensor whose type is not averaged.
    #[error(
        "mask file `{}` has a mask for `{}`, which is {found}; only F16, BF16, F32 and F64 tensors are pruned",
        path.display(), Printable(tensor)
    )]
    MaskedDtype {
        /// The mask file.
        path: PathBuf,
        /// The tensor it names.
        tensor: String,
        /// The tensor's element type.
        found: Dtype,
    },
    /// A checkpoint stores a mask in a way that is not understood.
    #[error(
        "`{}` holds `{}`, {what}: the weights that it masks would be taken for dense; have its library apply \
         its masks to the weights and save them again, or `--exclude` it",
        path.display(), Printable(tensor)
    )]
    UnknownMask {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor that is a mask.
        tensor: String,
        /// What it is.
        what: &'static str,
    },
    /// No tensor is left to merge.
    #[error("no tensor is left to merge; look at `--include` and `--exclude`")]
    Nothing,
}

fn more(n: usize) -> String {
    if n > 1 {
        format!(" (and {} more)", n - 1)
    } else {
        String::new()
    }
}

/// Checkpoints that hold the same parameters: two or more to merge, one to look at.
#[derive(Debug)]
pub struct Ingredients {
    checkpoints: Vec<Checkpoint>,
    mask_file: Option<Checkpoint>,
    parameters: Vec<Parameter>,
}

impl Ingredients {
    /// Finds the parameters that `select` picks in every checkpoint.
    ///
    /// `mask_file` holds one mask per pruned parameter, under the parameter's name
    /// or that name with `_mask`.
    ///
    /// # Errors
    /// [`IngredientsError`] says which checkpoint and tensor differ, and how.
    pub fn join(
        checkpoints: Vec<Checkpoint>,
        mask_file: Option<Checkpoint>,
        dtypes: DtypeRule,
        select: impl Fn(&str) -> bool,
    ) -> Result<Self, IngredientsError> {
        let mut resolved = Vec::with_capacity(checkpoints.len());
        for checkpoint in &checkpoints {
            let mut logical = logical_tensors(checkpoint)?;
            logical.retain(|name, _| select(name));
            // One checkpoint alone is only looked at.
            if checkpoints.len() > 1 {
                refuse_unknown_masks(checkpoint, &logical)?;
            }
            resolved.push(logical);
        }
        for (checkpoint, logical) in checkpoints.iter().zip(&resolved).skip(1) {
            refuse_differences(
                (&checkpoints[0], &resolved[0]),
                (checkpoint, logical),
                dtypes,
            )?;
        }
        let Some((first, others)) = resolved.split_first() else {
            return Err(IngredientsError::None);
        };
        let mut parameters: Vec<Parameter> = first
            .iter()
            .map(|(name, source)| Parameter {
                name: name.clone(),
                shape: checkpoints[0].tensors()[source.value].shape.clone(),
                sources: std::iter::once(*source)
                    .chain(others.iter().map(|logical| logical[name]))
                    .collect(),
                given_mask: None,
            })
            .collect();
        if parameters.is_empty() {
            return Err(IngredientsError::Nothing);
        }
        if let Some(mask_file) = &mask_file {
            assign_masks(&mut parameters, &checkpoints, mask_file, &select)?;
        }
        Ok(Self {
            checkpoints,
            mask_file,
            parameters,
        })
    }

    /// The checkpoints, in the order in which they are summed.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// The mask file, if one was given.
    pub fn mask_file(&self) -> Option<&Checkpoint> {
        self.mask_file.as_ref()
    }

    /// The parameters, sorted by name.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of checkpoints.
    pub fn count(&self) -> usize {
        self.checkpoints.len()
    }

    /// The tensor of values that an ingredient has for a parameter.
    pub fn value(&self, parameter: &Parameter, ingredient: usize) -> &StoredTensor {
        &self.checkpoints[ingredient].tensors()[parameter.sources[ingredient].value]
    }

    /// The stored mask that an ingredient has for a parameter.
    pub fn stored_mask(&self, parameter: &Parameter, ingredient: usize) -> Option<&StoredTensor> {
        parameter.sources[ingredient]
            .mask
            .map(|mask| &self.checkpoints[ingredient].tensors()[mask])
    }

    /// The mask that the mask file has for a parameter.
    pub fn given_mask(&self, parameter: &Parameter) -> Option<&StoredTensor> {
        Some(&self.mask_file.as_ref()?.tensors()[parameter.given_mask?])
    }
}

type LogicalTensors = BTreeMap<String, Source>;

/// The parameters of a checkpoint, its stored masks taken together with their values.
pub(crate) fn logical_tensors(checkpoint: &Checkpoint) -> Result<LogicalTensors, IngredientsError> {
    let tensors = checkpoint.tensors();
    let mut logical = LogicalTensors::new();
    let mut used = vec![false; tensors.len()];
    for (mask, tensor) in tensors.iter().enumerate() {
        let Some((name, value_name, convention)) = masked_by(&tensor.name, checkpoint) else {
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
        if convention == Convention::TorchPrune && checkpoint.find(&name).is_some() {
            return Err(IngredientsError::StoredTwice {
                path: checkpoint.path().to_owned(),
                tensor: name,
            });
        }
        (used[mask], used[value]) = (true, true);
        logical.insert(
            name,
            Source {
                value,
                mask: Some(mask),
                convention,
            },
        );
    }
    for (value, tensor) in tensors.iter().enumerate() {
        if !used[value] {
            logical.insert(
                tensor.name.clone(),
                Source {
                    value,
                    mask: None,
                    convention: Convention::Plain,
                },
            );
        }
    }
    Ok(logical)
}

/// The parameter, and the tensor of its values, that a tensor called `name` would mask.
fn masked_by(name: &str, checkpoint: &Checkpoint) -> Option<(String, String, Convention)> {
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

/// Refuses masks that were not taken together with a tensor of values.
fn refuse_unknown_masks(
    checkpoint: &Checkpoint,
    logical: &LogicalTensors,
) -> Result<(), IngredientsError> {
    let copied = |name: &str| {
        let masked = masked_by(name, checkpoint).and_then(|(_, value, _)| checkpoint.find(&value));
        masked.is_some_and(|value| {
            checkpoint.tensors()[value].dtype.arithmetic() != Arithmetic::Average
        })
    };
    let unknown = logical.keys().find_map(|name| {
        let what = unknown_mask(name).filter(|_| !copied(name))?;
        Some((name.clone(), what))
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

fn check_mask(
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

fn assign_masks(
    parameters: &mut [Parameter],
    checkpoints: &[Checkpoint],
    mask_file: &Checkpoint,
    select: &impl Fn(&str) -> bool,
) -> Result<(), IngredientsError> {
    for (index, mask) in mask_file.tensors().iter().enumerate() {
        let find =
            |name: &str| parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name));
        let stripped = mask.name.strip_suffix("_mask");
        let found = find(&mask.name).or_else(|missing| stripped.map_or(Err(missing), find));
        let Ok(at) = found else {
            if select(&mask.name) && stripped.is_none_or(select) {
                return Err(IngredientsError::StrayMask {
                    path: mask_file.path().to_owned(),
                    tensor: mask.name.clone(),
                });
            }
            continue;
        };
        let parameter = &mut parameters[at];
        let value = &checkpoints[0].tensors()[parameter.sources[0].value];
        if value.dtype.arithmetic() != Arithmetic::Average {
            return Err(IngredientsError::MaskedDtype {
                path: mask_file.path().to_owned(),
                tensor: parameter.name.clone(),
                found: value.dtype,
            });
        }
        let expected = StoredTensor {
            name: parameter.name.clone(),
            shape: parameter.shape.clone(),
            ..mask.clone()
        };
        check_mask(mask_file, mask, &expected)?;
        parameter.given_mask = Some(index);
    }
    Ok(())
}

fn refuse_differences(
    (first, first_logical): (&Checkpoint, &LogicalTensors),
    (other, other_logical): (&Checkpoint, &LogicalTensors),
    dtypes: DtypeRule,
) -> Result<(), IngredientsError> {
    let mut differences = Vec::new();
    for (name, source) in first_logical {
        let Some(other_source) = other_logical.get(name) else {
            differences.push(Difference::OnlyFirst(name.clone()));
            continue;
        };
        let (a, b) = (
            &first.tensors()[source.value],
            &other.tensors()[other_source.value],
        );
        let are_averaged = a.dtype.arithmetic() == Arithmetic::Average
            && b.dtype.arithmetic() == Arithmetic::Average;
        if a.shape != b.shape {
            differences.push(Difference::Shape(
                name.clone(),
                a.shape.clone(),
                b.shape.clone(),
            ));
        } else if a.dtype != b.dtype && !(dtypes == DtypeRule::AnyFloat && are_averaged) {
            differences.push(Difference::Dtype(name.clone(), a.dtype, b.dtype));
        }
    }
    let only_other = other_logical
        .keys()
        .filter(|name| !first_logical.contains_key(*name));
    differences.extend(only_other.map(|name| Difference::OnlyOther(name.clone())));
    if differences.is_empty() {
        return Ok(());
    }
    Err(IngredientsError::Different {
        first: first.path().to_owned(),
        other: other.path().to_owned(),
        hint: hint(&differences, first_logical, other_logical),
        differences,
    })
}

/// What would make two checkpoints agree, if it is one of the usual things.
fn hint(
    differences: &[Difference],
    first: &LogicalTensors,
    other: &LogicalTensors,
) -> Option<String> {
    let is_averaged = |dtype: Dtype| dtype.arithmetic() == Arithmetic::Average;
    let is_convertible = |difference: &Difference| match difference {
        Difference::Dtype(_, first, other) => is_averaged(*first) && is_averaged(*other),
        _ => false,
    };
    if differences.iter().all(is_convertible) {
        return Some("`--dtype` merges different floating types into one".to_owned());
    }
    if differences
        .iter()
        .any(|difference| matches!(difference, Difference::Dtype(..)))
    {
        return Some("only F16, BF16, F32 and F64 are converted: save both in one type".to_owned());
    }
    for prefix in ["module.", "model.", "_orig_mod."] {
        let strips = |long: &LogicalTensors, short: &LogicalTensors| {
            long.len() == short.len()
                && long.keys().all(|name| {
                    name.strip_prefix(prefix)
                        .is_some_and(|name| short.contains_key(name))
                })
        };
        if strips(first, other) || strips(other, first) {
            return Some(format!(
                "the names differ only by the prefix `{prefix}`: save both without it"
            ));
        }
    }
    let is_missing = |difference: &Difference| {
        matches!(
            difference,
            Difference::OnlyFirst(_) | Difference::OnlyOther(_)
        )
    };
    let some_shared = first.keys().any(|name| other.contains_key(name));
    (some_shared && differences.iter().all(is_missing))
        .then(|| "`--exclude` leaves tensors out".to_owned())
}
