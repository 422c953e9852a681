//! Vocabulary: values without a home. Touches no file and no thread.

pub mod bits;
mod cover;
mod decimals;
mod device;
mod digest;
mod dtype;
mod mask;
mod printable;
mod random;
mod shape;

pub use cover::cover;
pub use decimals::{decimals, right_aligned};
pub use device::{DeviceKind, DeviceName, DeviceNameError};
pub use digest::{Digest, DigestList, Digester, TILE_ELEMENTS, tile_elements};
pub use dtype::{Arithmetic, Dtype};
pub use mask::{Mask, zero_pruned};
pub use printable::Printable;
pub use random::Stream;
pub use shape::Shape;
