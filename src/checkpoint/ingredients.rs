//! From checkpoints to ingredients: the same parameters, in the same order.

mod compare;
mod error;
mod prefix;

use std::collections::BTreeSet;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::convention::Located;
use crate::checkpoint::convention::Source;
use crate::checkpoint::convention::check_mask;
use crate::checkpoint::quantised::Quantiser;
use crate::tensor::Arithmetic;
use crate::tensor::Shape;

use compare::Side;
use compare::refuse_differences;

pub use error::Difference;
pub use error::IngredientsError;
pub use error::Remedy;

/// Where a tensor of the soup comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// It is left out.
    Nowhere,
    /// From every ingredient; all must have it.
    Everyone,
    /// From the first ingredient, as it is, whatever the others have of that name.
    First,
}

/// A tensor that all ingredients have, or that the first one gives.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name, without the suffix of a stored mask convention.
    pub name: String,
    /// Its dimensions, row-major.
    pub shape: Shape,
    /// Where each ingredient has it; of what the first one gives, where that has it.
    pub sources: Box<[Source]>,
    /// Who gives it.
    pub pick: Pick,
    /// Who quantised it, if it is a part of a weight that was.
    pub quantiser: Option<Quantiser>,
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

/// What is selected, in every checkpoint.
fn everywhere(select: impl Fn(&str) -> bool) -> impl Fn(&str) -> Pick {
    move |name| match select(name) {
        true => Pick::Everyone,
        false => Pick::Nowhere,
    }
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
        Self::join_picked(checkpoints, mask_file, dtypes, everywhere(select))
    }

    /// Finds the parameters that `pick` takes, each in the checkpoints that it says.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_picked(
        checkpoints: Vec<Checkpoint>,
        mask_file: Option<Checkpoint>,
        dtypes: DtypeRule,
        pick: impl Fn(&str) -> Pick,
    ) -> Result<Self, IngredientsError> {
        let joined = Self::join_any(checkpoints, mask_file, dtypes, pick)?;
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
        Self::join_any(checkpoints, mask_file, dtypes, everywhere(select))
    }

    fn join_any(
        checkpoints: Vec<Checkpoint>,
        mask_file: Option<Checkpoint>,
        dtypes: DtypeRule,
        pick: impl Fn(&str) -> Pick,
    ) -> Result<Self, IngredientsError> {
        let select = |name: &str| pick(name) != Pick::Nowhere;
        let mut parameters = parameters(&checkpoints, dtypes, &pick)?;
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

    /// The checkpoints that have a parameter: all, or the first alone where that gives it.
    pub fn having(&self, parameter: &Parameter) -> &[Checkpoint] {
        &self.checkpoints[..parameter.sources.len()]
    }

    /// Names of tensors that some checkpoint has and no parameter is, stored masks taken
    /// together with their values. Each once, sorted.
    pub fn left_out(&self) -> Vec<String> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for checkpoint in &self.checkpoints {
            let located = Located::new(checkpoint, |_| true);
            let located = located.iter().flat_map(Located::names);
            let is_parameter = |name: &str| {
                let found = self
                    .parameters
                    .binary_search_by(|parameter| parameter.name.as_str().cmp(name));
                found.is_ok()
            };
            names.extend(
                located
                    .filter(|name| !is_parameter(name))
                    .map(str::to_owned),
            );
        }
        names.into_iter().collect()
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

/// What `pick` takes of these checkpoints, sorted by name.
fn parameters(
    checkpoints: &[Checkpoint],
    dtypes: DtypeRule,
    pick: &impl Fn(&str) -> Pick,
) -> Result<Vec<Parameter>, IngredientsError> {
    let mut resolved = Vec::with_capacity(checkpoints.len());
    for checkpoint in checkpoints {
        let located = Located::new(checkpoint, |name| pick(name) != Pick::Nowhere)?;
        // One checkpoint alone is only looked at.
        if checkpoints.len() > 1 {
            located.refuse_unknown_masks(checkpoint)?;
        }
        resolved.push(located);
    }
    let (Some((first, rest)), Some((located, others))) =
        (checkpoints.split_first(), resolved.split_first())
    else {
        return Err(IngredientsError::None);
    };
    let of_first = Side::new(first, located);
    for (checkpoint, located) in rest.iter().zip(others) {
        refuse_another_graph(first, checkpoint)?;
        refuse_differences(&of_first, &Side::new(checkpoint, located), dtypes, pick)?;
    }

    // All have the same names but those that the first one gives, and all are sorted.
    let mut others: Vec<_> = others.iter().map(Located::iter).collect();
    let parameter = |(name, source): (&str, Source)| {
        let pick = pick(name);
        let mut sources = vec![source];
        if pick == Pick::Everyone {
            let found = others.iter_mut().filter_map(|other| {
                let mut other = other.skip_while(|(other, _)| *other != name);
                Some(other.next()?.1)
            });
            sources.extend(found);
        }
        Parameter {
            name: name.to_owned(),
            shape: first.tensors()[source.value].shape.clone(),
            sources: sources.into(),
            pick,
            quantiser: of_first.codes.get(name).copied(),
            given_mask: None,
        }
    };
    Ok(located.iter().map(parameter).collect())
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
        if parameter.pick == Pick::First {
            // Its mask is the first ingredient's, as all of it is.
            continue;
        }
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
