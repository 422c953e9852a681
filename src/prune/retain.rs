//! What a selection retains of a tile, as mask words and as bytes.

use crate::kernel::Backend;
use crate::prune::PruneError;
use crate::prune::channel::channel_numel;
use crate::prune::pattern::prune_groups;
use crate::prune::score::EXCLUDED;
use crate::prune::select::Rule;
use crate::prune::select::Selection;
use crate::prune::tile::KeyScratch;
use crate::prune::tile::Scorer;
use crate::prune::tile::Tile;

/// Scratch memory of [`retain`].
pub(super) struct RetainScratch {
    keys: KeyScratch,
    /// Keys of a whole tile, for groups.
    tile_keys: Vec<u64>,
}

impl RetainScratch {
    pub(super) fn new() -> Self {
        Self {
            keys: KeyScratch::new(),
            tile_keys: Vec::new(),
        }
    }
}

/// Sets the bits of what the selection retains of a tile of a prunable parameter.
pub(super) fn retain(
    selection: &Selection,
    scorer: &Scorer<'_>,
    tile: &Tile<'_>,
    scratch: &mut RetainScratch,
    words: &mut [u64],
) -> Result<(), PruneError> {
    let RetainScratch { keys, tile_keys } = scratch;
    match &selection.rules[tile.parameter] {
        Rule::Own => scorer.pieces(tile, keys, |begin, keys| {
            fill(words, begin, keys, |key, _| key != EXCLUDED);
        }),
        Rule::Cut(cut) => scorer.pieces(tile, keys, |begin, keys| {
            fill(words, begin, keys, |key, index| {
                key != EXCLUDED && !cut.prunes(key, tile.begin + index as u64)
            });
        }),
        Rule::Channels(channels) => {
            let numel = channel_numel(scorer.subject, tile.parameter);
            scorer.pieces(tile, keys, |begin, keys| {
                fill(words, begin, keys, |key, index| {
                    let channel = (tile.begin + index as u64) / numel;
                    key != EXCLUDED && channels.is_retained(channel as usize)
                });
            })
        }
        Rule::Pattern(pattern) => {
            tile_keys.clear();
            scorer.pieces(tile, keys, |begin, keys| {
                fill(words, begin, keys, |key, _| key != EXCLUDED);
                tile_keys.extend_from_slice(keys);
            })?;
            let shape = &scorer.subject.parameters()[tile.parameter].shape;
            prune_groups(tile_keys, shape.kernel_numel() as usize, *pattern, words);
            Ok(())
        }
    }
}

/// Writes the bits of a piece that begins at `begin`, a multiple of 64.
#[inline(always)]
fn fill(words: &mut [u64], begin: usize, keys: &[u64], is_retained: impl Fn(u64, usize) -> bool) {
    let words = words[begin / 64..].iter_mut();
    for ((word_index, word), keys) in words.enumerate().zip(keys.chunks(64)) {
        let first = begin + 64 * word_index;
        let mut bits = 0;
        for (bit, &key) in keys.iter().enumerate() {
            bits |= u64::from(is_retained(key, first + bit)) << bit;
        }
        *word = bits;
    }
}

/// Sets the elements that are pruned to `+0`.
pub(super) fn clear_pruned(bytes: &mut [u8], width: u64, words: &[u64]) {
    match width {
        16 => clear::<2>(bytes, words),
        32 => clear::<4>(bytes, words),
        _ => clear::<8>(bytes, words),
    }
}

fn clear<const N: usize>(bytes: &mut [u8], words: &[u64]) {
    for (chunk, &word) in bytes.chunks_mut(64 * N).zip(words) {
        if word == u64::MAX {
            continue;
        }
        for (bit, element) in chunk.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let keep = 0_u8.wrapping_sub((word >> bit & 1) as u8);
            *element = element.map(|byte| byte & keep);
        }
    }
}

/// Bits set in `words` at elements whose value is zero.
pub(super) fn retained_zeros(
    scorer: &Scorer<'_>,
    tile: &Tile<'_>,
    words: &[u64],
    nonzero: &mut Vec<u64>,
) -> Result<u64, PruneError> {
    nonzero.clear();
    nonzero.resize(words.len(), 0);
    let dtype = scorer.subject.value(tile.parameter).dtype;
    scorer.backend.nonzero(nonzero, dtype, tile.values)?;
    let pairs = words.iter().zip(&*nonzero);
    Ok(pairs
        .map(|(kept, nonzero)| u64::from((kept & !nonzero).count_ones()))
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruned_elements_become_plus_zero() {
        let values = [1.5_f64, -0.0, -2.5];
        let mut bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        clear_pruned(&mut bytes, 64, &[0b001]);
        let bits: Vec<u64> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| u64::from_le_bytes(*b))
            .collect();
        assert_eq!(bits, [1.5_f64.to_bits(), 0, 0]);
        let mut bytes: Vec<u8> = (1..=140).collect();
        clear_pruned(&mut bytes, 16, &[u64::MAX, 0b10_0001]);
        assert_eq!(bytes[..130], (1..=130).collect::<Vec<u8>>());
        assert_eq!(bytes[130..], [0, 0, 0, 0, 0, 0, 0, 0, 139, 140]);
    }
}
