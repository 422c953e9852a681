//! Operations that round nothing: comparing, choosing and checking elements.

use std::cmp::Ordering;

use crate::kernel::KernelError;
use crate::tensor::Dtype;

/// Index of the first element in which `a` and `b` differ; both hold elements of
/// `bits` bits. For packed types, an element of the first differing byte.
pub fn first_difference(a: &[u8], b: &[u8], bits: u64) -> Option<u64> {
    if a == b {
        return None;
    }
    let byte = a
        .iter()
        .zip(b)
        .position(|(a, b)| a != b)
        .unwrap_or(a.len().min(b.len()));
    Some(byte as u64 * 8 / bits)
}

/// Index of the first element that is neither 0 nor 1; `-0` is 0.
pub fn first_not_flag(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    let one: &[u8] = match dtype {
        Dtype::F16 => &[0x00, 0x3c],
        Dtype::BF16 => &[0x80, 0x3f],
        Dtype::F32 => &[0, 0, 0x80, 0x3f],
        Dtype::F64 => &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        _ => &[1, 0, 0, 0, 0, 0, 0, 0][..(dtype.bits() / 8).max(1) as usize],
    };
    let sign = if dtype.is_float() { 0x80 } else { 0 };
    bytes.chunks_exact(one.len()).position(|element| {
        let (last, rest) = element.split_last().unwrap_or((&0, &[]));
        let is_zero = last & !sign == 0 && rest.iter().all(|&byte| byte == 0);
        element != one && !is_zero
    })
}

/// Writes mask bits as elements 0 and 1.
pub fn write_flags(out: &mut [u8], dtype: Dtype, mask: &[u64]) {
    let width = (dtype.bits() / 8).max(1) as usize;
    let mut one = [0; 8];
    match dtype {
        Dtype::F16 => one[..2].copy_from_slice(&[0x00, 0x3c]),
        Dtype::BF16 => one[..2].copy_from_slice(&[0x80, 0x3f]),
        Dtype::F32 => one[..4].copy_from_slice(&1_f32.to_le_bytes()),
        Dtype::F64 => one = 1_f64.to_le_bytes(),
        _ => one[0] = 1,
    }
    for (index, element) in out.chunks_exact_mut(width).enumerate() {
        if mask[index / 64] >> (index % 64) & 1 == 1 {
            element.copy_from_slice(&one[..width]);
        } else {
            element.fill(0);
        }
    }
}

/// Writes the largest of the inputs' elements; `true` is larger than `false`.
///
/// # Errors
/// [`KernelError::Dtype`] for types that are not integers or booleans.
pub fn maximum(out: &mut [u8], dtype: Dtype, inputs: &[&[u8]]) -> Result<(), KernelError> {
    let is_signed = match dtype {
        Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => true,
        Dtype::Bool | Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => false,
        _ => {
            return Err(KernelError::Dtype {
                dtype,
                operation: "reduced to the largest",
            });
        }
    };
    let width = (dtype.bits() / 8) as usize;
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let elements = inputs.iter().map(|input| &input[index * width..][..width]);
        if let Some(largest) = elements.max_by(|a, b| compare(a, b, is_signed)) {
            out.copy_from_slice(largest);
        }
    }
    Ok(())
}

/// Order of two little-endian integers of one width.
fn compare(a: &[u8], b: &[u8], is_signed: bool) -> Ordering {
    // Flipping the sign bit turns two's complement order into unsigned order.
    let flip = if is_signed { 0x80 } else { 0 };
    let top = |bytes: &[u8]| bytes.last().map(|byte| byte ^ flip);
    top(a)
        .cmp(&top(b))
        .then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_counted_in_elements() {
        assert_eq!(first_difference(&[1, 2, 3, 4], &[1, 2, 3, 4], 32), None);
        assert_eq!(first_difference(&[1, 2, 3, 4], &[1, 2, 3, 5], 16), Some(1));
        assert_eq!(first_difference(&[1, 2], &[1, 3], 4), Some(2));
        assert_eq!(first_difference(&[1, 2], &[1], 8), Some(1));
    }

    #[test]
    fn flags_are_zero_and_one_in_every_type() {
        for &dtype in Dtype::ALL {
            if dtype.bits() < 8
                || dtype == Dtype::C64
                || dtype.is_float() && dtype.bits() == 8
                || dtype == Dtype::F8E8M0
            {
                continue;
            }
            let width = (dtype.bits() / 8) as usize;
            let mut bytes = vec![7; 3 * width];
            write_flags(&mut bytes, dtype, &[0b101]);
            assert_eq!(first_not_flag(dtype, &bytes), None, "{dtype}");
            assert!(
                bytes[..width] == bytes[2 * width..]
                    && bytes[width..2 * width].iter().all(|&byte| byte == 0)
            );
            bytes[2 * width] ^= 2;
            assert_eq!(first_not_flag(dtype, &bytes), Some(2), "{dtype}");
        }
        assert_eq!(first_not_flag(Dtype::F32, &(-0.0_f32).to_le_bytes()), None);
        assert_eq!(first_not_flag(Dtype::I8, &[0x80]), Some(0));
        assert_eq!(first_not_flag(Dtype::F32, &0.5_f32.to_le_bytes()), Some(0));
    }

    #[test]
    fn the_largest_integer() {
        let check = |dtype, inputs: &[&[u8]], expected: &[u8]| {
            let mut out = vec![0; expected.len()];
            maximum(&mut out, dtype, inputs).unwrap();
            assert_eq!(out, expected, "{dtype}");
        };
        check(
            Dtype::I64,
            &[
                &(-5_i64).to_le_bytes(),
                &3_i64.to_le_bytes(),
                &2_i64.to_le_bytes(),
            ],
            &3_i64.to_le_bytes(),
        );
        check(
            Dtype::U64,
            &[&u64::MAX.to_le_bytes(), &3_u64.to_le_bytes()],
            &u64::MAX.to_le_bytes(),
        );
        check(
            Dtype::I16,
            &[&300_i16.to_le_bytes(), &(-301_i16).to_le_bytes()],
            &300_i16.to_le_bytes(),
        );
        check(Dtype::Bool, &[&[0, 1, 0], &[1, 1, 0]], &[1, 1, 0]);
        assert!(maximum(&mut [0; 4], Dtype::F32, &[&[0; 4]]).is_err());
    }
}
