//! Scores as whole numbers whose order is that of the scores: bytes of elements walk
//! in, keys walk out.

use half::f16;

use crate::tensor::Dtype;

/// Key of a coordinate that is pruned already; larger than any score.
pub(super) const EXCLUDED: u64 = u64::MAX;

/// How magnitudes become keys: the bits of `|w|` as the narrower float that holds all
/// of them exactly, so that keys of different element types can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// Bits of an `f32`, for F16, BF16 and F32.
    Single,
    /// Bits of an `f64`.
    Double,
}

impl Width {
    /// Bits of the significand that are stored.
    fn stored_bits(self) -> u32 {
        match self {
            Self::Single => 23,
            Self::Double => 52,
        }
    }

    /// Key of infinity; the keys of NaN are larger.
    pub(super) fn infinity(self) -> u64 {
        match self {
            Self::Single => u64::from(f32::INFINITY.to_bits()),
            Self::Double => f64::INFINITY.to_bits(),
        }
    }

    /// The magnitude that a key stands for.
    pub(super) fn magnitude(self, key: u64) -> f64 {
        match self {
            Self::Single => f64::from(f32::from_bits(key as u32)),
            Self::Double => f64::from_bits(key),
        }
    }

    /// The significand as a whole number, and the exponent field that goes with it.
    pub(super) fn parts(self, key: u64) -> (u64, u32) {
        let stored_bits = self.stored_bits();
        let fraction = key & ((1 << stored_bits) - 1);
        match (key >> stored_bits) as u32 {
            // Subnormal: the exponent of the smallest normal number, no leading one.
            0 => (fraction, 1),
            exponent => (fraction | 1 << stored_bits, exponent),
        }
    }

    /// Bits behind the binary point of a significand.
    pub(super) fn fraction_bits(self) -> u32 {
        self.stored_bits()
    }

    /// Keys of the magnitudes of F16, BF16, F32 or F64 elements, one per element.
    pub(super) fn keys(self, dtype: Dtype, bytes: &[u8], keys: &mut [u64]) {
        match (self, dtype) {
            (Self::Single, Dtype::F32) => fill(bytes, keys, |b| single(u32::from_le_bytes(b))),
            (Self::Single, Dtype::BF16) => fill(bytes, keys, |b| {
                single(u32::from(u16::from_le_bytes(b)) << 16)
            }),
            (Self::Single, Dtype::F16) => fill(bytes, keys, |b| {
                single(f16::from_le_bytes(b).to_f32().to_bits())
            }),
            (Self::Double, Dtype::F32) => {
                fill(bytes, keys, |b| double(f64::from(f32::from_le_bytes(b))))
            }
            (Self::Double, Dtype::BF16) => fill(bytes, keys, |b| {
                double(f64::from(f32::from_bits(
                    u32::from(u16::from_le_bytes(b)) << 16,
                )))
            }),
            (Self::Double, Dtype::F16) => fill(bytes, keys, |b| {
                double(f64::from(f16::from_le_bytes(b).to_f32()))
            }),
            (_, _) => fill(bytes, keys, |b| double(f64::from_le_bytes(b))),
        }
    }
}

fn single(bits: u32) -> u64 {
    u64::from(bits & 0x7fff_ffff)
}

fn double(value: f64) -> u64 {
    value.to_bits() & (u64::MAX >> 1)
}

#[inline(always)]
fn fill<const N: usize>(bytes: &[u8], keys: &mut [u64], key: impl Fn([u8; N]) -> u64) {
    for (&element, out) in bytes.as_chunks::<N>().0.iter().zip(keys) {
        *out = key(element);
    }
}

/// What LAMP scores of one tensor are measured in; see
/// [`Distribution::Lamp`](crate::prune::Distribution::Lamp).
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    width: Width,
    /// Exponent field of the largest magnitude.
    exponent: u32,
    /// Bits behind the binary point of a sum of squares.
    fraction_bits: u32,
}

impl Scale {
    /// The scale of a tensor of `numel` elements, the largest magnitude of which has
    /// the key `largest`.
    pub(super) fn new(width: Width, largest: u64, numel: u64) -> Self {
        Self {
            width,
            exponent: width.parts(largest).1,
            // A square is below 4, so their sum stays below 2^126.
            fraction_bits: 124 - (u64::BITS - numel.leading_zeros()),
        }
    }

    /// The square of a magnitude that is at most the largest, truncated.
    #[inline(always)]
    pub(super) fn square(self, key: u64) -> u128 {
        let (significand, exponent) = self.width.parts(key);
        let square = u128::from(significand) * u128::from(significand);
        let drop = 2 * (self.exponent - exponent) + 2 * self.width.fraction_bits();
        match self.fraction_bits.checked_sub(drop) {
            Some(shift) => square << shift,
            None => square >> (drop - self.fraction_bits).min(127),
        }
    }

