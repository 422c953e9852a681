//! From checkpoints to ingredients: the same parameters, in the same order.

mod error;
mod prefix;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::convention::Located;
use crate::checkpoint::convention::Source;
use crate::checkpoint::convention::check_mask;
use crate::checkpoint::ingredients::prefix::prefixes_apart;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;
use crate::tensor::Shape;

pub use error::Difference;
pub use error::IngredientsError;

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
        let joined = Self::join_part(checkpoints, mask_file, dtypes, select)?;
        if joined.parameters.is_empty() {
            let first = &joined.checkpoints[0];
            if first.tensors().is_empty() {
                let path = first.path().to_owned();
                return Err(IngredientsError::Empty { path });
            }
            return Err(IngredientsError::Nothing);
        }
        Ok(joined)
    }

    /// The same, where `select` may pick nothing: what it leaves out is somebody else's.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_part(
        checkpoints: Vec<Checkpoint>,
        mask_file: Option<Checkpoint>,
        dtypes: DtypeRule,
        select: impl Fn(&str) -> bool,
    ) -> Result<Self, IngredientsError> {
        let mut resolved = Vec::with_capacity(checkpoints.len());
        for checkpoint in &checkpoints {
            let located = Located::new(checkpoint, &select)?;
            // One checkpoint alone is only looked at.
            if checkpoints.len() > 1 {
                located.refuse_unknown_masks(checkpoint)?;
            }
            resolved.push(located);
        }
        for (checkpoint, logical) in checkpoints.iter().zip(&resolved).skip(1) {
            refuse_another_graph(&checkpoints[0], checkpoint)?;
            refuse_differences(
                (&checkpoints[0], &resolved[0]),
                (checkpoint, logical),
                dtypes,
            )?;
        }
        let Some((first, others)) = resolved.split_first() else {
            return Err(IngredientsError::None);
        };
        // All have the same names, and all are sorted.
        let mut others: Vec<_> = others.iter().map(Located::iter).collect();
        let mut parameters: Vec<Parameter> = first
            .iter()
            .map(|(name, source)| Parameter {
                name: name.to_owned(),
                shape: checkpoints[0].tensors()[source.value].shape.clone(),
                sources: std::iter::once(source)
                    .chain(others.iter_mut().filter_map(|other| Some(other.next()?.1)))
                    .collect(),
                given_mask: None,
            })
            .collect();
        drop(others);
        if let Some(mask_file) = &mask_file {
            assign_masks(&mut parameters, &checkpoints[0], mask_file, &select)?;
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

    /// The checkpoints and the mask file, apart again.
    pub fn into_checkpoints(self) -> (Vec<Checkpoint>, Option<Checkpoint>) {
        (self.checkpoints, self.mask_file)
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

fn assign_masks(
    parameters: &mut [Parameter],
    first: &Checkpoint,
    mask_file: &Checkpoint,
    select: &impl Fn(&str) -> bool,
) -> Result<(), IngredientsError> {
    for (index, mask, name) in mask_file.masks() {
        let find =
            |name: &str| parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name));
        let stripped = name.strip_suffix("_mask");
        let found = find(name).or_else(|missing| stripped.map_or(Err(missing), find));
        let Ok(at) = found else {
            if select(name) && stripped.is_none_or(select) {
                return Err(IngredientsError::StrayMask {
                    path: mask_file.path().to_owned(),
                    tensor: mask.name.clone(),
                });
            }
            continue;
        };
        let parameter = &mut parameters[at];
        let value = &first.tensors()[parameter.sources[0].value];
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

/// Refuses models whose graphs differ, and a model beside what is none: whether weights
/// were folded when it was exported cannot be seen by their names.
fn refuse_another_graph(first: &Checkpoint, other: &Checkpoint) -> Result<(), IngredientsError> {
    let paths = || (first.path().to_owned(), other.path().to_owned());
    match (first.model(), other.model()) {
        (Some(_), Some(_)) => match first.graph_difference(other)? {
            None => Ok(()),
            Some(place) => {
                let (first, other) = paths();
                Err(IngredientsError::Graph {
                    first,
                    other,
                    place,
                })
            }
        },
        (None, None) => Ok(()),
        (Some(_), None) => {
            let (model, other) = paths();
            Err(IngredientsError::ModelAndOther { model, other })
        }
        (None, Some(_)) => {
            let (other, model) = paths();
            Err(IngredientsError::ModelAndOther { model, other })
        }
    }
}

fn refuse_differences(
    (first, first_logical): (&Checkpoint, &Located<'_>),
    (other, other_logical): (&Checkpoint, &Located<'_>),
    dtypes: DtypeRule,
) -> Result<(), IngredientsError> {
    let mut differences = Vec::new();
    // Alike in most cases, so the next of the other is looked at before searching.
    let mut others = other_logical.iter();
    for (name, source) in first_logical.iter() {
        let next = others.next().filter(|&(other_name, _)| other_name == name);
        let found = next
            .map(|(_, source)| source)
            .or_else(|| other_logical.get(name));
        let Some(other_source) = found else {
            differences.push(Difference::OnlyFirst(name.to_owned()));
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
                name.to_owned(),
                a.shape.clone(),
                b.shape.clone(),
            ));
        } else if a.dtype != b.dtype && !(dtypes == DtypeRule::AnyFloat && are_averaged) {
            differences.push(Difference::Dtype(name.to_owned(), a.dtype, b.dtype));
        }
    }
    let only_other = other_logical
        .names()
        .filter(|name| first_logical.get(name).is_none());
    differences.extend(only_other.map(|name| Difference::OnlyOther(name.to_owned())));
    if differences.is_empty() {
        return Ok(());
    }
    Err(IngredientsError::Different {
        first: first.path().to_owned(),
        other: other.path().to_owned(),
        hint: hint(&differences, first, first_logical, other_logical),
        differences,
    })
}

/// What would make two checkpoints agree, if it is one of the usual things.
fn hint(
    differences: &[Difference],
    checkpoint: &Checkpoint,
    first: &Located<'_>,
    other: &Located<'_>,
) -> Option<String> {
    let is_averaged = |dtype: Dtype| dtype.arithmetic() == Arithmetic::Average;
    let is_convertible = |difference: &Difference| match difference {
        Difference::Dtype(_, first, other) => is_averaged(*first) && is_averaged(*other),
        _ => false,
    };
    if differences.iter().all(is_convertible) {
        return Some("`--dtype` merges different floating types into one".to_owned());
    }
    let is_dtype = |difference: &Difference| matches!(difference, Difference::Dtype(..));
    if differences.iter().any(is_dtype) {
        return Some("only F16, BF16, F32 and F64 are converted: save both in one type".to_owned());
    }
    if let Some(prefixes) = prefixes_apart(checkpoint, first, other) {
        return Some(prefixes);
    }
    let is_missing = |difference: &Difference| {
        matches!(
            difference,
            Difference::OnlyFirst(_) | Difference::OnlyOther(_)
        )
    };
    let some_shared = first.names().any(|name| other.get(name).is_some());
    (some_shared && differences.iter().all(is_missing))
        .then(|| "`--exclude` leaves tensors out".to_owned())
}
