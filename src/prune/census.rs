//! A first look at every prunable tensor: what remains of it, its zeros, its largest
//! weight, and whether all of it is finite.

use std::sync::Mutex;

use crate::checkpoint::StoredTensor;
use crate::kernel::Backend;
use crate::prune::PruneError;
use crate::prune::Target;
use crate::prune::pass::Effort;
use crate::prune::pass::Grain;
use crate::prune::pass::Visitor;
use crate::prune::pass::lock;
use crate::prune::score::EXCLUDED;
use crate::prune::tile::KeyScratch;
use crate::prune::tile::Scorer;
use crate::prune::tile::Tile;
use crate::prune::tile::non_finite;
use crate::prune::tile::refuse_non_flags;

/// What is found of a parameter before anything is ranked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    /// Coordinates that a stored or given mask retains, or all.
    pub(super) remaining: u64,
    /// Those of them whose weight is zero.
    pub(super) zeros: u64,
    /// Largest key of them.
    pub(super) largest: u64,
}

struct Counter<'a> {
    scorer: &'a Scorer<'a>,
    is_given: bool,
    found: &'a [Mutex<Census>],
    own: Census,
    scratch: KeyScratch,
}

impl Counter<'_> {
    /// Refuses a given mask that retains what the stored one prunes.
    fn refuse_revived(&self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let subject = self.scorer.subject;
        let stored = tile.stored.zip(subject.stored_mask(tile.parameter));
        let given = tile.given.zip(subject.given_mask(tile.parameter));
        let (Some(stored), Some(given)) = (stored, given) else {
            return Ok(());
        };
        let words = |(bytes, mask): (&[u8], &StoredTensor)| {
            let mut words = vec![0; tile.count.div_ceil(64)];
            let done = self.scorer.backend.nonzero(&mut words, mask.dtype, bytes);
            done.map(|()| words)
        };
        let pairs = words(given)?.into_iter().zip(words(stored)?);
        let mut revived = pairs.map(|(given, stored)| given & !stored).enumerate();
        match revived.find(|(_, word)| *word != 0) {
            None => Ok(()),
            Some((word, bits)) => Err(PruneError::Revived {
                tensor: subject.parameters()[tile.parameter].name.clone(),
                index: tile.begin + word as u64 * 64 + u64::from(bits.trailing_zeros()),
            }),
        }
    }
}

impl Visitor for Counter<'_> {
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let subject = self.scorer.subject;
        refuse_non_flags(subject, tile)?;
        if self.is_given {
            self.refuse_revived(tile)?;
        }
        let infinity = self.scorer.width.infinity();
        let own = &mut self.own;
        let mut first_bad = None;
        self.scorer.pieces(tile, &mut self.scratch, |begin, keys| {
            let mut largest = 0;
            for &key in keys {
                let is_candidate = key != EXCLUDED;
                own.remaining += u64::from(is_candidate);
                own.zeros += u64::from(key == 0);
                largest = largest.max(if is_candidate { key } else { 0 });
            }
            own.largest = own.largest.max(largest);
            if largest >= infinity && first_bad.is_none() {
                let is_bad = |key: &u64| *key >= infinity && *key != EXCLUDED;
                first_bad = keys.iter().position(is_bad).map(|at| begin + at);
            }
        })?;
        match first_bad {
            Some(at) => Err(non_finite(subject, tile, at)),
            None => Ok(()),
        }
    }

    fn leave(&mut self, parameter: usize) {
        let own = std::mem::take(&mut self.own);
        let mut found = lock(&self.found[parameter]);
        found.remaining += own.remaining;
        found.zeros += own.zeros;
        found.largest = found.largest.max(own.largest);
    }
}

/// Looks at every prunable parameter; the others count as empty.
pub(super) fn take_census(
    scorer: &Scorer<'_>,
    target: Target,
    effort: Effort<'_>,
) -> Result<Vec<Census>, PruneError> {
    let subject = scorer.subject;
    let n_parameters = subject.parameters().len();
    let found: Vec<Mutex<Census>> = (0..n_parameters).map(|_| Mutex::default()).collect();
    effort.run(subject, &subject.prunable(), Grain::Tiles, || Counter {
        scorer,
        is_given: target == Target::Given,
        found: &found,
        own: Census::default(),
        scratch: KeyScratch::new(),
    })?;
    Ok(found.iter().map(|found| *lock(found)).collect())
}
