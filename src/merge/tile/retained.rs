//! The values of a tile that has a mask: combined or copied where it retains them.
//!
//! Where all ingredients are compact and their masks agree, nothing is spread out:
//! retained values stand at the same place in each of them.

use crate::kernel::Backend;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::Input;
use crate::kernel::PIECE;
use crate::kernel::cpu::Workspace;
use crate::merge::MergeError;
use crate::merge::plan::Action;
use crate::merge::tile::Tile;
use crate::merge::tile::TileBytes;
use crate::tensor::bits::count_ones;
use crate::tensor::bits::gather;
use crate::tensor::bits::spread;

/// Where values go, and room for others.
pub(super) struct Room<'a> {
    pub(super) workspace: &'a mut Workspace,
    pub(super) words: &'a mut Vec<u64>,
    pub(super) spread: &'a mut [Vec<u8>],
    pub(super) other: &'a mut Vec<u8>,
    pub(super) out: &'a mut [u8],
}

impl Tile<'_> {
    /// Fills `room.out` with the tile, or with what `resolved` retains of it. `is_peace`
    /// says that all masks agree.
    pub(super) fn retained(
        &self,
        room: Room<'_>,
        resolved: &[u64],
        is_peace: bool,
    ) -> Result<(Counts, Option<Gram>), MergeError> {
        let is_packed = self.planned.compact.is_some();
        let width = (self.planned.slot.dtype.bits() / 8) as usize;
        let packed_bytes = count_ones(resolved) as usize * width;
        let Room {
            workspace,
            words,
            spread: room_of,
            other,
            out,
        } = room;
        let can_stay = is_peace
            && self.bytes.given.is_none()
            && self.bytes.compact.iter().all(Option::is_some);
        if can_stay {
            other.resize(packed_bytes, 0);
            let packed = if is_packed { &mut *out } else { &mut *other };
            let found = match self.planned.action {
                Action::Average => self.average_packed(workspace, packed)?,
                _ => {
                    packed.copy_from_slice(self.bytes.values[0]);
                    Some((self.zeros(words, packed)?, None))
                }
            };
            if let Some(found) = found {
                if !is_packed {
                    spread(out, other, resolved, width);
                }
                return Ok(found);
            }
        }
        let bytes = self.spread_out(room_of);
        let tile = Tile {
            bytes: &bytes,
            ..*self
        };
        if self.planned.action == Action::Average {
            if !is_packed {
                return tile.average(workspace, out, Some(resolved));
            }
            other.resize(self.range.count as usize * width, 0);
            let found = tile.average(workspace, other, Some(resolved))?;
            gather(out, other, resolved, width);
            return Ok(found);
        }
        other.resize(packed_bytes, 0);
        let packed = if is_packed { &mut *out } else { &mut *other };
        gather(packed, bytes.values[0], resolved, width);
        let counts = self.zeros(words, packed)?;
        if !is_packed {
            spread(out, other, resolved, width);
        }
        Ok((counts, None))
    }

    /// The mean of retained values that stand at the same place in every ingredient, or
    /// `None` if one of them is not finite: where it stands is for others to say.
    fn average_packed(
        &self,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<Option<(Counts, Option<Gram>)>, MergeError> {
        let job = self.job;
        let mut gram = self.measures().then(|| Gram::zero(self.bytes.values.len()));
        let mut counts = Counts::default();
        let dtype = self.planned.slot.dtype;
        let width = (dtype.bits() / 8) as usize;
        let mut inputs = Vec::with_capacity(self.bytes.values.len());
        for (index, piece) in out.chunks_mut(PIECE * width).enumerate() {
            let (begin, n_elements) = (index * PIECE, piece.len() / width);
            inputs.clear();
            inputs.extend(self.bytes.values.iter().enumerate().map(|(i, values)| {
                let dtype = self.stored(i).dtype;
                let width = (dtype.bits() / 8) as usize;
                let bytes = &values[begin * width..(begin + n_elements) * width];
                Input { bytes, dtype }
            }));
            let weights = &job.options.weights;
            let gram = gram.as_mut();
            let backend = &job.backend;
            let found = backend.combine(workspace, piece, dtype, &inputs, weights, None, gram)?;
            if found.non_finite > 0 {
                return Ok(None);
            }
            counts.retained_zeros += found.retained_zeros;
            counts.non_finite += found.non_finite;
        }
        Ok(Some((counts, gram)))
    }

    /// How many of these elements are zero.
    fn zeros(&self, words: &mut Vec<u64>, elements: &[u8]) -> Result<Counts, MergeError> {
        let dtype = self.planned.slot.dtype;
        let n_elements = elements.len() / (dtype.bits() / 8) as usize;
        words.clear();
        words.resize(n_elements.div_ceil(64), 0);
        self.job.backend.nonzero(words, dtype, elements)?;
        Ok(Counts {
            retained_zeros: n_elements as u64 - count_ones(words),
            non_finite: 0,
        })
    }

    /// The same tile with the values of compact ingredients spread out.
    fn spread_out<'b>(&'b self, room: &'b mut [Vec<u8>]) -> TileBytes<'b> {
        let values = self.bytes.values.iter().zip(&self.bytes.compact).zip(room);
        let values = values.enumerate().map(|(i, ((values, words), room))| {
            let Some(words) = words else {
                return *values;
            };
            let width = (self.stored(i).dtype.bits() / 8) as usize;
            room.resize(self.range.count as usize * width, 0);
            spread(room, values, words, width);
            room.as_slice()
        });
        TileBytes {
            values: values.collect(),
            masks: self.bytes.masks.clone(),
            compact: self.bytes.compact.clone(),
            given: self.bytes.given,
        }
    }
}
