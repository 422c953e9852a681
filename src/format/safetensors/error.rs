//! Every way in which bytes can fail to be a header, and how it is said.

use std::str::Utf8Error;

use thiserror::Error;

use crate::format::safetensors::FORMAT_HEADER_LIMIT;
use crate::tensor::Dtype;
use crate::tensor::Printable;

/// Why the bytes are not the header of a safetensors file.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// The file ends inside the length of its header.
    #[error("file has {found} bytes, but the length of a safetensors header alone takes 8")]
    TooShort {
        /// Bytes of the file.
        found: u64,
    },
    /// The length of the header passes what any reader accepts.
    #[error(
        "header of {header_bytes} bytes passes the format's limit of {}: \
         not a safetensors file, or a damaged one",
        FORMAT_HEADER_LIMIT
    )]
    OverFormatLimit {
        /// Bytes of JSON that the file announces.
        header_bytes: u64,
    },
    /// The header would end after the file does.
    #[error(
        "header of {header_bytes} bytes does not fit in a file of {file_bytes}: \
         the file is cut short, or not a safetensors file"
    )]
    PastEnd {
        /// Bytes of JSON that the file announces.
        header_bytes: u64,
        /// Bytes of the file.
        file_bytes: u64,
    },
    /// The header is legal, but longer than the caller wants to read.
    #[error(
        "header of {header_bytes} bytes passes the limit of {limit}; \
         if you trust the file, raise it with `--max-header-bytes {header_bytes}`"
    )]
    OverLimit {
        /// Bytes of JSON that the file announces.
        header_bytes: u64,
        /// Bytes of JSON that the caller allows.
        limit: u64,
    },
    /// The header is not text.
    #[error("header is not UTF-8 at byte {}", source.valid_up_to())]
    NotUtf8 {
        /// Where the text ends.
        source: Utf8Error,
    },
    /// The header does not begin with `{`; not even white space may come first.
    #[error(
        "header begins with {}, expected `{{`",
        found.map_or("nothing".to_owned(), |byte| format!("byte {byte:#04x}"))
    )]
    NotAnObject {
        /// The first byte, if there is one.
        found: Option<u8>,
    },
    /// The header is not JSON.
    #[error("header is not valid JSON")]
    Json {
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The key `__metadata__` appears a second time.
    #[error("header has `__metadata__` twice")]
    MetadataTwice,
    /// `__metadata__` is something else than a map.
    #[error("`__metadata__` is not an object of strings")]
    MetadataNotObject {
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// A key of `__metadata__` appears a second time.
    #[error("`__metadata__` has the key `{}` twice", Printable(key))]
    MetadataKeyTwice {
        /// The key, after escapes.
        key: String,
    },
    /// A value of `__metadata__` is something else than text.
    #[error(
        "`__metadata__` key `{}` holds something else than a string",
        Printable(key)
    )]
    MetadataValue {
        /// Key of the value.
        key: String,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// Two tensors have one name.
    #[error("tensor `{}` appears twice", Printable(tensor))]
    TensorTwice {
        /// The name, after escapes.
        tensor: String,
    },
    /// A tensor is described by something else than an object.
    #[error(
        "tensor `{}` is not an object of `dtype`, `shape`, `data_offsets`",
        Printable(tensor)
    )]
    TensorNotObject {
        /// Name of the tensor.
        tensor: String,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// A tensor has a field that the format does not know.
    #[error(
        "tensor `{}` has the unknown field `{}`, expected `dtype`, `shape`, `data_offsets`",
        Printable(tensor),
        Printable(field)
    )]
    UnknownField {
        /// Name of the tensor.
        tensor: String,
        /// Name of the field.
        field: String,
    },
    /// A tensor lacks a field.
    #[error("tensor `{}` lacks the field `{field}`", Printable(tensor))]
    MissingField {
        /// Name of the tensor.
        tensor: String,
        /// Name of the field.
        field: &'static str,
    },
    /// A tensor has one field twice.
    #[error("tensor `{}` has the field `{field}` twice", Printable(tensor))]
    FieldTwice {
        /// Name of the tensor.
        tensor: String,
        /// Name of the field.
        field: &'static str,
    },
    /// The element type is something else than text.
    #[error("`dtype` of tensor `{}` is not a string", Printable(tensor))]
    DtypeNotText {
        /// Name of the tensor.
        tensor: String,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// The element type is none of the format's.
    #[error(
        "tensor `{}` has the unknown dtype `{}`, expected one of {}",
        Printable(tensor),
        Printable(dtype),
        dtype_names()
    )]
    UnknownDtype {
        /// Name of the tensor.
        tensor: String,
        /// The element type found.
        dtype: String,
    },
    /// The shape is not a list of sizes: something else, or an entry that is
    /// negative, fractional or too large.
    #[error(
        "`shape` of tensor `{}` is not a list of whole numbers below 2^64",
        Printable(tensor)
    )]
    ShapeEntry {
        /// Name of the tensor.
        tensor: String,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// The shape stands for more elements, or more bits, than can be counted.
    #[error(
        "tensor `{}` of dtype {dtype} and shape {shape} is too large to count",
        Printable(tensor)
    )]
    ShapeOverflow {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its dimensions, cut after the first few.
        shape: String,
    },
    /// The elements do not fill whole bytes.
    #[error(
        "tensor `{}` of dtype {dtype} and shape {shape} takes {bits} bits, \
         expected a multiple of 8",
        Printable(tensor)
    )]
    PartialByte {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its dimensions, cut after the first few.
        shape: String,
        /// Width of all elements together.
        bits: u64,
    },
    /// The place of the tensor is not two integers.
    #[error(
        "`data_offsets` of tensor `{}` is not two whole numbers below 2^64",
        Printable(tensor)
    )]
    OffsetsNotPair {
        /// Name of the tensor.
        tensor: String,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// The tensor ends before it begins.
    #[error(
        "tensor `{}` begins at byte {begin} but ends at {end}",
        Printable(tensor)
    )]
    OffsetsReversed {
        /// Name of the tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// The byte after the last.
        end: u64,
    },
    /// The tensor ends after the file does.
    #[error(
        "tensor `{}` ends at byte {end}, but the data has {data_bytes} bytes: \
         the file is cut short",
        Printable(tensor)
    )]
    PastBuffer {
        /// Name of the tensor.
        tensor: String,
        /// The byte after the last.
        end: u64,
        /// Bytes of the data buffer.
        data_bytes: u64,
    },
    /// The place has another size than the elements.
    #[error(
        "tensor `{}` of dtype {dtype} and shape {shape} takes {expected} bytes, \
         but its `data_offsets` span {found}",
        Printable(tensor)
    )]
    ByteLength {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its dimensions, cut after the first few.
        shape: String,
        /// Bytes that the elements take.
        expected: u64,
        /// Bytes between begin and end.
        found: u64,
    },
    /// Bytes before the tensor belong to none.
    #[error(
        "tensor `{}` begins at byte {found}, expected {expected}: \
         the bytes between belong to no tensor",
        Printable(tensor)
    )]
    Hole {
        /// Name of the tensor after the hole.
        tensor: String,
        /// Where the tensor before it ends.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensor `{}` begins at byte {found}, before tensor `{}` ends at {expected}",
        Printable(tensor),
        Printable(other)
    )]
    Overlap {
        /// Name of the later tensor.
        tensor: String,
        /// Name of the earlier tensor.
        other: String,
        /// Where the earlier tensor ends.
        expected: u64,
        /// Where the later tensor begins.
        found: u64,
    },
    /// Bytes after the last tensor belong to none.
    #[error(
        "the tensors end at byte {expected}, but the data has {found} bytes: \
         the rest belongs to no tensor"
    )]
    TrailingBytes {
        /// Where the last tensor ends.
        expected: u64,
        /// Bytes of the data buffer.
        found: u64,
    },
}

/// The dimensions for a message: a file may list millions.
pub(super) fn dims_text(dims: &[u64]) -> String {
    const SHOWN: usize = 16;
    match dims.get(..SHOWN) {
        Some(shown) if dims.len() > SHOWN => format!("{shown:?} and {} more", dims.len() - SHOWN),
        _ => format!("{dims:?}"),
    }
}

fn dtype_names() -> String {
    let names: Vec<&str> = Dtype::ALL.iter().map(|dtype| dtype.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_shapes_are_cut_in_messages() {
        assert_eq!(dims_text(&[1; 16]), format!("{:?}", [1; 16]));
        assert_eq!(dims_text(&[1; 1000]), format!("{:?} and 984 more", [1; 16]));
    }
}
