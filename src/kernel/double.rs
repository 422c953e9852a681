//! Double-double numbers: an unevaluated sum of two `f64`, about 106 bits.
//!
//! Only what a weighted mean needs. Each step is the same on every machine:
//! `mul_add` is correctly rounded whether in hardware or not.
//!
//! Source: Hida, Li, Bailey, *Library for double-double and quad-double
//! arithmetic*, 2007; error bounds in Joldes, Muller, Popescu, ACM TOMS 44(2), 2017.

use std::cmp::Ordering;

use super::fraction::exact_mean;
use super::fraction::exact_side;

/// `high + low`, where `high` is their sum rounded to `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Double {
    high: f64,
    low: f64,
}

/// `a + b` as rounded sum and exact error.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// As [`two_sum`], where `|a| >= |b|` or `a` is zero.
#[inline(always)]
fn quick_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
}

impl From<f64> for Double {
    #[inline(always)]
    fn from(value: f64) -> Self {
        Self {
            high: value,
            low: 0.0,
        }
    }
}

impl Double {
    /// `a * b`, exact but for underflow of the low part.
    #[inline(always)]
    fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self {
            high,
            low: a.mul_add(b, -high),
        }
    }

    /// `self + other`, relative error below 2^-103 of the larger operand.
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.add_and_tell(other).0
    }

    /// As [`Double::add`], and whether something was rounded away.
    #[inline(always)]
    fn add_and_tell(self, other: Self) -> (Self, bool) {
        let (sum, error) = two_sum(self.high, other.high);
        let (low_sum, low_error) = two_sum(self.low, other.low);
        let (middle, first_loss) = two_sum(error, low_sum);
        let (sum, error) = quick_two_sum(sum, middle);
        let (low, second_loss) = two_sum(error, low_error);
        let (high, low) = quick_two_sum(sum, low);
        (Self { high, low }, first_loss != 0.0 || second_loss != 0.0)
    }

    /// `self / divisor`: the quotient rounded to `f64`, and the rest.
    #[inline(always)]
    fn divide(self, divisor: Self) -> (f64, f64) {
        let first = self.high / divisor.high;
        let rest = self.minus_scaled(divisor, first);
        let second = rest.high / divisor.high;
        let rest = rest.minus_scaled(divisor, second);
        let third = rest.high / divisor.high;
        let (first, second) = quick_two_sum(first, second);
        (first, second + third)
    }

    /// `self - divisor * factor`.
    #[inline(always)]
    fn minus_scaled(self, divisor: Self, factor: f64) -> Self {
        let high = Self::product(divisor.high, -factor);
        self.add(high).add(Self::product(divisor.low, -factor))
    }
}

/// Error of one addition of double-doubles, relative to its operands: 3 u^2 with
/// u = 2^-53, and a margin for the bound's own rounding.
const ADDITION_ERROR: f64 = 8.0 * (f64::EPSILON / 2.0) * (f64::EPSILON / 2.0);
/// Error of the division, likewise: about 10 u^2.
const DIVISION_ERROR: f64 = 4.0 * ADDITION_ERROR;
/// Below this a low part may have underflowed, and a result may be subnormal.
const SMALLEST_SAFE: f64 = f64::MIN_POSITIVE * (1_u64 << 60) as f64 * (1_u64 << 60) as f64;

/// The divisor of a weighted mean, in double-double and exactly.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Divisor {
    wide: Double,
    /// `Σ|wᵢ| / |Σwᵢ|`, by which the divisor's error grows; 0 if it is exact.
    growth: f64,
    /// The weights that make up the divisor; none for a divisor of 1.
    weights: Vec<f64>,
}

impl Divisor {
    /// The sum of the weights, or 1 for none.
    pub(super) fn new(weights: &[f64]) -> Self {
        let sum = |weights: &[f64]| match weights.split_first() {
            Some((&first, rest)) => {
                let start = (Double::from(first), false);
                rest.iter().fold(start, |(sum, inexact), &weight| {
                    let (sum, error) = sum.add_and_tell(Double::from(weight));
                    (sum, inexact | error)
                })
            }
            None => (Double::from(1.0), false),
        };
        let (wide, inexact) = sum(weights);
        let total: f64 = weights.iter().map(|weight| weight.abs()).sum();
        Self {
            wide,
            growth: if inexact {
                total / wide.high.abs()
            } else {
                0.0
            },
            weights: weights.to_vec(),
        }
    }

    /// Whether it can divide.
    pub(super) fn is_finite_nonzero(&self) -> bool {
        self.wide.high.is_finite() && self.wide.high != 0.0
    }

