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
    let divisor = weights.divisor();
    match exact_reciprocal(divisor) {
        Some(reciprocal) => means.iter_mut().for_each(|mean| *mean *= reciprocal),
        None => means.iter_mut().for_each(|mean| *mean /= divisor),
    }
}

/// The number by which multiplying is dividing by `divisor`, and faster, if there is one:
/// of a power of two the reciprocal is exact, so both round the same number.
fn exact_reciprocal(divisor: f64) -> Option<f64> {
    const MANTISSA: u64 = (1 << 52) - 1;
    let reciprocal = divisor.recip();
    let is_power_of_two = divisor.is_normal() && divisor.to_bits() & MANTISSA == 0;
    (is_power_of_two && reciprocal.is_normal()).then_some(reciprocal)
}

#[inline(always)]
pub(super) fn wide_mean_of_columns(means: &mut [f64], columns: &[Column], weights: &Weights) {
    for (index, mean) in means.iter_mut().enumerate() {
        let values = columns.iter().map(|column| column[index]);
        *mean = weighted_mean(values, weights.values(), weights.wide_divisor());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_have_an_exact_reciprocal() {
        let check = |divisor, expected| assert_eq!(exact_reciprocal(divisor), expected);
        check(1.0, Some(1.0));
        check(4.0, Some(0.25));
        check(-0.5, Some(-2.0));
        for divisor in [0.0, 3.0, 4.000_000_000_000_001, f64::MIN_POSITIVE / 2.0] {
            check(divisor, None);
        }
        // Its reciprocal would be subnormal, of which the processor may think differently.
        check(2_f64.powi(1023), None);
        for value in [1.0 / 3.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, -0.0] {
            assert_eq!((value * 0.25).to_bits(), (value / 4.0).to_bits(), "{value}");
        }
    }
}
