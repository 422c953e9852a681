//! Models as data: a description walks in, a [`Graph`] walks out. Knows no weights,
//! no trainer and no file format.

mod node;

pub use node::{Features, Graph, Initialiser, Node, NodeIdx, Op, Parameter, ParameterIdx, Role};
