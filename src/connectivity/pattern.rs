//! n:m patterns: at most n of every m consecutive weights along the input dimension.

use std::fmt;

use crate::tensor::Shape;

/// Group sizes that are looked for, smallest first.
const GROUP_SIZES: [u8; 5] = [2, 4, 8, 16, 32];

/// Share of the slots of an n:m pattern that must be filled for the pattern to be
/// the reason of the sparsity, not a by-product of it.
const LEAST_FILLED: f64 = 0.95;

/// Largest kernel (elements per output-input pair) for which patterns are looked for.
const LARGEST_KERNEL: u64 = 1024;

/// Words of a mask that are counted at once.
const BLOCK: usize = 16;

/// At most `n` retained of every `m` consecutive weights along the input dimension
/// (dimension 1). Source: arXiv:2104.08378 (2:4); arXiv:2102.04010 (n:m).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Most retained weights of a group.
    pub n: u8,
    /// Weights of a group.
    pub m: u8,
}

impl Pattern {
    /// Whether it allows no more than `n` of every `m` weights either.
    pub fn implies(self, n: u8, m: u8) -> bool {
        m.is_multiple_of(self.m) && u16::from(self.n) * u16::from(m / self.m) <= u16::from(n)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.n, self.m)
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let numbers = text.split_once(':');
        let pattern = numbers.and_then(|(n, m)| {
            Some(Self {
                n: n.parse().ok()?,
                m: m.parse().ok()?,
            })
        });
        pattern.ok_or_else(|| serde::de::Error::custom("a pattern is two numbers, such as 2:4"))
    }
}

/// Most retained weights of any group seen, for each group size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatternTally {
    most: [u8; GROUP_SIZES.len()],
}

impl PatternTally {
    /// Counts the groups of a tile's mask. The tile begins at a multiple of its
    /// tensor's tile length and holds `n_elements`.
    pub fn add_tile(&mut self, mask: &[u64], n_elements: usize, shape: &Shape) {
        let Some(&n_inputs) = shape.dims().get(1) else {
            return;
        };
        match shape.kernel_numel() {
            1 => pulp::Arch::new().dispatch(Consecutive { tally: self, mask }),
            kernel @ 2..=LARGEST_KERNEL => {
                for (size, most) in GROUP_SIZES.into_iter().zip(&mut self.most) {
                    // A full group ends the search: the pattern does not hold.
                    if n_inputs.is_multiple_of(size.into()) && *most < size {
                        *most = (*most).max(most_strided(mask, n_elements, kernel as usize, size));
                    }
                }
            }
            _ => {}
        }
    }

    /// Adds what was seen of another part of the tensor.
    pub fn merge(&mut self, other: &Self) {
        for (most, other) in self.most.iter_mut().zip(other.most) {
            *most = (*most).max(other);
        }
    }

    /// The smallest pattern that holds and accounts for the sparsity: at least
    /// 95 % of its slots are filled.
    pub fn pattern(&self, shape: &Shape, retained: u64) -> Option<Pattern> {
        let n_inputs = *shape.dims().get(1)?;
        if retained == 0 || shape.kernel_numel() > LARGEST_KERNEL {
            return None;
        }
        GROUP_SIZES.into_iter().zip(self.most).find_map(|(m, n)| {
            let slots = shape.numel() as f64 * f64::from(n) / f64::from(m);
            let holds = n < m
                && n_inputs.is_multiple_of(m.into())
                && retained as f64 >= LEAST_FILLED * slots;
            holds.then_some(Pattern { n, m })
        })
    }

    /// Groups of consecutive bits, counted in all fields of several words at once.
    #[inline(always)]
    fn add_consecutive(&mut self, mask: &[u64]) {
        let (blocks, rest) = mask.as_chunks::<BLOCK>();
        for block in blocks {
            self.add_block(block);
        }
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        self.add_block(&last);
    }

    #[inline(always)]
    fn add_block(&mut self, block: &[u64; BLOCK]) {
        const PAIR: u64 = 0x5555_5555_5555_5555;
        const NIBBLE: u64 = 0x3333_3333_3333_3333;
        const BYTE: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        const HALF: u64 = 0x00ff_00ff_00ff_00ff;
        const WORD: u64 = 0x0000_00ff_0000_00ff;
        let pairs = block.map(|word| word - ((word >> 1) & PAIR));
        let nibbles = pairs.map(|pairs| (pairs & NIBBLE) + ((pairs >> 2) & NIBBLE));
        let bytes = nibbles.map(|nibbles| (nibbles + (nibbles >> 4)) & BYTE);
        let halves = bytes.map(|bytes| (bytes + (bytes >> 8)) & HALF);
        let words = halves.map(|halves| (halves + (halves >> 16)) & WORD);
        // A full group ends the search for its size: the pattern does not hold.
        if self.most[0] < 2 {
            for shift in [0, 2, 4, 6] {
                self.raise(
                    0,
                    pairs.map(|pairs| (pairs >> shift) & 0x0303_0303_0303_0303),
                );
            }
        }
        if self.most[1] < 4 {
            for shift in [0, 4] {
                self.raise(1, nibbles.map(|nibbles| (nibbles >> shift) & BYTE));
            }
        }
        self.raise(2, bytes);
        self.raise(3, halves);
        self.raise(4, words);
    }

    /// Notes the largest byte of the fields of one group size.
    #[inline(always)]
    fn raise(&mut self, size: usize, fields: [u64; BLOCK]) {
        let fields = fields.map(u64::to_le_bytes);
        let most = fields.as_flattened().iter().copied().fold(0, u8::max);
        self.most[size] = self.most[size].max(most);
    }
}

