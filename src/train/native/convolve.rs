//! Dense convolution, and its gradient with respect to the input: the same loop over
//! other taps.

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

use super::lanes::Layout;
use super::lanes::Plane;
use super::lanes::Row;
use super::product::Store;
use super::product::Sums;
use super::product::VECTORS;
use super::product::add_product;
use super::product::block_size;
use super::product::largest_block;
use super::product::store_sums;
use super::product::with_block;
use super::window::Phase;
use super::window::count;

/// `target[r, p] = bias[r] + sum over c and taps of w[r, c, tap] * source[c, p + tap]`.
pub(super) struct Convolution<'a> {
    pub(super) phases: &'a [Phase],
    pub(super) n_taps: usize,
    pub(super) source: Layout,
    pub(super) target: Layout,
    /// One per target channel; none are zeros.
    pub(super) bias: &'a [f32],
    pub(super) store: Store,
}

impl Convolution<'_> {
    /// Convolves all tiles. `weight(target channel, source channel, tap)` is looked up
    /// once per weight; `panels` is scratch memory for them.
    pub(super) fn run(
        &self,
        arch: pulp::Arch,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
        panels: &mut Vec<f32>,
        source: &[Row],
        target: &mut [Row],
    ) {
        let block = block_size(self.target.channels, largest_block(arch));
        let panel_numel = self.source.channels * self.n_taps * block;
        let n_blocks = self.target.channels.div_ceil(block);
        panels.resize(n_blocks * panel_numel, 0.0);
        panels
            .par_chunks_exact_mut(panel_numel)
            .enumerate()
            .for_each(|(block_idx, panel)| {
                let first = block_idx * block;
                for (place, weights) in panel.chunks_exact_mut(block).enumerate() {
                    let (channel, tap) = (place / self.n_taps, place % self.n_taps);
                    for (r, value) in weights.iter_mut().enumerate() {
                        let output = first + r;
                        let exists = output < self.target.channels;
                        *value = if exists {
                            weight(output, channel, tap)
                        } else {
                            0.0
                        };
                    }
                }
            });
        let tiles = source.par_chunks_exact(self.source.rows());
        let block_rows = block * self.target.plane.rows();
        let panels = &*panels;
        target
            .par_chunks_exact_mut(self.target.rows())
            .zip(tiles)
            .for_each(|(target, source)| {
                target
                    .par_chunks_mut(block_rows)
                    .zip(panels.par_chunks_exact(panel_numel))
                    .enumerate()
                    .for_each(|(block_idx, (target, panel))| {
                        let first = block_idx * block;
                        arch.dispatch(Block {
                            convolution: self,
                            block,
                            bias: self.bias.get(first..).unwrap_or_default(),
                            panel,
                            source,
                            target,
                        });
                    });
            });
    }
}

/// The planes of some output channels of one tile.
struct Block<'a> {
    convolution: &'a Convolution<'a>,
    block: usize,
    bias: &'a [f32],
    panel: &'a [f32],
    source: &'a [Row],
    target: &'a mut [Row],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_block!(self.block, simd, planes(self));
    }
}

/// A neighbour that exists: its place in the kernel, and from the start of a plane.
type Neighbour = (u32, u32);

#[inline(always)]
fn planes<S: Simd, const BLOCK: usize>(simd: S, work: Block<'_>) {
    let convolution = work.convolution;
    let target_plane = convolution.target.plane;
    let (weights, _) = work.panel.as_chunks::<BLOCK>();
    let mut bias = [0.0; BLOCK];
    for (value, &given) in bias.iter_mut().zip(work.bias) {
        *value = given;
    }
    let mut neighbours: Vec<Neighbour> = Vec::with_capacity(convolution.n_taps);
    for phase in convolution.phases {
        for n_y in 0..count(target_plane.height, phase.start[0], phase.step[0]) {
            for n_x in 0..count(target_plane.width, phase.start[1], phase.step[1]) {
                find(phase, convolution.source.plane, [n_y, n_x], &mut neighbours);
                let place = target_plane.at(
                    phase.start[0] + n_y * phase.step[0],
                    phase.start[1] + n_x * phase.step[1],
                );
                pixel::<S, BLOCK>(
                    simd,
                    convolution,
                    weights,
                    &bias,
                    &neighbours,
                    work.source,
                    work.target,
                    place,
                );
            }
        }
    }
}

/// The neighbours of one target that lie within the source.
fn find(phase: &Phase, plane: Plane, [n_y, n_x]: [usize; 2], neighbours: &mut Vec<Neighbour>) {
    neighbours.clear();
    for tap in &phase.taps {
        let y = (n_y * phase.stride[0]).checked_add_signed(tap.offset[0]);
        let x = (n_x * phase.stride[1]).checked_add_signed(tap.offset[1]);
        if let (Some(y), Some(x)) = (y, x)
            && y < plane.height
            && x < plane.width
        {
            neighbours.push((tap.idx as u32, plane.at(y, x) as u32));
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the registers of the inner loop")]
fn pixel<S: Simd, const BLOCK: usize>(
    simd: S,
    convolution: &Convolution<'_>,
    weights: &[[f32; BLOCK]],
    bias: &[f32; BLOCK],
    neighbours: &[Neighbour],
    source: &[Row],
    target: &mut [Row],
    place: usize,
) {
    let source_rows = convolution.source.plane.rows();
    let target_rows = convolution.target.plane.rows();
    for part in 0..super::lanes::LANES / (VECTORS * S::F32_LANES) {
        let mut sums: Sums<S, BLOCK> = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
        for (sums, &bias) in sums.iter_mut().zip(bias) {
            *sums = [simd.splat_f32s(bias); VECTORS];
        }
        let channels = source.chunks_exact(source_rows);
        for (plane, weights) in channels.zip(weights.chunks_exact(convolution.n_taps)) {
            for &(tap, offset) in neighbours {
                let row = plane[offset as usize].vectors::<S, VECTORS>(part);
                add_product::<S, BLOCK>(simd, &mut sums, &weights[tap as usize], &row);
            }
        }
        for (plane, sums) in target.chunks_exact_mut(target_rows).zip(sums) {
            store_sums(simd, convolution.store, sums, &mut plane[place], part);
        }
    }
}
