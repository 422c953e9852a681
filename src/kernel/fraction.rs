//! A weighted mean as an exact fraction, for the coordinates where nothing less can
//! tell which way to round.

use std::cmp::Ordering;

use num_bigint::BigInt;
use num_bigint::Sign;

/// Exponent of the last place of the smallest subnormal.
const LAST_PLACE: i32 = -1074;
/// Bits of a mantissa, the leading one included.
const PRECISION: u64 = 53;

/// `(Σ wᵢ·xᵢ) / Σ dᵢ` rounded once to `f64`, ties to even; the divisor is 1 if there
/// are no `dᵢ`. All numbers must be finite, and the divisor not zero. An exact zero
/// is `+0`.
pub(super) fn exact_mean(terms: impl Iterator<Item = (f64, f64)>, divisors: &[f64]) -> f64 {
    let (numerator, divisor) = (numerator(terms), divisor(divisors));
    let is_negative = (numerator.sign() == Sign::Minus) != (divisor.sign() == Sign::Minus);
    let magnitude = round(&numerator, &divisor);
    if is_negative { -magnitude } else { magnitude }
}

/// On which side of `value` the exact mean lies: `Greater` if it is larger. All as for
/// [`exact_mean`].
pub(super) fn exact_side(
    terms: impl Iterator<Item = (f64, f64)>,
    divisors: &[f64],
    value: f64,
) -> Ordering {
    let divisor = divisor(divisors);
    let (mantissa, shift) = decompose(value);
    // In units of 2^-2148, as the numerator.
    let scaled = (&divisor * mantissa) << shift;
    let side = numerator(terms).cmp(&scaled);
    match divisor.sign() {
        Sign::Minus => side.reverse(),
        _ => side,
    }
}

/// `Σ wᵢ·xᵢ` in units of 2^-2148, twice the last place.
fn numerator(terms: impl Iterator<Item = (f64, f64)>) -> BigInt {
    let terms = terms.map(|(value, weight)| {
        let ((value, value_shift), (weight, weight_shift)) = (decompose(value), decompose(weight));
        (BigInt::from(value) * weight) << (value_shift + weight_shift)
    });
    terms.sum()
}

/// The sum of the divisors, or 1 for none, in units of 2^-1074.
fn divisor(divisors: &[f64]) -> BigInt {
    if divisors.is_empty() {
        return BigInt::from(1) << LAST_PLACE.unsigned_abs();
    }
    let divisors = divisors.iter().map(|&divisor| {
        let (mantissa, shift) = decompose(divisor);
        BigInt::from(mantissa) << shift
    });
    divisors.sum()
}

/// `value = mantissa * 2^(shift - 1074)`.
fn decompose(value: f64) -> (i64, u32) {
    let bits = value.to_bits();
    let field = (bits >> 52) as u32 & 0x7ff;
    let fraction = (bits & ((1 << 52) - 1)) as i64;
    let (mantissa, shift) = if field == 0 {
        (fraction, 0)
    } else {
        (fraction | 1 << 52, field - 1)
    };
    (if value < 0.0 { -mantissa } else { mantissa }, shift)
}

/// `|numerator / divisor|` in units of the last place, rounded to 53 bits.
fn round(numerator: &BigInt, divisor: &BigInt) -> f64 {
    let (numerator, divisor) = (numerator.magnitude(), divisor.magnitude());
    // Too small by one at most, so that the quotient has 53 or 54 bits.
    let mut shift = (numerator.bits() + 1).saturating_sub(divisor.bits() + PRECISION + 1);
    let mut scaled = divisor << shift;
    let mut quotient = numerator / &scaled;
    if quotient.bits() > PRECISION {
        shift += 1;
        scaled = divisor << shift;
        quotient = numerator / &scaled;
    }
    let doubled_rest = (numerator - &quotient * &scaled) << 1_u32;
    let mut mantissa = quotient.iter_u64_digits().next().unwrap_or(0);
    if doubled_rest > scaled || (doubled_rest == scaled && mantissa % 2 == 1) {
        mantissa += 1;
    }
    // The leading one of a normal mantissa adds one to the exponent's field, and a
    // carry out of the mantissa another.
    let infinity = f64::INFINITY.to_bits();
    let bits = (shift.min(2047) << 52).saturating_add(mantissa);
    f64::from_bits(bits.min(infinity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_round_to_nearest_even() {
        let check = |terms: &[(f64, f64)], divisors: &[f64], expected: f64| {
            let found = exact_mean(terms.iter().copied(), divisors);
            assert_eq!(found.to_bits(), expected.to_bits(), "{terms:?}");
        };
        let next = |value: f64, steps| f64::from_bits(value.to_bits() + steps);
        check(&[(1.0, 1.0)], &[], 1.0);
        check(&[(1.0, 1.0)], &[3.0], 1.0 / 3.0);
        check(&[(2.0, -1.0)], &[-3.0], 2.0 / 3.0);
        check(&[(-2.0, 1.0)], &[3.0], -2.0 / 3.0);
        // Ties: to the even neighbour, up and down.
        check(&[(1.0, 1.0), (next(1.0, 1), 1.0)], &[2.0], 1.0);
        check(
            &[(next(1.0, 1), 1.0), (next(1.0, 2), 1.0)],
            &[2.0],
            next(1.0, 2),
        );
        check(&[(5e-324, 1.0)], &[2.0], 0.0);
        check(&[(5e-324, 3.0)], &[2.0], 1e-323);
        // From the subnormal into the normal, into the next power of two, and out.
        check(
            &[(f64::from_bits((1 << 52) - 1), 1.0), (5e-324, 1.0)],
            &[],
            f64::MIN_POSITIVE,
        );
        check(&[(next(2.0, 0), 1.0), (-f64::EPSILON / 4.0, 1.0)], &[], 2.0);
        check(&[(f64::MAX, 1.0), (f64::MAX, 1.0)], &[2.0], f64::MAX);
        check(&[(f64::MAX, 2.0)], &[], f64::INFINITY);
        check(
            &[(f64::MAX, f64::MAX), (f64::MAX, -f64::MAX), (3.0, 1.0)],
            &[],
            3.0,
        );
    }
}
