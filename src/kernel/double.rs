//! Double-double numbers: an unevaluated sum of two `f64`, about 106 bits.
//!
//! Only what a weighted mean needs. Each step is the same on every machine:
//! `mul_add` is correctly rounded whether in hardware or not.
//!
//! Source: Hida, Li, Bailey, *Library for double-double and quad-double
//! arithmetic*, 2007; error bounds in Joldes, Muller, Popescu, ACM TOMS 44(2), 2017.

/// `high + low`, where `high` is their sum rounded to `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Double {
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
    pub(super) fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self {
            high,
            low: a.mul_add(b, -high),
        }
    }

    /// `self + other`, relative error below 2^-103 of the larger operand.
    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        let (sum, error) = two_sum(self.high, other.high);
        let (low_sum, low_error) = two_sum(self.low, other.low);
        let (sum, error) = quick_two_sum(sum, error + low_sum);
        let (high, low) = quick_two_sum(sum, error + low_error);
        Self { high, low }
    }

    /// `self / divisor`, its high part rounded to `f64`.
    #[inline(always)]
    fn divide(self, divisor: Self) -> Self {
        let first = self.high / divisor.high;
        let rest = self.minus_scaled(divisor, first);
        let second = rest.high / divisor.high;
        let rest = rest.minus_scaled(divisor, second);
        let third = rest.high / divisor.high;
        let (first, second) = quick_two_sum(first, second);
        // `first` is the quotient rounded once `second` and `third` agree on the rest.
        let (high, low) = quick_two_sum(first, second + third);
        Self { high, low }
    }

    /// `self - divisor * factor`.
    #[inline(always)]
    fn minus_scaled(self, divisor: Self, factor: f64) -> Self {
        let high = Self::product(divisor.high, -factor);
        self.add(high).add(Self::product(divisor.low, -factor))
    }

    pub(super) fn is_finite_nonzero(self) -> bool {
        self.high.is_finite() && self.high != 0.0
    }
}

/// Weighted mean in double-double of one coordinate: `(Σ wᵢ·xᵢ) / d`.
///
/// Finite inputs whose sum overflows are summed again scaled by 2^-16 (exact
/// but for bits far below the result), those whose mean is tiny scaled by 2^256,
/// because the low part of a product is lost below the subnormals. A non-finite
/// input gives what plain `f64` arithmetic gives.
#[inline(always)]
pub(super) fn weighted_mean(
    values: impl Iterator<Item = f64> + Clone,
    weights: &[f64],
    divisor: Double,
) -> f64 {
    let mean = scaled_mean(values.clone(), weights, divisor, 1.0).high;
    if (LEAST_SAFE..=f64::MAX).contains(&mean.abs()) {
        mean
    } else if mean.is_finite() {
        tiny_mean(mean, values, weights, divisor)
    } else {
        overflowed_mean(values, weights, divisor)
    }
}

#[inline(always)]
fn scaled_mean(
    values: impl Iterator<Item = f64>,
    weights: &[f64],
    divisor: Double,
    scale: f64,
) -> Double {
    let mut terms = values
        .zip(weights)
        .map(|(value, &weight)| Double::product(weight, value * scale));
    let Some(first) = terms.next() else {
        return Double::from(0.0);
    };
    terms.fold(first, Double::add).divide(divisor)
}

/// Means below 2^-900 are computed again: their products' low parts may underflow.
const LEAST_SAFE: f64 = f64::from_bits((1023 - 900) << 52);

#[cold]
fn tiny_mean(
    unscaled: f64,
    values: impl Iterator<Item = f64> + Clone,
    weights: &[f64],
    divisor: Double,
) -> f64 {
    /// 2^256.
    const SCALE: f64 = f64::from_bits((1023 + 256) << 52);
    /// 2^818: takes a scaled mean to multiples of the least subnormal.
    const TO_UNITS: f64 = f64::from_bits((1023 + 1074 - 256) << 52);
    if values.clone().all(|value| value == 0.0) {
        return unscaled;
    }
    let Double { high, low } = scaled_mean(values, weights, divisor, SCALE);
    if !high.is_finite() {
        // Large values cancelled, beside which the low parts of others are nothing.
        return unscaled;
    }
    if high.abs() >= f64::MIN_POSITIVE * SCALE {
        return high / SCALE;
    }
    // The result is subnormal, so it is rounded here, from all bits: to the nearest
    // multiple of the least subnormal, ties to even.
    let units = high.abs() * TO_UNITS;
    let rest = low * high.signum();
    let whole = units.floor();
    let fraction = units - whole;
    let is_odd = whole as u64 % 2 == 1;
    let rounds_up = fraction > 0.5 || fraction == 0.5 && (rest > 0.0 || rest == 0.0 && is_odd);
    f64::from_bits(whole as u64 + u64::from(rounds_up)).copysign(high)
}

