//! Which pixels the windows of a node take, as tables of indices.

use std::collections::BTreeMap;

use candle_core::Device;
use candle_core::Tensor;

use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::NodeIdx;
use crate::graph::Op;

/// The windows of one node.
struct Windows {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Windows {
    /// The windows of `op`, if it has any.
    fn of(op: &Op) -> Option<Self> {
        let (kernel, stride, padding) = match *op {
            Op::Conv2d {
                kernel,
                stride,
                padding,
                ..
            }
            | Op::MaxPool {
                kernel,
                stride,
                padding,
            } => (kernel, stride, padding),
            Op::AvgPool { kernel, stride } => (kernel, stride, [0; 2]),
            Op::PadShortcut { stride, .. } => ([1; 2], [stride; 2], [0; 2]),
            _ => return None,
        };
        Some(Self {
            kernel,
            stride,
            padding,
        })
    }

    /// Index of a pixel for each place in the kernel and each output pixel, in this
    /// order, row-major. The index after the last pixel stands for the padding.
    fn table(&self, input: Features, output: Features) -> Vec<i64> {
        let pixel = |kernel: [usize; 2], at: [usize; 2]| {
            let row = (at[0] * self.stride[0] + kernel[0]).checked_sub(self.padding[0]);
            let column = (at[1] * self.stride[1] + kernel[1]).checked_sub(self.padding[1]);
            match (row, column) {
                (Some(row), Some(column)) if row < input.height && column < input.width => {
                    row * input.width + column
                }
                _ => input.pixels(),
            }
        };
        let mut table = Vec::with_capacity(self.kernel[0] * self.kernel[1] * output.pixels());
        for kernel in pairs(self.kernel) {
            for at in pairs([output.height, output.width]) {
                table.push(pixel(kernel, at) as i64);
            }
        }
        table
    }
}

/// All pairs below `bounds`, row-major.
fn pairs(bounds: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..bounds[0]).flat_map(move |row| (0..bounds[1]).map(move |column| [row, column]))
}

/// The tables of all nodes that have windows: (kernel pixels, output pixels). A node
/// that takes every pixel once, in order, needs none.
pub(super) fn tables(
    graph: &Graph,
    device: &Device,
) -> candle_core::Result<BTreeMap<NodeIdx, Tensor>> {
    let mut tables = BTreeMap::new();
    for (node_idx, node) in graph.nodes.iter().enumerate() {
        let (Some(windows), Some(&input)) = (Windows::of(&node.op), node.inputs.first()) else {
            continue;
        };
        let table = windows.table(graph.nodes[input].output, node.output);
        let is_identity = windows.kernel == [1; 2]
            && graph.nodes[input].output.pixels() == table.len()
            && table.iter().enumerate().all(|(idx, &at)| at == idx as i64);
        if !is_identity {
            let shape = (windows.kernel[0] * windows.kernel[1], node.output.pixels());
            tables.insert(node_idx, Tensor::from_vec(table, shape, device)?);
        }
    }
    Ok(tables)
}
