//! A model again, with other elements in some tensors: every other byte stays.
//!
//! A tensor whose elements lie in the model in fixed places keeps them there. One whose
//! elements are numbers of variable length, which another number would not fit, gets
//! raw ones; one whose elements lie in another file gets a place in the new one. Where
//! a message changes its length, those around it say so.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::onnx::read::Cursor;
use crate::format::onnx::read::Message;
use crate::format::onnx::read::Model;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::ReadAt;
use crate::format::onnx::read::ReadError;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::schema::entry;
use crate::format::onnx::read::schema::model;
use crate::format::onnx::read::schema::tensor;

/// Offsets in the second file are multiples of this, so that readers may map elements.
const ALIGNMENT: u64 = 64;

/// What is written where in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the model that there was.
    Copy(Range<u64>),
    /// New bytes.
    Bytes(Vec<u8>),
    /// Room for so many bytes of elements.
    Hole(u64),
}

/// Where the elements of a tensor go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Into the model.
    Model {
        /// Offset of the first.
        offset: u64,
    },
    /// Into the file beside it.
    Data {
        /// Offset of the first.
        offset: u64,
    },
}

/// A model with room for other elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    /// What it is made of, in order.
    pub pieces: Vec<Piece>,
    /// Its length without the metadata that is added at its end.
    pub model_bytes: u64,
    /// Length of the file beside it; 0 if there is none.
    pub data_bytes: u64,
    /// Where the elements go of each tensor that was asked for.
    pub rooms: Vec<Room>,
}

/// A stretch of the model that something else takes the place of.
struct Edit {
    range: Range<u64>,
    bytes: Vec<u8>,
    /// The tensor whose elements follow the bytes, and how many bytes they are.
    hole: Option<(usize, u64)>,
}

impl Edit {
    fn growth(&self) -> i128 {
        let new = self.bytes.len() as u64 + self.hole.map_or(0, |(_, bytes)| bytes);
        i128::from(new) - i128::from(self.range.end - self.range.start)
    }
}

/// Makes room for the elements of `replaced` in the model in `source`.
///
/// Metadata under the keys `dropped` is left out. `location` is the name of the file
/// beside the model, for elements that lay beside the old one.
///
/// # Errors
/// What the source says, and [`OnnxError`] if the file has changed since it was parsed.
pub fn splice<S: ReadAt + ?Sized>(
    source: &S,
    model: &Model,
    replaced: &[&Values],
    dropped: &[&str],
    location: &str,
) -> Result<Splice, ReadError<S::Error>> {
    let mut splice = Splice::default();
    let mut edits = Vec::new();
    let mut rooms = vec![None; replaced.len()];
    let mut grown: BTreeMap<u64, (&Message, i128)> = BTreeMap::new();
    for (index, values) in replaced.iter().enumerate() {
        let bytes = values.bytes();
        let hole = Some((index, bytes));
        let (content, hole) = match values.place {
            // Nothing to write, and nothing says where.
            _ if bytes == 0 => {
                rooms[index] = Some(Room::Model { offset: 0 });
                continue;
            }
            Place::Model { offset } => {
                edits.push(Edit {
                    range: offset..offset + bytes,
                    bytes: Vec::new(),
                    hole,
                });
                continue;
            }
            Place::Fields { .. } => (raw_prefix(bytes), hole),
            Place::External { .. } => {
                let offset = splice.data_bytes.next_multiple_of(ALIGNMENT);
                splice.data_bytes = offset + bytes;
                rooms[index] = Some(Room::Data { offset });
                (external(location, offset, bytes), None)
            }
        };
        let fields = data_fields(source, &values.message)?;
        let mut content = Some((content, hole));
        let mut growth = 0;
        for range in fields {
            let (bytes, hole) = content.take().unwrap_or_default();
            let edit = Edit { range, bytes, hole };
            growth += edit.growth();
            edits.push(edit);
        }
        let own = grown.entry(values.message.begin);
        own.or_insert((&values.message, 0)).1 += growth;
    }
    for (key, range) in &model.metadata_fields {
        if dropped.contains(&key.as_str()) {
            edits.push(Edit {
                range: range.clone(),
                bytes: Vec::new(),
                hole: None,
            });
        }
    }
    lengthen(model, grown, &mut edits);
    edits.sort_by_key(|edit| edit.range.start);
    let mut done = 0;
    for edit in edits {
        splice.push(Piece::Copy(done..edit.range.start));
        splice.push(Piece::Bytes(edit.bytes));
        if let Some((index, bytes)) = edit.hole {
            let offset = splice.model_bytes;
            rooms[index] = Some(Room::Model { offset });
            splice.push(Piece::Hole(bytes));
        }
        done = edit.range.end;
    }
    splice.push(Piece::Copy(done..source.len()));
    let rooms: Option<Vec<Room>> = rooms.into_iter().collect();
    splice.rooms = rooms.ok_or(OnnxError::NoGraph)?;
    Ok(splice)
}

