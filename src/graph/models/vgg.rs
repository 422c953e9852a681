//! VGG-16 with batch norm and the head that is usual for CIFAR: 13 convolutions in
//! `features`, numbered as in torch's `Sequential`, and one linear layer `classifier`.
//!
//! Source: Simonyan and Zisserman, arXiv:1409.1556, configuration D; names, biases and
//! initialisers of <https://github.com/jaeho-lee/layer-adaptive-sparsity>, on which the
//! authors of Sparse Model Soups build. `features` is torchvision's `vgg16_bn` too.

use super::ModelError;
use super::ModelOption;
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

/// Convolutions of each stage, and their channels in units of the first stage's. The
/// map is halved behind each stage.
const STAGES: [(usize, usize); 5] = [(2, 1), (2, 2), (3, 4), (3, 8), (3, 8)];

/// What may be chosen.
pub(super) const OPTIONS: &[ModelOption] = &[ModelOption {
    name: "width",
    default: "64",
    about: "channels of the first stage; the others have 2, 4, 8 and 8 times as many",
}];

pub(super) fn build(spec: &ModelSpec, options: &Options<'_>) -> Result<Graph, ModelError> {
    let width = options.size("width")?;
    built(spec, graph(spec, width))
}

fn graph(spec: &ModelSpec, width: usize) -> Result<Graph, BuildError> {
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.input();
    // Place in torch's `Sequential`, where ReLU and pooling have numbers too.
    let mut place = 0;
    for (convolutions, factor) in STAGES {
        for _ in 0..convolutions {
            let layer = Conv2d {
                padding: [1; 2],
                ..Conv2d::new(width * factor, 3)
            };
            node = builder.conv2d(&format!("features.{place}"), node, layer)?;
            let norm = format!("features.{}", place + 1);
            node = builder.batch_norm(&norm, node, BatchNorm::default())?;
            node = builder.relu(node)?;
            place += 3;
        }
        node = builder.max_pool(node, Window::square(2))?;
        place += 1;
    }
    node = builder.flatten(node)?;
    builder.linear("classifier", node, Linear::new(spec.classes))?;
    builder.finish()
}
