//! Counting agreement, piece by piece, in one pass with everything else.

use crate::tensor::bits::count_ones;
use crate::tensor::{Digest, Shape};

use super::pattern::PatternTally;
use super::policy::Resolution;
use super::zeros::ZeroTally;

/// Mask words of every participant over one piece, for comparing.
///
/// Participants are the mask file, if one is given, then the ingredients.
#[derive(Clone, Copy, Debug)]
pub struct PieceMasks<'a> {
    /// Words of one participant after the other, `n_words` each; bits past the
    /// end of the piece are clear.
    pub words: &'a [u64],
    /// Words of one participant.
    pub n_words: usize,
    /// Voting weight of each participant; a mask file has none.
    pub votes: &'a [f64],
    /// Whether each participant's mask is stored or given, rather than read from
    /// zeros.
    pub is_explicit: &'a [bool],
}

impl<'a> PieceMasks<'a> {
    fn participant(&self, index: usize) -> &'a [u64] {
        &self.words[index * self.n_words..][..self.n_words]
    }

    /// Elements of a word that all stored and given masks retain.
    fn retained_by_explicit(&self, word: usize) -> u64 {
        let bits = self.words.iter().skip(word).step_by(self.n_words);
        bits.zip(self.is_explicit)
            .filter(|(_, is_explicit)| **is_explicit)
            .fold(u64::MAX, |all, (bits, _)| all & bits)
    }

    /// The one mask that the participants have, or that `resolution` makes of theirs.
    fn resolve(&self, resolution: Resolution, word: usize) -> u64 {
        let bits = self.words.iter().skip(word).step_by(self.n_words);
        match resolution {
            Resolution::Any => bits.fold(0, |all, bits| all | bits),
            Resolution::All => bits.fold(u64::MAX, |all, bits| all & bits),
            Resolution::First => self.words[word],
            Resolution::Vote => {
                let total: f64 = self.votes.iter().sum();
                (0..64).fold(0, |resolved, bit| {
                    let retained = bits
                        .clone()
                        .zip(self.votes)
                        .filter(|(bits, _)| **bits >> bit & 1 == 1);
                    let share: f64 = retained.map(|(_, vote)| vote).sum();
                    resolved | u64::from(share > 0.0 && 2.0 * share >= total) << bit
                })
            }
        }
    }
}

/// What the masks of one tensor, or of a stretch of it, have in common.
#[derive(Clone, Debug)]
pub struct MaskTally {
    /// Elements seen.
    pub numel: u64,
    /// Elements retained by each participant.
    pub retained_by: Box<[u64]>,
    /// Elements retained by at least one participant.
    pub retained_by_any: u64,
    /// Elements that some participants retain and others do not.
    pub disagreements: u64,
    /// Those of them that a stored or given mask prunes: no accidental zeros.
    pub disputed_by_explicit: u64,
    /// Row-major index of the first of them.
    pub first_difference: Option<u64>,
    /// Elements of the resolved mask.
    pub retained: u64,
    /// What zeros look like in tiles in which masks differ.
    pub zeros: ZeroTally,
    /// Elements retained by both of a pair where not all participants agree; pair
    /// (i, k), i < k, at `k (k - 1) / 2 + i`. Empty while all agree.
    shared_in_dispute: Box<[u64]>,
    /// Elements retained by all in pieces without dispute.
    shared_in_peace: u64,
    /// Groups of the resolved mask, then of each participant.
    patterns: Box<[PatternTally]>,
}

impl MaskTally {
    /// Nothing seen yet.
    pub fn new(n_participants: usize) -> Self {
        Self {
            numel: 0,
            retained_by: vec![0; n_participants].into(),
            retained_by_any: 0,
            disagreements: 0,
            disputed_by_explicit: 0,
            first_difference: None,
            retained: 0,
            zeros: ZeroTally::default(),
            shared_in_dispute: Box::default(),
            shared_in_peace: 0,
            patterns: vec![PatternTally::default(); n_participants + 1].into(),
        }
    }

    /// Number of participants.
    pub fn n_participants(&self) -> usize {
        self.retained_by.len()
    }

