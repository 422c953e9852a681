//! Widening to `f64` and one rounding back, in plain integer and float steps
//! that a compiler can turn into vector code.
//!
//! `half` is not used here: its `f64` to `f16` conversion goes through `f32`
//! where the processor has F16C, and so rounds twice.

/// `f32` of an IEEE half, exact.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    let sign = u32::from(bits & 0x8000) << 16;
    // Shifted into place the exponent is 112 too small; the product is exact,
    // subnormals included.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23);
    let special = f32::from_bits(0x7f80_0000 | (magnitude << 13));
    let value = if magnitude >= 0x7c00 { special } else { scaled };
    f32::from_bits(value.to_bits() | sign)
}

/// `value` rounded to odd: truncated, and the last bit set if that was inexact.
/// Rounding the result once more to at most 22 bits is as good as rounding
/// `value` itself.
#[inline(always)]
fn f64_to_f32_odd(value: f64) -> u32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    // A NaN compares false twice and stays as it is.
    let past = u32::from(back.abs() > value.abs());
    let inexact = u32::from((back < value) | (back > value));
    (nearest.to_bits() - past) | inexact
}

#[inline(always)]
fn f64_to_bf16(value: f64) -> u16 {
    let bits = f64_to_f32_odd(value);
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fc0
    } else {
        rounded
    }
}

#[inline(always)]
fn f64_to_f16(value: f64) -> u16 {
    let bits = f64_to_f32_odd(value);
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal halves: rebias the exponent by -112 and round 13 bits away.
    let normal = (magnitude
        .wrapping_sub(112 << 23)
        .wrapping_add(0xfff + ((magnitude >> 13) & 1))
        >> 13) as u16;
    // Subnormal halves: adding 0.5 puts the half's last place (2^-24) at the
    // float's last place, so the addition rounds, to even.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5_f32.to_bits()) as u16;
    // 65520 is the tie between the largest half and the first one that is not.
    let finite = if magnitude < 113 << 23 {
        subnormal
    } else {
        normal
    };
    let finite = if magnitude >= 0x477f_f000 {
        0x7c00
    } else {
        finite
    };
    if magnitude > 0x7f80_0000 {
        0x7e00
    } else {
        sign | finite
    }
}

/// Conversion between stored elements and `f64`.
///
/// Every NaN narrows to the one quiet NaN with no payload and no sign: which
/// payload survives arithmetic differs between processors.
pub(super) trait Element: Copy {
    /// Bytes of one element.
    type Bytes: Copy;

    fn widen(bytes: Self::Bytes) -> f64;
    fn narrow(value: f64) -> Self::Bytes;
}

/// Whether a number lies in the middle between two neighbouring elements of a type that
/// is narrower than `f64`, infinity for one: of what is cut off its significand, only the
/// first bit is set.
#[inline(always)]
pub(super) fn is_tie<E: Narrow>(value: f64) -> bool {
    let bits = value.to_bits();
    // Of F32, the type that keeps most, 29 bits are cut off.
    if bits & ((1 << 28) - 1) != 0 {
        return false;
    }
    let exponent = (bits >> 52 & 0x7ff) as i32 - 1023;
    let cut = 53 - E::PRECISION + (E::SMALLEST_EXPONENT - exponent).max(0);
    let significand = (bits & ((1 << 52) - 1)) | 1 << 52;
    cut <= 53 && significand & ((1 << cut) - 1) == 1 << (cut - 1) && exponent < 1024
}

/// A type that is narrower than `f64`.
pub(super) trait Narrow: Element {
    /// Bits of a significand, the leading one included.
    const PRECISION: i32;
    /// Exponent of the smallest normal number.
    const SMALLEST_EXPONENT: i32;
}

impl Narrow for F16 {
    const PRECISION: i32 = 11;
    const SMALLEST_EXPONENT: i32 = -14;
}

impl Narrow for BF16 {
    const PRECISION: i32 = 8;
    const SMALLEST_EXPONENT: i32 = -126;
}

impl Narrow for F32 {
    const PRECISION: i32 = 24;
    const SMALLEST_EXPONENT: i32 = -126;
}

macro_rules! element {
    ($name:ident, $bytes:literal, $integer:ty, |$bits:ident| $widen:expr, |$value:ident| $narrow:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Element for $name {
            type Bytes = [u8; $bytes];

            #[inline(always)]
            fn widen(bytes: Self::Bytes) -> f64 {
                let $bits = <$integer>::from_le_bytes(bytes);
                $widen
            }

            #[inline(always)]
            fn narrow($value: f64) -> Self::Bytes {
                let bits: $integer = $narrow;
                bits.to_le_bytes()
            }
        }
    };
}

