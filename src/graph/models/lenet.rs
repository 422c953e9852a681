//! LeNet-5, as torch's tutorials write it: `conv1` (6 maps, 5x5), ReLU, 2x2
//! max-pooling, `conv2` (16 maps, 5x5), ReLU, 2x2 max-pooling, `fc1` (120), `fc2` (84),
//! `fc3` (classes), ReLU between them.
//!
//! The original takes 32x32 pixels. Images that are smaller, such as the 28x28 of
//! MNIST, get a border of 2 zeros from `conv1`, which makes the 28x28 a 32x32.

use super::ModelError;
use super::ModelSpec;
use super::options::Options;
use super::options::built;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Conv2d;
use crate::graph::Graph;
use crate::graph::Linear;
use crate::graph::Window;

/// Rows and columns of the images that LeNet-5 was made for.
const SIDE: usize = 32;

pub(super) fn build(spec: &ModelSpec, _: &Options<'_>) -> Result<Graph, ModelError> {
    built(spec, graph(spec))
}

fn graph(spec: &ModelSpec) -> Result<Graph, BuildError> {
    let border = |size: usize| if size < SIDE { 2 } else { 0 };
    let conv1 = Conv2d {
        padding: [border(spec.input.height), border(spec.input.width)],
        ..Conv2d::new(6, 5)
    };
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.input();
    for (name, layer) in [("conv1", conv1), ("conv2", Conv2d::new(16, 5))] {
        node = builder.conv2d(name, node, layer)?;
        node = builder.relu(node)?;
        node = builder.max_pool(node, Window::square(2))?;
    }
    node = builder.flatten(node)?;
    for (name, width) in [("fc1", 120), ("fc2", 84)] {
        node = builder.linear(name, node, Linear::new(width))?;
        node = builder.relu(node)?;
    }
    builder.linear("fc3", node, Linear::new(spec.classes))?;
    builder.finish()
}
