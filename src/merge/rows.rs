//! The parts of a compact tensor that follow its rows: where tiles and rows do not end
//! together, two workers make one byte.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::checkpoint::StagedOutput;
use crate::merge::MergeError;
use crate::merge::plan::Slot;
use crate::merge::plan::TileRange;
use crate::merge::sink::lock;
use crate::merge::storage::Compacted;
use crate::tensor::Shape;
use crate::tensor::bits::count_ones;
use crate::tensor::tile_elements;

/// Bytes of bitmasks of which one tile has been seen and another has not, by shard and
/// offset: two for each tile at most.
pub(super) type Edges = Mutex<BTreeMap<(usize, u64), u8>>;

impl Compacted {
    /// Number of the tile that begins at an element.
    fn tile(shape: &Shape, range: TileRange) -> usize {
        (range.begin / tile_elements(shape)) as usize
    }

    /// Place and bytes of what is retained of a tile.
    pub(super) fn values_place(
        &self,
        slot: &Slot,
        shape: &Shape,
        range: TileRange,
    ) -> (u64, usize) {
        let tile = Self::tile(shape, range);
        let width = slot.dtype.bits() / 8;
        match self.ranks.get(tile..tile + 2) {
            Some([begin, end]) => (
                slot.offset + begin * width,
                ((end - begin) * width) as usize,
            ),
            // Not counted yet: nothing is written.
            _ => (slot.offset, 0),
        }
    }

    /// Whether the bits of all rows follow each other without a gap.
    pub(super) fn has_flat_bitmask(&self, shape: &Shape) -> bool {
        let row = self.kind.row_elements(shape);
        row == shape.numel() || row.is_multiple_of(8)
    }

    /// Writes what a tile has of the bitmask, where its rows are padded, of the row
    /// offsets and of the shape.
    pub(super) fn write_rows(
        &self,
        output: &StagedOutput<'_>,
        edges: &Edges,
        shape: &Shape,
        range: TileRange,
        resolved: &[u64],
    ) -> Result<(), MergeError> {
        if let Some(slot) = self.shape.as_ref().filter(|_| range.begin == 0) {
            let dims = shape.dims().iter();
            let bytes: Vec<u8> = dims.flat_map(|dim| dim.to_le_bytes()).collect();
            output.write_at(slot.shard, &bytes, slot.offset)?;
        }
        let row = self.kind.row_elements(shape);
        if range.count == 0 || row == 0 {
            return Ok(());
        }
        if !self.has_flat_bitmask(shape) {
            self.write_padded(output, edges, row, range, resolved)?;
        }
        let Some(slot) = &self.row_offsets else {
            return Ok(());
        };
        let first_row = range.begin.div_ceil(row);
        let last_row = (range.begin + range.count).div_ceil(row);
        let before = self.ranks[Self::tile(shape, range)];
        let mut seen = Seen::default();
        let offsets = (first_row..last_row).flat_map(|number| {
            let in_tile = (number * row - range.begin) as usize;
            (before + seen.count_to(resolved, in_tile)).to_le_bytes()
        });
        let bytes: Vec<u8> = offsets.collect();
        Ok(output.write_at(slot.shard, &bytes, slot.offset + first_row * 8)?)
    }

    /// Writes the bits of a tile into rows of whole bytes.
    fn write_padded(
        &self,
        output: &StagedOutput<'_>,
        edges: &Edges,
        row: u64,
        range: TileRange,
        resolved: &[u64],
    ) -> Result<(), MergeError> {
        let row_bytes = row.div_ceil(8);
        let byte_of = |element: u64| element / row * row_bytes + element % row / 8;
        let end = range.begin + range.count;
        let first = byte_of(range.begin);
        let last = byte_of(end - 1);
        let mut bytes = vec![0_u8; (last - first + 1) as usize];
        for (index, &word) in resolved.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                let element = range.begin + index as u64 * 64 + u64::from(rest.trailing_zeros());
                bytes[(byte_of(element) - first) as usize] |= 1 << (element % row % 8);
                rest &= rest - 1;
            }
        }
        let starts_within = !(range.begin % row).is_multiple_of(8);
        let ends_within = !end.is_multiple_of(row) && !(end % row).is_multiple_of(8);
        let slot = &self.bitmask;
        let write = |bytes: &[u8], at: u64| output.write_at(slot.shard, bytes, slot.offset + at);
        let (mut from, mut to) = (0, bytes.len());
        if starts_within {
            share(edges, slot, first, bytes[0], write)?;
            from = 1;
        }
        if ends_within && to > from {
            to -= 1;
            share(edges, slot, last, bytes[to], write)?;
        }
        Ok(write(&bytes[from..to], first + from as u64)?)
    }
}

/// Writes a byte once both of its tiles have been seen.
fn share<E>(
    edges: &Edges,
    slot: &Slot,
    at: u64,
    bits: u8,
    write: impl Fn(&[u8], u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut edges = lock(edges);
    match edges.remove(&(slot.shard, slot.offset + at)) {
        Some(other) => write(&[bits | other], at),
        None => {
            edges.insert((slot.shard, slot.offset + at), bits);
            Ok(())
        }
    }
}

/// Set bits before places that come in order.
#[derive(Default)]
struct Seen {
    words: usize,
    count: u64,
}

impl Seen {
    fn count_to(&mut self, words: &[u64], bit: usize) -> u64 {
        self.count += count_ones(&words[self.words..bit / 64]);
        self.words = bit / 64;
        match bit % 64 {
            0 => self.count,
            rest => self.count + count_ones(&[words[bit / 64] & ((1 << rest) - 1)]),
        }
    }
}
