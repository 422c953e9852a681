//! The masks of a tile: checked, compared, and resolved into one.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::connectivity::MaskTally;
use crate::connectivity::MismatchPolicy;
use crate::connectivity::PieceMasks;
use crate::connectivity::TINY;
use crate::connectivity::ZeroTally;
use crate::kernel::Backend;
use crate::kernel::Input;
use crate::kernel::PIECE;
use crate::kernel::first_not_flag;
use crate::kernel::value_at;
use crate::merge::MergeError;
use crate::merge::tile::Tile;

impl Tile<'_> {
    /// What there is to compare where all participants have the same mask words.
    pub(super) fn agreement(&self, shared: &[u64], resolved: &mut [u64]) -> MaskTally {
        let n_elements = self.range.count as usize;
        let mut tally = MaskTally::new(self.job.votes.len());
        resolved.copy_from_slice(shared);
        tally.add_agreement(resolved, n_elements);
        tally.add_tile_patterns(resolved, None, n_elements, &self.parameter.shape);
        tally
    }

    /// Writes the mask of the first ingredient to `words`: stored beside it, or its zeros.
    pub(super) fn first_mask(&self, words: &mut Vec<u64>) -> Result<(), MergeError> {
        self.refuse_non_flags()?;
        words.clear();
        words.resize(self.n_words(), 0);
        if let Some(compact) = self.bytes.compact[0] {
            words.copy_from_slice(compact);
            return Ok(());
        }
        let stored = self.job.ingredients.stored_mask(self.parameter, 0);
        let (dtype, bytes) = match (stored, self.bytes.masks[0]) {
            (Some(mask), Some(bytes)) => (mask.dtype, bytes),
            _ => (self.stored(0).dtype, self.bytes.values[0]),
        };
        Ok(self.job.backend.nonzero(words, dtype, bytes)?)
    }

    /// Compares the masks of all participants and writes the resolved one.
    pub(super) fn compare_masks(
        &self,
        words: &mut Vec<u64>,
        piece_words: &mut Vec<u64>,
        resolved: &mut [u64],
    ) -> Result<MaskTally, MergeError> {
        self.refuse_non_flags()?;
        let n_participants = self.job.votes.len();
        let has_given = self.job.ingredients.mask_file().is_some();
        // A mask read from zeros within a given one is as good as given.
        let given = std::iter::repeat_n(self.bytes.given.is_some(), usize::from(has_given));
        let stored = self
            .bytes
            .masks
            .iter()
            .zip(&self.bytes.compact)
            .map(|(mask, compact)| {
                mask.is_some() || compact.is_some() || self.bytes.given.is_some()
            });
        let is_explicit: Vec<bool> = given.chain(stored).collect();
        let mut tally = MaskTally::new(n_participants);
        words.clear();
        words.resize(n_participants * resolved.len(), 0);
        for (index, resolved_piece) in resolved.chunks_mut(PIECE / 64).enumerate() {
            let begin = index * PIECE;
            let n_elements = PIECE.min(self.range.count as usize - begin);
            let n_words = resolved_piece.len();
            piece_words.clear();
            piece_words.resize(n_participants * n_words, 0);
            let (given_words, ingredient_words) =
                piece_words.split_at_mut(usize::from(has_given) * n_words);
            if let (Some(bytes), Some(mask)) = (
                self.bytes.given,
                self.job.ingredients.given_mask(self.parameter),
            ) {
                let piece = self.piece(bytes, begin, n_elements);
                self.job.backend.nonzero(given_words, mask.dtype, piece)?;
            }
            for (ingredient, own) in ingredient_words.chunks_mut(n_words).enumerate() {
                if let Some(compact) = self.bytes.compact[ingredient] {
                    own.copy_from_slice(&compact[begin / 64..][..n_words]);
                    continue;
                }
                match (
                    self.bytes.masks[ingredient],
                    self.job.ingredients.stored_mask(self.parameter, ingredient),
                ) {
                    (Some(bytes), Some(mask)) => {
                        let piece = self.piece(bytes, begin, n_elements);
                        self.job.backend.nonzero(own, mask.dtype, piece)?;
                    }
                    _ => {
                        let piece = self.piece(self.bytes.values[ingredient], begin, n_elements);
                        self.job
                            .backend
                            .nonzero(own, self.stored(ingredient).dtype, piece)?;
                        if self.bytes.given.is_some() {
                            // Within a given mask a zero is an accident.
                            own.iter_mut()
                                .zip(&*given_words)
                                .for_each(|(own, given)| *own |= given);
                        }
                    }
                }
            }
            if has_given && self.bytes.given.is_none() {
                // The mask file says nothing of this tensor: it agrees with the first ingredient.
                given_words.copy_from_slice(&ingredient_words[..n_words]);
            }
            let masks = PieceMasks {
                words: piece_words,
                n_words,
                votes: &self.job.votes,
                is_explicit: &is_explicit,
            };
            let start = self.range.begin + begin as u64;
            tally.add_piece(
                masks,
                self.planned.resolution,
                start,
                n_elements,
                resolved_piece,
            );
            for (all, piece) in words
                .chunks_mut(self.n_words())
                .zip(piece_words.chunks(n_words))
            {
                all[begin / 64..][..n_words].copy_from_slice(piece);
            }
        }
        if tally.disagreements > 0 && self.job.options.rules.policy == MismatchPolicy::Error {
            self.count_zeros(words, &mut tally.zeros);
        }
        let differing = (tally.disagreements > 0).then_some(words.as_slice());
        tally.add_tile_patterns(
            resolved,
            differing,
            self.range.count as usize,
            &self.parameter.shape,
        );
        Ok(tally)
    }

    /// Counts what the zeros of a tile look like in which masks differ.
    #[cold]
    fn count_zeros(&self, words: &[u64], zeros: &mut ZeroTally) {
        let (begin, count) = (self.range.begin, self.range.count);
        for words in words.chunks(self.n_words()) {
            zeros.add_words(words, begin, count, &self.parameter.shape);
        }
        let has_given = usize::from(self.job.ingredients.mask_file().is_some());
        let own: Vec<&[u64]> = words.chunks(self.n_words()).skip(has_given).collect();
        for j in 0..count as usize {
            let is_retained = |words: &&[u64]| words[j / 64] >> (j % 64) & 1 == 1;
            if own.iter().all(is_retained) || !own.iter().any(is_retained) {
                continue;
            }
            zeros.disputed += 1;
            let is_tiny = |(i, words): (usize, &&[u64])| {
                if !is_retained(words) {
                    return true;
                }
                let bytes = self.bytes.values[i];
                let dtype = self.stored(i).dtype;
                let is_plain = self.bytes.compact[i].is_none();
                is_plain && value_at(Input { bytes, dtype }, j).abs() < TINY
            };
            zeros.tiny += u64::from(own.iter().enumerate().all(is_tiny));
        }
    }

    pub(super) fn n_words(&self) -> usize {
        self.range.count.div_ceil(64) as usize
    }

    fn refuse_non_flags(&self) -> Result<(), MergeError> {
        let refuse = |checkpoint: &Checkpoint, mask: &StoredTensor, bytes| match first_not_flag(
            mask.dtype, bytes,
        ) {
            None => Ok(()),
            Some(index) => Err(MergeError::NotAMask {
                path: checkpoint.path().to_owned(),
                mask: mask.name.clone(),
                index: self.range.begin + index as u64,
            }),
        };
        let ingredients = self.job.ingredients;
        for (ingredient, bytes) in self.bytes.masks.iter().enumerate() {
            if let (Some(bytes), Some(mask)) =
                (bytes, ingredients.stored_mask(self.parameter, ingredient))
            {
                refuse(&ingredients.checkpoints()[ingredient], mask, bytes)?;
            }
        }
        match (
            self.bytes.given,
            ingredients.mask_file(),
            ingredients.given_mask(self.parameter),
        ) {
            (Some(bytes), Some(mask_file), Some(mask)) => refuse(mask_file, mask, bytes),
            _ => Ok(()),
        }
    }
}
