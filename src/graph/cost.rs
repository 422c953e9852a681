//! What a network costs: parameters and multiply-adds, dense and sparse.
//!
//! A multiply-add belongs to one weight of a linear or convolution layer at one place
//! of the output, places on the border included. Biases, norms, activations and
//! pooling are not counted, as in the literature on pruning.

use super::Graph;
use super::NodeIdx;
use super::Op;
use super::ParameterIdx;

/// What a linear or convolution layer costs, for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCost {
    /// The layer.
    pub node: NodeIdx,
    /// Its weight.
    pub weight: ParameterIdx,
    /// Places of the output at which each weight is used once: 1 for a linear layer.
    pub places: u64,
    /// Weights times places.
    pub multiply_adds: u64,
}

impl Graph {
    /// Number of learned parameters; statistics are not counted.
    pub fn learned(&self) -> u64 {
        let learned = self
            .parameters
            .iter()
            .filter(|parameter| parameter.role.is_learned());
        learned.map(|parameter| parameter.shape.numel()).sum()
    }

    /// Costs of the linear and convolution layers, in the order of the nodes.
    pub fn costs(&self) -> Vec<LayerCost> {
        let costs = self.nodes.iter().enumerate().filter_map(|(idx, node)| {
            let (Op::Conv2d { weight, .. } | Op::Linear { weight, .. }) = node.op else {
                return None;
            };
            let places = node.output.pixels() as u64;
            let weights = self.parameters[weight].shape.numel();
            Some(LayerCost {
                node: idx,
                weight,
                places,
                multiply_adds: weights.saturating_mul(places),
            })
        });
        costs.collect()
    }

    /// Multiply-adds of a forward pass of one image.
    pub fn multiply_adds(&self) -> u64 {
        let costs = self.costs();
        costs
            .iter()
            .fold(0, |sum: u64, layer| sum.saturating_add(layer.multiply_adds))
    }

    /// Multiply-adds of a forward pass of one image that uses retained weights only.
    /// `retained` counts them for each parameter, in the graph's order; what does not
    /// belong to the weight of a layer is not looked at, and a parameter without a
    /// count costs nothing.
    ///
    /// [`multiply_adds`](Self::multiply_adds) divided by this is the theoretical
    /// speed-up.
    pub fn sparse_multiply_adds(&self, retained: &[u64]) -> u64 {
        self.costs().iter().fold(0, |sum: u64, layer| {
            let retained = retained.get(layer.weight).copied().unwrap_or(0);
            sum.saturating_add(retained.saturating_mul(layer.places))
        })
    }
}
