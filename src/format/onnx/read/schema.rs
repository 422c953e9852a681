//! Numbers of the fields of ONNX's messages that are looked at.
//!
//! Source: onnx 1.23, `onnx.proto`, <https://github.com/onnx/onnx>.

/// `ModelProto`.
pub(in crate::format::onnx) mod model {
    pub(in crate::format::onnx) const IR_VERSION: u32 = 1;
    pub(in crate::format::onnx) const PRODUCER_NAME: u32 = 2;
    pub(in crate::format::onnx) const PRODUCER_VERSION: u32 = 3;
    pub(in crate::format::onnx) const MODEL_VERSION: u32 = 5;
    pub(in crate::format::onnx) const DOC_STRING: u32 = 6;
    pub(in crate::format::onnx) const GRAPH: u32 = 7;
    pub(in crate::format::onnx) const OPSET_IMPORT: u32 = 8;
    pub(in crate::format::onnx) const METADATA_PROPS: u32 = 14;
    pub(in crate::format::onnx) const FUNCTIONS: u32 = 25;
}

/// `FunctionProto`.
pub(in crate::format::onnx) mod function {
    pub(in crate::format::onnx) const NAME: u32 = 1;
    pub(in crate::format::onnx) const NODE: u32 = 7;
    pub(in crate::format::onnx) const DOC_STRING: u32 = 8;
    pub(in crate::format::onnx) const DOMAIN: u32 = 10;
    pub(in crate::format::onnx) const VALUE_INFO: u32 = 12;
    pub(in crate::format::onnx) const METADATA_PROPS: u32 = 14;
}

/// `GraphProto`.
pub(in crate::format::onnx) mod graph {
    pub(in crate::format::onnx) const NODE: u32 = 1;
    pub(in crate::format::onnx) const NAME: u32 = 2;
    pub(in crate::format::onnx) const INITIALIZER: u32 = 5;
    pub(in crate::format::onnx) const DOC_STRING: u32 = 10;
    pub(in crate::format::onnx) const INPUT: u32 = 11;
    pub(in crate::format::onnx) const OUTPUT: u32 = 12;
    pub(in crate::format::onnx) const VALUE_INFO: u32 = 13;
    pub(in crate::format::onnx) const SPARSE_INITIALIZER: u32 = 15;
    pub(in crate::format::onnx) const METADATA_PROPS: u32 = 16;
}

/// `ValueInfoProto`.
pub(in crate::format::onnx) mod value_info {
    pub(in crate::format::onnx) const DOC_STRING: u32 = 3;
    pub(in crate::format::onnx) const METADATA_PROPS: u32 = 4;
}

/// `NodeProto`.
pub(in crate::format::onnx) mod node {
    pub(in crate::format::onnx) const INPUT: u32 = 1;
    pub(in crate::format::onnx) const OUTPUT: u32 = 2;
    pub(in crate::format::onnx) const NAME: u32 = 3;
    pub(in crate::format::onnx) const OP_TYPE: u32 = 4;
    pub(in crate::format::onnx) const ATTRIBUTE: u32 = 5;
    pub(in crate::format::onnx) const DOC_STRING: u32 = 6;
    pub(in crate::format::onnx) const DOMAIN: u32 = 7;
    pub(in crate::format::onnx) const METADATA_PROPS: u32 = 9;
}

/// `AttributeProto`.
pub(in crate::format::onnx) mod attribute {
    pub(in crate::format::onnx) const NAME: u32 = 1;
    pub(in crate::format::onnx) const I: u32 = 3;
    pub(in crate::format::onnx) const T: u32 = 5;
    pub(in crate::format::onnx) const G: u32 = 6;
    pub(in crate::format::onnx) const TENSORS: u32 = 10;
    pub(in crate::format::onnx) const GRAPHS: u32 = 11;
    pub(in crate::format::onnx) const DOC_STRING: u32 = 13;
    pub(in crate::format::onnx) const SPARSE_TENSOR: u32 = 22;
}

/// `TensorProto`.
pub(in crate::format::onnx) mod tensor {
    pub(in crate::format::onnx) const DIMS: u32 = 1;
    pub(in crate::format::onnx) const DATA_TYPE: u32 = 2;
    pub(in crate::format::onnx) const SEGMENT: u32 = 3;
    pub(in crate::format::onnx) const FLOAT_DATA: u32 = 4;
    pub(in crate::format::onnx) const INT32_DATA: u32 = 5;
    pub(in crate::format::onnx) const STRING_DATA: u32 = 6;
    pub(in crate::format::onnx) const INT64_DATA: u32 = 7;
    pub(in crate::format::onnx) const NAME: u32 = 8;
    pub(in crate::format::onnx) const RAW_DATA: u32 = 9;
    pub(in crate::format::onnx) const DOUBLE_DATA: u32 = 10;
    pub(in crate::format::onnx) const UINT64_DATA: u32 = 11;
    pub(in crate::format::onnx) const DOC_STRING: u32 = 12;
    pub(in crate::format::onnx) const EXTERNAL_DATA: u32 = 13;
    pub(in crate::format::onnx) const DATA_LOCATION: u32 = 14;
    pub(in crate::format::onnx) const METADATA_PROPS: u32 = 16;

    /// Whether a field holds elements, or says where they are.
    pub(in crate::format::onnx) fn holds_data(number: u32) -> bool {
        matches!(
            number,
            FLOAT_DATA
                | INT32_DATA
                | STRING_DATA
                | INT64_DATA
                | RAW_DATA
                | DOUBLE_DATA
                | UINT64_DATA
                | EXTERNAL_DATA
                | DATA_LOCATION
        )
    }
}

/// `SparseTensorProto`.
pub(in crate::format::onnx) mod sparse {
    pub(in crate::format::onnx) const VALUES: u32 = 1;
    pub(in crate::format::onnx) const INDICES: u32 = 2;
    pub(in crate::format::onnx) const DIMS: u32 = 3;
}

/// `StringStringEntryProto`.
pub(in crate::format::onnx) mod entry {
    pub(in crate::format::onnx) const KEY: u32 = 1;
    pub(in crate::format::onnx) const VALUE: u32 = 2;
}
