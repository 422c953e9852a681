//! A tensor of which some elements are stored, with a list of their places: torch's COO
//! and CSR.

mod rows;

use std::ops::Range;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::ContentError;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::derived::listed::rows::Rows;
use crate::checkpoint::derived::listed::rows::numbers;
use crate::checkpoint::map::SourceError;
use crate::tensor::Shape;
use crate::tensor::bits::spread;

/// Entries of a list that are read at once.
const STEP: u64 = 4096;

/// Stored elements and where they are. That the places are within the tensor and in
/// order, none of them twice, has been checked.
#[derive(Debug)]
pub struct Listed {
    name: String,
    dims: Vec<u64>,
    values: StoredTensor,
    list: List,
}

/// Where elements are.
#[derive(Debug)]
pub(in crate::checkpoint) enum List {
    /// An index of each dimension, dimension after dimension.
    Coordinates(StoredTensor),
    /// Where each row begins among the columns, and the columns.
    Rows(StoredTensor, StoredTensor),
}

/// What is wrong with an entry of a list.
#[derive(Clone, Copy)]
enum Wrong {
    Outside,
    Order,
    Rows,
}

impl Listed {
    /// The tensor called `name` of these parts, which have the shapes that go together.
    pub(in crate::checkpoint) fn new(
        name: String,
        shape: &Shape,
        values: StoredTensor,
        list: List,
    ) -> Self {
        Self {
            name,
            dims: shape.dims().to_vec(),
            values,
            list,
        }
    }

    /// Bytes of the stored elements.
    pub(super) fn value_bytes(&self) -> u64 {
        self.values.bytes
    }

    /// Bytes of the list.
    pub(super) fn place_bytes(&self) -> u64 {
        match &self.list {
            List::Coordinates(indices) => indices.bytes,
            List::Rows(rows, columns) => rows.bytes + columns.bytes,
        }
    }

    fn count(&self) -> u64 {
        self.values.shape.numel()
    }

    /// Number of columns of a matrix.
    fn n_columns(&self) -> u64 {
        self.dims.get(1).copied().unwrap_or(0)
    }

    /// Reads the whole list and checks it.
    ///
    /// # Errors
    /// [`ContentError::Place`] names the first entry that is wrong, and [`SourceError`]
    /// what cannot be read.
    pub(in crate::checkpoint) fn check(&self, checkpoint: &Checkpoint) -> Result<(), SourceError> {
        let mut after = 0;
        let mut check = |entry, place: Option<u64>| {
            let place = place.ok_or_else(|| self.wrong(checkpoint, entry, Wrong::Outside))?;
            if place < after {
                return Err(self.wrong(checkpoint, entry, Wrong::Order));
            }
            after = place + 1;
            Ok(())
        };
        match &self.list {
            List::Coordinates(_) => {
                for begin in (0..self.count()).step_by(STEP as usize) {
                    let places = self.coordinates(checkpoint, begin, STEP)?;
                    for (entry, place) in (begin..).zip(places) {
                        check(entry, place)?;
                    }
                }
            }
            List::Rows(rows, columns) => {
                let n_rows = rows.shape.numel() - 1;
                let mut walk = Rows::new(self, rows, columns, checkpoint);
                if self.number(checkpoint, rows, 0)? != Some(0)
                    || self.number(checkpoint, rows, n_rows)? != Some(self.count())
                {
                    return Err(self.wrong(checkpoint, 0, Wrong::Rows));
                }
                walk.over(0..n_rows, 0..self.count(), |entry, place| {
                    check(entry, place).map(|()| true)
                })?;
            }
        }
        self.check_fault(checkpoint)
    }

    fn check_fault(&self, checkpoint: &Checkpoint) -> Result<(), SourceError> {
        checkpoint.shards[self.values.shard].source().check_fault()
    }

    /// An error about an entry of the list, unless the file has lost pages.
    fn wrong(&self, checkpoint: &Checkpoint, entry: u64, wrong: Wrong) -> SourceError {
        if let Err(fault) = self.check_fault(checkpoint) {
            return fault;
        }
        let is_rows = matches!(self.list, List::Rows(..));
        SourceError::Content {
            path: checkpoint.shards[self.values.shard]
                .source()
                .path()
                .to_owned(),
            source: ContentError::Place {
                tensor: self.name.clone(),
                entry,
                what: match wrong {
                    Wrong::Outside => "lies outside of the tensor",
                    Wrong::Order if is_rows => {
                        "does not come after the one before it in its row; \
                         write the tensor with `.to_dense()`"
                    }
                    Wrong::Order => {
                        "does not come after the one before it, or is the same; \
                         write the tensor with `.coalesce()`"
                    }
                    Wrong::Rows => "is in no row: where rows begin and end is not as it must be",
                },
            },
        }
    }

    /// One number of an index tensor; `None` if it is negative.
    fn number(
        &self,
        checkpoint: &Checkpoint,
        tensor: &StoredTensor,
        at: u64,
    ) -> Result<Option<u64>, SourceError> {
        let numbers = numbers(checkpoint, tensor, at, 1)?;
        Ok(numbers.first().copied().flatten())
    }

