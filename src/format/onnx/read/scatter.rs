//! Retained elements with a list of their places: any stretch of the tensor is read
//! from a few noted entries, whatever the list's length.

use std::ops::Range;

use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Initializer;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::decode::FARTHEST;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::tensor::Dtype;

/// Entries of the list from one noted place to the next.
const STEP: u64 = 4096;

/// How the list says where elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum List {
    /// By row-major index.
    Indices,
    /// By coordinate in a tensor of these dimensions.
    Coordinates(Box<[u64]>),
    /// By the distance from the one before; 0 for far and none.
    Gaps,
}

/// A place among the entries of the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    /// The place after that of the entry before.
    after: u64,
    /// Number of values before.
    value: u64,
}

/// A tensor of which the retained elements and a list of places are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scattered {
    values: Values,
    places: Values,
    list: List,
    numel: u64,
    n_entries: u64,
    /// One per [`STEP`] entries.
    marks: Vec<Mark>,
}

impl Scattered {
    /// The tensor in `initializer`, its places checked; `None` if it is stored
    /// otherwise. `file` gives the file of the model for `None`, and that of a location
    /// else.
    ///
    /// # Errors
    /// [`OnnxError::Place`] and [`OnnxError::Sparse`], and what the source says.
    pub fn new<'s, S: ReadAt + ?Sized + 's>(
        initializer: &Initializer,
        file: impl Fn(Option<usize>) -> &'s S,
    ) -> Result<Option<Self>, ReadError<S::Error>> {
        let (values, places, list) = match &initializer.elements {
            Elements::Dense(_) | Elements::Bitmask { .. } => return Ok(None),
            Elements::Gaps { values, gaps } => (values, gaps, List::Gaps),
            Elements::Sparse {
                values,
                places,
                are_coordinates,
            } => {
                let list = match are_coordinates {
                    true => List::Coordinates(initializer.shape.dims().into()),
                    false => List::Indices,
                };
                (values, places, list)
            }
        };
        let numel = initializer.shape.numel();
        let mut scattered = Self {
            n_entries: match &list {
                List::Coordinates(_) => values.count,
                _ => places.count,
            },
            values: values.clone(),
            places: places.clone(),
            list,
            numel,
            marks: Vec::new(),
        };
        scattered.survey(&initializer.name, file)?;
        Ok(Some(scattered))
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.values.dtype
    }

    /// The retained elements.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Bytes of the list of places.
    pub fn place_bytes(&self) -> u64 {
        self.places.bytes()
    }

    fn survey<'s, S: ReadAt + ?Sized + 's>(
        &mut self,
        name: &str,
        file: impl Fn(Option<usize>) -> &'s S,
    ) -> Result<(), ReadError<S::Error>> {
        let mut mark = Mark::default();
        let mut buffer = Vec::new();
        for begin in (0..self.n_entries).step_by(STEP as usize) {
            self.marks.push(mark);
            let count = STEP.min(self.n_entries - begin);
            for (idx, entry) in self.entries(begin, count, &mut buffer, &file)?.enumerate() {
                mark = self.advance(mark, entry).ok_or_else(|| OnnxError::Place {
                    tensor: name.to_owned(),
                    index: begin + idx as u64,
                })?;
            }
        }
        if mark.value != self.values.count {
            return Err(OnnxError::Sparse {
                tensor: name.to_owned(),
                what: "has more or fewer places than values",
            }
            .into());
        }
        Ok(())
    }

    /// What follows an entry; `None` if its place is outside, or not after the last.
    fn advance(&self, mark: Mark, entry: Entry) -> Option<Mark> {
        let place = match entry {
            Entry::Place(place) => place?,
            Entry::Gap(0) => {
                let after = mark.after.checked_add(FARTHEST)?;
                return (after <= self.numel).then_some(Mark { after, ..mark });
            }
            Entry::Gap(gap) => mark.after + u64::from(gap) - 1,
        };
        (place >= mark.after && place < self.numel).then_some(Mark {
            after: place + 1,
            value: mark.value + 1,
        })
    }

