//! Vocabulary: values without a home. Touches no file and no thread.

mod dtype;
mod printable;
mod shape;

pub use dtype::{Arithmetic, Dtype};
pub use printable::Printable;
pub use shape::Shape;
