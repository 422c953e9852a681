//! The weighted mean of columns of `f64`, as the definition rounds it.

use super::Column;
use crate::kernel::Weights;
use crate::kernel::double::weighted_mean;

#[inline(always)]
pub(super) fn mean_of_columns(means: &mut [f64], columns: &[Column], weights: &Weights) {
    // Two columns at once, so that sums are stored and read again half as often.
    let (pairs, last) = columns.as_chunks::<2>();
    let (pairs_of_weights, last_weight) = weights.values().as_chunks::<2>();
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
pub(super) fn wide_mean_of_columns(means: &mut [f64], columns: &[Column], weights: &Weights) {
    for (index, mean) in means.iter_mut().enumerate() {
        let values = columns.iter().map(|column| column[index]);
        *mean = weighted_mean(values, weights.values(), weights.wide_divisor());
    }
}
