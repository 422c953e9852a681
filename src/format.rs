//! Files and bytes of every format that is read or written.
//!
//! Bytes walk in and headers walk out; going the other way, tensors to write
//! walk in and bytes walk out. Maps no file and computes with no value.

pub mod compact;
pub mod json_text;
pub mod onnx;
#[cfg(feature = "train")]
pub mod png;
pub mod regular;
pub mod replace;
pub mod safetensors;
pub mod shard_index;
pub mod sniff;
pub mod tensorboard;
pub mod torch;
