//! A tensor of which the retained values and a bitmask are stored.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::ContentError;
use crate::checkpoint::derived::Extent;
use crate::checkpoint::map::SourceError;
use crate::format::compact::CompactKind;
use crate::tensor::Dtype;
use crate::tensor::bits::copy_bits;
use crate::tensor::bits::count_ones;
use crate::tensor::bits::count_ones_of_bytes;
use crate::tensor::bits::spread;

/// Bytes of a bitmask whose set bits are counted together: the counts before each such
/// block are what is held of a tensor, one part in 8192 of its elements' bits.
const BLOCK_BYTES: u64 = 8192;

/// Longest bitmask that stays resident once its bits have been counted: whoever asked
/// reads it next, and letting go interrupts every core.
const RESIDENT_BYTES: u64 = 1 << 20;

/// Retained values and a bitmask, in files of one checkpoint.
///
/// The bitmask is read whole before the first value is, to know how many values stand
/// before each block of it; what is held is that count alone.
#[derive(Debug)]
pub struct Compact {
    /// How it is stored.
    pub kind: CompactKind,
    /// Names of the tensors that hold the values and the bitmask, for messages.
    pub(super) names: (String, String),
    pub(super) dtype: Dtype,
    pub(super) numel: u64,
    /// Elements of a row, which begins at a whole byte of the bitmask.
    pub(super) row_elements: u64,
    pub(super) retained: u64,
    /// Whether a model's graph decodes it, where it is a dense tensor that is stored so.
    pub(super) is_decoded: bool,
    pub(super) values: Extent,
    pub(super) bitmask: Extent,
    /// Number of values before each row, as the file says; checked if it is there.
    pub(super) row_offsets: Option<Extent>,
    /// Set bits before each block of the bitmask, and in all.
    pub(super) ranks: OnceLock<Box<[u64]>>,
    pub(super) counting: Mutex<()>,
}

impl Compact {
    /// A tensor of a model: `numel` elements, one bit for each in `bitmask` and `retained` values,
    /// called so in messages.
    pub(in crate::checkpoint) fn of_bitmask(
        names: (String, String),
        (dtype, numel, retained): (Dtype, u64, u64),
        values: Extent,
        bitmask: Extent,
    ) -> Self {
        Self {
            kind: CompactKind::Bitmask,
            names,
            dtype,
            numel,
            row_elements: numel,
            retained,
            is_decoded: true,
            values,
            bitmask,
            row_offsets: None,
            ranks: OnceLock::new(),
            counting: Mutex::new(()),
        }
    }

    /// Number of retained elements, which is that of the values.
    pub fn retained(&self) -> u64 {
        self.retained
    }

    pub(super) fn value_bytes(&self) -> u64 {
        self.values.end - self.values.begin
    }

    pub(super) fn mask_bytes(&self) -> u64 {
        self.bitmask.end - self.bitmask.begin
    }

    fn width(&self) -> u64 {
        self.dtype.bits() / 8
    }

    /// Byte of the bitmask and bit of that byte where an element's bit is.
    fn place(&self, element: u64) -> (u64, u32) {
        let row_bytes = self.row_elements.div_ceil(8);
        let (row, column) = match self.row_elements {
            0 => (0, 0),
            elements => (element / elements, element % elements),
        };
        (row * row_bytes + column / 8, (column % 8) as u32)
    }

    /// The bytes of the bitmask in which the bits of these elements are.
    pub(super) fn mask_extent(&self, begin: u64, count: u64) -> Extent {
        let (first, _) = self.place(begin);
        let end = match count {
            0 => first,
            _ => self.place(begin + count - 1).0 + 1,
        };
        Extent {
            shard: self.bitmask.shard,
            begin: self.bitmask.begin + first,
            end: self.bitmask.begin + end,
        }
    }

    /// Where the values of these elements are.
    pub(super) fn value_extent(
        &self,
        checkpoint: &Checkpoint,
        begin: u64,
        count: u64,
    ) -> Result<Extent, SourceError> {
        let at = |element| Ok(self.values.begin + self.rank(checkpoint, element)? * self.width());
        Ok(Extent {
            shard: self.values.shard,
            begin: at(begin)?,
            end: at(begin + count)?,
        })
    }

