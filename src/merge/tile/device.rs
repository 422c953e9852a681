//! Tiles that a device works through: put into its batch, and taken from its answer.

use crate::connectivity::Expectation;
use crate::kernel::Input;
use crate::kernel::cuda::Answer;
use crate::kernel::cuda::Lane;
use crate::kernel::cuda::MaskSource;
use crate::kernel::cuda::Request;
use crate::merge::job::Job;
use crate::merge::plan::Action;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::TileRange;
use crate::merge::tile::Scratch;
use crate::merge::tile::Tile;
use crate::merge::tile::TileBytes;
use crate::tensor::bits::count_ones;
use crate::tensor::bits::gather;
use crate::tensor::bits::spread;

/// What became of a tile that a lane was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::merge) enum Staged {
    /// It is in the batch.
    Taken,
    /// It is for the processor.
    Refused,
    /// There is no room for it now.
    Full,
}

impl Job<'_> {
    /// Offers a tile to a device.
    ///
    /// Whatever is wrong with it is left for the processor to tell.
    pub(in crate::merge) fn stage(
        &self,
        planned: &PlannedTensor,
        range: TileRange,
        scratch: &mut Scratch,
        lane: &mut Lane,
    ) -> Staged {
        let writes = self.writes();
        let is_masked = planned.expectation != Expectation::Dense;
        if planned.action != Action::Average || range.count == 0 || !(writes || is_masked) {
            return Staged::Refused;
        }
        let parameter = &self.ingredients.parameters()[planned.parameter];
        let Scratch {
            read,
            words,
            piece_words,
            resolved,
            ..
        } = scratch;
        let Ok(bytes) = self.read_tile(parameter, range, read) else {
            return Staged::Refused;
        };
        let tile = Tile {
            job: self,
            planned,
            parameter,
            range,
            bytes: &bytes,
        };
        let resolved = &mut resolved[..range.count.div_ceil(64) as usize];
        let mask = if !is_masked || bytes.shared_words().is_some() {
            // What is retained of compact ingredients stands at the same place in each.
            MaskSource::Dense
        } else if bytes.are_zeros_masks() {
            MaskSource::Zeros
        } else if bytes.compact.iter().any(Option::is_some) {
            return Staged::Refused;
        } else {
            match tile.compare_masks(words, piece_words, resolved) {
                Ok(tally) if tally.disagreements == 0 => MaskSource::Given(resolved),
                _ => return Staged::Refused,
            }
        };
        if !(writes || matches!(mask, MaskSource::Zeros)) {
            return Staged::Refused;
        }
        let inputs: Vec<Input<'_>> = bytes
            .values
            .iter()
            .enumerate()
            .map(|(i, &bytes)| Input {
                bytes,
                dtype: tile.stored(i).dtype,
            })
            .collect();
        let request = Request {
            inputs: &inputs,
            out_dtype: writes.then_some(planned.slot.dtype),
            mask,
            gram: tile.measures(),
        };
        match lane.push(request) {
            Ok(true) => Staged::Taken,
            Ok(false) if lane.is_empty() => Staged::Refused,
            Ok(false) => Staged::Full,
            Err(_) => Staged::Refused,
        }
    }

    /// Whether an answer is what the processor would find. What is left is rare: masks
    /// that differ, means that only an exact fraction tells, and what is not finite: to be
    /// refused, or a constant, which a device does not know.
    pub(super) fn takes(&self, answer: &Answer<'_>) -> bool {
        answer.disputed == 0 && answer.unsettled == 0 && answer.counts.non_finite == 0
    }
}

impl TileBytes<'_> {
    /// Whether nothing but zeros tells the masks.
    fn are_zeros_masks(&self) -> bool {
        let stored = self.masks.iter().all(Option::is_none);
        stored && self.compact.iter().all(Option::is_none) && self.given.is_none()
    }
}

impl Tile<'_> {
    /// The mask that the device read from zeros, if that is where it comes from.
    pub(super) fn found_words(&self, answer: &Answer<'_>, words: &mut Vec<u64>) -> bool {
        let found = answer.mask.as_chunks::<8>().0;
        words.clear();
        words.extend(found.iter().map(|bytes| u64::from_le_bytes(*bytes)));
        words.len() == self.n_words() && self.bytes.are_zeros_masks()
    }

    /// Fills `out` with the tile, or with what `resolved` retains of it. `false` if the
    /// answer is that to another question, and the processor has to do it.
    pub(super) fn take(
        &self,
        answer: &Answer<'_>,
        out: &mut [u8],
        resolved: Option<&[u64]>,
    ) -> bool {
        let width = (self.planned.slot.dtype.bits() / 8) as usize;
        let full = self.range.count as usize * width;
        let found = answer.out;
        let Some(resolved) = resolved else {
            return copy(out, found, full);
        };
        let packed = count_ones(resolved) as usize * width;
        match (self.bytes.shared_words(), &self.planned.compact) {
            (Some(_), Some(_)) => copy(out, found, packed),
            (None, None) => copy(out, found, full),
            (Some(_), None) if found.len() == packed => {
                spread(out, found, resolved, width);
                true
            }
            (None, Some(_)) if found.len() == full => {
                gather(out, found, resolved, width);
                true
            }
            _ => false,
        }
    }
}

/// Copies what has the expected length.
fn copy(out: &mut [u8], found: &[u8], expected: usize) -> bool {
    let fits = found.len() == expected;
    if fits {
        out.copy_from_slice(found);
    }
    fits
}
