//! Bits of masks and the elements that they retain: copied, spread and gathered.

/// Words that are counted before the widest instructions of the machine are looked up.
const FEW_WORDS: usize = 16;

/// Number of set bits.
pub fn count_ones(words: &[u64]) -> u64 {
    if words.len() < FEW_WORDS {
        return words.iter().map(|word| u64::from(word.count_ones())).sum();
    }
    pulp::Arch::new().dispatch(CountOnes {
        words,
        bits_of: |word| word,
    })
}

/// Number of set bits of bytes.
pub fn count_ones_of_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole = pulp::Arch::new().dispatch(CountOnes {
        words,
        bits_of: u64::from_le_bytes,
    });
    let rest = rest.iter().map(|byte| u64::from(byte.count_ones()));
    whole + rest.sum::<u64>()
}

/// Set bits of words, or of what makes one each. A type and not a closure, because only
/// what is inlined is compiled for the instruction set.
struct CountOnes<'a, W, F> {
    words: &'a [W],
    bits_of: F,
}

impl<W: Copy, F: Fn(W) -> u64> pulp::NullaryFnOnce for CountOnes<'_, W, F> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let bits = self.words.iter().map(|&word| (self.bits_of)(word));
        bits.map(|bits| u64::from(bits.count_ones())).sum()
    }
}

/// Copies `n_bits` bits from `from`, where bit `i` of byte `j` is bit `8 j + i`, to bits
/// of `words` that are clear.
///
/// # Panics
/// If either slice ends before the bits do.
pub fn copy_bits(
    from: &[u8],
    mut from_bit: usize,
    words: &mut [u64],
    mut to_bit: usize,
    mut n_bits: usize,
) {
    if from_bit.is_multiple_of(8) && to_bit.is_multiple_of(64) {
        let whole = n_bits / 64;
        let bytes = &from[from_bit / 8..][..8 * whole];
        let words = &mut words[to_bit / 64..][..whole];
        for (word, &bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(bytes);
        }
        let done = 64 * whole;
        (from_bit, to_bit, n_bits) = (from_bit + done, to_bit + done, n_bits - done);
    }
    while n_bits > 0 {
        let (byte, shift) = (from_bit / 8, from_bit % 8);
        // Up to 64 bits, and those of a ninth byte where the first is not whole.
        let rest = &from[byte..];
        let low = match rest.first_chunk::<8>() {
            Some(&eight) => u64::from_le_bytes(eight),
            None => rest
                .iter()
                .rev()
                .fold(0, |bits, &byte| bits << 8 | u64::from(byte)),
        };
        let high = match rest.get(8) {
            Some(&ninth) if shift > 0 => u64::from(ninth) << (64 - shift),
            _ => 0,
        };
        let room = 64 - to_bit % 64;
        let taken = n_bits.min(room).min(8 * rest.len() - shift);
        assert!(taken > 0, "the bits end before they are all copied");
        let bits = (low >> shift | high) & (u64::MAX >> (64 - taken));
        words[to_bit / 64] |= bits << (to_bit % 64);
        (from_bit, to_bit, n_bits) = (from_bit + taken, to_bit + taken, n_bits - taken);
    }
}

/// Writes the elements of `values` to the places of `out` whose bit is set, and zeros
/// elsewhere. Elements have `width` bytes, at most eight.
///
/// # Panics
/// If `values` or `words` hold too few.
pub fn spread(out: &mut [u8], values: &[u8], words: &[u64], width: usize) {
    match width {
        1 => spread_elements::<1>(out, values, words),
        2 => spread_elements::<2>(out, values, words),
        4 => spread_elements::<4>(out, values, words),
        _ => spread_elements::<8>(out, values, words),
    }
}

fn spread_elements<const N: usize>(out: &mut [u8], values: &[u8], words: &[u64]) {
    let out = out.as_chunks_mut::<N>().0;
    let mut values = values.as_chunks::<N>().0;
    for (places, &word) in out.chunks_mut(64).zip(words) {
        places.as_flattened_mut().fill(0);
        let (own, later) = values.split_at(word.count_ones() as usize);
        values = later;
        let mut rest = word;
        for value in own {
            places[rest.trailing_zeros() as usize] = *value;
            rest &= rest.wrapping_sub(1);
        }
    }
}

/// Writes the elements of `from` whose bit is set to `out`, one after the other.
/// Elements have `width` bytes, at most eight.
///
/// # Panics
/// If `out` does not hold as many elements as bits are set.
pub fn gather(out: &mut [u8], from: &[u8], words: &[u64], width: usize) {
    match width {
        1 => gather_elements::<1>(out, from, words),
        2 => gather_elements::<2>(out, from, words),
        4 => gather_elements::<4>(out, from, words),
        _ => gather_elements::<8>(out, from, words),
    }
}

fn gather_elements<const N: usize>(out: &mut [u8], from: &[u8], words: &[u64]) {
    let mut out = out.as_chunks_mut::<N>().0;
    let from = from.as_chunks::<N>().0;
    for (places, &word) in from.chunks(64).zip(words) {
        let (own, later) = out.split_at_mut(word.count_ones() as usize);
        out = later;
        let mut rest = word;
        for value in own {
            *value = places[rest.trailing_zeros() as usize];
            rest &= rest.wrapping_sub(1);
        }
    }
    assert!(out.is_empty(), "an element for every set bit");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit `index` of bytes.
    fn bit(bytes: &[u8], index: usize) -> bool {
        bytes[index / 8] >> (index % 8) & 1 == 1
    }

    #[test]
    fn bits_are_copied_from_and_to_any_place() {
        let bytes: Vec<u8> = (0..40_u32).map(|byte| (byte * 89 + 23) as u8).collect();
        for (from, to, n_bits) in [
            (0, 0, 0),
            (0, 0, 64),
            (0, 0, 320),
            (3, 0, 317),
            (3, 61, 100),
            (7, 64, 1),
            (5, 63, 130),
            (319, 5, 1),
        ] {
            let mut words = [0; 7];
            copy_bits(&bytes, from, &mut words, to, n_bits);
            let found: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            for index in 0..448 {
                let is_copied = (to..to + n_bits).contains(&index);
                let expected = is_copied && bit(&bytes, from + index.saturating_sub(to));
                assert_eq!(bit(&found, index), expected, "{from} {to} {n_bits} {index}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "the bits end")]
    fn bits_that_are_not_there_are_not_copied() {
        copy_bits(&[0xff], 0, &mut [0; 2], 0, 9);
    }

    #[test]
    fn spread_and_gathered_elements() {
        for width in [1, 2, 4, 8] {
            let words = [1 | 1 << 63, 0, 0b101];
            let n_elements = 131;
            let values: Vec<u8> = (1..=4 * width as u8).collect();
            let mut out = vec![0xaa; n_elements * width];
            spread(&mut out, &values, &words, width);
            for index in 0..n_elements {
                let at = [0, 63, 128, 130].iter().position(|&place| place == index);
                let expected = at.map_or(vec![0; width], |at| {
                    values[at * width..(at + 1) * width].to_vec()
                });
                assert_eq!(
                    out[index * width..(index + 1) * width],
                    expected,
                    "{width} {index}"
                );
            }
            let mut gathered = vec![0; values.len()];
            gather(&mut gathered, &out, &words, width);
            assert_eq!(gathered, values);
        }
        assert_eq!(count_ones(&[u64::MAX, 0b11]), 66);
        assert_eq!(count_ones_of_bytes(&[1, 2, 3, 0, 0, 0, 0, 0x80, 7]), 8);
    }
}
