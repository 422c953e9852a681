//! Residual networks for CIFAR: `conv1`, `bn1`, three stages `layer1` to `layer3` of
//! basic blocks, the mean of each channel, `linear`.
//!
//! Source: He et al., arXiv:1512.03385, section 4.2. Names and initialisers (normal
//! with deviation `sqrt(2 / fan_in)` for all weights) are those of the implementation
//! at <https://github.com/akamaster/pytorch_resnet_cifar10>, on which shrinkbench and
//! the authors of Sparse Model Soups build.

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
use crate::graph::Start;

/// What may be chosen.
pub(super) const OPTIONS: &[ModelOption] = &[
    ModelOption {
        name: "shortcut",
        default: "A",
        about: "where a block changes the shape: `A` pads with zeros and has no \
                parameters, `B` is a 1x1 convolution with batch norm",
    },
    ModelOption {
        name: "width",
        default: "16",
        about: "channels of the first stage; each further one has twice as many",
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shortcut {
    /// Option A of the paper.
    Pad,
    /// Option B of the paper.
    Convolution,
}

/// A network with `blocks` blocks per stage, of depth `6 * blocks + 2`.
pub(super) fn build(
    spec: &ModelSpec,
    options: &Options<'_>,
    blocks: usize,
) -> Result<Graph, ModelError> {
    let shortcut = match options.text("shortcut") {
        "A" | "a" => Shortcut::Pad,
        "B" | "b" => Shortcut::Convolution,
        _ => return Err(options.wrong("shortcut", "`A` or `B`")),
    };
    let width = options.size("width")?;
    built(spec, graph(spec, shortcut, width, blocks))
}

fn graph(
    spec: &ModelSpec,
    shortcut: Shortcut,
    width: usize,
    blocks: usize,
) -> Result<Graph, BuildError> {
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.conv2d("conv1", builder.input(), convolution(width, 3, 1))?;
    node = builder.batch_norm("bn1", node, BatchNorm::default())?;
    node = builder.relu(node)?;
    for stage in 0..3 {
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            node = basic_block(&mut builder, &name, node, width << stage, stride, shortcut)?;
        }
    }
    node = builder.global_avg_pool(node)?;
    let head = Linear {
        weight: Start::HeFanIn,
        ..Linear::new(spec.classes)
    };
    builder.linear("linear", node, head)?;
    builder.finish()
}

fn basic_block(
    builder: &mut Builder,
    name: &str,
    input: NodeIdx,
    width: usize,
    stride: usize,
    shortcut: Shortcut,
) -> Result<NodeIdx, BuildError> {
    let part = |part: &str| format!("{name}.{part}");
    let norm = BatchNorm::default();
    let mut node = builder.conv2d(&part("conv1"), input, convolution(width, 3, stride))?;
    node = builder.batch_norm(&part("bn1"), node, norm)?;
    node = builder.relu(node)?;
    node = builder.conv2d(&part("conv2"), node, convolution(width, 3, 1))?;
    node = builder.batch_norm(&part("bn2"), node, norm)?;
    let from = builder.output(input).channels;
    let past = if stride == 1 && from == width {
        input
    } else if shortcut == Shortcut::Pad {
        let before = (width - from) / 2;
        builder.pad_shortcut(input, stride, before, width - from - before)?
    } else {
        let past = convolution(width, 1, stride);
        let past = builder.conv2d(&part("shortcut.0"), input, past)?;
        builder.batch_norm(&part("shortcut.1"), past, norm)?
    };
    node = builder.add(node, past)?;
    builder.relu(node)
}

/// A convolution without bias whose map has the size of its input's, but for the
/// stride.
fn convolution(width: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d {
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        weight: Start::HeFanIn,
        bias: None,
        ..Conv2d::new(width, kernel)
    }
}
