//! The basic block of residual networks, and what it is made of.
//!
//! Source: He et al., arXiv:1512.03385, figure 2.

use crate::graph::BatchNorm;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Conv2d;
use crate::graph::NodeIdx;
use crate::graph::Start;

/// What goes past a block that changes the shape.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortcut {
    /// Option A: no parameters.
    Pad,
    /// Option B: a 1x1 convolution with batch norm, in a module of this name.
    Convolution(&'static str),
}

/// What the blocks of a network have in common.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) shortcut: Shortcut,
    /// How convolutions begin.
    pub(super) start: Start,
}

impl Style {
    /// A convolution without bias whose map has the size of its input's, but for the
    /// stride.
    pub(super) fn convolution(self, width: usize, kernel: usize, stride: usize) -> Conv2d {
        Conv2d {
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            weight: self.start,
            bias: None,
            ..Conv2d::new(width, kernel)
        }
    }

    /// `conv1`, `bn1`, ReLU, `conv2`, `bn2`, the sum with the shortcut, ReLU.
    pub(super) fn basic_block(
        self,
        builder: &mut Builder,
        name: &str,
        input: NodeIdx,
        width: usize,
        stride: usize,
    ) -> Result<NodeIdx, BuildError> {
        let part = |part: &str| format!("{name}.{part}");
        let norm = BatchNorm::default();
        let first = self.convolution(width, 3, stride);
        let mut node = builder.conv2d(&part("conv1"), input, first)?;
        node = builder.batch_norm(&part("bn1"), node, norm)?;
        node = builder.relu(node)?;
        node = builder.conv2d(&part("conv2"), node, self.convolution(width, 3, 1))?;
        node = builder.batch_norm(&part("bn2"), node, norm)?;
        let from = builder.output(input).channels;
        let past = match self.shortcut {
            _ if stride == 1 && from == width => input,
            Shortcut::Pad => {
                let added = width.saturating_sub(from);
                builder.pad_shortcut(input, stride, added / 2, added - added / 2)?
            }
            Shortcut::Convolution(module) => {
                let past = self.convolution(width, 1, stride);
                let past = builder.conv2d(&part(&format!("{module}.0")), input, past)?;
                builder.batch_norm(&part(&format!("{module}.1")), past, norm)?
            }
        };
        node = builder.add(node, past)?;
        builder.relu(node)
    }
}