    /// The score of a magnitude; `sum` holds the squares of all that are no smaller,
    /// its own included.
    pub(super) fn score(self, key: u64, sum: u128) -> f64 {
        let (significand, exponent) = self.width.parts(key);
        let one = significand as f64 * power_of_two(self.width.fraction_bits());
        let scaled = one * power_of_two(self.exponent - exponent);
        let sum = sum as f64 * power_of_two(self.fraction_bits);
        if sum == 0.0 {
            0.0
        } else {
            scaled * scaled / sum
        }
    }
}

/// `2^-negated`, or 0 where that is no normal number.
fn power_of_two(negated: u32) -> f64 {
    match 1023_u64.checked_sub(u64::from(negated)) {
        Some(field) => f64::from_bits(field << 52),
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(width: Width, value: f64) -> u64 {
        let mut keys = [0];
        width.keys(Dtype::F64, &value.to_le_bytes(), &mut keys);
        match width {
            Width::Double => keys[0],
            Width::Single => u64::from((value as f32).abs().to_bits()),
        }
    }

    #[test]
    fn keys_are_ordered_as_magnitudes_and_give_them_back() {
        let halves: Vec<u8> = [0x8000_u16, 0x0001, 0xbc00, 0x7bff, 0x7c00]
            .iter()
            .flat_map(|bits| bits.to_le_bytes())
            .collect();
        for width in [Width::Single, Width::Double] {
            let mut keys = [0; 5];
            width.keys(Dtype::F16, &halves, &mut keys);
            let magnitudes = keys.map(|key| width.magnitude(key));
            assert_eq!(
                magnitudes,
                [0.0, 2_f64.powi(-24), 1.0, 65504.0, f64::INFINITY]
            );
            assert!(keys.is_sorted());
            assert_eq!(keys[4], width.infinity());
            let bytes: Vec<u8> = [-1.5_f32, f32::MAX, f32::from_bits(1), f32::NAN]
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let mut keys = [0; 4];
            width.keys(Dtype::F32, &bytes, &mut keys);
            assert_eq!(width.magnitude(keys[0]), 1.5);
            assert_eq!(width.magnitude(keys[1]), f64::from(f32::MAX));
            assert_eq!(width.magnitude(keys[2]), f64::from(f32::from_bits(1)));
            assert!(keys[3] > width.infinity());
            let mut keys = [0; 2];
            width.keys(Dtype::BF16, &[0x80, 0xbf, 0x00, 0x40], &mut keys);
            assert_eq!(keys.map(|key| width.magnitude(key)), [1.0, 2.0]);
        }
    }

    #[test]
    fn squares_are_exact_where_they_can_be() {
        for width in [Width::Single, Width::Double] {
            let scale = Scale::new(width, key_of(width, 3.0), 1000);
            // 1000 has 10 bits; 3 is 1.5 * 2, so squares are in units of 4 * 2^-114.
            let unit = |square: u128| square << (114 - 2);
            assert_eq!(scale.square(key_of(width, 3.0)), unit(9));
            assert_eq!(scale.square(key_of(width, -1.0)), unit(1));
            assert_eq!(
                scale.square(key_of(width, 2_f64.powi(-30))),
                1 << (112 - 60)
            );
            assert_eq!(scale.square(0), 0);
            assert_eq!(scale.score(key_of(width, 3.0), unit(9)), 1.0);
            assert_eq!(scale.score(key_of(width, 1.0), unit(10)), 0.1);
            assert_eq!(scale.score(0, unit(10)), 0.0);
        }
        let tiny = key_of(Width::Double, 2_f64.powi(-60));
        let scale = Scale::new(Width::Double, key_of(Width::Double, 1.0), 1000);
        assert_eq!(scale.square(tiny), 0, "below the unit");
    }

    #[test]
    fn the_largest_and_the_smallest_doubles_have_scores() {
        for largest in [f64::MAX, f64::from_bits(1), f64::MIN_POSITIVE] {
            let key = key_of(Width::Double, largest);
            let scale = Scale::new(Width::Double, key, 2);
            let square = scale.square(key);
            assert_eq!(scale.score(key, 2 * square), 0.5, "{largest:e}");
            assert_eq!(scale.score(0, square), 0.0);
        }
        let scale = Scale::new(Width::Double, key_of(Width::Double, f64::MAX), 2);
        assert_eq!(scale.square(1), 0);
        assert_eq!(scale.score(1, scale.square(scale_max())), 0.0);
    }

    fn scale_max() -> u64 {
        key_of(Width::Double, f64::MAX)
    }
}
