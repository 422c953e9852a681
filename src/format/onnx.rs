//! ONNX files: what is written walks out as bytes and places for payloads.
//!
//! Source: <https://github.com/onnx/onnx/blob/v1.23.0/onnx/onnx.proto>.

pub mod note;
pub mod write;
