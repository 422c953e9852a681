//! Models as data: a description walks in, a [`Graph`] walks out. Knows no weights,
//! no trainer and no file format.

mod build;
mod error;
pub mod models;
mod node;
mod spelling;

pub use build::{BatchNorm, Builder, Conv2d, Linear, MOST_ELEMENTS, Start, Window};
pub use error::BuildError;
pub use node::{Features, Graph, Initialiser, Node, NodeIdx, Op, Parameter, ParameterIdx, Role};
