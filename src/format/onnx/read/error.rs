//! Every way in which bytes can fail to be a model that is understood, and how it is
//! said.

use thiserror::Error;

use crate::format::onnx::read::MOST_DEPTH;
use crate::format::onnx::read::MOST_NODES;
use crate::format::onnx::read::MOST_TENSORS;
use crate::tensor::Printable;

/// Why the bytes are no ONNX model that can be averaged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OnnxError {
    /// A number of variable length does not end.
    #[error("number at byte {at} takes more than 64 bits: not an ONNX model, or a damaged one")]
    Varint {
        /// Where it begins.
        at: u64,
    },
    /// A field passes the end of what holds it.
    #[error(
        "field at byte {at} passes the end of its message at byte {end}: \
         the file is cut short, or not an ONNX model"
    )]
    Cut {
        /// Where the field's content begins.
        at: u64,
        /// Where the message ends.
        end: u64,
    },
    /// A field is a group, which ONNX does not have.
    #[error("field {number} at byte {at} is a group, which no ONNX model has")]
    Group {
        /// Where it begins.
        at: u64,
        /// Its number.
        number: u32,
    },
    /// A field has a wire type that does not exist.
    #[error("field {number} at byte {at} has wire type {found}, which does not exist")]
    WireType {
        /// Where it begins.
        at: u64,
        /// Its number.
        number: u32,
        /// The wire type.
        found: u8,
    },
    /// A field has a number that protobuf does not allow.
    #[error("field at byte {at} has a number that protobuf does not allow")]
    FieldNumber {
        /// Where it begins.
        at: u64,
    },
    /// A field holds something else than ONNX says.
    #[error("field {number} at byte {at} holds something else than {expected}")]
    FieldType {
        /// Where it begins.
        at: u64,
        /// Its number.
        number: u32,
        /// What it should hold.
        expected: &'static str,
    },
    /// A field that may appear once appears again.
    #[error("field {number} of a {message} appears a second time at byte {at}")]
    FieldTwice {
        /// Where it begins.
        at: u64,
        /// Its number.
        number: u32,
        /// What it belongs to.
        message: &'static str,
    },
    /// A name is not text.
    #[error("text at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Where it begins.
        at: u64,
    },
    /// What is not payload takes more bytes than the caller wants to read.
    #[error(
        "the graph passes the limit of {limit} bytes without its weights; \
         if you trust the file, raise it with `--max-header-bytes`"
    )]
    OverLimit {
        /// Bytes that the caller allows.
        limit: u64,
    },
    /// Graphs lie within graphs too deep.
    #[error("graphs lie within each other more than {} deep", MOST_DEPTH)]
    TooDeep,
    /// There are more nodes than any model has.
    #[error("the model has more than {} nodes", MOST_NODES)]
    TooManyNodes,
    /// There are more initialisers than any model has.
    #[error("the model has more than {} initialisers", MOST_TENSORS)]
    TooManyTensors,
    /// The model has no graph.
    #[error("the model has no graph")]
    NoGraph,
    /// An initialiser has no name.
    #[error("the initialiser at byte {at} has no name")]
    Unnamed {
        /// Where it begins.
        at: u64,
    },
    /// Two initialisers have one name.
    #[error("initialiser `{}` appears twice", Printable(tensor))]
    TensorTwice {
        /// The name, with its path.
        tensor: String,
    },
    /// The element type does not exist.
    #[error(
        "initialiser `{}` has element type {found}, which ONNX does not know",
        Printable(tensor)
    )]
    ElementType {
        /// The initialiser.
        tensor: String,
        /// Number of the type.
        found: u64,
    },
    /// The tensor is cut into segments, which no writer does.
    #[error(
        "initialiser `{}` is cut into segments, which are not read",
        Printable(tensor)
    )]
    Segment {
        /// The initialiser.
        tensor: String,
    },
    /// A dimension is negative, or all together are too many.
    #[error(
        "initialiser `{}` has dimensions that are negative or too large to count",
        Printable(tensor)
    )]
    Shape {
        /// The initialiser.
        tensor: String,
    },
    /// Elements are stored in two ways, or in a field of another type.
    #[error(
        "initialiser `{}` stores its elements in field {number}, where they are not expected",
        Printable(tensor)
    )]
    Data {
        /// The initialiser.
        tensor: String,
        /// The field.
        number: u32,
    },
    /// The elements take other bytes than the type and shape say.
    #[error(
        "initialiser `{}` takes {expected} bytes, but {found} are stored",
        Printable(tensor)
    )]
    ByteLength {
        /// The initialiser.
        tensor: String,
        /// Bytes of type and shape.
        expected: u64,
        /// Bytes stored.
        found: u64,
    },
    /// There are more or fewer elements than the shape says.
    #[error(
        "initialiser `{}` has {expected} elements, but {found} are stored",
        Printable(tensor)
    )]
    Count {
        /// The initialiser.
        tensor: String,
        /// Elements of the shape.
        expected: u64,
        /// Elements stored.
        found: u64,
    },
    /// An element does not fit in its type.
    #[error(
        "element {index} of initialiser `{}` does not fit in its type",
        Printable(tensor)
    )]
    Element {
        /// The initialiser.
        tensor: String,
        /// Position of the element.
        index: u64,
    },
    /// The place of external data is not said, or not in numbers.
    #[error(
        "initialiser `{}` says of its external data `{key}` what is no {expected}",
        Printable(tensor)
    )]
    External {
        /// The initialiser.
        tensor: String,
        /// The key.
        key: &'static str,
        /// What is expected there.
        expected: &'static str,
    },
    /// The place of external data may lie outside the folder of the model.
    #[error(
        "initialiser `{}` lies in `{}`, expected a relative path below the folder of the model",
        Printable(tensor),
        Printable(location)
    )]
    Location {
        /// The initialiser.
        tensor: String,
        /// The path found.
        location: String,
    },
    /// A tensor that is only compared, never read, lies outside the model.
    #[error(
        "a tensor at byte {at} has external data and is no initialiser of a type that is read: \
         save the model with this tensor inside (onnx: `size_threshold`, `convert_attribute=False`)"
    )]
    ExternalConstant {
        /// Where it begins.
        at: u64,
    },
    /// A sparse tensor lacks a part, or its parts do not fit together.
    #[error("sparse initialiser `{}` {what}", Printable(tensor))]
    Sparse {
        /// The initialiser.
        tensor: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Places of a sparse tensor are not strictly ascending, or outside of it.
    #[error(
        "place {index} of sparse initialiser `{}` is outside of it or not after the one before",
        Printable(tensor)
    )]
    Place {
        /// The initialiser.
        tensor: String,
        /// Position in the list of places.
        index: u64,
    },
    /// The tensors of a model have far more elements than its files have bytes.
    #[error(
        "the initialisers up to `{}` have {elements} elements, and all files of the model {bytes} bytes: \
         more than {most} elements are not read of so few, store some of them dense",
        Printable(tensor)
    )]
    Proportion {
        /// The initialiser that is one too many.
        tensor: String,
        /// Elements up to it.
        elements: u64,
        /// Bytes of all files.
        bytes: u64,
        /// Most elements for these bytes.
        most: u64,
    },
}
