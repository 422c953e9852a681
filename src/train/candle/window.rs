//! Which pixels the windows of a node take, as tables of indices, and an operation that
//! takes them.

use std::collections::BTreeMap;

use candle_core::CpuStorage;
use candle_core::CudaStorage;
use candle_core::CustomOp1;
use candle_core::Device;
use candle_core::Layout;
use candle_core::Shape;
use candle_core::Storage;
use candle_core::Tensor;
use candle_core::backend::BackendStorage;

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

/// The tables of a node.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// (kernel pixels, output pixels): the pixel of the input. One after the last stands
    /// for the padding.
    pub(super) taken: Tensor,
    /// (most, input pixels): the places in `taken`, counted row-major, of each pixel of the
    /// input, in their order; [`NOWHERE`] where there are fewer than the most.
    places: Tensor,
    /// The same with one more pixel, the padding, whose places nobody asks for.
    padded_places: Tensor,
}

/// The index at which candle's selections find zeros.
const NOWHERE: i64 = i64::MAX;

impl Tables {
    fn new(
        table: Vec<i64>,
        shape: (usize, usize),
        pixels: usize,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let mut places = vec![Vec::new(); pixels];
        for (place, &pixel) in table.iter().enumerate() {
            if let Some(places) = places.get_mut(pixel as usize) {
                places.push(place as i64);
            }
        }
        // A pixel that no window takes has zeros as well.
        let most = places.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let rows = |width: usize| {
            let place = |row: usize, pixel: usize| {
                let found = places.get(pixel).and_then(|places| places.get(row));
                found.copied().unwrap_or(NOWHERE)
            };
            let mut all = Vec::with_capacity(most * width);
            for row in 0..most {
                all.extend((0..width).map(|pixel| place(row, pixel)));
            }
            Tensor::from_vec(all, (most, width), device)
        };
        Ok(Self {
            taken: Tensor::from_vec(table, shape, device)?,
            places: rows(pixels)?,
            padded_places: rows(pixels + 1)?,
        })
    }
}

/// Windows of maps: (channels, samples, pixels) become (channels, samples, kernel pixels and
/// output pixels).
///
/// The gradient of a pixel is the sum over the windows that took it, gathered in the order
/// of `places`. candle's own selection scatters gradients: on a GPU one thread adds up a
/// whole map, pixel after pixel.
pub(super) struct Take(pub(super) Tables);

impl Take {
    fn fwd<S: BackendStorage>(
        &self,
        storage: &S,
        layout: &Layout,
        (ids, at): (&S, &Layout),
    ) -> candle_core::Result<(S, Shape)> {
        let (channels, samples, _) = layout.shape().dims3()?;
        let shape = Shape::from((channels, samples, at.shape().elem_count()));
        let flat = Layout::contiguous_with_offset(at.shape().elem_count(), at.start_offset());
        Ok((storage.index_select(ids, layout, &flat, 2)?, shape))
    }
}

impl CustomOp1 for Take {
    fn name(&self) -> &'static str {
        "take-windows"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (ids, at) = self.0.taken.storage_and_layout();
        match &*ids {
            Storage::Cpu(ids) => self.fwd(storage, layout, (ids, at)),
            _ => candle_core::bail!("the table is on another device"),
        }
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (ids, at) = self.0.taken.storage_and_layout();
        match &*ids {
            Storage::Cuda(ids) => self.fwd(storage, layout, (ids, at)),
            _ => candle_core::bail!("the table is on another device"),
        }
    }

    fn bwd(
        &self,
        input: &Tensor,
        _windows: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let (channels, samples, pixels) = input.dims3()?;
        let tables = [&self.0.places, &self.0.padded_places];
        let Some(places) = tables.into_iter().find(|table| table.dims()[1] == pixels) else {
            candle_core::bail!("maps of {pixels} pixels have no table");
        };
        let most = places.dims()[0];
        let found = gradient.index_select(&places.flatten_all()?, 2)?;
        let found = found.reshape((channels, samples, most, pixels))?;
        found.sum(2).map(Some)
    }
}

/// The tables of all nodes that have windows. A node that takes every pixel once, in order,
/// needs none.
pub(super) fn tables(
    graph: &Graph,
    device: &Device,
) -> candle_core::Result<BTreeMap<NodeIdx, Tables>> {
    let mut tables = BTreeMap::new();
    for (node_idx, node) in graph.nodes.iter().enumerate() {
        let (Some(windows), Some(&input)) = (Windows::of(&node.op), node.inputs.first()) else {
            continue;
        };
        let pixels = graph.nodes[input].output.pixels();
        let table = windows.table(graph.nodes[input].output, node.output);
        let is_identity = windows.kernel == [1; 2]
            && pixels == table.len()
            && table.iter().enumerate().all(|(idx, &at)| at == idx as i64);
        if !is_identity {
            let shape = (windows.kernel[0] * windows.kernel[1], node.output.pixels());
            tables.insert(node_idx, Tables::new(table, shape, pixels, device)?);
        }
    }
    Ok(tables)
}