    /// Compares one piece and writes its resolved mask to `resolved`. `start` is
    /// the row-major index of its first element.
    pub fn add_piece(
        &mut self,
        masks: PieceMasks<'_>,
        resolution: Resolution,
        start: u64,
        n_elements: usize,
        resolved: &mut [u64],
    ) {
        let first = masks.participant(0);
        resolved.copy_from_slice(first);
        if (1..self.n_participants()).all(|participant| masks.participant(participant) == first) {
            self.add_agreement(first, n_elements);
        } else {
            self.numel += n_elements as u64;
            self.add_dispute(masks, resolution, start, resolved);
        }
    }

    /// Counts a stretch of which every participant has the same mask.
    pub fn add_agreement(&mut self, mask: &[u64], n_elements: usize) {
        let retained = count_ones(mask);
        self.numel += n_elements as u64;
        self.retained_by.iter_mut().for_each(|by| *by += retained);
        self.retained_by_any += retained;
        self.retained += retained;
        self.shared_in_peace += retained;
    }

    #[cold]
    fn add_dispute(
        &mut self,
        masks: PieceMasks<'_>,
        resolution: Resolution,
        start: u64,
        resolved: &mut [u64],
    ) {
        let n_participants = self.n_participants();
        for (participant, by) in self.retained_by.iter_mut().enumerate() {
            *by += count_ones(masks.participant(participant));
        }
        for (word, resolved) in resolved.iter_mut().enumerate() {
            let any = masks.resolve(Resolution::Any, word);
            let dispute = any & !masks.resolve(Resolution::All, word);
            self.retained_by_any += u64::from(any.count_ones());
            self.disagreements += u64::from(dispute.count_ones());
            if dispute != 0 {
                let by_explicit = dispute & !masks.retained_by_explicit(word);
                self.disputed_by_explicit += u64::from(by_explicit.count_ones());
            }
            if dispute != 0 && self.first_difference.is_none() {
                self.first_difference =
                    Some(start + word as u64 * 64 + u64::from(dispute.trailing_zeros()));
            }
            *resolved = masks.resolve(resolution, word);
        }
        self.retained += count_ones(resolved);
        if self.shared_in_dispute.is_empty() {
            self.shared_in_dispute = vec![0; n_participants * (n_participants - 1) / 2].into();
        }
        let mut pair = 0;
        for later in 1..n_participants {
            for earlier in 0..later {
                let (a, b) = (masks.participant(earlier), masks.participant(later));
                let shared = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| u64::from((a & b).count_ones()))
                    .sum::<u64>();
                self.shared_in_dispute[pair] += shared;
                pair += 1;
            }
        }
    }

    /// Counts the groups of a whole tile: of the resolved mask, and of the
    /// participants' (`words`, as in [`PieceMasks`]) where they differ.
    pub fn add_tile_patterns(
        &mut self,
        resolved: &[u64],
        words: Option<&[u64]>,
        n_elements: usize,
        shape: &Shape,
    ) {
        let (of_resolved, of_participants) = self.patterns.split_at_mut(1);
        of_resolved[0].add_tile(resolved, n_elements, shape);
        match words {
            None => of_participants
                .iter_mut()
                .for_each(|pattern| pattern.merge(&of_resolved[0])),
            Some(words) => {
                for (pattern, words) in of_participants
                    .iter_mut()
                    .zip(words.chunks(resolved.len().max(1)))
                {
                    pattern.add_tile(words, n_elements, shape);
                }
            }
        }
    }

    /// Adds a later stretch of the same tensor.
    pub fn merge(&mut self, later: &Self) {
        self.numel += later.numel;
        self.retained_by_any += later.retained_by_any;
        self.disagreements += later.disagreements;
        self.disputed_by_explicit += later.disputed_by_explicit;
        self.first_difference = self.first_difference.or(later.first_difference);
        self.retained += later.retained;
        self.zeros.merge(&later.zeros);
        self.shared_in_peace += later.shared_in_peace;
        self.retained_by
            .iter_mut()
            .zip(&later.retained_by)
            .for_each(|(by, later)| *by += later);
        self.patterns
            .iter_mut()
            .zip(&later.patterns)
            .for_each(|(pattern, later)| pattern.merge(later));
        if self.shared_in_dispute.is_empty() {
            self.shared_in_dispute.clone_from(&later.shared_in_dispute);
        } else {
            self.shared_in_dispute
                .iter_mut()
                .zip(&later.shared_in_dispute)
                .for_each(|(shared, later)| *shared += later);
        }
    }

    /// Elements that both participants retain.
    pub fn shared(&self, a: usize, b: usize) -> u64 {
        let (low, high) = (a.min(b), a.max(b));
        if low == high {
            return self.retained_by[low];
        }
        let pair = high * (high - 1) / 2 + low;
        self.shared_in_peace + self.shared_in_dispute.get(pair).copied().unwrap_or(0)
    }

    /// Tally of the groups of the resolved mask.
    pub fn resolved_pattern(&self) -> &PatternTally {
        &self.patterns[0]
    }

    /// Tally of the groups of one participant's mask.
    pub fn pattern_of(&self, participant: usize) -> &PatternTally {
        &self.patterns[participant + 1]
    }
}