    /// Entries `[begin, begin + count)` of the list.
    fn entries<'b, 's, S: ReadAt + ?Sized + 's>(
        &'b self,
        begin: u64,
        count: u64,
        buffer: &'b mut Vec<u8>,
        file: impl Fn(Option<usize>) -> &'s S,
    ) -> Result<impl Iterator<Item = Entry> + 'b, ReadError<S::Error>> {
        let per_entry = match &self.list {
            List::Coordinates(dims) => dims.len() as u64,
            _ => 1,
        };
        let width = self.places.dtype.bits() / 8 * per_entry;
        buffer.resize((count * width) as usize, 0);
        self.places.read(file, begin * per_entry, buffer)?;
        // A coordinate of a scalar takes no bytes.
        let bytes = &*buffer;
        Ok((0..count as usize).map(move |idx| {
            let bytes = &bytes[idx * width as usize..][..width as usize];
            let number = |bytes: &[u8; 8]| u64::try_from(i64::from_le_bytes(*bytes)).ok();
            let mut numbers = bytes.as_chunks::<8>().0.iter().map(number);
            match &self.list {
                List::Gaps => Entry::Gap(bytes[0]),
                List::Indices => Entry::Place(numbers.next().flatten()),
                List::Coordinates(dims) => Entry::Place(linear(numbers, dims)),
            }
        }))
    }

    /// Sets the bits of `words`, which are clear, of the elements of a stretch that are
    /// retained, and returns which of the values they are.
    ///
    /// # Errors
    /// What the source says.
    pub fn read_words<'s, S: ReadAt + ?Sized + 's>(
        &self,
        file: impl Fn(Option<usize>) -> &'s S,
        begin: u64,
        words: &mut [u64],
        count: u64,
    ) -> Result<Range<u64>, ReadError<S::Error>> {
        // The last mark whose entries may lie in the stretch: those before end before it.
        let first = self.marks.partition_point(|mark| mark.after <= begin);
        let first = first.saturating_sub(1);
        let mut mark = self.marks.get(first).copied().unwrap_or_default();
        let mut found: Option<Range<u64>> = None;
        let mut before = mark.value;
        let mut buffer = Vec::new();
        let mut entry_begin = first as u64 * STEP;
        while entry_begin < self.n_entries && mark.after < begin + count {
            let n_entries = STEP.min(self.n_entries - entry_begin);
            for entry in self.entries(entry_begin, n_entries, &mut buffer, &file)? {
                let Some(next) = self.advance(mark, entry) else {
                    // Checked before: the file is not what it was.
                    let at = self.places.message.content.start;
                    return Err(OnnxError::Cut { at, end: at }.into());
                };
                let is_value = next.value > mark.value;
                let place = next.after - 1;
                if is_value && place < begin {
                    before = next.value;
                } else if is_value && place < begin + count {
                    let bit = place - begin;
                    words[(bit / 64) as usize] |= 1 << (bit % 64);
                    found = Some(found.map_or(mark.value, |found| found.start)..next.value);
                }
                mark = next;
                if mark.after >= begin + count {
                    break;
                }
            }
            entry_begin += n_entries;
        }
        Ok(found.unwrap_or(before..before))
    }
}

/// One entry of a list of places.
enum Entry {
    /// A place; `None` for one that no tensor has.
    Place(Option<u64>),
    Gap(u8),
}

/// Row-major index of a coordinate.
fn linear(coordinate: impl Iterator<Item = Option<u64>>, dims: &[u64]) -> Option<u64> {
    let mut index = 0_u64;
    for (position, &dim) in coordinate.zip(dims) {
        let position = position.filter(|&position| position < dim)?;
        index = index.checked_mul(dim)?.checked_add(position)?;
    }
    Some(index)
}
