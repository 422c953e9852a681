//! Protobuf's wire format, read field by field from bytes that may be anywhere: a place
//! walks in, numbers and ranges walk out.
//!
//! What is refused: groups (ONNX has none), unknown wire types, and fields that pass
//! the end of their message. Bytes are read a window at a time and counted, so that
//! both memory and time are bounded by what the caller is willing to read; what a
//! length covers is stepped over, not read.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use std::fmt;
use std::ops::Range;

use crate::format::onnx::read::OnnxError;

/// Bytes that are read at a time. Payloads are stepped over, so more would be read in
/// vain where tensors are small.
const WINDOW_BYTES: usize = 4096;

/// Where bytes come from: a slice, or a file that is mapped or not.
pub trait ReadAt {
    /// Why bytes cannot be had.
    type Error;

    /// Number of bytes.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset`; the range lies within [`len`](Self::len).
    ///
    /// # Errors
    /// Whatever the source says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;
}

impl ReadAt for [u8] {
    type Error = std::convert::Infallible;

    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Self::Error> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        // The caller asks only for what lies within.
        if let Some(bytes) = self.get(offset..).and_then(|rest| rest.get(..buffer.len())) {
            buffer.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// Why nothing was read: the bytes are wrong, or cannot be had.
#[derive(Debug)]
pub enum ReadError<E> {
    /// The bytes are no model that is understood.
    Onnx(OnnxError),
    /// The bytes cannot be had.
    Source(E),
}

impl<E> From<OnnxError> for ReadError<E> {
    fn from(error: OnnxError) -> Self {
        Self::Onnx(error)
    }
}

impl<E: fmt::Display> fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Onnx(error) => error.fmt(f),
            Self::Source(error) => error.fmt(f),
        }
    }
}

/// One field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Where it begins, its number included.
    pub begin: u64,
    /// What it holds.
    pub value: Value,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number of variable length.
    Varint(u64),
    /// Eight bytes, by their place.
    Fixed64(u64),
    /// So many bytes as its length said, by their place.
    Bytes(Range<u64>),
    /// Four bytes, by their place.
    Fixed32(u64),
}

impl Field {
    /// Where the field ends.
    pub fn end(&self, after_varint: u64) -> u64 {
        match &self.value {
            Value::Varint(_) => after_varint,
            Value::Fixed64(at) => at + 8,
            Value::Bytes(range) => range.end,
            Value::Fixed32(at) => at + 4,
        }
    }

    /// The range of a message, text or packed list.
    pub(super) fn bytes(&self) -> Result<Range<u64>, OnnxError> {
        match &self.value {
            Value::Bytes(range) => Ok(range.clone()),
            _ => Err(self.wrong_type("bytes")),
        }
    }

    /// The number of a field of variable length.
    pub(super) fn varint(&self) -> Result<u64, OnnxError> {
        match self.value {
            Value::Varint(number) => Ok(number),
            _ => Err(self.wrong_type("a number")),
        }
    }

    pub(super) fn wrong_type(&self, expected: &'static str) -> OnnxError {
        OnnxError::FieldType {
            at: self.begin,
            number: self.number,
            expected,
        }
    }
}

/// A place in a source, and the bytes around it.
pub struct Cursor<'s, S: ?Sized> {
    source: &'s S,
    window: Vec<u8>,
    window_begin: u64,
    at: u64,
    /// Bytes looked at so far.
    spent: u64,
    limit: u64,
}

impl<'s, S: ReadAt + ?Sized> Cursor<'s, S> {
    /// At the start of `source`, willing to look at `limit` bytes.
    pub fn new(source: &'s S, limit: u64) -> Self {
        Self {
            source,
            window: Vec::new(),
            window_begin: 0,
            at: 0,
            spent: 0,
            limit,
        }
    }

