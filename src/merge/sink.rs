//! Where a pass puts what it computes: into files, into a comparison, or nowhere.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StagedOutput;
use crate::kernel::first_difference;
use crate::merge::MergeError;
use crate::merge::plan::Slot;
use crate::merge::plan::TileRange;

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
            let place = (slot.shard, slot.offset + range.begin);
            let mut first = lock(&self.first);
            if first.as_ref().is_none_or(|(earlier, ..)| place < *earlier) {
                *first = Some((place, slot.name.clone(), range.begin + element));
            }
        }
        Ok(())
    }
}

/// The value behind a mutex, also where a worker panicked: its panic is resumed when
/// the threads are joined.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
