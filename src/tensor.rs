//! Vocabulary: values without a home. Touches no file and no thread.

mod digest;
mod dtype;
mod shape;

pub use digest::{Digest, Digester, TILE_ELEMENTS, tile_elements};
pub use dtype::{Arithmetic, Dtype};
pub use shape::Shape;
