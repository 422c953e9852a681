//! The weighted mean of columns of `f64`, as the definition rounds it.

use super::Column;
use crate::kernel::Weights;
use crate::kernel::double::weighted_mean;
use crate::kernel::float::{BF16, F16, F32, is_tie};
use crate::tensor::Dtype;

#[inline(always)]
pub(super) fn mean_of_columns(means: &mut [f64], columns: &[Column], weights: &Weights) {
    // Two columns at once, so that sums are stored and read again half as often.
    let (pairs, last) = columns.as_chunks::<2>();
    let (pairs_of_weights, last_weight) = weights.factors().as_chunks::<2>();
    for (index, ([a, b], [of_a, of_b])) in pairs.iter().zip(pairs_of_weights).enumerate() {
        let terms = means.iter_mut().zip(a.iter().zip(b));
        if index == 0 {
            terms.for_each(|(mean, (a, b))| *mean = of_a * a + of_b * b);
        } else {
            terms.for_each(|(mean, (a, b))| *mean = *mean + of_a * a + of_b * b);
        }
    }
    if let ([column], [weight]) = (last, last_weight) {
        let terms = means.iter_mut().zip(column);
        if pairs.is_empty() {
            terms.for_each(|(mean, value)| *mean = weight * value);
        } else {
            terms.for_each(|(mean, value)| *mean += weight * value);
        }
    }
    match weights.exact_reciprocal() {
        Some(reciprocal) => means.iter_mut().for_each(|mean| *mean *= reciprocal),
        None => {
            let divisor = weights.divisor();
            means.iter_mut().for_each(|mean| *mean /= divisor);
        }
    }
}

#[inline(always)]
pub(super) fn wide_mean_of_columns(
    means: &mut [f64],
    columns: &[Column],
    weights: &Weights,
    out_dtype: Dtype,
) {
    match out_dtype {
        Dtype::F16 => wide_means(means, columns, weights, is_tie::<F16>),
        Dtype::BF16 => wide_means(means, columns, weights, is_tie::<BF16>),
        Dtype::F32 => wide_means(means, columns, weights, is_tie::<F32>),
        _ => wide_means(means, columns, weights, |_| false),
    }
}

#[inline(always)]
fn wide_means(
    means: &mut [f64],
    columns: &[Column],
    weights: &Weights,
    is_tie: impl Fn(f64) -> bool + Copy,
) {
    for (index, mean) in means.iter_mut().enumerate() {
        let values = columns.iter().map(|column| column[index]);
        *mean = weighted_mean(values, weights.factors(), weights.wide_divisor(), is_tie);
    }
}
