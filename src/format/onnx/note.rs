//! What an ONNX file of ours says of itself, in its metadata: which tensors are encoded,
//! and how.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// Key of the note in `metadata_props`; its value is one JSON object.
pub const NOTE_KEY: &str = "sms_onnx";

/// Version of the note's fields.
pub const NOTE_VERSION: u32 = 1;

/// How the weights of a file are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Version of these fields.
    pub format_version: u32,
    /// `dense`, `bitmask`, `delta` or `sparse-initializer`: what was asked for.
    pub encoding: String,
    /// Whether batch norm was folded into the layers before it, where it could be.
    pub folded_batch_norm: bool,
    /// Tensors that are no plain initialisers, by the name that the decoded one has.
    pub tensors: BTreeMap<String, EncodedTensor>,
}

/// A tensor that is not stored as a plain initialiser.
///
/// - `bitmask`: `T.values` are the retained elements, row-major; `T.bitmask` is the mask,
///   bit `i` of byte `j` is element `8 j + i`.
/// - `delta`: `T.values` as above; `T.gaps` are the distances of retained elements from
///   the retained one before, of the first from the place in front of the tensor. A gap
///   of 0 goes on by 255 places and retains nothing, so longer gaps take several bytes.
/// - `sparse-initializer`: a `SparseTensorProto` with linear indices, called `T`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedTensor {
    /// `bitmask`, `delta` or `sparse-initializer`.
    pub encoding: String,
    /// Element type of the values, as safetensors spells it.
    pub dtype: String,
    /// Dimensions of the decoded tensor, row-major.
    pub shape: Vec<u64>,
}
