//! Seeded randomness: streams named by (seed, purpose, name), so that one more
//! consumer shifts nobody else's numbers.

use super::Digester;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rand_chacha::rand_core::SeedableRng;

/// An endless sequence of random numbers, the same on every machine.
///
/// The ChaCha8 stream whose key is the digest of the seed, the purpose and the name.
/// The distributions below are defined here, so no other crate can change the bits.
#[derive(Clone, Debug)]
pub struct Stream {
    generator: ChaCha8Rng,
}

impl Stream {
    /// The stream of `seed` for one purpose (such as `order`, `initial`, `dropout`)
    /// and one name within it (a parameter, an epoch).
    pub fn named(seed: u64, purpose: &str, name: &str) -> Self {
        let digest = |half: u8| {
            let mut digester = Digester::new();
            digester.update(&[half]);
            digester.update(&seed.to_le_bytes());
            digester.push_text(purpose);
            digester.push_text(name);
            digester.finish().to_bytes()
        };
        let mut key = [0; 32];
        key[..16].copy_from_slice(&digest(0));
        key[16..].copy_from_slice(&digest(1));
        Self {
            generator: ChaCha8Rng::from_seed(key),
        }
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        // Products whose low half is too small are drawn again, so that no value is
        // favoured. Source: Lemire, arXiv:1805.10941.
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Puts `items` in a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_every_part_of_their_name() {
        let first = |seed, purpose, name| Stream::named(seed, purpose, name).bits();
        let base = first(1, "order", "epoch 3");
        assert_eq!(base, first(1, "order", "epoch 3"));
        assert_ne!(base, first(2, "order", "epoch 3"));
        assert_ne!(base, first(1, "dropout", "epoch 3"));
        assert_ne!(base, first(1, "order", "epoch 4"));
        assert_ne!(first(1, "ab", "c"), first(1, "a", "bc"));
    }

    #[test]
    fn the_bits_stay_what_they_were() {
        let mut stream = Stream::named(7, "test", "golden");
        let bits = [stream.bits(), stream.bits()];
        assert_eq!(bits, GOLDEN);
    }

    /// What this stream gave when it was defined; a change breaks every recipe.
    const GOLDEN: [u64; 2] = [5_188_639_721_807_362_234, 3_438_765_757_772_688_820];

    #[test]
    fn numbers_are_uniform() {
        let mut stream = Stream::named(0, "test", "uniform");
        let mut counts = [0_u32; 7];
        let mut sum = 0.0;
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
            sum += stream.uniform();
        }
        // Five standard deviations: sqrt(70000 * 6 / 49) is 93, sqrt(70000 / 12) is 76.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 465));
        assert!((sum - 35_000.0).abs() < 380.0);
    }

    #[test]
    fn shuffling_keeps_all_items() {
        let mut items: Vec<u32> = (0..100).collect();
        Stream::named(0, "test", "shuffle").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
