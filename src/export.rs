//! Checkpoints for other programs: a checkpoint, its masks and maybe its graph walk in,
//! files in the formats of others walk out.

pub mod onnx;
pub mod template;
