//! The safetensors format: bytes of a header walk in, checked places of
//! tensors walk out, and the other way round.
//!
//! A file is a little-endian `u64` N, N bytes of JSON, and a buffer that the
//! tensors cover completely. What is refused here and accepted by the
//! `safetensors` crate: duplicate names, unknown fields, tensors given as
//! arrays, shapes that overflow behind a zero, and leading white space.
//! Everything accepted here is accepted there.
//!
//! Touches no file and no byte of a tensor.
//!
//! Source: safetensors 0.8.0, <https://github.com/huggingface/safetensors>.

mod error;
mod header;
mod layout;
mod reader;

pub use error::HeaderError;
pub use header::{Header, TensorInfo, header_len, parse};
pub use layout::{Entry, Layout, LayoutError, natural_cmp, split};

/// Bytes of JSON that a header may have unless the user says otherwise: 64 MiB.
///
/// A legal header of 100 MB makes some readers take gigabytes of memory.
pub const DEFAULT_HEADER_LIMIT: u64 = 64 << 20;

/// Bytes of JSON that a header may have at most: the format's own limit.
///
/// Source: `MAX_HEADER_SIZE` of safetensors 0.8.0.
pub const FORMAT_HEADER_LIMIT: u64 = 100_000_000;

/// Bytes of the length that stands before the JSON.
pub const PREFIX_BYTES: u64 = 8;

/// The one key of a header that is no tensor.
pub const METADATA_KEY: &str = "__metadata__";
