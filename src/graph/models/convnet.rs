//! A small convolutional network with batch norm: `conv1`, `bn1`, ReLU, 2x2
//! max-pooling, `conv2`, `bn2`, ..., and one linear layer `fc` on what is left of the
//! map.
//!
//! Convolutions are 3x3 with a border of 1 and have no bias, which the batch norm
//! behind them would take away. A linear layer on the whole map learns in fewer epochs
//! than one on the means of the channels.

use super::ModelError;
use super::ModelSpec;
use super::options::Options;
use super::options::built;
use crate::graph::BatchNorm;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Conv2d;
use crate::graph::Graph;
use crate::graph::Linear;
use crate::graph::Window;

pub(super) fn build(spec: &ModelSpec, options: &Options<'_>) -> Result<Graph, ModelError> {
    let widths = options.sizes("widths")?;
    if widths.is_empty() {
        return Err(options.wrong("widths", "at least one whole number, such as `32,64,128`"));
    }
    built(spec, graph(spec, &widths))
}

fn graph(spec: &ModelSpec, widths: &[usize]) -> Result<Graph, BuildError> {
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.input();
    for (idx, &width) in widths.iter().enumerate() {
        let layer = Conv2d {
            padding: [1; 2],
            bias: None,
            ..Conv2d::new(width, 3)
        };
        node = builder.conv2d(&format!("conv{}", idx + 1), node, layer)?;
        node = builder.batch_norm(&format!("bn{}", idx + 1), node, BatchNorm::default())?;
        node = builder.relu(node)?;
        node = builder.max_pool(node, Window::square(2))?;
    }
    node = builder.flatten(node)?;
    builder.linear("fc", node, Linear::new(spec.classes))?;
    builder.finish()
}
