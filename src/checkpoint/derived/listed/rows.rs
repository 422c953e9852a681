//! A walk over the rows of a CSR matrix: row bounds and columns are read in blocks, and
//! every stored element comes out with its place.

use std::ops::Range;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::derived::listed::Listed;
use crate::checkpoint::derived::listed::STEP;
use crate::checkpoint::derived::listed::Wrong;
use crate::checkpoint::map::SourceError;
use crate::tensor::Dtype;

/// Numbers `[begin, begin + count)` of an index tensor; `None` for negative ones.
pub(super) fn numbers(
    checkpoint: &Checkpoint,
    tensor: &StoredTensor,
    begin: u64,
    count: u64,
) -> Result<Vec<Option<u64>>, SourceError> {
    let mut scratch = Vec::new();
    let bytes = checkpoint.read(tensor, begin, count, &mut scratch)?;
    Ok(match tensor.dtype {
        Dtype::I32 => {
            let numbers = bytes.as_chunks::<4>().0.iter();
            let numbers = numbers.map(|&number| u64::try_from(i32::from_le_bytes(number)).ok());
            numbers.collect()
        }
        _ => {
            let numbers = bytes.as_chunks::<8>().0.iter();
            let numbers = numbers.map(|&number| u64::try_from(i64::from_le_bytes(number)).ok());
            numbers.collect()
        }
    })
}

/// A walk over the rows of a matrix and their columns, both read in blocks.
pub(super) struct Rows<'a> {
    listed: &'a Listed,
    rows: &'a StoredTensor,
    columns: &'a StoredTensor,
    checkpoint: &'a Checkpoint,
    /// Number of the first column in `block`.
    block_begin: u64,
    block: Vec<Option<u64>>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        listed: &'a Listed,
        rows: &'a StoredTensor,
        columns: &'a StoredTensor,
        checkpoint: &'a Checkpoint,
    ) -> Self {
        Self {
            listed,
            rows,
            columns,
            checkpoint,
            block_begin: 0,
            block: Vec::new(),
        }
    }

    /// Calls `visit` with the entries that are in `entries` and in these rows, each with
    /// its place, as long as it wants more.
    pub(super) fn over(
        &mut self,
        rows: Range<u64>,
        entries: Range<u64>,
        mut visit: impl FnMut(u64, Option<u64>) -> Result<bool, SourceError>,
    ) -> Result<(), SourceError> {
        let n_columns = self.listed.n_columns();
        let mut block_begin = rows.start;
        while block_begin < rows.end {
            let n_rows = STEP.min(rows.end - block_begin);
            let bounds = numbers(self.checkpoint, self.rows, block_begin, n_rows + 1)?;
            for (row, bounds) in (block_begin..).zip(bounds.windows(2)) {
                let (begin, end) = match *bounds {
                    [Some(begin), Some(end)] if begin <= end && end <= self.listed.count() => {
                        (begin.max(entries.start), end.min(entries.end))
                    }
                    _ => return Err(self.listed.wrong(self.checkpoint, row, Wrong::Rows)),
                };
                for entry in begin..end {
                    let column = self.column(entry)?.filter(|&column| column < n_columns);
                    let place =
                        column.and_then(|column| row.checked_mul(n_columns)?.checked_add(column));
                    if !visit(entry, place)? {
                        return Ok(());
                    }
                }
            }
            block_begin += n_rows;
        }
        Ok(())
    }

    fn column(&mut self, entry: u64) -> Result<Option<u64>, SourceError> {
        let in_block = |this: &Self| {
            let at = entry.checked_sub(this.block_begin)?;
            this.block.get(usize::try_from(at).ok()?).copied()
        };
        if let Some(column) = in_block(self) {
            return Ok(column);
        }
        let count = STEP.min(self.listed.count() - entry);
        self.block = numbers(self.checkpoint, self.columns, entry, count)?;
        self.block_begin = entry;
        Ok(in_block(self).flatten())
    }
}
