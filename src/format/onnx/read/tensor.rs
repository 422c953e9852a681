//! One tensor message: its name, type and shape, and where its elements lie.

use std::ops::Range;

use crate::format::onnx::read::Message;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::element::element_type;
use crate::format::onnx::read::element::field_of;
use crate::format::onnx::read::graph::Walker;
use crate::format::onnx::read::schema::entry;
use crate::format::onnx::read::schema::tensor;
use crate::format::onnx::read::stream::survey;
use crate::format::onnx::read::wire::Cursor;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::format::onnx::read::wire::Value;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// `data_location` of a tensor that lies in another file.
const EXTERNAL: u64 = 1;

/// A tensor message, as it stands.
pub(super) struct TensorMessage {
    pub(super) name: String,
    pub(super) dims: Vec<u64>,
    data_type: u64,
    message: Message,
    /// Number and range of the first field with elements; `None` for a single number.
    data: Option<(u32, Option<Range<u64>>)>,
    n_data: usize,
    external: External,
    is_external: bool,
}

/// What a tensor message says of its data in another file.
#[derive(Default)]
struct External {
    location: Option<String>,
    offset: Option<String>,
    length: Option<String>,
}

impl TensorMessage {
    /// Element type, or `None` if it is one that is not read.
    pub(super) fn dtype(&self) -> Result<Option<Dtype>, OnnxError> {
        element_type(self.data_type).ok_or_else(|| OnnxError::ElementType {
            tensor: self.name.clone(),
            found: self.data_type,
        })
    }

    pub(super) fn shape(&self) -> Result<Shape, OnnxError> {
        shape(&self.dims, &self.name)
    }

    pub(super) fn is_external(&self) -> bool {
        self.is_external
    }

    /// The message of the whole tensor.
    pub(super) fn begin(&self) -> u64 {
        self.message.begin
    }
}

/// Whether the elements of a tensor message are of a type that is read.
pub(super) fn is_read<S: ReadAt + ?Sized>(
    cursor: &mut Cursor<'_, S>,
    range: Range<u64>,
) -> Result<bool, ReadError<S::Error>> {
    cursor.seek(range.start);
    while let Some(field) = cursor.field(range.end)? {
        if field.number == tensor::DATA_TYPE {
            return Ok(matches!(element_type(field.varint()?), Some(Some(_))));
        }
    }
    Ok(false)
}

/// Dimensions that are not negative and can be counted.
pub(super) fn shape(dims: &[u64], name: &str) -> Result<Shape, OnnxError> {
    let is_negative = dims.iter().any(|&dim| dim > i64::MAX as u64);
    let shape = Shape::new(dims).filter(|_| !is_negative);
    shape.ok_or_else(|| OnnxError::Shape {
        tensor: name.to_owned(),
    })
}

