//! Everything of a model but the elements of its initialisers: graph, metadata,
//! encodings, and what lies between elements in the files beside it.

use std::ops::Range;

use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Model;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::ReadAt;
use crate::format::onnx::read::Values;
use crate::tensor::Digest;
use crate::tensor::Digester;

/// Bytes that are read at a time.
const BLOCK_BYTES: u64 = 64 << 10;

/// The tensor message that holds an initialiser's elements, or the retained ones.
pub fn values_of(elements: &Elements) -> &Values {
    match elements {
        Elements::Dense(values)
        | Elements::Sparse { values, .. }
        | Elements::Bitmask { values, .. }
        | Elements::Gaps { values, .. } => values,
    }
}

/// Digest of the frame: for each file of the model its length and the bytes that are no
/// elements in fixed places. Bitmasks, places and numbers of variable length are part of
/// it.
///
/// The value of the last metadata under `seal`, which is to hold the digest, is left out;
/// it is taken to be the last `seal_bytes` of its field. `file` gives the file of the
/// model for `None`, and that of a location else.
///
/// # Errors
/// What the source says.
pub fn frame_digest<'s, S: ReadAt + ?Sized + 's>(
    model: &Model,
    file: impl Fn(Option<usize>) -> &'s S,
    (seal, seal_bytes): (&str, u64),
) -> Result<Digest, S::Error> {
    let mut left_out: Vec<Vec<Range<u64>>> = vec![Vec::new(); model.locations.len() + 1];
    for initializer in &model.initializers {
        let values = values_of(&initializer.elements);
        let (file, offset) = match values.place {
            Place::Model { offset } => (0, offset),
            Place::External { location, offset } => (location + 1, offset),
            Place::Fields { .. } => continue,
        };
        left_out[file].push(offset..offset.saturating_add(values.bytes()));
    }
    let mut fields = model.metadata_fields.iter().rev();
    if let Some((_, field)) = fields.find(|(key, _)| key == seal) {
        left_out[0].push(field.end.saturating_sub(seal_bytes).max(field.start)..field.end);
    }

    let mut digester = Digester::new();
    for (idx, mut ranges) in left_out.into_iter().enumerate() {
        let source = file(idx.checked_sub(1));
        digester.update(&source.len().to_le_bytes());
        ranges.sort_unstable_by_key(|range| range.start);
        let mut at = 0;
        for range in ranges {
            digest_range(source, at..range.start, &mut digester)?;
            at = at.max(range.end);
        }
        digest_range(source, at..source.len(), &mut digester)?;
    }
    Ok(digester.finish())
}

/// Continues a digest with a stretch of a file; with nothing if its end is before its
/// start.
fn digest_range<S: ReadAt + ?Sized>(
    source: &S,
    range: Range<u64>,
    digester: &mut Digester,
) -> Result<(), S::Error> {
    let mut at = range.start;
    let mut block = Vec::new();
    while at < range.end {
        let count = BLOCK_BYTES.min(range.end - at);
        block.resize(count as usize, 0);
        source.read_at(at, &mut block)?;
        digester.update(&block);
        at += count;
    }
    Ok(())
}
