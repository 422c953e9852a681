//! How the factors of one module of a soup come about, and in which scale.

use crate::adapter::Adapter;
use crate::adapter::AdapterError;
use crate::adapter::Module;
use crate::adapter::Naming;
use crate::adapter::Scaling;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::kernel::Normalization;
use crate::kernel::Weights;
use crate::kernel::store;
use crate::merge::MergeError;
use crate::merge::adapters::Products;
use crate::merge::adapters::plan::Member;
use crate::merge::adapters::plan::Piece;
use crate::merge::adapters::plan::PlannedModule;
use crate::merge::adapters::plan::Rule;
use crate::merge::options::MergeOptions;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// The rule for one module, the scale of its product, and its tensors.
pub(super) fn plan_module(
    name: &str,
    checkpoints: &[Checkpoint],
    adapters: &[Adapter],
    options: &MergeOptions,
) -> Result<PlannedModule, MergeError> {
    let values = options.weights.values();
    let divisor = options.weights.divisor();
    let members = adapters
        .iter()
        .enumerate()
        .filter_map(|(ingredient, adapter)| {
            let module = adapter.modules.get(name)?.clone();
            let coefficient = values[ingredient] * module.alpha / (divisor * module.divisor);
            Some(Member {
                ingredient,
                module,
                coefficient,
            })
        });
    let mut members: Vec<Member> = members.collect();
    refuse_unlike(name, checkpoints, &members, options)?;
    let first = members[0].clone();
    let tensor = |index: usize| &checkpoints[first.ingredient].tensors()[index];
    let is_shared = members.len() == checkpoints.len();
    let shared = match is_shared {
        true => shared(checkpoints, &members, options)?,
        false => None,
    };

    // Where the scale is a tensor, it is rounded first, and factors take up the rest.
    let alphas = members.iter();
    let mut alphas = alphas.filter_map(|member| {
        let index = member.module.alpha_tensor?;
        Some(&checkpoints[member.ingredient].tensors()[index])
    });
    let alpha_like = alphas.next();
    let has_alpha = alpha_like.is_some() || first.module.naming == Naming::Kohya;
    let alpha_dtype = alpha_like.map_or(tensor(first.module.down).dtype, |like| like.dtype);
    let rounded = |alpha: f64| match has_alpha {
        true => store(&mut [0; 8], alpha_dtype, 0, alpha),
        false => alpha,
    };
    let is_unit = !has_alpha && !matches!(adapters[0].scaling, Scaling::Config(_));

    let (mut rule, mut rank, mut alpha) = match shared {
        Some((rule, scale)) if !is_unit || scale == 1.0 => {
            let rank = first.module.rank;
            (rule, rank, rounded(scale * rank as f64))
        }
        _ => {
            let dtype = options.dtype.unwrap_or(tensor(first.module.up).dtype);
            let (rank, alpha) = stack(&mut members, options, dtype, is_unit, rounded);
            (Rule::Stacked, rank, alpha)
        }
    };
    if let Some(Products::Rank { rank: most }) = options.adapters
        && rank > most
    {
        (rule, rank, alpha) = (Rule::Truncated, most, rounded(most as f64));
    }
    let resized = |like: &StoredTensor, dim: usize| {
        let mut dims = like.shape.dims().to_vec();
        dims[dim] = rank;
        Piece {
            name: like.name.clone(),
            dtype: options.dtype.unwrap_or(like.dtype),
            // Larger than any file is refused by the layout.
            shape: Shape::new(dims).unwrap_or_else(|| like.shape.clone()),
            offset: 0,
        }
    };
    let biases = members.iter();
    let mut biases = biases.filter_map(|member| {
        let index = member.module.bias?;
        Some(&checkpoints[member.ingredient].tensors()[index])
    });
    Ok(PlannedModule {
        down: resized(tensor(first.module.down), 0),
        up: resized(tensor(first.module.up), 1),
        bias: biases.next().map(|like| Piece {
            name: like.name.clone(),
            dtype: options.dtype.unwrap_or(like.dtype),
            shape: like.shape.clone(),
            offset: 0,
        }),
        alpha_tensor: has_alpha.then(|| Piece {
            name: alpha_like.map_or_else(|| format!("{name}.alpha"), |like| like.name.clone()),
            dtype: alpha_dtype,
            shape: alpha_like.map_or_else(scalar, |like| like.shape.clone()),
            offset: 0,
        }),
        name: name.to_owned(),
        rule,
        rank,
        alpha,
        members,
    })
}

/// The shape of a tensor without dimensions.
fn scalar() -> Shape {
    Shape::new([]).expect("one element is few enough")
}