#[cold]
fn overflowed_mean(
    values: impl Iterator<Item = f64> + Clone,
    weights: &[f64],
    divisor: Double,
) -> f64 {
    if values.clone().all(f64::is_finite) {
        const SCALE: f64 = 65_536.0;
        return scaled_mean(values, weights, divisor, 1.0 / SCALE).high * SCALE;
    }
    let mut terms = values.zip(weights).map(|(value, &weight)| weight * value);
    let first = terms.next().unwrap_or(0.0);
    terms.fold(first, |sum, term| sum + term) / divisor.high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], weights: &[f64]) -> f64 {
        let divisor = weights[1..]
            .iter()
            .fold(Double::from(weights[0]), |sum, &w| sum.add(Double::from(w)));
        weighted_mean(values.iter().copied(), weights, divisor)
    }

    #[test]
    fn exact_where_plain_f64_is_not() {
        // 1 + 2^-60 is lost in f64, and decides a tie in the mean of three.
        let tiny = 2_f64.powi(-60);
        assert_eq!(mean(&[1.0, tiny, -1.0], &[1.0; 3]), tiny / 3.0);
        assert_eq!(mean(&[0.1; 16], &[1.0; 16]), 0.1);
        assert_eq!(mean(&[0.1; 3], &[0.5, 0.3, 0.2]), 0.1);
    }

    #[test]
    fn a_sum_that_overflows_has_a_mean() {
        assert_eq!(mean(&[f64::MAX, f64::MAX], &[1.0, 1.0]), f64::MAX);
        assert_eq!(mean(&[f64::MAX, -f64::MAX, 3.0], &[1.0; 3]), 1.0);
    }

    #[test]
    fn subnormal_means_are_rounded_once() {
        let least = f64::from_bits(1);
        let units = |n: u64| f64::from_bits(n);
        // (2 * 80 + 0.25 * 83) / 2.25 = 80.33, and 79 if each product is rounded.
        assert_eq!(mean(&[units(80), units(83)], &[2.0, 0.25]), units(80));
        assert_eq!(mean(&[units(112)], &[0.001]), units(112));
        assert_eq!(mean(&[least, -least], &[0.0, 0.7]), -least);
        // 1.5 and 2.5 units are ties.
        assert_eq!(mean(&[units(1), units(2)], &[1.0; 2]), units(2));
        assert_eq!(mean(&[units(2), units(3)], &[1.0; 2]), units(2));
        assert_eq!(mean(&[-units(2), -units(3)], &[1.0; 2]), -units(2));
        assert_eq!(mean(&[units(1), 0.0, 0.0], &[1.0; 3]), 0.0);
        // From the smallest normal numbers; the exact mean ends in a third.
        let (a, b) = (units(0x22d5801961eef5), units(0x326c0d7787131c));
        assert_eq!(mean(&[a, b], &[2.0, 0.25]), units(0x24d5ca311fbc35));
        let largest = units((1 << 52) - 1);
        assert_eq!(
            mean(&[largest, f64::MIN_POSITIVE], &[1.0; 2]),
            f64::MIN_POSITIVE
        );
        assert_eq!(mean(&[0.0, -0.0], &[1.0; 2]).to_bits(), 0);
    }

    #[test]
    fn non_finite_inputs_stay_non_finite() {
        assert!(mean(&[f64::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(mean(&[f64::INFINITY, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert!(mean(&[f64::INFINITY, f64::NEG_INFINITY], &[1.0, 1.0]).is_nan());
    }
}
