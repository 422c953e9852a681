//! The training hall: a [`Graph`](crate::graph::Graph), weights and data walk in,
//! weights and metrics walk out. Merges nothing. The only door to candle.

pub mod engine;
mod loss;
mod weights;

pub use loss::{Loss, Objective, largest, softmax};
pub use weights::{NamedTensor, Values, Weights, WeightsError, write_tensors};