/// Refuses products that cannot be added, and types that differ.
fn refuse_unlike(
    name: &str,
    checkpoints: &[Checkpoint],
    members: &[Member],
    options: &MergeOptions,
) -> Result<(), AdapterError> {
    let tensor = |member: &Member, index: usize| &checkpoints[member.ingredient].tensors()[index];
    let of = |member: &Member| {
        let (down, up) = (
            tensor(member, member.module.down),
            tensor(member, member.module.up),
        );
        let outputs = up.shape.dims().first().copied();
        let inputs = down.shape.dims()[1..].to_vec();
        (outputs, inputs, down.dtype, up.dtype)
    };
    let first = of(&members[0]);
    for member in &members[1..] {
        let own = of(member);
        let is_typed = options.dtype.is_some() || (own.2, own.3) == (first.2, first.3);
        let is_named = member.module.naming == members[0].module.naming;
        if (&own.0, &own.1) == (&first.0, &first.1) && is_typed && is_named {
            continue;
        }
        let reason = match (is_named, is_typed) {
            (false, _) => format!("the factors of `{name}` have other names"),
            (_, false) => format!(
                "the factors of `{name}` are {} and {}; `--dtype` merges them into one type",
                first.2, own.2
            ),
            _ => format!(
                "`{name}` has {:?} outputs and {:?} inputs there, and {:?} and {:?} here",
                first.0.unwrap_or(0),
                first.1,
                own.0.unwrap_or(0),
                own.1
            ),
        };
        return Err(AdapterError::Mixed {
            first: checkpoints[members[0].ingredient].path().to_owned(),
            other: checkpoints[member.ingredient].path().to_owned(),
            reason,
        });
    }
    Ok(())
}

/// The rule for products that share a factor, and the scale of their mean.
fn shared(
    checkpoints: &[Checkpoint],
    members: &[Member],
    options: &MergeOptions,
) -> Result<Option<(Rule, f64)>, MergeError> {
    let scale = members[0].module.scale();
    let is_scaled = members
        .iter()
        .all(|member| member.module.scale().to_bits() == scale.to_bits());
    let total: f64 = members.iter().map(|member| member.coefficient).sum();
    let is_convex = members.iter().all(|member| member.coefficient >= 0.0) && total > 0.0;
    let (weights, scale) = match (is_scaled, is_convex) {
        (true, _) => (options.weights.clone(), scale),
        (false, true) => {
            let coefficients = members.iter().map(|member| member.coefficient).collect();
            (Weights::new(coefficients, Normalization::SumToOne)?, total)
        }
        (false, false) => return Ok(None),
    };
    if is_same(checkpoints, members, |module| module.down)? {
        return Ok(Some((Rule::SharedDown(weights), scale)));
    }
    match is_same(checkpoints, members, |module| module.up)? {
        true => Ok(Some((Rule::SharedUp(weights), scale))),
        false => Ok(None),
    }
}

/// Whether a factor has the same bits in all ingredients.
fn is_same(
    checkpoints: &[Checkpoint],
    members: &[Member],
    which: impl Fn(&Module) -> usize,
) -> Result<bool, MergeError> {
    let tensor = |member: &Member| &checkpoints[member.ingredient].tensors()[which(&member.module)];
    let first = tensor(&members[0]);
    let (mut first_bytes, mut scratch) = (Vec::new(), Vec::new());
    let numel = first.shape.numel();
    let expected = checkpoints[members[0].ingredient].read(first, 0, numel, &mut first_bytes)?;
    for member in &members[1..] {
        let own = tensor(member);
        if own.dtype != first.dtype || own.shape != first.shape {
            return Ok(false);
        }
        if checkpoints[member.ingredient].read(own, 0, numel, &mut scratch)? != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Chooses the scale of stacked factors so that no more is rounded than has to be. Returns
/// rank and alpha.
///
/// That of the first adapter, if all coefficients are powers of two then; else that with
/// which the largest coefficient is 1: with equal weights, ranks and scales all are.
fn stack(
    members: &mut Vec<Member>,
    options: &MergeOptions,
    dtype: Dtype,
    is_unit: bool,
    rounded: impl Fn(f64) -> f64,
) -> (u64, f64) {
    let values = options.weights.values();
    // What has no weight takes no rank.
    if members
        .iter()
        .any(|member| values[member.ingredient] != 0.0)
    {
        members.retain(|member| values[member.ingredient] != 0.0);
    }
    let rank: u64 = members.iter().map(|member| member.module.rank).sum();
    let divisor = options.weights.divisor();
    // For whole numbers numerator and denominator are exact.
    let coefficient = |member: &Member, alpha: f64| {
        let numerator = values[member.ingredient] * member.module.alpha * rank as f64;
        numerator / (divisor * member.module.divisor * alpha)
    };
    let is_fit = |alpha: &f64| *alpha > 0.0 && alpha.is_finite();

    let unit = rounded(rank as f64);
    let first = &members[0].module;
    let first = rounded(first.alpha * rank as f64 / first.divisor);
    // An F16 that is halved can be too small to keep all bits.
    let may_keep = dtype != Dtype::F16 && is_fit(&first);
    let mut coefficients = members.iter().map(|member| coefficient(member, first));
    let alpha = match may_keep && coefficients.all(is_power_of_two) {
        _ if is_unit => unit,
        true => first,
        false => {
            let sizes = members.iter().map(|member| coefficient(member, 1.0).abs());
            let largest = rounded(sizes.fold(0.0, f64::max));
            if is_fit(&largest) { largest } else { unit }
        }
    };
    for member in members {
        member.coefficient = coefficient(member, alpha);
    }
    (rank, alpha)
}

/// Whether multiplying by this changes the exponent of a number only.
fn is_power_of_two(value: f64) -> bool {
    value.is_normal() && value.to_bits() & ((1 << 52) - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_told() {
        for value in [1.0, -2.0, 0.25, 1024.0] {
            assert!(is_power_of_two(value), "{value}");
        }
        for value in [0.0, 3.0, 1.0 / 3.0, f64::INFINITY, f64::NAN, 5e-324] {
            assert!(!is_power_of_two(value), "{value}");
        }
    }
}