    /// The double-double that it is: high and low part.
    pub(super) fn parts(&self) -> (f64, f64) {
        (self.wide.high, self.wide.low)
    }

    /// By how much its error grows.
    pub(super) fn growth(&self) -> f64 {
        self.growth
    }

    /// Whether it divides without rounding.
    pub(super) fn is_power_of_two(&self) -> bool {
        self.growth == 0.0 && self.wide.low == 0.0 && is_power_of_two(self.wide.high)
    }
}

/// Whether a number is a power of two, or one with a minus, and no subnormal.
pub(super) fn is_power_of_two(value: f64) -> bool {
    const MANTISSA: u64 = (1 << 52) - 1;
    value.is_normal() && value.to_bits() & MANTISSA == 0
}

/// Weighted mean of one coordinate, `(Σ wᵢ·xᵢ) / d`, rounded once: the `f64` nearest
/// to the exact value, ties to even.
///
/// Where that is to be rounded again to a narrower type, `is_tie` tells of an `f64`
/// whether it lies in the middle between two elements of it. The second rounding can go
/// wrong there alone, where the first one has hidden on which side the exact value lies:
/// then its neighbour on that side is returned.
///
/// Summed in double-double; where that cannot tell which way to round (next to a
/// tie, after cancellation, near overflow or underflow) the exact fraction decides.
/// A non-finite input gives what plain `f64` arithmetic gives, and so do zeros,
/// which keep their sign.
#[inline(always)]
pub(super) fn weighted_mean(
    values: impl Iterator<Item = f64> + Clone,
    weights: &[f64],
    divisor: &Divisor,
    is_tie: impl Fn(f64) -> bool,
) -> f64 {
    let mut sum = Double::from(0.0);
    let mut inexact = false;
    let mut magnitude = 0.0;
    let mut n_terms = 0.0;
    for (value, &weight) in values.clone().zip(weights) {
        let term = Double::product(weight, value);
        magnitude += term.high.abs();
        let (next, error) = sum.add_and_tell(term);
        (sum, inexact) = (next, inexact | error);
        n_terms += 1.0;
    }
    let safe = SMALLEST_SAFE..=1.0 / SMALLEST_SAFE;
    if safe.contains(&magnitude) && safe.contains(&divisor.wide.high.abs()) {
        if !inexact && divisor.is_power_of_two() && sum.high.abs() >= SMALLEST_SAFE {
            let mean = sum.high / divisor.wide.high;
            if safe.contains(&mean.abs()) {
                if !is_tie(mean) {
                    return mean;
                }
                // Of products that are so small, bits or all may be lost.
                let is_tiny = |(value, &weight): (f64, &f64)| {
                    value != 0.0 && weight != 0.0 && (weight * value).abs() < SMALLEST_SAFE
                };
                if !values.clone().zip(weights).any(is_tiny) {
                    return toward(mean, sum.low * divisor.wide.high.signum());
                }
            }
        }
        let (mean, rest) = sum.divide(divisor.wide);
        let scale = magnitude / divisor.wide.high.abs();
        let error = scale * (ADDITION_ERROR * n_terms * (1.0 + divisor.growth) + DIVISION_ERROR);
        let (low, high) = (mean + (rest - error), mean + (rest + error));
        if low == high && safe.contains(&low.abs()) {
            if !is_tie(low) {
                return low;
            }
            let rest = (mean - low) + rest;
            if rest.abs() > error {
                return toward(low, rest);
            }
        }
    }
    let mean = careful_mean(values.clone(), weights, divisor);
    if !is_tie(mean) {
        return mean;
    }
    match exact_side(values.zip(weights.iter().copied()), &divisor.weights, mean) {
        Ordering::Less => toward(mean, -1.0),
        Ordering::Equal => mean,
        Ordering::Greater => toward(mean, 1.0),
    }
}

/// The neighbour of `value`, which is finite and no zero, in the direction of `rest`.
#[inline(always)]
fn toward(value: f64, rest: f64) -> f64 {
    let bits = value.to_bits();
    // Away from zero where the signs are the same.
    let is_away = value.is_sign_negative() == (rest < 0.0);
    match rest == 0.0 {
        true => value,
        false if is_away => f64::from_bits(bits + 1),
        false => f64::from_bits(bits - 1),
    }
}

