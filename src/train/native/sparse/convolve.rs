//! Sparse convolution, and its gradient with respect to the input.
//!
//! A retained weight meets a strip of neighbouring pixels at once: each is one row, and
//! the sums of the strip stay in registers until all weights of the output have passed.

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

use crate::train::native::lanes::LANES;
use crate::train::native::lanes::Layout;
use crate::train::native::lanes::Row;
use crate::train::native::product::Store;
use crate::train::native::product::Sums;
use crate::train::native::product::VECTORS;
use crate::train::native::product::block_size;
use crate::train::native::product::largest_block;
use crate::train::native::product::store_sums;
use crate::train::native::product::with_block;
use crate::train::native::window::Phase;
use crate::train::native::window::count;

/// Which rows each target reads, by which weight.
#[derive(Clone, Debug)]
pub(in crate::train::native) struct Routes {
    source: Layout,
    target: Layout,
    phases: Vec<PhaseRoutes>,
}

#[derive(Clone, Debug)]
struct PhaseRoutes {
    phase: Phase,
    /// Where the routes of each target channel begin; one more than channels.
    starts: Vec<usize>,
    /// From the place of the centre in the first plane to the row that is read, plus
    /// `behind`.
    offsets: Vec<u32>,
    /// Places of the weights among the compact ones.
    weights: Vec<u32>,
    /// Rows by which a neighbour may lie before the centre.
    behind: usize,
}

impl Routes {
    /// Routes for weights at (target channel, source channel, tap), in compact order.
    pub(super) fn new(
        places: &[(usize, usize, usize)],
        phases: &[Phase],
        source: Layout,
        target: Layout,
    ) -> Self {
        let phases = phases
            .iter()
            .map(|phase| PhaseRoutes::new(places, phase, source, target));
        Self {
            source,
            target,
            phases: phases.collect(),
        }
    }

    /// Convolves all tiles with compact `weights`; `bias` has one number per target
    /// channel, or none.
    pub(in crate::train::native) fn run(
        &self,
        arch: pulp::Arch,
        weights: &[f32],
        bias: &[f32],
        store: Store,
        source: &[Row],
        target: &mut [Row],
    ) {
        let ordered: Vec<Vec<f32>> = self
            .phases
            .iter()
            .map(|phase| {
                phase
                    .weights
                    .iter()
                    .map(|&idx| weights[idx as usize])
                    .collect()
            })
            .collect();
        let tiles = source.par_chunks_exact(self.source.rows());
        target
            .par_chunks_exact_mut(self.target.rows())
            .zip(tiles)
            .for_each(|(target, source)| {
                target
                    .par_chunks_exact_mut(self.target.plane.rows())
                    .enumerate()
                    .for_each(|(channel, target)| {
                        for (phase, weights) in self.phases.iter().zip(&ordered) {
                            let routes = phase.starts[channel]..phase.starts[channel + 1];
                            arch.dispatch(Plane {
                                routes: self,
                                phase,
                                offsets: &phase.offsets[routes.clone()],
                                weights: &weights[routes],
                                bias: bias.get(channel).copied().unwrap_or(0.0),
                                store,
                                largest: largest_block(arch),
                                source,
                                target,
                            });
                        }
                    });
            });
    }
}

impl PhaseRoutes {
    fn new(
        places: &[(usize, usize, usize)],
        phase: &Phase,
        source: Layout,
        target: Layout,
    ) -> Self {
        let plane = source.plane;
        let behind = plane.border * plane.stride() + plane.border;
        let mut routes: Vec<Vec<(u32, u32)>> = vec![Vec::new(); target.channels];
        for (idx, &(output, input, tap)) in places.iter().enumerate() {
            let Some(tap) = phase.taps.iter().find(|candidate| candidate.idx == tap) else {
                continue;
            };
            let distance = tap.offset[0] * plane.stride() as isize + tap.offset[1];
            let offset = (input * plane.rows() + behind).saturating_add_signed(distance);
            routes[output].push((offset as u32, idx as u32));
        }
        let mut starts = vec![0];
        let (mut offsets, mut weights) = (Vec::new(), Vec::new());
        for mut routes in routes {
            // Ascending, as the dense kernel goes through channels and taps.
            routes.sort_unstable();
            offsets.extend(routes.iter().map(|&(offset, _)| offset));
            weights.extend(routes.iter().map(|&(_, weight)| weight));
            starts.push(offsets.len());
        }
        Self {
            phase: phase.clone(),
            starts,
            offsets,
            weights,
            behind,
        }
    }
}

/// One phase of one channel's plane in one tile.
struct Plane<'a> {
    routes: &'a Routes,
    phase: &'a PhaseRoutes,
    offsets: &'a [u32],
    weights: &'a [f32],
    bias: f32,
    store: Store,
    largest: usize,
    source: &'a [Row],
    target: &'a mut [Row],
}

impl WithSimd for Plane<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let plane = self.routes.target.plane;
        let Phase { start, step, .. } = self.phase.phase;
        let n_y = count(plane.height, start[0], step[0]);
        let n_x = count(plane.width, start[1], step[1]);
        let width = block_size(n_x, self.largest);
        for y in 0..n_y {
            for x in (0..n_x).step_by(width) {
                let work = &mut self;
                with_block!(width.min(n_x - x), simd, strip(work, y, x));
            }
        }
    }
}

/// Pixels `x..x + WIDTH` of one line.
#[inline(always)]
fn strip<S: Simd, const WIDTH: usize>(simd: S, work: &mut Plane<'_>, y: usize, x: usize) {
    let Phase {
        start,
        step,
        stride,
        ..
    } = work.phase.phase;
    let source_plane = work.routes.source.plane;
    let base = source_plane.at(y * stride[0], x * stride[1]) - work.phase.behind;
    let reach = (WIDTH - 1) * stride[1] + 1;
    let place = work
        .routes
        .target
        .plane
        .at(start[0] + y * step[0], start[1] + x * step[1]);
    for part in 0..LANES / (VECTORS * S::F32_LANES) {
        let mut sums: Sums<S, WIDTH> = [[simd.splat_f32s(work.bias); VECTORS]; WIDTH];
        for (&offset, &weight) in work.offsets.iter().zip(work.weights) {
            let rows = &work.source[base + offset as usize..][..reach];
            let weight = simd.splat_f32s(weight);
            for (idx, sums) in sums.iter_mut().enumerate() {
                let row = rows[idx * stride[1]].vectors::<S, VECTORS>(part);
                for (sum, &value) in sums.iter_mut().zip(&row) {
                    *sum = simd.mul_add_f32s(weight, value, *sum);
                }
            }
        }
        for (idx, sums) in sums.into_iter().enumerate() {
            let row = &mut work.target[place + idx * step[1]];
            store_sums(simd, work.store, sums, row, part);
        }
    }
}