/// [`PatternTally::add_consecutive`]. A type and not a closure, because only what is
/// inlined is compiled for the instruction set.
struct Consecutive<'a> {
    tally: &'a mut PatternTally,
    mask: &'a [u64],
}

impl pulp::NullaryFnOnce for Consecutive<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.tally.add_consecutive(self.mask);
    }
}

/// Most retained weights of any group of `size` inputs that lie `kernel` apart.
fn most_strided(mask: &[u64], n_elements: usize, kernel: usize, size: u8) -> u8 {
    let group = kernel * usize::from(size);
    let mut most = 0;
    for start in (0..n_elements / group * group).step_by(group) {
        // Up to 64 positions of the kernel at once, as bit-sliced counters.
        for offset in (0..kernel).step_by(64) {
            let width = (kernel - offset).min(64);
            let mut planes = [0_u64; 6];
            for input in 0..usize::from(size) {
                let mut carry = bits_at(mask, start + input * kernel + offset, width);
                for plane in &mut planes {
                    (*plane, carry) = (*plane ^ carry, *plane & carry);
                }
            }
            // The largest count: keep, from the top plane down, those that have the bit.
            let mut leading = u64::MAX;
            let mut count = 0;
            for (power, plane) in planes.iter().enumerate().rev() {
                if plane & leading != 0 {
                    leading &= plane;
                    count |= 1 << power;
                }
            }
            most = most.max(count);
        }
        if most == size {
            break;
        }
    }
    most
}

/// Bits `[start, start + width)` of the mask, `width` at most 64.
fn bits_at(mask: &[u64], start: usize, width: usize) -> u64 {
    let (word, shift) = (start / 64, start % 64);
    let low = mask.get(word).copied().unwrap_or(0) >> shift;
    let high = if shift == 0 {
        0
    } else {
        mask.get(word + 1).copied().unwrap_or(0) << (64 - shift)
    };
    let keep = if width == 64 {
        u64::MAX
    } else {
        (1 << width) - 1
    };
    (low | high) & keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(bits: &[bool]) -> Vec<u64> {
        bits.chunks(64)
            .map(|chunk| {
                chunk
                    .iter()
                    .rev()
                    .fold(0, |word, &bit| word << 1 | u64::from(bit))
            })
            .collect()
    }

    fn pattern_of(bits: &[bool], dims: &[u64]) -> Option<Pattern> {
        let shape = Shape::new(dims).unwrap();
        let mut tally = PatternTally::default();
        tally.add_tile(&words(bits), bits.len(), &shape);
        tally.pattern(&shape, bits.iter().filter(|&&bit| bit).count() as u64)
    }

    #[test]
    fn patterns_of_small_masks() {
        let repeat = |group: &[u8], times: usize| -> Vec<bool> {
            group
                .iter()
                .map(|&bit| bit == 1)
                .collect::<Vec<_>>()
                .repeat(times)
        };
        let check = |bits: &[bool], dims: &[u64], expected: Option<(u8, u8)>| {
            assert_eq!(
                pattern_of(bits, dims),
                expected.map(|(n, m)| Pattern { n, m }),
                "{dims:?}"
            );
        };
        check(&repeat(&[1, 1, 0, 0, 0, 1, 0, 1], 8), &[8, 8], Some((2, 4)));
        check(&repeat(&[1, 0, 0, 1], 16), &[8, 8], Some((1, 2)));
        check(&repeat(&[1, 0, 0, 0], 16), &[8, 8], Some((1, 4)));
        check(&repeat(&[1, 1, 1, 1, 0, 0, 0, 0], 8), &[8, 8], Some((4, 8)));
        check(&repeat(&[1], 64), &[8, 8], None);
        check(&repeat(&[0], 64), &[8, 8], None);
        // 63 of 64: no group size has all groups short of full.
        check(
            &[repeat(&[1], 63), repeat(&[0], 1)].concat(),
            &[1, 64],
            None,
        );
        // The input dimension is no multiple of the group.
        check(&repeat(&[1, 0, 0], 4), &[4, 3], None);
        // A 1-D tensor has no input dimension.
        check(&repeat(&[1, 1, 0, 0], 4), &[16], None);
    }

    #[test]
    fn convolutions_are_grouped_along_the_inputs() {
        // 2 outputs, 4 inputs, 3x3: per position of the kernel 2 of 4 inputs.
        let bits: Vec<bool> = (0..2 * 4 * 9)
            .map(|index| (index / 9 % 4 + index % 9) % 4 < 2)
            .collect();
        assert_eq!(
            pattern_of(&bits, &[2, 4, 3, 3]),
            Some(Pattern { n: 2, m: 4 })
        );
    }

    proptest! {
        #[test]
        fn largest_group_is_found(
            bits in prop::collection::vec(prop::bool::weighted(0.3), 64 * 6),
            (n_inputs, kernel) in prop::sample::select(vec![(64_u64, 1_u64), (32, 3), (16, 6), (32, 2), (32, 12), (4, 96)]),
        ) {
            let shape = Shape::new([bits.len() as u64 / n_inputs / kernel, n_inputs, kernel]).unwrap();
            let mut tally = PatternTally::default();
            tally.add_tile(&words(&bits), bits.len(), &shape);
            for (index, size) in GROUP_SIZES.into_iter().enumerate() {
                if !n_inputs.is_multiple_of(size.into()) {
                    continue;
                }
                let kernel = kernel as usize;
                let group = kernel * usize::from(size);
                let expected = bits.chunks(group).flat_map(|group| {
                    (0..kernel).map(|position| group.iter().skip(position).step_by(kernel).filter(|&&bit| bit).count())
                }).max().unwrap();
                prop_assert_eq!(usize::from(tally.most[index]), expected, "group size {}", size);
            }
        }
    }
}
