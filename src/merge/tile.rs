//! One tile of one tensor: read, compared, combined and digested while it is in cache.

mod combine;
mod device;
mod masks;
mod retained;

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
use crate::kernel::cuda::Answer;
use crate::kernel::maximum;
use crate::kernel::write_flags;
use crate::merge::MergeError;
use crate::merge::apply::Stored;
use crate::merge::job::Job;
use crate::merge::plan::Action;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::TileRange;
use crate::merge::plan::is_statistic;
use crate::merge::tile::retained::Room;
use crate::tensor::Digest;
use crate::tensor::TILE_ELEMENTS;
use crate::tensor::bits::count_ones;

pub(super) use device::Staged;

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
    read: Read,
    /// Values of compact ingredients, spread out where that is needed.
    spread: Vec<Vec<u8>>,
    /// Retained elements, or a tile of them spread out: what the output does not take.
    other: Vec<u8>,
    /// Mask words of all participants over the tile, one after the other.
    words: Vec<u64>,
    /// Mask words of all participants over a piece, one after the other.
    piece_words: Vec<u64>,
    pub(super) resolved: Vec<u64>,
}

/// Room for what is read into memory of a tile.
struct Read {
    values: Vec<Vec<u8>>,
    masks: Vec<Vec<u8>>,
    given: Vec<u8>,
    /// Mask words of each ingredient that stores the tile compact.
    compact: Vec<Vec<u64>>,
}

impl Scratch {
    pub(super) fn new(backend: &Cpu, n_ingredients: usize) -> Self {
        Self {
            workspace: backend.workspace(n_ingredients),
            read: Read {
                values: vec![Vec::new(); n_ingredients],
                masks: vec![Vec::new(); n_ingredients],
                given: Vec::new(),
                compact: vec![Vec::new(); n_ingredients],
            },
            spread: vec![Vec::new(); n_ingredients],
            other: Vec::new(),
            words: Vec::new(),
            piece_words: Vec::new(),
            resolved: vec![0; (TILE_ELEMENTS / 64) as usize],
        }
    }
}

/// The bytes of a tile in every file that has it.
struct TileBytes<'a> {
    /// Elements, of a compact ingredient the retained ones.
    values: Vec<&'a [u8]>,
    /// Flags of a stored mask.
    masks: Vec<Option<&'a [u8]>>,
    /// Mask words of a compact ingredient.
    compact: Vec<Option<&'a [u64]>>,
    given: Option<&'a [u8]>,
}

impl TileBytes<'_> {
    /// The mask words, where all ingredients are compact and have the same.
    fn shared_words(&self) -> Option<&[u64]> {
        let first = self.compact.first().copied().flatten()?;
        let mut all = self.compact.iter();
        let is_shared = all.all(|words| words.is_some_and(|words| std::ptr::eq(first, words)));
        (is_shared && self.given.is_none()).then_some(first)
    }

    /// The same tile of one ingredient with other values.
    fn with_values<'b>(&'b self, values: &'b [u8]) -> TileBytes<'b> {
        TileBytes {
            values: vec![values],
            masks: self.masks.clone(),
            compact: self.compact.clone(),
            given: self.given,
        }
    }

    /// Digests of the stored masks.
    fn mask_digests(&self, range: TileRange) -> Box<[Option<Digest>]> {
        let digest = |words: &[u64]| mask_digest(words, range.count as usize);
        let first = self.compact.first().copied().flatten();
        let of_first = first.map(digest);
        let masks = self.masks.iter().zip(&self.compact);
        let digests = masks.map(|(flags, words)| match (first, words) {
            (Some(first), Some(words)) if std::ptr::eq(first, *words) => of_first,
            (_, Some(words)) => Some(digest(words)),
            (_, None) => flags.map(Digest::of),
        });
        digests.collect()
    }
}

