//! One tile of one tensor: read, compared, combined and digested while it is in cache.

mod combine;
mod masks;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Parameter;
use crate::checkpoint::StoredTensor;
use crate::connectivity::Expectation;
use crate::connectivity::MaskTally;
use crate::connectivity::mask_digest;
use crate::kernel::Backend;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::cpu::Cpu;
use crate::kernel::cpu::Workspace;
use crate::kernel::maximum;
use crate::kernel::write_flags;
use crate::merge::MergeError;
use crate::merge::job::Job;
use crate::merge::plan::Action;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::TileRange;
use crate::tensor::Digest;
use crate::tensor::TILE_ELEMENTS;

/// What was found in a tile.
#[derive(Debug)]
pub(super) struct TileOutcome {
    pub(super) tally: Option<MaskTally>,
    pub(super) mask: Option<Digest>,
    /// Digests of what was read: each ingredient's values, then the stored masks,
    /// then the given mask.
    pub(super) values: Box<[Digest]>,
    pub(super) stored_masks: Box<[Option<Digest>]>,
    pub(super) given_mask: Option<Digest>,
    /// Digests of what was written.
    pub(super) content: Option<Digest>,
    pub(super) mask_content: Option<Digest>,
    pub(super) counts: Counts,
    pub(super) gram: Option<Gram>,
}

/// Scratch memory of one worker.
pub(super) struct Scratch {
    workspace: Workspace,
    values: Vec<Vec<u8>>,
    masks: Vec<Vec<u8>>,
    given: Vec<u8>,
    /// Mask words of all participants over the tile, one after the other.
    words: Vec<u64>,
    /// Mask words of all participants over a piece, one after the other.
    piece_words: Vec<u64>,
    resolved: Vec<u64>,
}

impl Scratch {
    pub(super) fn new(backend: &Cpu, n_ingredients: usize) -> Self {
        Self {
            workspace: backend.workspace(n_ingredients),
            values: vec![Vec::new(); n_ingredients],
            masks: vec![Vec::new(); n_ingredients],
            given: Vec::new(),
            words: Vec::new(),
            piece_words: Vec::new(),
            resolved: vec![0; (TILE_ELEMENTS / 64) as usize],
        }
    }
}

/// The bytes of a tile in every file that has it.
struct TileBytes<'a> {
    values: Vec<&'a [u8]>,
    masks: Vec<Option<&'a [u8]>>,
    given: Option<&'a [u8]>,
}

impl Job<'_> {
    fn read_tile<'s>(
        &'s self,
        parameter: &Parameter,
        range: TileRange,
        values: &'s mut [Vec<u8>],
        masks: &'s mut [Vec<u8>],
        given: &'s mut Vec<u8>,
    ) -> Result<TileBytes<'s>, MergeError> {
        let read = |checkpoint: &'s Checkpoint, tensor: &StoredTensor, scratch: &'s mut Vec<u8>| {
            checkpoint.read(tensor, range.begin, range.count, scratch)
        };
        let checkpoints = self.ingredients.checkpoints();
        let values = checkpoints
            .iter()
            .zip(values)
            .enumerate()
            .map(|(i, (checkpoint, scratch))| {
                read(checkpoint, self.ingredients.value(parameter, i), scratch)
            })
            .collect::<Result<_, _>>()?;
        let masks = checkpoints
            .iter()
            .zip(masks)
            .enumerate()
            .map(|(i, (checkpoint, scratch))| {
                self.ingredients
                    .stored_mask(parameter, i)
                    .map(|mask| read(checkpoint, mask, scratch))
                    .transpose()
            })
            .collect::<Result<_, _>>()?;
        let given = match (
            self.ingredients.mask_file(),
            self.ingredients.given_mask(parameter),
        ) {
            (Some(mask_file), Some(mask)) => Some(read(mask_file, mask, given)?),
            _ => None,
        };
        Ok(TileBytes {
            values,
            masks,
            given,
        })
    }

    /// Works through one tile. `out` and `mask_out` take the tile of the soup and of
    /// its stored mask; both are left alone where nothing is to be written.
    pub(super) fn process_tile(
        &self,
        planned: &PlannedTensor,
        range: TileRange,
        scratch: &mut Scratch,
        out: &mut [u8],
        mask_out: &mut [u8],
    ) -> Result<TileOutcome, MergeError> {
        let parameter = &self.ingredients.parameters()[planned.parameter];
        let Scratch {
            workspace,
            values,
            masks,
            given,
            words,
            piece_words,
            resolved,
        } = scratch;
        let bytes = self.read_tile(parameter, range, values, masks, given)?;
        let mut outcome = TileOutcome {
            tally: None,
            mask: None,
            values: bytes.values.iter().map(|bytes| Digest::of(bytes)).collect(),
            stored_masks: bytes
                .masks
                .iter()
                .map(|bytes| bytes.map(Digest::of))
                .collect(),
            given_mask: bytes.given.map(Digest::of),
            content: None,
            mask_content: None,
            counts: Counts::default(),
            gram: None,
        };
        let tile = Tile {
            job: self,
            planned,
            parameter,
            range,
            bytes: &bytes,
        };
        let n_words = range.count.div_ceil(64) as usize;
        let is_masked = planned.expectation != Expectation::Dense;
        if is_masked {
            let resolved = &mut resolved[..n_words];
            outcome.tally = Some(tile.compare_masks(words, piece_words, resolved)?);
            outcome.mask = Some(mask_digest(resolved, range.count as usize));
        }
        if !self.writes() {
            return Ok(outcome);
        }
        match planned.action {
            Action::Average => {
                let mask = is_masked.then_some(&resolved[..n_words]);
                (outcome.counts, outcome.gram) = tile.average(workspace, out, mask)?;
            }
            Action::PooledVariance { mean } => tile.pool_variances(mean, out)?,
            Action::Maximum => maximum(out, planned.slot.dtype, &bytes.values)?,
            Action::First => out.copy_from_slice(bytes.values[0]),
            Action::Identical => {
                tile.refuse_differences()?;
                out.copy_from_slice(bytes.values[0]);
            }
        }
        outcome.content = Some(Digest::of(out));
        if let Some(slot) = &planned.mask_slot {
            write_flags(mask_out, slot.dtype, &resolved[..n_words]);
            outcome.mask_content = Some(Digest::of(mask_out));
        }
        Ok(outcome)
    }
}

/// A tile that has been read.
struct Tile<'a> {
    job: &'a Job<'a>,
    planned: &'a PlannedTensor,
    parameter: &'a Parameter,
    range: TileRange,
    bytes: &'a TileBytes<'a>,
}

impl Tile<'_> {
    fn stored(&self, ingredient: usize) -> &StoredTensor {
        self.job.ingredients.value(self.parameter, ingredient)
    }

    /// The part of a tile's bytes that a piece takes.
    fn piece<'b>(&self, bytes: &'b [u8], begin: usize, n_elements: usize) -> &'b [u8] {
        let width = bytes.len() / (self.range.count as usize).max(1);
        &bytes[begin * width..(begin + n_elements) * width]
    }
}
