//! Elements that lie in no fixed places: numbers of variable length, or one field per
//! element. Places to begin from are noted once, so that any stretch is read without
//! reading what is before it.

use std::ops::Range;

use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::Stop;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::schema::tensor;
use crate::format::onnx::read::wire::Cursor;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::format::onnx::read::wire::Value;
use crate::tensor::Dtype;

/// Elements from one noted place to the next.
pub(super) const STEP: u64 = 4096;

/// The elements of one field of a tensor message, one after the other.
struct Stream<'s, S: ?Sized> {
    cursor: Cursor<'s, S>,
    field: u32,
    end: u64,
    list_end: u64,
}

impl<'s, S: ReadAt + ?Sized> Stream<'s, S> {
    fn new(source: &'s S, message: &Range<u64>, field: u32, from: Stop) -> Self {
        let mut cursor = Cursor::new(source, u64::MAX);
        cursor.seek(from.offset);
        Self {
            cursor,
            field,
            end: message.end,
            list_end: from.list_end,
        }
    }

    fn stop(&self) -> Stop {
        let within = self.cursor.at() < self.list_end;
        Stop {
            offset: self.cursor.at(),
            list_end: if within { self.list_end } else { 0 },
        }
    }

    /// The next element, in the low bits.
    fn next(&mut self) -> Result<Option<u64>, ReadError<S::Error>> {
        loop {
            if self.cursor.at() < self.list_end {
                let width = match self.field {
                    tensor::FLOAT_DATA => 4,
                    tensor::DOUBLE_DATA => 8,
                    _ => return self.cursor.varint(self.list_end).map(Some),
                };
                let at = self.cursor.at();
                if at + width > self.list_end {
                    let end = self.list_end;
                    return Err(OnnxError::Cut { at, end }.into());
                }
                self.cursor.seek(at + width);
                return self.fixed(at, width as usize).map(Some);
            }
            let Some(field) = self.cursor.field(self.end)? else {
                return Ok(None);
            };
            if field.number != self.field {
                continue;
            }
            match field.value {
                Value::Varint(number) => return Ok(Some(number)),
                Value::Fixed32(at) => return self.fixed(at, 4).map(Some),
                Value::Fixed64(at) => return self.fixed(at, 8).map(Some),
                Value::Bytes(range) => {
                    self.cursor.seek(range.start);
                    self.list_end = range.end;
                }
            }
        }
    }

    fn fixed(&mut self, at: u64, width: usize) -> Result<u64, ReadError<S::Error>> {
        let mut bytes = [0; 8];
        let source = self.cursor.source();
        source
            .read_at(at, &mut bytes[..width])
            .map_err(ReadError::Source)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Counts the elements of a field and notes places among them.
///
/// Elements that do not fit in `dtype` are refused.
pub(super) fn survey<S: ReadAt + ?Sized>(
    source: &S,
    message: &Range<u64>,
    field: u32,
    (dtype, name): (Dtype, &str),
) -> Result<(u64, Vec<Stop>), ReadError<S::Error>> {
    let start = Stop {
        offset: message.start,
        list_end: 0,
    };
    let mut stream = Stream::new(source, message, field, start);
    let mut stops = Vec::new();
    let mut count = 0;
    loop {
        let stop = stream.stop();
        let Some(element) = stream.next()? else {
            return Ok((count, stops));
        };
        if count % STEP == 0 {
            stops.push(stop);
        }
        if little_endian(element, dtype).is_none() {
            let tensor = name.to_owned();
            let index = count;
            return Err(OnnxError::Element { tensor, index }.into());
        }
        count += 1;
    }
}

/// The bytes of an element that a field holds as a number, of which the first
/// `dtype.bits() / 8` count; `None` if it does not fit.
fn little_endian(element: u64, dtype: Dtype) -> Option<[u8; 8]> {
    let signed = element as i64;
    let fits = match dtype {
        Dtype::Bool => element <= 1,
        Dtype::I8 => i8::try_from(signed).is_ok(),
        Dtype::I16 => i16::try_from(signed).is_ok(),
        Dtype::I32 => i32::try_from(signed).is_ok(),
        _ => dtype.bits() == 64 || element >> dtype.bits() == 0,
    };
    fits.then(|| element.to_le_bytes())
}

impl Values {
    /// Elements `[begin, begin + count)`, little-endian, into `out`, whose length is
    /// theirs. `file` gives the file of the model for `None`, and that of a location
    /// else.
    ///
    /// # Errors
    /// What the source says, and [`OnnxError`] if the file has changed.
    pub fn read<'s, S: ReadAt + ?Sized + 's>(
        &self,
        file: impl Fn(Option<usize>) -> &'s S,
        begin: u64,
        out: &mut [u8],
    ) -> Result<(), ReadError<S::Error>> {
        if out.is_empty() {
            return Ok(());
        }
        let width = (self.dtype.bits() / 8) as usize;
        let (source, offset) = match &self.place {
            Place::Model { offset } => (file(None), *offset),
            Place::External { location, offset } => (file(Some(*location)), *offset),
            Place::Fields { field, stops } => {
                let from = stops.get((begin / STEP) as usize);
                let from = from.copied().ok_or_else(|| self.changed())?;
                let message = &self.message.content;
                let mut stream = Stream::new(file(None), message, *field, from);
                for _ in 0..begin % STEP {
                    stream.next()?;
                }
                for element in out.chunks_exact_mut(width) {
                    let found = stream.next()?.ok_or_else(|| self.changed())?;
                    let bytes = found.to_le_bytes();
                    element.copy_from_slice(&bytes[..width]);
                }
                return Ok(());
            }
        };
        let offset = offset + begin * width as u64;
        source.read_at(offset, out).map_err(ReadError::Source)
    }

    /// The error for a file that holds no longer what it held.
    fn changed(&self) -> OnnxError {
        OnnxError::Cut {
            at: self.message.content.end,
            end: self.message.content.end,
        }
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        self.count * self.dtype.bits() / 8
    }
}
