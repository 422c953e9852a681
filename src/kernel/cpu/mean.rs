//! The weighted mean of columns of `f64`, as the definition rounds it.

use super::Column;
use crate::kernel::Weights;
use crate::kernel::double::weighted_mean;

#[inline(always)]
pub(super) fn mean_of_columns(means: &mut [f64], columns: &[Column], weights: &Weights) {
    let mut terms = columns.iter().zip(weights.values());
    if let Some((column, &weight)) = terms.next() {
        for (mean, &value) in means.iter_mut().zip(column.iter()) {
            *mean = weight * value;
        }
    }
    for (column, &weight) in terms {
        for (mean, &value) in means.iter_mut().zip(column.iter()) {
            *mean += weight * value;
        }
    }
    let divisor = weights.divisor();
    for mean in means {
        *mean /= divisor;
    }
}

#[inline(always)]
pub(super) fn wide_mean_of_columns(means: &mut [f64], columns: &[Column], weights: &Weights) {
    for (index, mean) in means.iter_mut().enumerate() {
        let values = columns.iter().map(|column| column[index]);
        *mean = weighted_mean(values, weights.values(), weights.wide_divisor());
    }
}
