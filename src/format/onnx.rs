//! The ONNX format: bytes of a model walk in, its tensors and their places walk out,
//! and the other way round.

pub mod read;
pub mod splice;
