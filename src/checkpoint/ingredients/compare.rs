//! Two checkpoints side by side: where they differ in names, shapes and types, and what
//! would make the rest mergeable.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::convention::Located;
use crate::checkpoint::ingredients::Difference;
use crate::checkpoint::ingredients::DtypeRule;
use crate::checkpoint::ingredients::IngredientsError;
use crate::checkpoint::ingredients::Pick;
use crate::checkpoint::ingredients::Remedy;
use crate::checkpoint::ingredients::prefix::prefixes_apart;
use crate::checkpoint::quantised::Quantiser;
use crate::checkpoint::quantised::quantised;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;
use crate::tensor::cover;

/// A checkpoint, its parameters, and those that are quantised.
pub(super) struct Side<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) located: &'a Located<'a>,
    pub(super) codes: BTreeMap<&'a str, Quantiser>,
}

impl<'a> Side<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, located: &'a Located<'a>) -> Self {
        Self {
            checkpoint,
            located,
            codes: quantised(checkpoint),
        }
    }
}

/// Refuses two checkpoints that differ in a tensor that `pick` takes from both.
pub(super) fn refuse_differences(
    first: &Side<'_>,
    other: &Side<'_>,
    dtypes: DtypeRule,
    pick: &impl Fn(&str) -> Pick,
) -> Result<(), IngredientsError> {
    let differences = differences(first, other, dtypes, pick);
    if differences.is_empty() {
        return Ok(());
    }
    let paths = (
        first.checkpoint.path().to_owned(),
        other.checkpoint.path().to_owned(),
    );
    let code = differences.iter().find_map(|difference| {
        let name = difference.name();
        let found = first.codes.get(name).or_else(|| other.codes.get(name))?;
        Some((difference.clone(), *found))
    });
    if let Some((difference, quantiser)) = code {
        return Err(IngredientsError::Quantised {
            first: paths.0,
            other: paths.1,
            difference: Box::new(difference),
            quantiser,
        });
    }
    Err(IngredientsError::Different {
        first: paths.0,
        other: paths.1,
        hint: hint(&differences, first.checkpoint, first.located, other.located)
            .map(String::into_boxed_str),
        remedy: remedy(&differences, first.located, other.located).map(Box::new),
        differences,
    })
}

fn differences(
    first: &Side<'_>,
    other: &Side<'_>,
    dtypes: DtypeRule,
    pick: &impl Fn(&str) -> Pick,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    // Alike in most cases, so the next of the other is looked at before searching.
    let mut others = other.located.iter();
    for (name, source) in first.located.iter() {
        let next = others.next().filter(|&(other_name, _)| other_name == name);
        if pick(name) == Pick::First {
            continue;
        }
        let found = next
            .map(|(_, source)| source)
            .or_else(|| other.located.get(name));
        let Some(other_source) = found else {
            differences.push(Difference::OnlyFirst(name.to_owned()));
            continue;
        };
        let (a, b) = (
            &first.checkpoint.tensors()[source.value],
            &other.checkpoint.tensors()[other_source.value],
        );
        // Codes and their scales are never converted.
        let are_averaged = a.dtype.arithmetic() == Arithmetic::Average
            && b.dtype.arithmetic() == Arithmetic::Average
            && !first.codes.contains_key(name);
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
    let only_other = other
        .located
        .names()
        .filter(|name| first.located.get(name).is_none());
    differences.extend(only_other.map(|name| Difference::OnlyOther(name.to_owned())));
    differences
}

fn is_averaged(dtype: Dtype) -> bool {
    dtype.arithmetic() == Arithmetic::Average
}

/// The types of a tensor that two checkpoints store in different floating types.
fn convertible(difference: &Difference) -> Option<[Dtype; 2]> {
    match difference {
        Difference::Dtype(_, first, other) if is_averaged(*first) && is_averaged(*other) => {
            Some([*first, *other])
        }
        _ => None,
    }
}

/// What would make two checkpoints agree, if it is one of the usual things.
fn hint(
    differences: &[Difference],
    checkpoint: &Checkpoint,
    first: &Located<'_>,
    other: &Located<'_>,
) -> Option<String> {
    if differences.iter().all(|one| convertible(one).is_some()) {
        return Some("`--dtype` merges different floating types into one".to_owned());
    }
    if let Some(prefixes) = prefixes_apart(checkpoint, first, other) {
        return Some(prefixes);
    }
    let is_other_type =
        |one: &Difference| matches!(one, Difference::Dtype(..)) && convertible(one).is_none();
    if differences.iter().any(is_other_type) {
        return Some("only F16, BF16, F32 and F64 are converted".to_owned());
    }
    let some_shared = first.names().any(|name| other.get(name).is_some());
    some_shared.then(|| {
        "`--from-first` takes tensors from the first as they are, `--exclude` leaves them out"
            .to_owned()
    })
}

/// Part of the first's tensors that must go together with the other's: of fewer, these are
/// two models.
const LEAST_ALIKE: usize = 4;

/// Patterns for what differs, if enough is alike.
fn remedy(differences: &[Difference], first: &Located<'_>, other: &Located<'_>) -> Option<Remedy> {
    let mut types = differences.iter().filter_map(convertible).flatten();
    let dtype = types.next().map(|one| {
        let is_wide = one == Dtype::F64 || types.any(|one| one == Dtype::F64);
        if is_wide { Dtype::F64 } else { Dtype::F32 }
    });
    let others = differences.iter().filter(|one| convertible(one).is_none());
    let (only_other, first_gives): (Vec<&Difference>, Vec<&Difference>) =
        others.partition(|one| matches!(one, Difference::OnlyOther(_)));
    let n_first = first.names().count();
    let n_alike = n_first - first_gives.len();
    if n_alike == 0 || LEAST_ALIKE * n_alike < n_first {
        return None;
    }

    // A pattern for some must match no tensor that is merged.
    let patterns = |wanted: Vec<&Difference>, all: &Located<'_>| {
        let wanted: Vec<&str> = wanted.into_iter().map(Difference::name).collect();
        let is_wanted: std::collections::BTreeSet<&str> = wanted.iter().copied().collect();
        let rest: Vec<&str> = all
            .names()
            .chain(first.names())
            .filter(|name| !is_wanted.contains(name))
            .collect();
        cover(&wanted, &rest)
    };
    let remedy = Remedy {
        first_gives: patterns(first_gives, first),
        only_other: patterns(only_other, other),
        dtype,
    };
    (remedy != Remedy::default()).then_some(remedy)
}
