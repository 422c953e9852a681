//! ResNet-18 as in torchvision: `conv1`, `bn1`, four stages `layer1` to `layer4` of two
//! basic blocks, the mean of each channel, `fc`.
//!
//! Source: He et al., arXiv:1512.03385, table 1; names and initialisers (convolutions
//! normal with deviation `sqrt(2 / fan_out)`) of torchvision 0.30, `resnet18`.

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
use crate::graph::Window;

/// What may be chosen.
pub(super) const OPTIONS: &[ModelOption] = &[
    ModelOption {
        name: "stem",
        default: "imagenet",
        about: "`imagenet` begins with a 7x7 convolution of stride 2 and a max-pooling, \
                `cifar` with a 3x3 convolution of stride 1",
    },
    ModelOption {
        name: "width",
        default: "64",
        about: "channels of the first stage; each further one has twice as many",
    },
];

#[derive(Clone, Copy)]
enum Stem {
    ImageNet,
    Cifar,
}

pub(super) fn build(spec: &ModelSpec, options: &Options<'_>) -> Result<Graph, ModelError> {
    let stem = match options.text("stem") {
        "imagenet" => Stem::ImageNet,
        "cifar" => Stem::Cifar,
        _ => return Err(options.wrong("stem", "`imagenet` or `cifar`")),
    };
    let width = options.size("width")?;
    built(spec, graph(spec, stem, width))
}

fn graph(spec: &ModelSpec, stem: Stem, width: usize) -> Result<Graph, BuildError> {
    let style = Style {
        shortcut: Shortcut::Convolution("downsample"),
        start: Start::HeFanOut,
    };
    let first = match stem {
        Stem::ImageNet => style.convolution(width, 7, 2),
        Stem::Cifar => style.convolution(width, 3, 1),
    };
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.conv2d("conv1", builder.input(), first)?;
    node = builder.batch_norm("bn1", node, BatchNorm::default())?;
    node = builder.relu(node)?;
    if let Stem::ImageNet = stem {
        let window = Window {
            kernel: [3; 2],
            stride: [2; 2],
            padding: [1; 2],
        };
        node = builder.max_pool(node, window)?;
    }
    for stage in 0..4 {
        for block in 0..2 {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            node = style.basic_block(&mut builder, &name, node, width << stage, stride)?;
        }
    }
    node = builder.global_avg_pool(node)?;
    builder.linear("fc", node, Linear::new(spec.classes))?;
    builder.finish()
}
