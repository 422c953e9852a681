//! One thread of the writing pass: tiles walk in, pruned tiles and their masks walk out.

use std::sync::Mutex;

use crate::checkpoint::MaskLayout;
use crate::checkpoint::StagedOutput;
use crate::connectivity::MaskTally;
use crate::connectivity::PieceMasks;
use crate::connectivity::Resolution;
use crate::connectivity::mask_digest;
use crate::kernel::Backend;
use crate::kernel::write_flags;
use crate::prune::PruneError;
use crate::prune::Standing;
use crate::prune::output::Placed;
use crate::prune::output::Slot;
use crate::prune::pass::Visitor;
use crate::prune::pass::lock;
use crate::prune::retain::RetainScratch;
use crate::prune::retain::clear_pruned;
use crate::prune::retain::retain;
use crate::prune::retain::retained_zeros;
use crate::prune::select::Selection;
use crate::prune::tile::Scorer;
use crate::prune::tile::Tile;
use crate::tensor::Digest;
use crate::tensor::DigestList;

/// What was found of a parameter, by one thread or by all.
#[derive(Default)]
pub(super) struct Found {
    pub(super) tally: Option<MaskTally>,
    pub(super) retained_zeros: u64,
    /// Digests of tiles that were read, and of their masks, with their first elements.
    pub(super) values: Vec<(u64, Digest)>,
    pub(super) stored_masks: Vec<(u64, Digest)>,
    pub(super) masks: Vec<(u64, Digest)>,
}

/// Digest of the digests of all tiles.
pub(super) fn digest_of(tiles: &mut [(u64, Digest)]) -> Digest {
    tiles.sort_unstable();
    let mut list = DigestList::default();
    for &(_, digest) in &*tiles {
        list.push(digest);
    }
    list.finish()
}

impl Found {
    fn add(&mut self, mut other: Self) {
        match (&mut self.tally, &other.tally) {
            (Some(tally), Some(other)) => tally.merge(other),
            (tally @ None, Some(other)) => *tally = Some(other.clone()),
            (_, None) => {}
        }
        self.retained_zeros += other.retained_zeros;
        self.values.append(&mut other.values);
        self.stored_masks.append(&mut other.stored_masks);
        self.masks.append(&mut other.masks);
    }
}

/// Where tensors go.
type Place<'a> = (&'a Placed, &'a StagedOutput<'a>);

pub(super) struct Writer<'a> {
    scorer: &'a Scorer<'a>,
    selection: &'a Selection,
    layout: MaskLayout,
    checkpoint: Option<Place<'a>>,
    mask: Option<Place<'a>>,
    found: &'a [Mutex<Found>],
    own: Found,
    scratch: RetainScratch,
    words: Vec<u64>,
    resolved: Vec<u64>,
    bytes: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        scorer: &'a Scorer<'a>,
        selection: &'a Selection,
        layout: MaskLayout,
        checkpoint: Option<Place<'a>>,
        mask: Option<Place<'a>>,
        found: &'a [Mutex<Found>],
    ) -> Self {
        Self {
            scorer,
            selection,
            layout,
            checkpoint,
            mask,
            found,
            own: Found::default(),
            scratch: RetainScratch::new(),
            words: Vec::new(),
            resolved: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Counts and digests the tile's mask.
    fn note_mask(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let tally = self.own.tally.get_or_insert_with(|| MaskTally::new(1));
        self.resolved.clear();
        self.resolved.resize(self.words.len(), 0);
        let masks = PieceMasks {
            words: &self.words,
            n_words: self.words.len(),
            votes: &[1.0],
            is_explicit: &[true],
        };
        let resolved = &mut self.resolved;
        tally.add_piece(masks, Resolution::Any, tile.begin, tile.count, resolved);
        let shape = &self.scorer.subject.parameters()[tile.parameter].shape;
        tally.add_tile_patterns(&self.words, None, tile.count, shape);
        let digest = mask_digest(&self.words, tile.count);
        self.own.masks.push((tile.begin, digest));
        self.own.retained_zeros +=
            retained_zeros(self.scorer, tile, &self.words, &mut self.resolved)?;
        Ok(())
    }

    fn write_checkpoint(&mut self, tile: &Tile<'_>, is_masked: bool) -> Result<(), PruneError> {
        let Some((placed, staged)) = self.checkpoint else {
            return Ok(());
        };
        if let Some(slot) = placed.values[tile.parameter] {
            let bytes = if is_masked {
                self.bytes.clear();
                self.bytes.extend_from_slice(tile.values);
                clear_pruned(&mut self.bytes, slot.dtype.bits(), &self.words);
                &self.bytes
            } else {
                tile.values
            };
            staged.write_at(slot.shard, bytes, slot.at(tile.begin))?;
        }
        match (placed.masks[tile.parameter], tile.stored) {
            (Some(slot), Some(_)) if is_masked => self.write_flags(staged, slot, tile),
            (Some(slot), Some(stored)) => {
                Ok(staged.write_at(slot.shard, stored, slot.at(tile.begin))?)
            }
            _ => Ok(()),
        }
    }

    fn write_flags(
        &mut self,
        staged: &StagedOutput<'_>,
        slot: Slot,
        tile: &Tile<'_>,
    ) -> Result<(), PruneError> {
        self.bytes.clear();
        self.bytes
            .resize(tile.count * (slot.dtype.bits() / 8) as usize, 0);
        write_flags(&mut self.bytes, slot.dtype, &self.words);
        Ok(staged.write_at(slot.shard, &self.bytes, slot.at(tile.begin))?)
    }
}

impl Visitor for Writer<'_> {
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let subject = self.scorer.subject;
        self.own.values.push((tile.begin, Digest::of(tile.values)));
        if let Some(stored) = tile.stored {
            let digest = Digest::of(stored);
            self.own.stored_masks.push((tile.begin, digest));
        }
        self.words.clear();
        self.words.resize(tile.count.div_ceil(64), 0);
        let is_prunable = subject.standings()[tile.parameter] == Standing::Prunable;
        let mut is_masked = is_prunable;
        if is_prunable {
            let (scratch, words) = (&mut self.scratch, &mut self.words);
            retain(self.selection, self.scorer, tile, scratch, words)?;
            self.note_mask(tile)?;
        } else if let (Some(stored), Some(mask), MaskLayout::Dense) = (
            tile.stored,
            subject.stored_mask(tile.parameter),
            self.layout,
        ) {
            // Its mask is not stored any more, so its zeros have to tell it.
            self.scorer
                .backend
                .nonzero(&mut self.words, mask.dtype, stored)?;
            is_masked = true;
        }
        self.write_checkpoint(tile, is_masked)?;
        if let Some((placed, staged)) = self.mask
            && let Some(slot) = placed.masks[tile.parameter]
        {
            self.write_flags(staged, slot, tile)?;
        }
        Ok(())
    }

    fn leave(&mut self, parameter: usize) {
        let own = std::mem::take(&mut self.own);
        lock(&self.found[parameter]).add(own);
    }
}
