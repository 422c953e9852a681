//! Bits of masks: which elements are not zero, and what stands at set bits.

use crate::tensor::Dtype;

/// Sets the bits of `words` whose elements are not zero; `-0` is zero.
pub(super) fn nonzero(words: &mut [u64], dtype: Dtype, bytes: &[u8]) {
    let sign = u32::from(dtype.is_float());
    match dtype.bits() {
        8 => fill(words, bytes, |b: [u8; 1]| b[0] << sign != 0),
        16 => fill(words, bytes, |b| u16::from_le_bytes(b) << sign != 0),
        32 => fill(words, bytes, |b| u32::from_le_bytes(b) << sign != 0),
        _ => fill(words, bytes, |b| u64::from_le_bytes(b) << sign != 0),
    }
}

#[inline(always)]
fn fill<const N: usize>(words: &mut [u64], bytes: &[u8], is_set: impl Fn([u8; N]) -> bool) {
    let elements = bytes.as_chunks::<N>().0;
    for (word, elements) in words.iter_mut().zip(elements.chunks(64)) {
        *word = elements
            .iter()
            .rev()
            .fold(0, |bits, &element| bits << 1 | u64::from(is_set(element)));
    }
}

/// Index of the first element that is neither 0 nor 1; `-0` is 0.
pub(super) fn first_not_flag(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    let one: &[u8] = match dtype {
        Dtype::F16 => &[0x00, 0x3c],
        Dtype::BF16 => &[0x80, 0x3f],
        Dtype::F32 => &[0, 0, 0x80, 0x3f],
        Dtype::F64 => &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        _ => &[1, 0, 0, 0, 0, 0, 0, 0][..(dtype.bits() / 8) as usize],
    };
    let sign = if dtype.is_float() { 0x80 } else { 0 };
    bytes.chunks_exact(one.len()).position(|element| {
        let (last, rest) = element.split_last().unwrap_or((&0, &[]));
        let is_zero = last & !sign == 0 && rest.iter().all(|&byte| byte == 0);
        element != one && !is_zero
    })
}

/// Places of the set bits, ascending.
pub(super) fn positions(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(word_idx, &word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(word_idx * 64 + bit)
        })
    })
}

/// Number of set bits.
pub(super) fn count(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Sets the first `n_bits` bits and clears the others.
pub(super) fn set_all(words: &mut [u64], n_bits: usize) {
    words.fill(u64::MAX);
    if let (Some(last), used @ 1..) = (words.last_mut(), n_bits % 64) {
        *last = (1 << used) - 1;
    }
}

/// Appends the elements of `width` bytes whose bits are set.
pub(super) fn gather(out: &mut Vec<u8>, bytes: &[u8], words: &[u64], width: usize) {
    for position in positions(words) {
        out.extend_from_slice(&bytes[position * width..][..width]);
    }
}

/// Copies elements of `width` bytes, with zeros where bits are clear.
pub(super) fn copy_masked(out: &mut Vec<u8>, bytes: &[u8], words: &[u64], width: usize) {
    let begin = out.len();
    out.resize(begin + bytes.len(), 0);
    for position in positions(words) {
        let place = position * width;
        out[begin + place..][..width].copy_from_slice(&bytes[place..][..width]);
    }
}
