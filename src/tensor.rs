//! Vocabulary: values without a home. Touches no file and no thread.

mod dtype;
mod shape;

pub use dtype::{Arithmetic, Dtype};
pub use shape::Shape;
