//! An ONNX model to write: a graph walks in as plain data, a [`FileLayout`] walks out:
//! the bytes of the file, with holes where the payloads of large tensors go.
//!
//! Written by hand rather than with generated code, whose tensors own their bytes: here
//! no payload is ever held.

mod message;

use std::collections::BTreeMap;

pub use message::FileLayout;

use crate::tensor::Dtype;

use message::Message;

/// Largest file: protobuf counts bytes in a signed number of 32 bits.
pub const MOST_BYTES: u64 = (1 << 31) - 1;

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Version of the file format.
    pub ir_version: u64,
    /// Version of the operators.
    pub opset: u64,
    /// Name of the program that writes.
    pub producer: String,
    /// Its version.
    pub producer_version: String,
    /// What is computed.
    pub graph: Graph,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
}

/// A graph: nodes in topological order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// What is computed.
    pub nodes: Vec<Node>,
    /// Constants.
    pub initializers: Vec<Tensor>,
    /// Constants that are mostly zeros.
    pub sparse_initializers: Vec<SparseTensor>,
    /// What is given.
    pub inputs: Vec<Value>,
    /// What is asked for.
    pub outputs: Vec<Value>,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of the operator.
    pub op: &'static str,
    /// Names of the operands.
    pub inputs: Vec<String>,
    /// Name of the result, which the node has too.
    pub output: String,
    /// Attributes by name.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// Value of an attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// Whole numbers.
    Ints(Vec<i64>),
}

/// A float input or output of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<Dim>,
}

/// A dimension of a [`Value`].
#[derive(Clone, Debug)]
pub enum Dim {
    /// A size.
    Size(u64),
    /// Any size, the same wherever this name stands.
    Any(&'static str),
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    Float = 1,
    Uint8 = 2,
    Int32 = 6,
    Int64 = 7,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Bfloat16 = 16,
}

/// A dense tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub element: Element,
    /// Its dimensions, row-major.
    pub dims: Vec<u64>,
    /// Its elements.
    pub data: Data,
}

/// Where the elements of a tensor are: little-endian, row-major.
#[derive(Clone, Debug)]
pub enum Data {
    /// Here.
    Inline(Vec<u8>),
    /// Written to the hole that [`FileLayout`] has for this number.
    Streamed(usize),
    /// In another file, beside this one.
    External {
        /// Path of the file, relative to the directory of this one.
        location: String,
        /// First byte.
        offset: u64,
    },
}

/// A tensor that is mostly zeros.
#[derive(Clone, Debug)]
pub struct SparseTensor {
    /// Its dimensions, row-major.
    pub dims: Vec<u64>,
    /// What is not zero; has the name of the whole.
    pub values: Tensor,
    /// Row-major index of each value, ascending.
    pub indices: Tensor,
}

impl Element {
    /// The element type of a float tensor in a checkpoint.
    pub fn of_float(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F16 => Some(Self::Float16),
            Dtype::BF16 => Some(Self::Bfloat16),
            Dtype::F32 => Some(Self::Float),
            Dtype::F64 => Some(Self::Double),
            _ => None,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Uint8 | Self::Bool => 1,
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Float | Self::Int32 => 4,
            Self::Int64 | Self::Double => 8,
        }
    }
}

impl Tensor {
    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.dims.iter().product::<u64>() * self.element.bytes()
    }

    fn message(&self) -> Message {
        let mut message = Message::default();
        for &dim in &self.dims {
            message.varint(1, dim);
        }
        message.varint(2, self.element as u64);
        message.delimited(8, self.name.as_bytes());
        match &self.data {
            Data::Inline(bytes) => message.delimited(9, bytes),
            Data::Streamed(payload) => message.payload(9, *payload, self.bytes()),
            Data::External { location, offset } => {
                let length = self.bytes().to_string();
                let offset = offset.to_string();
                let entries = [
                    ("location", location),
                    ("offset", &offset),
                    ("length", &length),
                ];
                for (key, value) in entries {
                    message.message(13, pair(key, value));
                }
                message.varint(14, 1);
            }
        }
        message
    }
}

impl Model {
    /// The bytes of the file and the places of its payloads.
    pub fn layout(&self) -> FileLayout {
        let mut message = Message::default();
        message.varint(1, self.ir_version);
        message.delimited(2, self.producer.as_bytes());
        message.delimited(3, self.producer_version.as_bytes());
        message.message(7, self.graph.message());
        let mut opset = Message::default();
        opset.varint(2, self.opset);
        message.message(8, opset);
        for (key, value) in &self.metadata {
            message.message(14, pair(key, value));
        }
        message.into_layout()
    }
}

impl Graph {
    fn message(&self) -> Message {
        let mut message = Message::default();
        for node in &self.nodes {
            message.message(1, node.message());
        }
        message.delimited(2, self.name.as_bytes());
        for tensor in &self.initializers {
            message.message(5, tensor.message());
        }
        for value in &self.inputs {
            message.message(11, value.message());
        }
        for value in &self.outputs {
            message.message(12, value.message());
        }
        for sparse in &self.sparse_initializers {
            let mut inner = Message::default();
            inner.message(1, sparse.values.message());
            inner.message(2, sparse.indices.message());
            for &dim in &sparse.dims {
                inner.varint(3, dim);
            }
            message.message(15, inner);
        }
        message
    }
}

impl Node {
    fn message(&self) -> Message {
        let mut message = Message::default();
        for input in &self.inputs {
            message.delimited(1, input.as_bytes());
        }
        message.delimited(2, self.output.as_bytes());
        message.delimited(3, self.output.as_bytes());
        message.delimited(4, self.op.as_bytes());
        for (name, value) in &self.attributes {
            let mut attribute = Message::default();
            attribute.delimited(1, name.as_bytes());
            match value {
                Attribute::Float(value) => {
                    attribute.float(2, *value);
                    attribute.varint(20, 1);
                }
                Attribute::Int(value) => {
                    attribute.varint(3, value.cast_unsigned());
                    attribute.varint(20, 2);
                }
                Attribute::Ints(values) => {
                    for value in values {
                        attribute.varint(8, value.cast_unsigned());
                    }
                    attribute.varint(20, 7);
                }
            }
            message.message(5, attribute);
        }
        message
    }
}

impl Value {
    fn message(&self) -> Message {
        let mut shape = Message::default();
        for dim in &self.dims {
            let mut inner = Message::default();
            match dim {
                Dim::Size(size) => inner.varint(1, *size),
                Dim::Any(name) => inner.delimited(2, name.as_bytes()),
            }
            shape.message(1, inner);
        }
        let mut tensor = Message::default();
        tensor.varint(1, Element::Float as u64);
        tensor.message(2, shape);
        let mut kind = Message::default();
        kind.message(1, tensor);
        let mut message = Message::default();
        message.delimited(1, self.name.as_bytes());
        message.message(2, kind);
        message
    }
}

/// A `StringStringEntryProto`.
fn pair(key: &str, value: &str) -> Message {
    let mut message = Message::default();
    message.delimited(1, key.as_bytes());
    message.delimited(2, value.as_bytes());
    message
}
