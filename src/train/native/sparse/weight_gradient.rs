//! Gradients of retained weights: one dot product each.

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

use crate::train::native::lanes::LANES;
use crate::train::native::lanes::Layout;
use crate::train::native::lanes::Row;
use crate::train::native::product::with_sum_lanes;
use crate::train::native::weight_gradient::STRIP_PIXELS;
use crate::train::native::weight_gradient::SUM_LANES;
use crate::train::native::weight_gradient::tiles_per_part;
use crate::train::native::weight_gradient::total;
use crate::train::native::window::Phase;

/// Retained weights that share one pass over the output's gradient.
const GROUP: usize = 8;

/// The retained weights of each output, in compact order.
fn by_output<'a>(
    positions: &'a [u32],
    per_output: usize,
    mut gradient: &'a mut [f32],
) -> Vec<(usize, &'a [u32], &'a mut [f32])> {
    let same = |a: &u32, b: &u32| *a as usize / per_output == *b as usize / per_output;
    let mut outputs = Vec::new();
    for positions in positions.chunk_by(same) {
        let (own, rest) = gradient.split_at_mut(positions.len());
        gradient = rest;
        outputs.push((positions[0] as usize / per_output, positions, own));
    }
    outputs
}

/// `gradient[j] = sum over images of delta[o] * source[i]` of the retained (o, i).
pub(in crate::train::native) fn linear(
    arch: pulp::Arch,
    positions: &[u32],
    n_source: usize,
    n_delta: usize,
    source: &[Row],
    delta: &[Row],
    gradient: &mut [f32],
) {
    by_output(positions, n_source, gradient)
        .into_par_iter()
        .for_each(|(output, positions, gradient)| {
            arch.dispatch(Dots {
                first: output * n_source,
                positions,
                n_source,
                n_delta,
                source,
                delta: &delta[output..],
                gradient,
            });
        });
}

/// The dot products of one output of a linear layer.
struct Dots<'a> {
    first: usize,
    positions: &'a [u32],
    n_source: usize,
    n_delta: usize,
    source: &'a [Row],
    delta: &'a [Row],
    gradient: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_sum_lanes!(self, simd, run)
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        for (&position, gradient) in self.positions.iter().zip(self.gradient) {
            let source = &self.source[position as usize - self.first..];
            let mut sums = [[simd.splat_f32s(0.0); N]; LANES / SUM_LANES];
            let rows = source.iter().step_by(self.n_source);
            for (source, delta) in rows.zip(self.delta.iter().step_by(self.n_delta)) {
                for (part, sums) in sums.iter_mut().enumerate() {
                    let source = source.vectors::<S, N>(part);
                    let delta = delta.vectors::<S, N>(part);
                    for n in 0..N {
                        sums[n] = simd.mul_add_f32s(delta[n], source[n], sums[n]);
                    }
                }
            }
            let [mut sum, other] = sums;
            for n in 0..N {
                sum[n] = simd.add_f32s(sum[n], other[n]);
            }
            *gradient = total::<S, N>(&sum);
        }
    }
}

/// Gradient of a convolution's retained weights.
pub(in crate::train::native) struct ConvolutionGradient<'a> {
    pub(in crate::train::native) phase: &'a Phase,
    pub(in crate::train::native) n_taps: usize,
    pub(in crate::train::native) source: Layout,
    pub(in crate::train::native) delta: Layout,
    /// Elements of the whole tensor.
    pub(in crate::train::native) numel: usize,
}