element!(F16, 2, u16, |bits| f64::from(f16_to_f32(bits)), |value| {
    f64_to_f16(value)
});
element!(
    BF16,
    2,
    u16,
    |bits| f64::from(f32::from_bits(u32::from(bits) << 16)),
    |value| f64_to_bf16(value)
);
element!(
    F32,
    4,
    u32,
    |bits| f64::from(f32::from_bits(bits)),
    |value| {
        if value.is_nan() {
            0x7fc0_0000
        } else {
            (value as f32).to_bits()
        }
    }
);
element!(F64, 8, u64, |bits| f64::from_bits(bits), |value| {
    if value.is_nan() {
        0x7ff8 << 48
    } else {
        value.to_bits()
    }
});

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_half_widens_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32_const());
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#06x}"
            );
        }
    }

    /// Every representable value, every midpoint between neighbours, and both
    /// sides of each, must round to the nearest, ties to even.
    fn check_narrowing(narrow: fn(f64) -> u16, widen: fn(u16) -> f64, infinity: u16) {
        let step = 2_f64.powi(-52);
        for bits in 0..infinity {
            let low = widen(bits);
            // The value after the largest finite one, had the format one more exponent.
            let high = if bits + 1 == infinity {
                2.0 * low - widen(bits - 1)
            } else {
                widen(bits + 1)
            };
            let middle = f64::midpoint(low, high);
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            for sign in [1.0, -1.0] {
                let signed = |bits| if sign < 0.0 { bits | 0x8000 } else { bits };
                assert_eq!(narrow(sign * low), signed(bits), "{low:e}");
                assert_eq!(narrow(sign * middle), signed(even), "tie at {middle:e}");
                assert_eq!(
                    narrow(sign * middle * (1.0 - step)),
                    signed(bits),
                    "below {middle:e}"
                );
                assert_eq!(
                    narrow(sign * middle * (1.0 + step)),
                    signed(bits + 1),
                    "above {middle:e}"
                );
            }
        }
        for (value, expected) in [
            (f64::INFINITY, infinity),
            (f64::MAX, infinity),
            (f64::MIN_POSITIVE, 0),
        ] {
            assert_eq!(narrow(value), expected);
            assert_eq!(narrow(-value), expected | 0x8000);
        }
        assert!(widen(narrow(f64::NAN)).is_nan() && narrow(-f64::NAN) == narrow(f64::NAN));
    }

    #[test]
    fn f16_rounds_once_to_even() {
        check_narrowing(f64_to_f16, |bits| f16::from_bits(bits).to_f64(), 0x7c00);
    }

    #[test]
    fn bf16_rounds_once_to_even() {
        check_narrowing(f64_to_bf16, |bits| bf16::from_bits(bits).to_f64(), 0x7f80);
    }

    #[test]
    fn ties_are_the_middles_between_elements() {
        fn check<E: Narrow<Bytes = [u8; 2]>>(infinity: u16) {
            for bits in 0..infinity - 1 {
                let [low, high] = [bits, bits + 1].map(|bits| E::widen(bits.to_le_bytes()));
                let middle = f64::midpoint(low, high);
                for value in [middle, -middle] {
                    assert!(is_tie::<E>(value), "{value:e}");
                    let beside = f64::from_bits(value.to_bits() + 1);
                    assert!(!is_tie::<E>(beside) && !is_tie::<E>(low), "{value:e}");
                }
            }
            assert!(!is_tie::<E>(f64::INFINITY) && !is_tie::<E>(f64::NAN));
        }
        check::<F16>(0x7c00);
        check::<BF16>(0x7f80);
        assert!(is_tie::<F16>(65520.0));
        for (value, expected) in [
            (1.0 + 2_f64.powi(-24), true),
            (1.0 + 2_f64.powi(-23), false),
            (2_f64.powi(-150), true),
            (3.0 * 2_f64.powi(-150), true),
            (2_f64.powi(-149), false),
        ] {
            assert_eq!(is_tie::<F32>(value), expected, "{value:e}");
        }
    }

    #[test]
    fn the_half_crate_rounds_twice_where_the_processor_has_f16c() {
        // Just above the tie of 1 and 1 + 2^-10: the excess is lost in an f32.
        let value = 1.0 + 2_f64.powi(-11) + 2_f64.powi(-40);
        assert_eq!(f64_to_f16(value), 0x3c01);
    }
}
