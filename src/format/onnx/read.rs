//! The reader's side: the bytes of a model walk in, its initialisers and where their
//! elements lie walk out.
//!
//! Graphs are walked on the wire, once, and nothing of them is kept but what
//! initialisers need: names, shapes, places and the messages around them. Payloads are
//! stepped over. What is refused is refused before anything is built of it: groups,
//! lengths that pass their message, graphs nested too deep, numbers that do not end.
//! So memory and time are bounded by the limit on what is not payload.
//!
//! Touches no file and averages nothing.
//!
//! Source: onnx 1.23, <https://github.com/onnx/onnx/blob/main/docs/IR.md>.

mod compare;
mod constant;
mod decode;
mod difference;
mod element;
mod error;
mod graph;
mod node;
mod replace;
mod scatter;
pub(super) mod schema;
mod stream;
mod tensor;
mod wire;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::tensor::Dtype;
use crate::tensor::Shape;

pub use compare::first_difference;
pub use difference::GraphDifference;
pub use error::OnnxError;
pub use graph::parse;
pub use scatter::Scattered;
pub use wire::Cursor;
pub use wire::Field;
pub use wire::ReadAt;
pub use wire::ReadError;
pub use wire::Value;

/// How deep graphs may lie within each other: those of control flow are two or three.
pub const MOST_DEPTH: usize = 32;

/// Most nodes of a model; those of the largest have a few hundred thousand.
pub const MOST_NODES: usize = 1 << 20;

/// Most initialisers of a model.
pub const MOST_TENSORS: usize = 1 << 20;

/// Elements that a model may have whatever its length.
pub const FREE_ELEMENTS: u64 = 1 << 24;

/// Elements that a longer one may have for each byte of its files. A weight of four bytes
/// with an index of eight among 3,000 that are pruned is within it; what is written in
/// 100 bytes and takes seconds to walk through is not.
pub const MOST_PER_BYTE: u64 = 256;

/// What a model says about its tensors.
#[derive(Debug, Default)]
pub struct Model {
    /// Free text by key, from `metadata_props`; of a key that appears twice, the last.
    pub metadata: BTreeMap<String, String>,
    /// The fields of the file that hold `metadata_props`, with their keys.
    pub metadata_fields: Vec<(String, Range<u64>)>,
    /// The initialisers whose elements have a type that is read, in the order of the
    /// file.
    pub initializers: Vec<Initializer>,
    /// Files beside the model that hold elements: relative paths that do not lead out
    /// of its folder.
    pub locations: Vec<String>,
    /// The messages around initialisers, outer before inner.
    pub messages: Vec<Message>,
    /// Where the nodes begin that make an initialiser when the model is loaded: those that
    /// decode it, and those that hold it as a constant.
    pub decoders: BTreeSet<u64>,
}

impl Model {
    /// Checks that the elements of all initialisers are in proportion to the `bytes` of
    /// all files: a declared size is no licence to work.
    ///
    /// # Errors
    /// [`OnnxError::Proportion`].
    pub fn check_proportion(&self, bytes: u64) -> Result<(), OnnxError> {
        let most = bytes.saturating_mul(MOST_PER_BYTE).max(FREE_ELEMENTS);
        let mut elements = 0_u64;
        for initializer in &self.initializers {
            elements = elements.saturating_add(initializer.shape.numel());
            if elements > most {
                return Err(OnnxError::Proportion {
                    tensor: initializer.name.clone(),
                    elements,
                    bytes,
                    most,
                });
            }
        }
        Ok(())
    }
}

/// A message of the file, which holds other messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where its field begins: its number, then its length.
    pub begin: u64,
    /// Number of its field.
    pub number: u32,
    /// Its content.
    pub content: Range<u64>,
    /// The message around it, as an index into [`Model::messages`]; none for those of
    /// the model itself.
    pub parent: Option<usize>,
}

/// One initialiser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initializer {
    /// Its name; of one in a graph of a node, after the node's first output and the
    /// attribute: `output.then_branch.weight`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Shape,
    /// Where its elements are.
    pub elements: Elements,
}

/// How an initialiser stores its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// All of them.
    Dense(Values),
    /// Those that are retained, and their places.
    Sparse {
        /// The retained elements.
        values: Values,
        /// Their places: I64, one per value, or one coordinate per value.
        places: Values,
        /// Whether a place is a coordinate rather than a row-major index.
        are_coordinates: bool,
    },
    /// Those that are retained, and one bit for each, which nodes decode.
    Bitmask {
        /// The retained elements.
        values: Values,
        /// U8: bit `i` of byte `j` is that of element `8 j + i`.
        bitmask: Values,
    },
    /// Those that are retained, and how far each is from the one before, which nodes
    /// decode.
    Gaps {
        /// The retained elements.
        values: Values,
        /// U8: a gap of 0 goes on by 255 places and retains nothing.
        gaps: Values,
    },
}

/// Elements of a tensor message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// Element type.
    pub dtype: Dtype,
    /// Number of elements.
    pub count: u64,
    /// Where they are.
    pub place: Place,
    /// The tensor message.
    pub message: Message,
}

/// Where elements lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file of the model, little-endian and in order.
    Model {
        /// Offset of the first.
        offset: u64,
    },
    /// In a file beside it, little-endian and in order.
    External {
        /// Which, as an index into [`Model::locations`].
        location: usize,
        /// Offset of the first.
        offset: u64,
    },
    /// In the file of the model, as numbers of variable length or one field each.
    Fields {
        /// Number of the fields.
        field: u32,
        /// Where to begin reading, for elements at equal distances.
        stops: Vec<Stop>,
    },
}

/// A place among elements that are not in fixed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Offset of the element, or of a field before it.
    offset: u64,
    /// End of the packed list that the element is part of; 0 outside of one.
    list_end: u64,
}