    /// Number of values before an element. Reads the whole bitmask when first asked.
    ///
    /// # Errors
    /// [`SourceError`] if the bitmask cannot be read or does not fit its values.
    pub fn rank(&self, checkpoint: &Checkpoint, element: u64) -> Result<u64, SourceError> {
        let ranks = self.ranks(checkpoint)?;
        if element >= self.numel {
            return Ok(self.retained);
        }
        let (byte, bit) = self.place(element);
        let block = byte / BLOCK_BYTES;
        let first = block * BLOCK_BYTES;
        // The byte of the element too, for its lower bits.
        let mut scratch = Vec::new();
        let len = byte - first + 1;
        let bytes = self.read_extent(checkpoint, self.bitmask, first, len, &mut scratch)?;
        let (last, whole) = bytes.split_last().unwrap_or((&0, &[]));
        let lower = (u32::from(*last) & ((1 << bit) - 1)).count_ones();
        Ok(ranks[block as usize] + count_ones_of_bytes(whole) + u64::from(lower))
    }

    fn read_extent<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        extent: Extent,
        offset: u64,
        len: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], SourceError> {
        let source = checkpoint.shards[extent.shard].source();
        source.read(extent.begin + offset, len as usize, scratch)
    }

    fn check_fault(&self, checkpoint: &Checkpoint) -> Result<(), SourceError> {
        let extents = [Some(self.values), Some(self.bitmask), self.row_offsets];
        let shards = extents.into_iter().flatten().map(|extent| extent.shard);
        let mut shards: Vec<usize> = shards.collect();
        shards.dedup();
        shards
            .into_iter()
            .try_for_each(|shard| checkpoint.shards[shard].source().check_fault())
    }

    /// An error about what the files hold, unless they have lost pages.
    fn wrong(&self, checkpoint: &Checkpoint, source: ContentError) -> SourceError {
        match self.check_fault(checkpoint) {
            Err(fault) => fault,
            Ok(()) => SourceError::Content {
                path: checkpoint.shards[self.bitmask.shard]
                    .source()
                    .path()
                    .to_owned(),
                source,
            },
        }
    }

    fn wrong_count(&self, checkpoint: &Checkpoint, found: u64) -> SourceError {
        let error = ContentError::Count {
            values: self.names.0.clone(),
            bitmask: self.names.1.clone(),
            expected: self.retained,
            found,
        };
        self.wrong(checkpoint, error)
    }

    /// Set bits before each block; counted, and the bitmask checked, when first asked.
    fn ranks(&self, checkpoint: &Checkpoint) -> Result<&[u64], SourceError> {
        if let Some(ranks) = self.ranks.get() {
            return Ok(ranks);
        }
        let counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let ranks = match self.ranks.get() {
            Some(ranks) => ranks,
            None => {
                let counted = self.count(checkpoint)?;
                self.ranks.get_or_init(|| counted)
            }
        };
        drop(counting);
        Ok(ranks)
    }

    fn count(&self, checkpoint: &Checkpoint) -> Result<Box<[u64]>, SourceError> {
        let row_bytes = self.row_elements.div_ceil(8).max(1);
        let padding = (8 - self.row_elements % 8) % 8;
        let total = self.mask_bytes();
        let mut ranks = Vec::with_capacity(total.div_ceil(BLOCK_BYTES) as usize + 1);
        let mut rank = 0;
        let (mut scratch, mut offsets) = (Vec::new(), RowOffsets::new(self));
        for block in (0..total).step_by(BLOCK_BYTES as usize) {
            ranks.push(rank);
            let len = BLOCK_BYTES.min(total - block);
            let bytes = self.read_extent(checkpoint, self.bitmask, block, len, &mut scratch)?;
            let mut done = 0;
            while done < bytes.len() {
                let (row, in_row) = (
                    (block + done as u64) / row_bytes,
                    (block + done as u64) % row_bytes,
                );
                if in_row == 0 {
                    offsets.check(checkpoint, row, rank)?;
                }
                let end = bytes.len().min(done + (row_bytes - in_row) as usize);
                rank += count_ones_of_bytes(&bytes[done..end]);
                let ends_row = in_row + (end - done) as u64 == row_bytes;
                if ends_row && padding > 0 && bytes[end - 1] >> (8 - padding) != 0 {
                    let bitmask = self.names.1.clone();
                    return Err(self.wrong(checkpoint, ContentError::Padding { bitmask, row }));
                }
                done = end;
            }
        }
        ranks.push(rank);
        if rank != self.retained {
            return Err(self.wrong_count(checkpoint, rank));
        }
        self.check_fault(checkpoint)?;
        if total > RESIDENT_BYTES {
            let source = checkpoint.shards[self.bitmask.shard].source();
            source.release(self.bitmask.begin, total);
        }
        Ok(ranks.into())
    }

    /// Mask words of a stretch of elements.
    pub(in crate::checkpoint) fn read_words(
        &self,
        checkpoint: &Checkpoint,
        begin: u64,
        count: u64,
        words: &mut Vec<u64>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let extent = self.mask_extent(begin, count);
        let (offset, len) = (extent.begin - self.bitmask.begin, extent.end - extent.begin);
        let bytes = self.read_extent(checkpoint, self.bitmask, offset, len, scratch)?;
        words.clear();
        words.resize(count.div_ceil(64) as usize, 0);
        // Rows of whole bytes follow each other without a gap.
        let is_flat = self.row_elements.is_multiple_of(8);
        let mut done = 0;
        while done < count {
            let element = begin + done;
            let in_row = self.row_elements - element % self.row_elements;
            let n_bits = if is_flat {
                count - done
            } else {
                in_row.min(count - done)
            };
            let (byte, bit) = self.place(element);
            let from = (byte - offset) as usize * 8 + bit as usize;
            copy_bits(bytes, from, words, done as usize, n_bits as usize);
            done += n_bits;
        }
        Ok(())
    }

    /// Retained values of a stretch of elements, whose mask words are put into `words`.
    pub(super) fn read_stretch<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        begin: u64,
        count: u64,
        words: &mut Vec<u64>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], SourceError> {
        let rank = self.rank(checkpoint, begin)?;
        self.read_words(checkpoint, begin, count, words, scratch)?;
        let n_values = count_ones(words);
        if rank + n_values > self.retained {
            // The bitmask had fewer bits when they were counted.
            return Err(self.wrong_count(checkpoint, rank + n_values));
        }
        let (offset, len) = (rank * self.width(), n_values * self.width());
        self.read_extent(checkpoint, self.values, offset, len, scratch)
    }

    /// Elements of a stretch, into `out`.
    pub(super) fn read_values(
        &self,
        checkpoint: &Checkpoint,
        begin: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let (mut words, mut scratch) = (Vec::new(), Vec::new());
        let values = self.read_stretch(checkpoint, begin, count, &mut words, &mut scratch)?;
        out.resize((count * self.width()) as usize, 0);
        spread(out, values, &words, self.width() as usize);
        self.check_fault(checkpoint)
    }

    /// Mask of a stretch as one byte per element, into `out`.
    pub(super) fn read_mask(
        &self,
        checkpoint: &Checkpoint,
        begin: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        // Nothing is told of a bitmask that does not fit its values.
        self.ranks(checkpoint)?;
        let (mut words, mut scratch) = (Vec::new(), Vec::new());
        self.read_words(checkpoint, begin, count, &mut words, &mut scratch)?;
        out.clear();
        out.extend((0..count as usize).map(|bit| (words[bit / 64] >> (bit % 64) & 1) as u8));
        self.check_fault(checkpoint)
    }
}