impl Splice {
    fn push(&mut self, piece: Piece) {
        let bytes = match &piece {
            Piece::Copy(range) => range.end - range.start,
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Hole(bytes) => *bytes,
        };
        if bytes > 0 {
            self.model_bytes += bytes;
            self.pieces.push(piece);
        }
    }
}

/// Has messages that changed their length say so, inner ones before those around them.
fn lengthen<'m>(
    model: &'m Model,
    mut grown: BTreeMap<u64, (&'m Message, i128)>,
    edits: &mut Vec<Edit>,
) {
    // What is around a message begins before it.
    while let Some((_, (message, growth))) = grown.pop_last() {
        if growth == 0 {
            continue;
        }
        let old = message.content.end - message.content.start;
        let new = u64::try_from(i128::from(old) + growth).unwrap_or(0);
        let mut bytes = Vec::new();
        push_varint(&mut bytes, u64::from(message.number) << 3 | 2);
        push_varint(&mut bytes, new);
        let edit = Edit {
            range: message.begin..message.content.start,
            bytes,
            hole: None,
        };
        let parent = message.parent.and_then(|parent| model.messages.get(parent));
        if let Some(parent) = parent {
            let outer = grown.entry(parent.begin).or_insert((parent, 0));
            outer.1 += growth + edit.growth();
        }
        edits.push(edit);
    }
}

/// The fields of a tensor message that hold elements, or say where they are.
fn data_fields<S: ReadAt + ?Sized>(
    source: &S,
    message: &Message,
) -> Result<Vec<Range<u64>>, ReadError<S::Error>> {
    let mut cursor = Cursor::new(source, u64::MAX);
    cursor.seek(message.content.start);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    while let Some(field) = cursor.field(message.content.end)? {
        if tensor::holds_data(field.number) {
            match ranges.last_mut().filter(|last| last.end == field.begin) {
                // One field per element makes many.
                Some(last) => last.end = cursor.at(),
                None => ranges.push(field.begin..cursor.at()),
            }
        }
    }
    Ok(ranges)
}

/// Number and length of raw elements.
fn raw_prefix(len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_varint(&mut bytes, u64::from(tensor::RAW_DATA) << 3 | 2);
    push_varint(&mut bytes, len);
    bytes
}

/// Says that elements lie in another file.
fn external(location: &str, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (offset, length) = (offset.to_string(), length.to_string());
    for (key, value) in [
        ("location", location),
        ("offset", &offset),
        ("length", &length),
    ] {
        push_bytes(&mut bytes, tensor::EXTERNAL_DATA, &key_value(key, value));
    }
    push_varint(&mut bytes, u64::from(tensor::DATA_LOCATION) << 3);
    push_varint(&mut bytes, 1);
    bytes
}

fn key_value(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_bytes(&mut bytes, entry::KEY, key.as_bytes());
    push_bytes(&mut bytes, entry::VALUE, value.as_bytes());
    bytes
}

/// A field of metadata, to stand at the end of a model.
pub fn metadata(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_bytes(&mut bytes, model::METADATA_PROPS, &key_value(key, value));
    bytes
}

/// Appends a number of variable length.
fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Appends a field that holds bytes.
fn push_bytes(bytes: &mut Vec<u8>, number: u32, content: &[u8]) {
    push_varint(bytes, u64::from(number) << 3 | 2);
    push_varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}
