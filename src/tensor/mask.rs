//! Masks in memory: which coordinates of one tensor are retained.

/// One bit per element of a tensor, in row-major order; a set bit is a retained
/// coordinate. Bits past the last element are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
    numel: usize,
}

impl Mask {
    /// A mask of `numel` coordinates, all retained.
    pub fn dense(numel: usize) -> Self {
        let mut words = vec![u64::MAX; numel.div_ceil(64)];
        if let (Some(last), used @ 1..) = (words.last_mut(), numel % 64) {
            *last = (1 << used) - 1;
        }
        Self { words, numel }
    }

    /// A mask that retains the coordinates for which `is_retained` holds.
    pub fn from_fn(numel: usize, mut is_retained: impl FnMut(usize) -> bool) -> Self {
        let mut words = vec![0_u64; numel.div_ceil(64)];
        for (word_idx, word) in words.iter_mut().enumerate() {
            let first = word_idx * 64;
            for bit in 0..64.min(numel - first) {
                *word |= u64::from(is_retained(first + bit)) << bit;
            }
        }
        Self { words, numel }
    }

    /// The mask that `values` stand for: `+0` and `-0` are pruned.
    pub fn of_values(values: &[f32]) -> Self {
        Self::from_fn(values.len(), |idx| values[idx] != 0.0)
    }

    /// Number of coordinates, retained or not.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// Number of retained coordinates.
    pub fn retained(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Whether the coordinate with row-major index `idx` is retained.
    ///
    /// # Panics
    /// If `idx` is not below [`numel`](Self::numel).
    pub fn is_retained(&self, idx: usize) -> bool {
        assert!(idx < self.numel, "coordinate {idx} of {}", self.numel);
        self.words[idx / 64] >> (idx % 64) & 1 == 1
    }

    /// The bits, 64 to a word, lowest first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Row-major indices of the retained coordinates, ascending.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(word_idx, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(word_idx * 64 + bit)
            })
        })
    }

    /// Sets every pruned element to `+0`.
    ///
    /// # Panics
    /// If `values` has another length than the mask.
    pub fn apply(&self, values: &mut [f32]) {
        assert_eq!(
            values.len(),
            self.numel,
            "a mask has the length of its tensor"
        );
        zero_pruned(values, &self.words);
    }
}

/// Sets to `+0` what the words of a mask, beginning at the first of `values`, do not
/// retain; whatever was there, NaN included.
pub fn zero_pruned(values: &mut [f32], words: &[u64]) {
    const BITS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    for (chunk, &word) in values.chunks_mut(64).zip(words) {
        match word {
            0 => chunk.fill(0.0),
            u64::MAX => {}
            _ => {
                // Eight bits at once and without a branch, so that compilers make vectors
                // of it. A multiplication would leave -0 and NaN.
                for (eight, byte) in chunk.chunks_mut(8).zip(word.to_le_bytes()) {
                    for (value, bit) in eight.iter_mut().zip(BITS) {
                        let is_retained = u32::from(byte) & bit == bit;
                        let kept = if is_retained { u32::MAX } else { 0 };
                        *value = f32::from_bits(value.to_bits() & kept);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_positions() {
        let check = |numel: usize, retained: &[usize]| {
            let mask = Mask::from_fn(numel, |idx| retained.contains(&idx));
            assert_eq!(mask.numel(), numel);
            assert_eq!(mask.retained(), retained.len());
            assert_eq!(mask.positions().collect::<Vec<_>>(), retained);
        };
        check(0, &[]);
        check(1, &[0]);
        check(64, &[0, 63]);
        check(130, &[1, 63, 64, 127, 128, 129]);
    }

    #[test]
    fn a_dense_mask_retains_all_and_nothing_beyond() {
        for numel in [0, 1, 63, 64, 65, 128] {
            let mask = Mask::dense(numel);
            assert_eq!(mask.retained(), numel);
            assert_eq!(mask, Mask::from_fn(numel, |_| true));
        }
    }

    #[test]
    fn both_zeros_are_pruned_and_become_plus_zero() {
        let mut values = [1.0, -0.0, 0.0, f32::NAN, -2.0];
        let mask = Mask::of_values(&values);
        assert_eq!(mask.positions().collect::<Vec<_>>(), [0, 3, 4]);
        mask.apply(&mut values);
        assert_eq!(values[1].to_bits(), 0);
        assert!(values[3].is_nan());
        Mask::from_fn(5, |idx| idx == 0).apply(&mut values);
        assert_eq!(values.map(f32::to_bits), [1.0_f32.to_bits(), 0, 0, 0, 0]);
    }

    #[test]
    fn every_element_meets_its_own_bit() {
        let words = [0x8000_0000_0000_0001, 0xF0F0_1234_5678_9ABC, 0, u64::MAX, 1];
        for numel in [0, 1, 7, 8, 63, 64, 65, 127, 128, 191, 250, 257, 320] {
            let before = |idx: usize| {
                if idx.is_multiple_of(5) {
                    f32::NAN
                } else {
                    -1.5
                }
            };
            let mut values: Vec<f32> = (0..numel).map(before).collect();
            zero_pruned(&mut values, &words[..numel.div_ceil(64)]);
            for (idx, value) in values.iter().enumerate() {
                let is_retained = words[idx / 64] >> (idx % 64) & 1 == 1;
                let expected = if is_retained { before(idx) } else { 0.0 };
                assert_eq!(value.to_bits(), expected.to_bits(), "{idx} of {numel}");
            }
        }
    }
}