    /// The source.
    pub fn source(&self) -> &'s S {
        self.source
    }

    /// Where the next byte is read.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Goes elsewhere.
    pub fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// The next field of a message that ends at `end`; `None` there.
    ///
    /// # Errors
    /// [`OnnxError::Group`], [`OnnxError::WireType`], [`OnnxError::FieldNumber`],
    /// [`OnnxError::Varint`], [`OnnxError::Cut`], [`OnnxError::OverLimit`].
    pub fn field(&mut self, end: u64) -> Result<Option<Field>, ReadError<S::Error>> {
        if self.at >= end {
            return Ok(None);
        }
        let begin = self.at;
        let tag = self.varint(end)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| {
            // The largest field number of protobuf.
            (1..1 << 29).contains(number)
        });
        let Some(number) = number else {
            return Err(OnnxError::FieldNumber { at: begin }.into());
        };
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(end)?),
            1 => Value::Fixed64(self.step(8, end)?.start),
            2 => {
                let len = self.varint(end)?;
                Value::Bytes(self.step(len, end)?)
            }
            3 | 4 => return Err(OnnxError::Group { at: begin, number }.into()),
            5 => Value::Fixed32(self.step(4, end)?.start),
            found => {
                return Err(OnnxError::WireType {
                    at: begin,
                    number,
                    found: found as u8,
                }
                .into());
            }
        };
        Ok(Some(Field {
            number,
            begin,
            value,
        }))
    }

    /// A number of variable length before `end`.
    ///
    /// # Errors
    /// As for [`field`](Self::field).
    pub fn varint(&mut self, end: u64) -> Result<u64, ReadError<S::Error>> {
        let begin = self.at;
        let mut number = 0;
        for place in 0..10 {
            let byte = self.byte(end)?;
            // Ten bytes hold 70 bits; what passes 64 is nobody's number.
            if place == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(OnnxError::Varint { at: begin }.into())
    }

    /// Text in a range of the source.
    ///
    /// # Errors
    /// [`OnnxError::NotUtf8`], [`OnnxError::OverLimit`].
    pub fn text(&mut self, range: Range<u64>) -> Result<String, ReadError<S::Error>> {
        let bytes = self.bytes(range.clone())?;
        String::from_utf8(bytes).map_err(|_| OnnxError::NotUtf8 { at: range.start }.into())
    }

    /// The bytes of a range of the source, which are counted.
    ///
    /// # Errors
    /// [`OnnxError::OverLimit`].
    pub fn bytes(&mut self, range: Range<u64>) -> Result<Vec<u8>, ReadError<S::Error>> {
        let len = range.end - range.start;
        self.spend(len)?;
        let mut bytes = vec![0; len as usize];
        self.source
            .read_at(range.start, &mut bytes)
            .map_err(ReadError::Source)?;
        Ok(bytes)
    }

    fn byte(&mut self, end: u64) -> Result<u8, ReadError<S::Error>> {
        if self.at >= end {
            return Err(OnnxError::Cut { at: self.at, end }.into());
        }
        self.spend(1)?;
        let offset = self.at.wrapping_sub(self.window_begin);
        let offset = match usize::try_from(offset) {
            Ok(offset) if offset < self.window.len() => offset,
            _ => {
                let len = (self.source.len() - self.at).min(WINDOW_BYTES as u64);
                self.window.resize(len as usize, 0);
                self.source
                    .read_at(self.at, &mut self.window)
                    .map_err(ReadError::Source)?;
                self.window_begin = self.at;
                0
            }
        };
        self.at += 1;
        Ok(self.window[offset])
    }

    /// Steps over so many bytes.
    fn step(&mut self, len: u64, end: u64) -> Result<Range<u64>, ReadError<S::Error>> {
        let begin = self.at;
        match begin.checked_add(len).filter(|&after| after <= end) {
            Some(after) => {
                self.at = after;
                Ok(begin..after)
            }
            None => Err(OnnxError::Cut { at: begin, end }.into()),
        }
    }

    /// Begins to count again.
    pub(super) fn forget_spent(&mut self) {
        self.spent = 0;
    }

    /// Counts bytes that are looked at, or copied.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), OnnxError> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.limit {
            return Err(OnnxError::OverLimit { limit: self.limit });
        }
        Ok(())
    }
}
