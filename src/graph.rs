//! Models as data: a description walks in, a [`Graph`] walks out. Knows no weights,
//! no trainer and no file format.

mod build;
mod cost;
pub mod description;
mod error;
mod fit;
mod layer;
pub mod models;
mod node;
pub mod spelling;
mod toml_error;

pub use build::{Builder, MOST_ELEMENTS};
pub use cost::LayerCost;
pub use description::{Description, DescriptionError, Syntax};
pub use error::BuildError;
pub use fit::FitError;
pub use layer::{BatchNorm, Conv2d, Linear, Start, Window};
pub use node::{
    Features, Graph, Initialiser, Node, NodeIdx, Op, Parameter, ParameterIdx, Role, ShapeError,
};
pub use toml_error::TomlError;
