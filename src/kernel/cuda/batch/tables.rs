//! Tables of addresses and sizes, as the structures of `batch.cuh` lie in memory.

use super::aligned;

/// Structures written one after the other behind the values.
pub(super) struct Tables<'a> {
    buffer: &'a mut [u8],
    address: u64,
    at: usize,
}

impl<'a> Tables<'a> {
    /// Tables behind the first `at` bytes of a buffer that begins at `address` there.
    pub(super) fn new(buffer: &'a mut [u8], address: u64, at: usize) -> Self {
        Self {
            buffer,
            address,
            at,
        }
    }

    /// Bytes of the buffer that are filled.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    /// Address of a table that begins here.
    pub(super) fn begin(&mut self) -> u64 {
        self.at = aligned(self.at);
        self.address + self.at as u64
    }

    /// Adds one word.
    pub(super) fn push(&mut self, word: u64) {
        self.buffer[self.at..][..8].copy_from_slice(&word.to_le_bytes());
        self.at += 8;
    }

    /// Adds two numbers, the first at the lower address.
    pub(super) fn push_pair(&mut self, low: u32, high: u32) {
        self.push(u64::from(high) << 32 | u64::from(low));
    }
}
