//! Where a pass puts what it computes: into files, into a comparison, or nowhere.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StagedOutput;
use crate::kernel::first_difference;
use crate::merge::MergeError;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::Slot;
use crate::merge::plan::TileRange;
use crate::merge::storage::Compacted;

/// Most bytes of output that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// Where the soup's bytes go.
pub(super) enum Sink<'a> {
    /// Nowhere: nothing is combined.
    None,
    /// Into staged files.
    Write(&'a StagedOutput<'a>),
    /// Into a comparison with a soup that exists.
    Compare(Comparison<'a>),
}

/// A soup that exists, and where it first differs.
pub(super) struct Comparison<'a> {
    pub(super) soup: &'a Checkpoint,
    /// Names of tensors that may differ.
    pub(super) except: &'a [String],
    /// Shard and offset of the first difference in the plan's order, with the
    /// tensor's name and the element's index.
    pub(super) first: Mutex<Option<((usize, u64), String, u64)>>,
}

/// Bytes of the output that follow each other, gathered for one write.
#[derive(Default)]
pub(super) struct Run {
    shard: usize,
    offset: u64,
    bytes: Vec<u8>,
    len: usize,
}

impl Run {
    /// Room for `len` more bytes at this place, after writing what does not adjoin.
    pub(super) fn reserve(
        &mut self,
        slot: &Slot,
        offset: u64,
        len: usize,
        sink: &Sink<'_>,
    ) -> Result<&mut [u8], MergeError> {
        let adjoins = self.shard == slot.shard && self.offset + self.len as u64 == offset;
        if self.len > 0 && (!adjoins || self.len + len > WRITE_BYTES) {
            self.flush(sink)?;
        }
        if self.len == 0 {
            (self.shard, self.offset) = (slot.shard, offset);
        }
        if self.bytes.len() < self.len + len {
            self.bytes.resize(self.len + len, 0);
        }
        let start = self.len;
        self.len += len;
        Ok(&mut self.bytes[start..][..len])
    }

    pub(super) fn flush(&mut self, sink: &Sink<'_>) -> Result<(), MergeError> {
        let bytes = &self.bytes[..std::mem::take(&mut self.len)];
        match sink {
            Sink::Write(staged) if !bytes.is_empty() => {
                Ok(staged.write_at(self.shard, bytes, self.offset)?)
            }
            _ => Ok(()),
        }
    }
}

impl Comparison<'_> {
    pub(super) fn compare(
        &self,
        slot: &Slot,
        range: TileRange,
        expected: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), MergeError> {
        let Some(index) = self.soup.find(&slot.name) else {
            return Ok(());
        };
        if self.except.contains(&slot.name) {
            return Ok(());
        }
        let found = self.soup.read(
            &self.soup.tensors()[index],
            range.begin,
            range.count,
            scratch,
        )?;
        if let Some(element) = first_difference(expected, found, slot.dtype.bits()) {
            self.note(slot, slot.offset + range.begin, range.begin + element);
        }
        Ok(())
    }

    /// Compares what is retained of a tile: mask words and values.
    pub(super) fn compare_compact(
        &self,
        planned: &PlannedTensor,
        compact: &Compacted,
        range: TileRange,
        (resolved, expected): (&[u64], &[u8]),
        scratch: &mut Vec<u8>,
    ) -> Result<(), MergeError> {
        let slot = &planned.slot;
        let Some(index) = self.soup.find(&slot.name) else {
            return Ok(());
        };
        let tensor = &self.soup.tensors()[index];
        let mut words = Vec::new();
        let (begin, count) = (range.begin, range.count);
        let found = self
            .soup
            .read_retained(tensor, begin, count, &mut words, scratch)?;
        let Some(found) = found else {
            // Its bitmask is a plain tensor, which is no mask.
            self.note(&compact.bitmask, slot.offset + begin, begin);
            return Ok(());
        };
        if let Some(word) = (0..resolved.len()).find(|&word| resolved[word] != words[word]) {
            let bits = resolved[word] ^ words[word];
            let element = begin + word as u64 * 64 + u64::from(bits.trailing_zeros());
            self.note(&compact.bitmask, slot.offset + begin, element);
        } else if let Some(rank) = first_difference(expected, found, slot.dtype.bits()) {
            let element = begin + nth_set_bit(resolved, rank);
            self.note(slot, slot.offset + begin, element);
        }
        Ok(())
    }

    /// Keeps a difference if it is the first in the plan's order.
    fn note(&self, slot: &Slot, offset: u64, element: u64) {
        let place = (slot.shard, offset);
        let mut first = lock(&self.first);
        if first.as_ref().is_none_or(|(earlier, ..)| place < *earlier) {
            *first = Some((place, slot.name.clone(), element));
        }
    }
}

/// Index of the set bit that has `rank` set bits before it.
fn nth_set_bit(words: &[u64], mut rank: u64) -> u64 {
    for (index, &word) in words.iter().enumerate() {
        let ones = u64::from(word.count_ones());
        if rank < ones {
            let rest = (0..rank).fold(word, |rest, _| rest & (rest - 1));
            return index as u64 * 64 + u64::from(rest.trailing_zeros());
        }
        rank -= ones;
    }
    words.len() as u64 * 64
}

/// The value behind a mutex, also where a worker panicked: its panic is resumed when
/// the threads are joined.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