    /// Row-major places of up to `count` entries from `begin` on; `None` for one that the
    /// tensor does not have.
    fn coordinates(
        &self,
        checkpoint: &Checkpoint,
        begin: u64,
        count: u64,
    ) -> Result<Vec<Option<u64>>, SourceError> {
        let List::Coordinates(indices) = &self.list else {
            return Ok(Vec::new());
        };
        let count = count.min(self.count() - begin);
        let mut places = vec![Some(0_u64); count as usize];
        for (axis, &dim) in (0..).zip(&self.dims) {
            let from = axis * self.count() + begin;
            let indices = numbers(checkpoint, indices, from, count)?;
            for (place, index) in places.iter_mut().zip(indices) {
                let index = index.filter(|&index| index < dim);
                *place = place.zip(index).and_then(|(place, index)| {
                    // No more than the elements of the tensor, which can be counted.
                    place.checked_mul(dim)?.checked_add(index)
                });
            }
        }
        Ok(places)
    }

    /// Sets the bits of `words` of the elements of a stretch that are stored, and returns
    /// which of the values they are.
    fn read_words(
        &self,
        checkpoint: &Checkpoint,
        stretch: Range<u64>,
        words: &mut Vec<u64>,
    ) -> Result<Range<u64>, SourceError> {
        words.clear();
        words.resize((stretch.end - stretch.start).div_ceil(64) as usize, 0);
        let first = self.first_from(checkpoint, stretch.start)?;
        let mut end = first;
        let mut set = |entry: u64, place: Option<u64>| {
            let Some(place) = place.filter(|place| *place < stretch.end) else {
                return Ok(false);
            };
            // Checked when the file was opened: if not so now, it is not what it was.
            let Some(bit) = place.checked_sub(stretch.start).filter(|_| entry == end) else {
                return Err(self.wrong(checkpoint, entry, Wrong::Order));
            };
            words[(bit / 64) as usize] |= 1 << (bit % 64);
            end += 1;
            Ok(true)
        };
        match &self.list {
            List::Coordinates(_) => {
                let mut begin = first;
                'blocks: while begin < self.count() {
                    let places = self.coordinates(checkpoint, begin, STEP)?;
                    for (entry, place) in (begin..).zip(places) {
                        if !set(entry, place)? {
                            break 'blocks;
                        }
                    }
                    begin += STEP;
                }
            }
            List::Rows(rows, columns) => {
                if stretch.start < stretch.end {
                    let n_columns = self.n_columns().max(1);
                    let in_rows = stretch.start / n_columns..(stretch.end - 1) / n_columns + 1;
                    let mut walk = Rows::new(self, rows, columns, checkpoint);
                    walk.over(in_rows, first..self.count(), set)?;
                }
            }
        }
        let found: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        if found != end - first {
            return Err(self.wrong(checkpoint, first, Wrong::Order));
        }
        Ok(first..end)
    }

    /// The first entry whose place is not before `element`.
    fn first_from(&self, checkpoint: &Checkpoint, element: u64) -> Result<u64, SourceError> {
        let (mut low, mut high) = (0, self.count());
        let mut origin = 0;
        if let List::Rows(rows, _) = &self.list {
            let row = element / self.n_columns().max(1);
            origin = row * self.n_columns();
            let bound = |row| self.number(checkpoint, rows, row);
            low = bound(row)?.unwrap_or(0).min(high);
            high = bound(row + 1)?.unwrap_or(0).clamp(low, high);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            let place = match &self.list {
                List::Coordinates(_) => self.coordinates(checkpoint, middle, 1)?[0],
                List::Rows(_, columns) => self
                    .number(checkpoint, columns, middle)?
                    .and_then(|column| origin.checked_add(column)),
            };
            if place.is_some_and(|place| place < element) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Elements of a stretch, into `out`.
    pub(super) fn read_values(
        &self,
        checkpoint: &Checkpoint,
        stretch: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let width = (self.values.dtype.bits() / 8) as usize;
        let n_elements = (stretch.end - stretch.start) as usize;
        let (mut words, mut scratch) = (Vec::new(), Vec::new());
        let range = self.read_words(checkpoint, stretch, &mut words)?;
        let count = range.end - range.start;
        let values = checkpoint.read(&self.values, range.start, count, &mut scratch)?;
        out.clear();
        out.resize(n_elements * width, 0);
        spread(out, values, &words, width);
        self.check_fault(checkpoint)
    }

    /// Mask of a stretch as one byte per element, into `out`.
    pub(super) fn read_mask(
        &self,
        checkpoint: &Checkpoint,
        stretch: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let count = (stretch.end - stretch.start) as usize;
        let mut words = Vec::new();
        self.read_words(checkpoint, stretch, &mut words)?;
        out.clear();
        out.extend((0..count).map(|bit| (words[bit / 64] >> (bit % 64) & 1) as u8));
        self.check_fault(checkpoint)
    }
}