impl<S: ReadAt + ?Sized> Walker<'_, S> {
    /// Reads a tensor message, all but its elements.
    pub(super) fn tensor(
        &mut self,
        message: Message,
    ) -> Result<TensorMessage, ReadError<S::Error>> {
        let Range { start, end } = message.content.clone();
        let mut found = TensorMessage {
            name: String::new(),
            dims: Vec::new(),
            data_type: 0,
            message,
            data: None,
            n_data: 0,
            external: External::default(),
            is_external: false,
        };
        let mut seen = [false; 3];
        let mut has_segment = false;
        self.cursor.seek(start);
        while let Some(field) = self.cursor.field(end)? {
            let after = self.cursor.at();
            let once = match field.number {
                tensor::NAME => Some(0),
                tensor::DATA_TYPE => Some(1),
                tensor::RAW_DATA => Some(2),
                _ => None,
            };
            if let Some(once) = once
                && std::mem::replace(&mut seen[once], true)
            {
                let (at, number) = (field.begin, field.number);
                let message = "tensor";
                return Err(OnnxError::FieldTwice {
                    at,
                    number,
                    message,
                }
                .into());
            }
            match field.number {
                tensor::NAME => found.name = self.cursor.text(field.bytes()?)?,
                tensor::DATA_TYPE => found.data_type = field.varint()?,
                tensor::DIMS => self.dims(&field.value, &mut found.dims)?,
                tensor::SEGMENT => has_segment = true,
                tensor::DATA_LOCATION => found.is_external = field.varint()? == EXTERNAL,
                tensor::EXTERNAL_DATA => self.external(field.bytes()?, &mut found.external)?,
                number if tensor::holds_data(number) => {
                    found.n_data += 1;
                    let range = field.bytes().ok();
                    found.data.get_or_insert((number, range));
                }
                _ => {}
            }
            self.cursor.seek(after);
        }
        if has_segment {
            let tensor = found.name;
            return Err(OnnxError::Segment { tensor }.into());
        }
        Ok(found)
    }

    /// Dimensions, one or a packed list of them.
    pub(super) fn dims(
        &mut self,
        value: &Value,
        dims: &mut Vec<u64>,
    ) -> Result<(), ReadError<S::Error>> {
        match value {
            Value::Varint(dim) => dims.push(*dim),
            Value::Bytes(range) => {
                self.cursor.seek(range.start);
                while self.cursor.at() < range.end {
                    dims.push(self.cursor.varint(range.end)?);
                }
            }
            // A dimension that no shape has: refused with the name of the tensor.
            Value::Fixed32(_) | Value::Fixed64(_) => dims.push(u64::MAX),
        }
        Ok(())
    }

    /// One entry of what is said of external data.
    fn external(
        &mut self,
        range: Range<u64>,
        external: &mut External,
    ) -> Result<(), ReadError<S::Error>> {
        let (key, value) = self.entry(range)?;
        match key.as_str() {
            "location" => external.location = Some(value),
            "offset" => external.offset = Some(value),
            "length" => external.length = Some(value),
            _ => {}
        }
        Ok(())
    }

    /// Key and value.
    pub(super) fn entry(
        &mut self,
        range: Range<u64>,
    ) -> Result<(String, String), ReadError<S::Error>> {
        let (mut key, mut value) = (String::new(), String::new());
        self.cursor.seek(range.start);
        while let Some(field) = self.cursor.field(range.end)? {
            match field.number {
                entry::KEY => key = self.cursor.text(field.bytes()?)?,
                entry::VALUE => value = self.cursor.text(field.bytes()?)?,
                _ => {}
            }
        }
        Ok((key, value))
    }

    /// Where the `count` elements of a tensor lie. `name` is that of the tensor in
    /// errors.
    pub(super) fn values(
        &mut self,
        found: TensorMessage,
        (dtype, count): (Dtype, u64),
        name: &str,
    ) -> Result<Values, ReadError<S::Error>> {
        let tensor = || name.to_owned();
        let Some(expected) = dtype.byte_len(count) else {
            return Err(OnnxError::Shape { tensor: tensor() }.into());
        };
        let place = match &found.data {
            Some((number, _)) if found.is_external => {
                let (tensor, number) = (tensor(), *number);
                return Err(OnnxError::Data { tensor, number }.into());
            }
            None if found.is_external => self.external_place(&found.external, expected, name)?,
            None if expected == 0 => Place::Model {
                offset: found.message.content.start,
            },
            None => {
                return Err(OnnxError::ByteLength {
                    tensor: tensor(),
                    expected,
                    found: 0,
                }
                .into());
            }
            Some((tensor::RAW_DATA, Some(range))) => {
                if found.n_data > 1 {
                    return Err(OnnxError::Data {
                        tensor: tensor(),
                        number: tensor::RAW_DATA,
                    }
                    .into());
                }
                check_length(range, expected, name)?;
                Place::Model {
                    offset: range.start,
                }
            }
            Some((number, _)) if *number != field_of(dtype) => {
                let (tensor, number) = (tensor(), *number);
                return Err(OnnxError::Data { tensor, number }.into());
            }
            // One packed list of fixed width is the elements as they are.
            Some((tensor::FLOAT_DATA | tensor::DOUBLE_DATA, Some(range))) if found.n_data == 1 => {
                check_length(range, expected, name)?;
                Place::Model {
                    offset: range.start,
                }
            }
            Some((number, _)) => self.fields(&found.message, *number, (dtype, count), name)?,
        };
        Ok(Values {
            dtype,
            count,
            place,
            message: found.message,
        })
    }

    fn fields(
        &mut self,
        message: &Message,
        field: u32,
        (dtype, count): (Dtype, u64),
        name: &str,
    ) -> Result<Place, ReadError<S::Error>> {
        if dtype == Dtype::C64 {
            // Two numbers per element: only the packed list is known to be written.
            let (tensor, number) = (name.to_owned(), field);
            return Err(OnnxError::Data { tensor, number }.into());
        }
        let source = self.cursor.source();
        let (found, stops) = survey(source, &message.content, field, (dtype, name))?;
        if found != count {
            return Err(OnnxError::Count {
                tensor: name.to_owned(),
                expected: count,
                found,
            }
            .into());
        }
        Ok(Place::Fields { field, stops })
    }

    fn external_place(
        &mut self,
        external: &External,
        expected: u64,
        name: &str,
    ) -> Result<Place, OnnxError> {
        let tensor = || name.to_owned();
        let Some(location) = &external.location else {
            return Err(OnnxError::External {
                tensor: tensor(),
                key: "location",
                expected: "path",
            });
        };
        // Some writers say so that it is beside the model.
        let location = location.strip_prefix("./").unwrap_or(location);
        if !is_below(location) {
            return Err(OnnxError::Location {
                tensor: tensor(),
                location: location.to_owned(),
            });
        }
        let number = |text: &Option<String>, key| match text {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                let expected = "whole number below 2^64";
                OnnxError::External {
                    tensor: tensor(),
                    key,
                    expected,
                }
            }),
        };
        let offset = number(&external.offset, "offset")?.unwrap_or(0);
        // Some writers leave the length out, and onnxruntime takes 0 for that.
        let found = number(&external.length, "length")?.filter(|&length| length != 0);
        if let Some(found) = found.filter(|&found| found != expected) {
            return Err(OnnxError::ByteLength {
                tensor: tensor(),
                expected,
                found,
            });
        }
        if offset.checked_add(expected).is_none() {
            return Err(OnnxError::External {
                tensor: tensor(),
                key: "offset",
                expected: "place in a file",
            });
        }
        Ok(Place::External {
            location: self.location(location),
            offset,
        })
    }
}

fn check_length(range: &Range<u64>, expected: u64, name: &str) -> Result<(), OnnxError> {
    let found = range.end - range.start;
    if found == expected {
        return Ok(());
    }
    Err(OnnxError::ByteLength {
        tensor: name.to_owned(),
        expected,
        found,
    })
}

/// Whether a path stays in the folder that it is looked up in, on any system.
fn is_below(location: &str) -> bool {
    let mut parts = location.split('/');
    !location.contains(['\\', '\0']) && parts.all(|part| !matches!(part, "" | "." | ".."))
}