/// Row offsets of a file, read along with the bitmask that they are held against.
///
/// In tensors of more than two dimensions, compressed-tensors adds them up along the
/// first dimension alone and its reader does not look at them; neither does this one.
struct RowOffsets<'a> {
    compact: &'a Compact,
    extent: Option<Extent>,
    /// Row of the first offset in `buffer`.
    first: u64,
    buffer: Vec<u8>,
}

impl<'a> RowOffsets<'a> {
    fn new(compact: &'a Compact) -> Self {
        Self {
            compact,
            extent: compact.row_offsets,
            first: 0,
            buffer: Vec::new(),
        }
    }

    /// Holds the offset of a row against the number of set bits before it. Rows come
    /// in order.
    fn check(&mut self, checkpoint: &Checkpoint, row: u64, rank: u64) -> Result<(), SourceError> {
        let Some(extent) = self.extent else {
            return Ok(());
        };
        if row >= self.first + self.buffer.len() as u64 / 8 {
            let left = extent.end - extent.begin - row * 8;
            let mut scratch = Vec::new();
            let len = left.min(BLOCK_BYTES);
            let compact = self.compact;
            let bytes = compact.read_extent(checkpoint, extent, row * 8, len, &mut scratch)?;
            self.buffer.clear();
            self.buffer.extend_from_slice(bytes);
            self.first = row;
        }
        let at = (row - self.first) as usize;
        let found = i64::from_le_bytes(self.buffer.as_chunks::<8>().0[at]);
        if u64::try_from(found) == Ok(rank) {
            return Ok(());
        }
        let bitmask = self.compact.names.1.clone();
        let error = ContentError::RowOffset {
            bitmask,
            row,
            expected: rank,
            found,
        };
        Err(self.compact.wrong(checkpoint, error))
    }
}
