//! Vocabulary: values without a home. Touches no file and no thread.

mod digest;
mod dtype;
mod printable;
mod shape;

pub use digest::{Digest, DigestList, Digester, TILE_ELEMENTS, tile_elements};
pub use dtype::{Arithmetic, Dtype};
pub use printable::Printable;
pub use shape::Shape;
