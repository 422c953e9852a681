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
use super::residual::Shortcut;
use super::residual::Style;
use crate::graph::BatchNorm;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Graph;
use crate::graph::Linear;
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

/// A network with `blocks` blocks per stage, of depth `6 * blocks + 2`.
pub(super) fn build(
    spec: &ModelSpec,
    options: &Options<'_>,
    blocks: usize,
) -> Result<Graph, ModelError> {
    let shortcut = match options.text("shortcut") {
        "A" | "a" => Shortcut::Pad,
        "B" | "b" => Shortcut::Convolution("shortcut"),
        _ => return Err(options.wrong("shortcut", "`A` or `B`")),
    };
    let style = Style {
        shortcut,
        start: Start::HeFanIn,
    };
    let width = options.size("width")?;
    built(spec, graph(spec, style, width, blocks))
}

fn graph(spec: &ModelSpec, style: Style, width: usize, blocks: usize) -> Result<Graph, BuildError> {
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let stem = style.convolution(width, 3, 1);
    let mut node = builder.conv2d("conv1", builder.input(), stem)?;
    node = builder.batch_norm("bn1", node, BatchNorm::default())?;
    node = builder.relu(node)?;
    for stage in 0..3 {
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            node = style.basic_block(&mut builder, &name, node, width << stage, stride)?;
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
