//! The values of a network: initial ones, or a checkpoint walk in; a checkpoint walks
//! out.

mod error;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::WeightsError;
pub use write::{NamedTensor, Values, write_tensors};

use crate::graph::Graph;
use crate::graph::Initialiser;
use crate::graph::Role;
use crate::tensor::Stream;

/// Values of all parameters and statistics of a graph, in the graph's order, each
/// row-major as in torch.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// One per parameter; empty for a [`Role::BatchCount`].
    pub values: Vec<Vec<f32>>,
    /// One per parameter: the count of a [`Role::BatchCount`], otherwise 0.
    pub counts: Vec<i64>,
}

impl Weights {
    /// Random values as the graph's initialisers say. Each parameter draws from a
    /// stream of its own name.
    pub fn initial(graph: &Graph, seed: u64) -> Self {
        let values = graph
            .parameters
            .iter()
            .map(|parameter| {
                let numel = match parameter.role {
                    Role::BatchCount => 0,
                    _ => parameter.shape.numel() as usize,
                };
                let mut stream = Stream::named(seed, "initial", &parameter.name);
                (0..numel)
                    .map(|_| match parameter.initialiser {
                        Initialiser::Constant(value) => value as f32,
                        Initialiser::Uniform { bound } => {
                            ((stream.uniform() * 2.0 - 1.0) * bound) as f32
                        }
                        Initialiser::Normal { deviation } => {
                            (normal(&mut stream) * deviation) as f32
                        }
                    })
                    .collect()
            })
            .collect();
        Self {
            values,
            counts: vec![0; graph.parameters.len()],
        }
    }
}

/// A standard normal number (Box and Muller), with the logarithm and cosine of
/// `libm`, whose bits are the same on every machine.
pub(super) fn normal(stream: &mut Stream) -> f64 {
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - stream.uniform()));
    radius * libm::cos(std::f64::consts::TAU * stream.uniform())
}