#[cold]
fn careful_mean(
    values: impl Iterator<Item = f64> + Clone,
    weights: &[f64],
    divisor: &Divisor,
) -> f64 {
    let terms = values.clone().zip(weights);
    let is_plain = terms
        .clone()
        .all(|(value, &weight)| weight * value == 0.0 && value * weight.signum() == 0.0);
    if is_plain || !values.clone().all(f64::is_finite) {
        let mut terms = terms.map(|(value, &weight)| weight * value);
        let first = terms.next().unwrap_or(0.0);
        return terms.fold(first, |sum, term| sum + term) / divisor.wide.high;
    }
    exact_mean(values.zip(weights.iter().copied()), &divisor.weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::float::{BF16, Element, F16, F32, Narrow, is_tie};
    use proptest::prelude::*;

    fn mean(values: &[f64], weights: &[f64]) -> f64 {
        let divisor = Divisor::new(weights);
        weighted_mean(values.iter().copied(), weights, &divisor, |_| false)
    }

    /// Whether an element is the one nearest to the exact mean, ties to even: said by the
    /// middles between it and its neighbours, exactly.
    fn is_nearest<E: Element<Bytes = [u8; N]>, const N: usize>(
        element: [u8; N],
        terms: &[(f64, f64)],
        weights: &[f64],
    ) -> bool {
        let mut bits = [0; 8];
        bits[..N].copy_from_slice(&element);
        let magnitude = u64::from_le_bytes(bits) & !(1 << (8 * N - 1));
        let widen = |magnitude: u64| {
            let mut bytes = [0; N];
            bytes.copy_from_slice(&magnitude.to_le_bytes()[..N]);
            E::widen(bytes)
        };
        // What infinity stands for: the number after the largest.
        let number = |magnitude: u64| match widen(magnitude) {
            value if value.is_finite() => value,
            _ => 2.0 * widen(magnitude - 1) - widen(magnitude - 2),
        };
        let is_negative = element[N - 1] & 0x80 != 0;
        let sign = if is_negative { -1.0 } else { 1.0 };
        let flipped: Vec<(f64, f64)> = terms.iter().map(|&(x, w)| (sign * x, w)).collect();
        let side = |value: f64| exact_side(flipped.iter().copied(), weights, value);
        let is_even = magnitude.is_multiple_of(2);
        let reaches = |side: Ordering, past: Ordering| side == past || (is_even && side.is_eq());
        let is_infinite = !widen(magnitude).is_finite();
        let below = match magnitude {
            0 => side(0.0).is_ge(),
            _ => {
                let middle = f64::midpoint(number(magnitude - 1), number(magnitude));
                reaches(side(middle), Ordering::Greater)
            }
        };
        let above = is_infinite || {
            let middle = f64::midpoint(number(magnitude), number(magnitude + 1));
            reaches(side(middle), Ordering::Less)
        };
        below && above
    }

    /// The mean as an element, and whether that is the nearest one.
    fn narrowed<E: Narrow<Bytes = [u8; N]>, const N: usize>(
        values: &[f64],
        weights: &[f64],
    ) -> (f64, bool) {
        let divisor = Divisor::new(weights);
        let mean = weighted_mean(values.iter().copied(), weights, &divisor, is_tie::<E>);
        let element = E::narrow(mean);
        let terms: Vec<(f64, f64)> = values
            .iter()
            .copied()
            .zip(weights.iter().copied())
            .collect();
        (
            E::widen(element),
            is_nearest::<E, N>(element, &terms, weights),
        )
    }

    #[test]
    fn narrow_elements_are_rounded_once() {
        // In the middle between two halves, and a little beside it that no `f64` holds.
        let (tie, tiny) = (1.0 + 2_f64.powi(-11), 2_f64.powi(-80));
        for (values, expected) in [
            ([tie, tie], 1.0),
            ([tie + 2.0 * tiny, tie], 1.0),
            ([tie, 2.0 * tiny], (1.0 + 2_f64.powi(-10)) / 2.0),
            ([tie, -2.0 * tiny], 0.5),
        ] {
            let found = narrowed::<F16, 2>(&values, &[1.0, 1.0]);
            assert_eq!(found, (expected, true), "{values:?}");
        }
        // Of three, where the sum is not divided exactly.
        let third = 3.0 * tie;
        for (rest, expected) in [
            (tiny, 1.0 + 2_f64.powi(-10)),
            (-tiny, 1.0),
            (0.0, 1.0),
            (1e-300, 1.0 + 2_f64.powi(-10)),
        ] {
            let found = narrowed::<F16, 2>(&[third, rest, 0.0], &[1.0; 3]);
            assert_eq!(found, (expected, true), "{rest:e}");
        }
        // The largest half and the first number that is none.
        let edge = 65520.0;
        assert_eq!(
            narrowed::<F16, 2>(&[2.0 * edge, -tiny], &[1.0; 2]),
            (65504.0, true)
        );
        assert_eq!(
            narrowed::<F16, 2>(&[2.0 * edge, tiny], &[1.0; 2]),
            (f64::INFINITY, true)
        );
    }

    #[test]
    fn exact_where_plain_f64_is_not() {
        let tiny = 2_f64.powi(-60);
        assert_eq!(mean(&[1.0, tiny, -1.0], &[1.0; 3]), tiny / 3.0);
        assert_eq!(mean(&[1e300, 1e-300, -1e300], &[1.0; 3]), 1e-300 / 3.0);
        assert_eq!(mean(&[0.1; 16], &[1.0; 16]), 0.1);
        assert_eq!(mean(&[0.1; 3], &[0.5, 0.3, 0.2]), 0.1);
    }

    #[test]
    fn a_sum_that_overflows_has_a_mean() {
        assert_eq!(mean(&[f64::MAX, f64::MAX], &[1.0, 1.0]), f64::MAX);
        assert_eq!(mean(&[f64::MAX, -f64::MAX, 3.0], &[1.0; 3]), 1.0);
    }

    #[test]
    fn zeros_keep_their_sign() {
        assert_eq!(
            mean(&[-0.0, -0.0], &[1.0, 1.0]).to_bits(),
            (-0.0_f64).to_bits()
        );
        assert_eq!(mean(&[-0.0, 0.0], &[1.0, 1.0]).to_bits(), 0);
        assert_eq!(mean(&[5e-324, -5e-324], &[1.0, 1.0]).to_bits(), 0);
    }

    #[test]
    fn non_finite_inputs_stay_non_finite() {
        assert!(mean(&[f64::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(mean(&[f64::INFINITY, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert!(mean(&[f64::INFINITY, f64::NEG_INFINITY], &[1.0, 1.0]).is_nan());
    }

    /// Numbers of every size, and neighbours whose means are ties.
    fn value() -> impl Strategy<Value = f64> {
        let any_finite = any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("finite", |value| value.is_finite());
        let near_one = (0_u64..8, any::<bool>()).prop_map(|(step, negative)| {
            let value = f64::from_bits(1_f64.to_bits() + step);
            if negative { -value } else { value }
        });
        let subnormal = (0_u64..20).prop_map(f64::from_bits);
        prop_oneof![any_finite, near_one, subnormal, -2.0_f64..2.0]
    }

    /// Numbers of few bits, of which means are in the middle between narrow elements, and
    /// specks that tell on which side of it they are.
    fn coarse() -> impl Strategy<Value = f64> {
        let grid = (
            -(1_i32 << 13)..1 << 13,
            prop_oneof![Just(12), Just(24), Just(37)],
        );
        let grid = grid.prop_map(|(number, places)| f64::from(number) / 2_f64.powi(places));
        let speck = (-400_i32..-30, any::<bool>()).prop_map(|(exponent, negative)| {
            let value = 2_f64.powi(exponent);
            if negative { -value } else { value }
        });
        prop_oneof![4 => grid, 2 => speck, 1 => value(), 1 => 65_000.0_f64..131_100.0]
    }

    proptest! {
        #[test]
        fn the_mean_is_the_exact_one_rounded_once(
            values in prop::collection::vec(value(), 1..6),
            weights in prop::collection::vec(prop_oneof![3 => Just(1.0), 1 => -1.0_f64..3.0], 6),
        ) {
            let weights = &weights[..values.len()];
            let divisor = Divisor::new(weights);
            prop_assume!(divisor.is_finite_nonzero());
            let expected = exact_mean(values.iter().copied().zip(weights.iter().copied()), weights);
            let found = mean(&values, weights);
            prop_assert!(found == expected, "{found:e} is not {expected:e}");
        }

        #[test]
        fn a_narrow_mean_is_the_exact_one_rounded_once(
            values in prop::collection::vec(coarse(), 1..6),
            weights in prop::collection::vec(
                prop_oneof![3 => Just(1.0), 1 => -1.0_f64..3.0, 1 => Just(1e-320)], 6),
        ) {
            let weights = &weights[..values.len()];
            prop_assume!(Divisor::new(weights).is_finite_nonzero());
            let found = [
                narrowed::<F16, 2>(&values, weights),
                narrowed::<BF16, 2>(&values, weights),
                narrowed::<F32, 4>(&values, weights),
            ];
            for (element, is_nearest) in found {
                prop_assert!(is_nearest, "{element:e} of {values:?} and {weights:?}");
            }
        }
    }
}
