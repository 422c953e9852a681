//! ONNX files: tensors and their places walk out of a model's bytes; what is written
//! walks out as bytes and places for payloads.
//!
//! Source: <https://github.com/onnx/onnx/blob/v1.23.0/onnx/onnx.proto>.

pub mod frame;
pub mod note;
pub mod read;
pub mod splice;
pub mod write;