impl ConvolutionGradient<'_> {
    /// Writes the compact gradient: sums in the order of the dense kernel.
    pub(in crate::train::native) fn run(
        &self,
        arch: pulp::Arch,
        positions: &[u32],
        source: &[Row],
        delta: &[Row],
        gradient: &mut [f32],
    ) {
        let n_tiles = delta.len() / self.delta.rows();
        let per_part = tiles_per_part(n_tiles, self.numel);
        let per_output = self.source.channels * self.n_taps;
        let n_retained = gradient.len();
        let mut partials = vec![0.0; n_tiles.div_ceil(per_part) * n_retained];
        partials
            .par_chunks_exact_mut(n_retained.max(1))
            .enumerate()
            .for_each(|(part, partial)| {
                let first = part * per_part;
                let tiles = first..(first + per_part).min(n_tiles);
                by_output(positions, per_output, partial)
                    .into_par_iter()
                    .for_each(|(output, positions, gradient)| {
                        for tile in tiles.clone() {
                            let delta = &delta[tile * self.delta.rows()..];
                            let delta = &delta[output * self.delta.plane.rows()..];
                            arch.dispatch(Output {
                                work: self,
                                first: output * per_output,
                                positions,
                                source: &source[tile * self.source.rows()..][..self.source.rows()],
                                delta: &delta[..self.delta.plane.rows()],
                                gradient: &mut *gradient,
                            });
                        }
                    });
            });
        gradient.fill(0.0);
        for (idx, partial) in partials.chunks_exact(n_retained.max(1)).enumerate() {
            for (sum, &value) in gradient.iter_mut().zip(partial) {
                *sum = if idx == 0 { value } else { *sum + value };
            }
        }
    }

    /// From the centre of the source's first plane to the row that a weight reads, plus
    /// the border.
    fn offset(&self, place: usize) -> usize {
        let plane = self.source.plane;
        let (channel, tap) = (place / self.n_taps, place % self.n_taps);
        let tap = self
            .phase
            .taps
            .iter()
            .find(|candidate| candidate.idx == tap);
        let [y, x] = tap.map_or([0, 0], |tap| tap.offset);
        let first = channel * plane.rows() + plane.at(0, 0);
        first.saturating_add_signed(y * plane.stride() as isize + x)
    }
}

/// The retained weights of one output, over one tile.
struct Output<'a> {
    work: &'a ConvolutionGradient<'a>,
    first: usize,
    positions: &'a [u32],
    source: &'a [Row],
    delta: &'a [Row],
    gradient: &'a mut [f32],
}

impl WithSimd for Output<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_sum_lanes!(self, simd, run)
    }
}

impl Output<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(mut self, simd: S) {
        let groups = self.positions.chunks(GROUP);
        let gradients = std::mem::take(&mut self.gradient).chunks_mut(GROUP);
        for (positions, gradient) in groups.zip(gradients) {
            let mut offsets = [0; GROUP];
            for (offset, &position) in offsets.iter_mut().zip(positions) {
                *offset = self.work.offset(position as usize - self.first);
            }
            // A group that is not full reads its first weight's rows again.
            let first = offsets[0];
            offsets[positions.len()..].fill(first);
            let sums = self.group::<S, N>(simd, &offsets);
            for (gradient, sums) in gradient.iter_mut().zip(&sums) {
                *gradient += total::<S, N>(sums);
            }
        }
    }

    #[inline(always)]
    fn group<S: Simd, const N: usize>(
        &self,
        simd: S,
        offsets: &[usize; GROUP],
    ) -> [[S::f32s; N]; GROUP] {
        let (delta_plane, source_plane) = (self.work.delta.plane, self.work.source.plane);
        let [stride_y, stride_x] = self.work.phase.stride;
        let strip = STRIP_PIXELS.div_ceil(delta_plane.width);
        let reach = (delta_plane.width - 1) * stride_x + 1;
        let mut sums = [[simd.splat_f32s(0.0); N]; GROUP];
        for first in (0..delta_plane.height).step_by(strip) {
            for part in 0..LANES / SUM_LANES {
                for y in first..(first + strip).min(delta_plane.height) {
                    let delta = &self.delta[delta_plane.line(y)];
                    let line = y * stride_y * source_plane.stride();
                    let mut lines: [&[Row]; GROUP] = [&[]; GROUP];
                    for (rows, offset) in lines.iter_mut().zip(offsets) {
                        *rows = &self.source[line + offset..][..reach];
                    }
                    for (x, delta) in delta.iter().enumerate() {
                        let delta = delta.vectors::<S, N>(part);
                        for (sums, rows) in sums.iter_mut().zip(&lines) {
                            let value = rows[x * stride_x].vectors::<S, N>(part);
                            for n in 0..N {
                                sums[n] = simd.mul_add_f32s(delta[n], value[n], sums[n]);
                            }
                        }
                    }
                }
            }
        }
        sums
    }
}