impl Job<'_> {
    fn read_tile<'s>(
        &'s self,
        parameter: &Parameter,
        range: TileRange,
        room: &'s mut Read,
    ) -> Result<TileBytes<'s>, MergeError> {
        let Read {
            values,
            masks,
            given,
            compact,
        } = room;
        let read = |checkpoint: &'s Checkpoint, tensor: &StoredTensor, scratch: &'s mut Vec<u8>| {
            checkpoint.read(tensor, range.begin, range.count, scratch)
        };
        let checkpoints = self.ingredients.having(parameter);
        let is_compact = |i| self.ingredients.value(parameter, i).compact().is_some();
        let values = checkpoints
            .iter()
            .zip(values)
            .zip(&mut *compact)
            .enumerate()
            .map(|(i, ((checkpoint, scratch), words))| {
                let value = self.ingredients.value(parameter, i);
                if !is_compact(i) {
                    return read(checkpoint, value, scratch);
                }
                let (begin, count) = (range.begin, range.count);
                let retained = checkpoint.read_retained(value, begin, count, words, scratch)?;
                Ok(retained.unwrap_or_default())
            })
            .collect::<Result<_, _>>()?;
        let masks = checkpoints
            .iter()
            .zip(masks)
            .enumerate()
            .map(|(i, (checkpoint, scratch))| {
                self.ingredients
                    .stored_mask(parameter, i)
                    .filter(|_| !is_compact(i))
                    .map(|mask| read(checkpoint, mask, scratch))
                    .transpose()
            })
            .collect::<Result<_, _>>()?;
        // Equal masks are one, which is then counted and digested once.
        let first = compact.first().map_or(&[][..], Vec::as_slice);
        let compact = compact[..checkpoints.len()].iter().enumerate();
        let compact = compact.map(|(i, words)| {
            let words = if words == first { first } else { words };
            is_compact(i).then_some(words)
        });
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
            compact: compact.collect(),
            given,
        })
    }

    /// The values of a tile with what is added to them, if anything is.
    fn added(&self, tile: &Tile<'_>, mask: Option<&[u64]>) -> Result<Option<Vec<u8>>, MergeError> {
        let Some(additions) = self.additions else {
            return Ok(None);
        };
        let packed = tile.bytes.compact.first().copied().flatten();
        let stored = Stored {
            path: self.ingredients.checkpoints()[0].path(),
            name: &tile.parameter.name,
            dtype: tile.stored(0).dtype,
            bytes: tile.bytes.values[0],
            packed,
        };
        additions.changed(tile.planned.parameter, tile.range, stored, mask)
    }

    /// Works through one tile. `out` and `mask_out` take the tile of the soup, or what is
    /// retained of it, and that of its stored mask; both are left alone where nothing is
    /// to be written. What a device found for it is taken, if it found all.
    pub(super) fn process_tile(
        &self,
        planned: &PlannedTensor,
        range: TileRange,
        scratch: &mut Scratch,
        answer: Option<Answer<'_>>,
        out: &mut [u8],
        mask_out: &mut [u8],
    ) -> Result<TileOutcome, MergeError> {
        let parameter = &self.ingredients.parameters()[planned.parameter];
        let Scratch {
            workspace,
            read,
            spread,
            other,
            words,
            piece_words,
            resolved,
        } = scratch;
        let bytes = self.read_tile(parameter, range, read)?;
        let mut outcome = TileOutcome {
            tally: None,
            mask: None,
            values: bytes.values.iter().map(|bytes| Digest::of(bytes)).collect(),
            stored_masks: bytes.mask_digests(range),
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
        let answer = answer.filter(|answer| self.takes(answer));
        let is_masked = planned.expectation != Expectation::Dense;
        if is_masked {
            let resolved = &mut resolved[..n_words];
            let shared = bytes.shared_words();
            let found = answer.as_ref();
            outcome.tally = Some(match shared {
                Some(shared) => tile.agreement(shared, resolved),
                None if planned.action == Action::FromFirst => {
                    tile.first_mask(words)?;
                    tile.agreement(words, resolved)
                }
                None if found.is_some_and(|found| tile.found_words(found, words)) => {
                    tile.agreement(words, resolved)
                }
                None => tile.compare_masks(words, piece_words, resolved)?,
            });
            outcome.mask = match shared {
                Some(_) => outcome.stored_masks[0],
                None => Some(mask_digest(resolved, range.count as usize)),
            };
        }
        if !self.writes() {
            return Ok(outcome);
        }
        let resolved = &resolved[..n_words];
        let width = (planned.slot.dtype.bits() / 8) as usize;
        if planned.compact.is_some() && count_ones(resolved) as usize * width != out.len() {
            // The masks differ, or have changed since they were counted: there is no
            // place for this tile, and no content in the end.
            return Ok(outcome);
        }
        let mask = is_masked.then_some(resolved);
        let values = self.added(&tile, mask)?;
        let changed = values.as_ref().map(|values| bytes.with_values(values));
        let bytes = changed.as_ref().unwrap_or(&bytes);
        let tile = Tile { bytes, ..tile };
        match (planned.action, answer) {
            (Action::Average, Some(answer)) if tile.take(&answer, out, mask) => {
                (outcome.counts, outcome.gram) = (answer.counts, answer.gram);
            }
            // Zeros that are a mask may have a sign, which stays.
            (Action::FromFirst, _) if tile.is_verbatim() => out.copy_from_slice(bytes.values[0]),
            (Action::Average | Action::First | Action::FromFirst, _) if is_masked => {
                let room = Room {
                    workspace,
                    words,
                    spread,
                    other,
                    out,
                };
                let is_peace = outcome.tally.as_ref().is_some_and(|t| t.disagreements == 0);
                (outcome.counts, outcome.gram) = tile.retained(room, resolved, is_peace)?;
            }
            (Action::Average, _) => {
                (outcome.counts, outcome.gram) = tile.average(workspace, out, None)?;
            }
            (Action::PooledVariance { mean }, _) => tile.pool_variances(mean, out)?,
            (Action::Maximum, _) => maximum(out, planned.slot.dtype, &bytes.values)?,
            (Action::First | Action::FromFirst, _) => out.copy_from_slice(bytes.values[0]),
            (Action::Identical, _) => {
                tile.refuse_differences()?;
                out.copy_from_slice(bytes.values[0]);
            }
        }
        outcome.content = Some(Digest::of(out));
        if let Some(slot) = &planned.mask_slot {
            write_flags(mask_out, slot.dtype, resolved);
            outcome.mask_content = Some(Digest::of(mask_out));
        }
        if planned.compact.is_some() {
            let (eights, rest) = mask_out.as_chunks_mut::<8>();
            for (bytes, word) in eights.iter_mut().zip(resolved) {
                *bytes = word.to_le_bytes();
            }
            if let Some(last) = resolved.last() {
                rest.copy_from_slice(&last.to_le_bytes()[..rest.len()]);
            }
            outcome.mask_content = outcome.mask;
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

    /// Whether the bytes of the soup are those that the first ingredient stores.
    fn is_verbatim(&self) -> bool {
        let is_plain = self.bytes.masks[0].is_none() && self.bytes.compact[0].is_none();
        is_plain && self.planned.compact.is_none()
    }

    /// Whether distances between ingredients count it.
    fn measures(&self) -> bool {
        self.job.options.distances && !is_statistic(&self.parameter.name)
    }

    /// The part of a tile's bytes that a piece takes.
    fn piece<'b>(&self, bytes: &'b [u8], begin: usize, n_elements: usize) -> &'b [u8] {
        let width = bytes.len() / (self.range.count as usize).max(1);
        &bytes[begin * width..(begin + n_elements) * width]
    }
}