/// Digest of a tile's resolved mask: bit `i` of byte `j` is element `8 j + i`,
/// `ceil(n / 8)` bytes.
pub(crate) fn mask_digest(words: &[u64], n_elements: usize) -> Digest {
    let mut bytes = vec![[0; 8]; words.len()];
    for (bytes, word) in bytes.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    Digest::of(&bytes.as_flattened()[..n_elements.div_ceil(8)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(masks: &[u64], resolution: Resolution) -> (MaskTally, u64) {
        let mut tally = MaskTally::new(masks.len());
        let votes = vec![1.0; masks.len()];
        let mut resolved = [0];
        let masks = PieceMasks {
            words: masks,
            n_words: 1,
            votes: &votes,
            is_explicit: &vec![false; votes.len()],
        };
        tally.add_piece(masks, resolution, 64, 64, &mut resolved);
        (tally, resolved[0])
    }

    #[test]
    fn agreement() {
        let (tally, resolved) = tally(&[0b1011, 0b1011, 0b1011], Resolution::All);
        assert_eq!(resolved, 0b1011);
        assert_eq!(
            (tally.retained, tally.retained_by_any, tally.disagreements),
            (3, 3, 0)
        );
        assert_eq!((tally.first_difference, tally.shared(0, 2)), (None, 3));
    }

    #[test]
    fn dispute_under_each_resolution() {
        let masks = [0b0111, 0b0011, 0b1001];
        for (resolution, expected) in [
            (Resolution::Any, 0b1111),
            (Resolution::All, 0b0001),
            (Resolution::First, 0b0111),
            (Resolution::Vote, 0b0011),
        ] {
            let (tally, resolved) = tally(&masks, resolution);
            assert_eq!(resolved, expected, "{resolution:?}");
            assert_eq!(tally.retained, u64::from(expected.count_ones()));
            assert_eq!(
                (
                    tally.retained_by_any,
                    tally.disagreements,
                    tally.first_difference
                ),
                (4, 3, Some(65))
            );
            assert_eq!(*tally.retained_by, [3, 2, 2]);
            assert_eq!(
                (tally.shared(0, 1), tally.shared(2, 0), tally.shared(1, 2)),
                (2, 1, 1)
            );
        }
    }

    #[test]
    fn a_tie_of_votes_is_retained() {
        assert_eq!(tally(&[0b01, 0b10], Resolution::Vote).1, 0b11);
    }

    #[test]
    fn later_stretches_add_up() {
        let (mut first, _) = tally(&[0b1, 0b1], Resolution::Any);
        let (second, _) = tally(&[0b11, 0b10], Resolution::Any);
        first.merge(&second);
        assert_eq!(
            (first.numel, first.retained, first.disagreements),
            (128, 3, 1)
        );
        assert_eq!((first.shared(0, 1), first.first_difference), (2, Some(64)));
    }

    #[test]
    fn digest_ignores_how_words_are_padded() {
        assert_eq!(mask_digest(&[0b101], 3), Digest::of(&[0b101]));
        assert_eq!(
            mask_digest(&[u64::MAX, 1], 65),
            Digest::of(&[255, 255, 255, 255, 255, 255, 255, 255, 1])
        );
        assert_ne!(mask_digest(&[0b101], 3), mask_digest(&[0b101], 9));
    }
}
