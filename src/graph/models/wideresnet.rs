//! WideResNet-20: `conv1`, three stages `layer1` to `layer3` of three blocks with the
//! batch norms before their convolutions, `bn1`, ReLU, the mean of each channel,
//! `linear`. Convolutions have biases; a block has dropout between its convolutions.
//!
//! Source: Zagoruyko and Komodakis, arXiv:1605.07146, in the form in which the authors
//! of Sparse Model Soups trained it, `WideResNet20` at
//! <https://github.com/ZIB-IOL/SMS/blob/main/models/cifar10.py>: WRN-22 in the paper's
//! words, which also count the convolutions of the shortcuts. Width factor 10, dropout
//! 0.3 and torch's initialisers are that implementation's defaults. Its last batch norm
//! has momentum 0.9; here all have torch's 0.1.

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
use crate::graph::NodeIdx;

/// Channels of the stem, and of the first stage at width factor 1.
const BASE: usize = 16;

/// Blocks per stage.
const BLOCKS: usize = 3;

/// What may be chosen.
pub(super) const OPTIONS: &[ModelOption] = &[
    ModelOption {
        name: "width",
        default: "10",
        about: "factor of the channels of the stages, which are 16, 32 and 64 at 1",
    },
    ModelOption {
        name: "dropout",
        default: "0.3",
        about: "probability of the dropout inside the blocks, 0 for none",
    },
];

pub(super) fn build(spec: &ModelSpec, options: &Options<'_>) -> Result<Graph, ModelError> {
    let width = options.size("width")?;
    let dropout = options.probability("dropout")?;
    built(spec, graph(spec, width, dropout))
}

fn graph(spec: &ModelSpec, width: usize, dropout: f64) -> Result<Graph, BuildError> {
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.conv2d("conv1", builder.input(), convolution(BASE, 3, 1))?;
    for stage in 0..3 {
        for block in 0..BLOCKS {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let width = (BASE << stage) * width;
            node = wide_block(&mut builder, &name, node, width, stride, dropout)?;
        }
    }
    node = builder.batch_norm("bn1", node, BatchNorm::default())?;
    node = builder.relu(node)?;
    node = builder.global_avg_pool(node)?;
    builder.linear("linear", node, Linear::new(spec.classes))?;
    builder.finish()
}

fn wide_block(
    builder: &mut Builder,
    name: &str,
    input: NodeIdx,
    width: usize,
    stride: usize,
    dropout: f64,
) -> Result<NodeIdx, BuildError> {
    let part = |part: &str| format!("{name}.{part}");
    let norm = BatchNorm::default();
    let mut node = builder.batch_norm(&part("bn1"), input, norm)?;
    node = builder.relu(node)?;
    node = builder.conv2d(&part("conv1"), node, convolution(width, 3, 1))?;
    if dropout > 0.0 {
        node = builder.dropout(node, dropout)?;
    }
    node = builder.batch_norm(&part("bn2"), node, norm)?;
    node = builder.relu(node)?;
    node = builder.conv2d(&part("conv2"), node, convolution(width, 3, stride))?;
    let past = if stride == 1 && builder.output(input).channels == width {
        input
    } else {
        builder.conv2d(&part("shortcut.0"), input, convolution(width, 1, stride))?
    };
    builder.add(node, past)
}

/// A convolution with bias whose map has the size of its input's, but for the stride.
fn convolution(width: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d {
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        ..Conv2d::new(width, kernel)
    }
}
