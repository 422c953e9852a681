//! The training hall: a [`Graph`](crate::graph::Graph), weights and data walk in,
//! weights and metrics walk out. Merges nothing. The only door to candle.

pub mod average;
pub mod candle;
pub mod card;
pub mod choices;
pub mod compute;
pub mod data;
pub mod device;
pub mod engine;
pub mod evaluate;
mod loss;
pub mod lost;
pub mod masks;
pub mod memory;
pub mod native;
mod optimizer;
pub mod recalibrate;
pub mod recipe;
pub mod record;
pub mod schedule;
pub mod state;
pub mod trainer;
mod weights;

pub use loss::{Loss, Objective, largest, softmax};
pub use optimizer::Rule;
pub use weights::{NamedTensor, Values, Weights, WeightsError, write_tensors};
