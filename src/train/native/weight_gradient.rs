//! Gradient of a convolution's weights: products of the output's gradient and the
//! input, summed over images and pixels.
//!
//! Lanes hold partial sums, 16 of them whatever the vector width is, and are added up
//! at the end of each tile in a fixed order. The batch is cut into a number
//! of parts that depends on the shapes alone.

use std::ops::Range;

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

use super::lanes::LANES;
use super::lanes::Layout;
use super::lanes::Row;
use super::product::block_size;
use super::product::with_sum_lanes;
use super::window::Phase;
use super::window::Tap;

/// Lanes of one partial sum.
pub(super) const SUM_LANES: usize = 16;

/// Most parts that a batch is cut into.
const MOST_PARTS: usize = 8;

/// Weights above which the batch is not cut: their partial sums would fill the caches.
const LARGE: usize = 1 << 17;

/// Pixels that are gone through for all taps before the next.
pub(super) const STRIP_PIXELS: usize = 32;

/// Output and input channels of a block of sums.
#[derive(Clone, Copy)]
struct Shape {
    outputs: usize,
    inputs: usize,
}

/// `gradient[o, c, tap] = sum over tiles, p, lanes of delta[o, p] * source[c, p + tap]`.
pub(super) struct WeightGradient<'a> {
    pub(super) phase: &'a Phase,
    pub(super) n_taps: usize,
    pub(super) source: Layout,
    pub(super) delta: Layout,
}

impl WeightGradient<'_> {
    /// Writes the gradient, row-major (output channel, input channel, tap).
    pub(super) fn run(
        &self,
        arch: pulp::Arch,
        source: &[Row],
        delta: &[Row],
        partials: &mut Vec<f32>,
        gradient: &mut [f32],
    ) {
        let n_tiles = delta.len() / self.delta.rows();
        let tiles_per_part = tiles_per_part(n_tiles, gradient.len());
        let n_parts = n_tiles.div_ceil(tiles_per_part);
        let shape = arch.dispatch(Registers {
            outputs: self.delta.channels,
            inputs: self.source.channels,
        });
        // A task does two blocks of outputs, to reuse the input while the caches hold it.
        let outputs = shape.outputs * 2;
        let chunk = outputs * self.source.channels * self.n_taps;
        partials.resize(n_parts * gradient.len(), 0.0);
        partials
            .par_chunks_exact_mut(gradient.len())
            .enumerate()
            .for_each(|(part, partial)| {
                let first = part * tiles_per_part;
                let tiles = first..(first + tiles_per_part).min(n_tiles);
                let source =
                    &source[tiles.start * self.source.rows()..][..tiles.len() * self.source.rows()];
                let delta =
                    &delta[tiles.start * self.delta.rows()..][..tiles.len() * self.delta.rows()];
                partial
                    .par_chunks_mut(chunk)
                    .enumerate()
                    .for_each(|(chunk_idx, gradient)| {
                        gradient.fill(0.0);
                        arch.dispatch(Outputs {
                            work: self,
                            shape,
                            first: chunk_idx * outputs,
                            source,
                            delta,
                            gradient,
                        });
                    });
            });
        let (first, others) = partials.split_at(gradient.len());
        gradient.copy_from_slice(first);
        for partial in others.chunks_exact(gradient.len()) {
            for (sum, &value) in gradient.iter_mut().zip(partial) {
                *sum += value;
            }
        }
    }
}

/// Tiles whose sums form one part, for a tensor of `numel` weights.
pub(super) fn tiles_per_part(n_tiles: usize, numel: usize) -> usize {
    let n_parts = match numel {
        LARGE.. => 1,
        _ => n_tiles.min(MOST_PARTS),
    };
    n_tiles.div_ceil(n_parts).max(1)
}

/// Chooses the block that fills the registers.
struct Registers {
    outputs: usize,
    inputs: usize,
}

impl WithSimd for Registers {
    type Output = Shape;

    fn with_simd<S: Simd>(self, _: S) -> Shape {
        let (outputs, inputs) = match (S::REGISTER_COUNT >= 32, self.inputs) {
            (true, 1) => (12, 1),
            (true, _) => (4, 6),
            (false, 1) => (5, 1),
            (false, _) => (2, 2),
        };
        Shape {
            outputs: block_size(self.outputs, outputs),
            inputs: block_size(self.inputs, inputs),
        }
    }
}

/// The gradients of some output channels over some tiles.
struct Outputs<'a> {
    work: &'a WeightGradient<'a>,
    shape: Shape,
    first: usize,
    source: &'a [Row],
    delta: &'a [Row],
    gradient: &'a mut [f32],
}

impl WithSimd for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_sum_lanes!(self, simd, run)
    }
}

impl Outputs<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let per_output = self.work.source.channels * self.work.n_taps;
        let n_outputs = self.gradient.len() / per_output;
        let Self {
            work,
            shape,
            first,
            source,
            delta,
            gradient,
        } = self;
        let tiles = source
            .chunks_exact(work.source.rows())
            .zip(delta.chunks_exact(work.delta.rows()));
        for (source, delta) in tiles {
            for output in (0..n_outputs).step_by(shape.outputs) {
                let outputs = shape.outputs.min(n_outputs - output);
                for input in (0..work.source.channels).step_by(shape.inputs) {
                    let inputs = shape.inputs.min(work.source.channels - input);
                    let mut block = Sums {
                        work,
                        source: &source[input * work.source.plane.rows()..],
                        delta: &delta[(first + output) * work.delta.plane.rows()..],
                        gradient: &mut gradient[output * per_output + input * work.n_taps..],
                    };
                    block.run::<S, N>(simd, outputs, inputs);
                }
            }
        }
    }
}

/// Runs the block of the given size, which is one of those listed.
macro_rules! with_sums {
    ($sums:expr, $S:ident, $N:ident, $simd:ident, $size:expr, $(($o:literal, $i:literal))*) => {
        match $size {
            $(($o, $i) => $sums.block::<$S, $N, $o, $i>($simd),)*
            (outputs, inputs) => unreachable!("a block of {outputs} x {inputs} sums"),
        }
    };
}

/// One block of sums for all taps, over one tile.
struct Sums<'a> {
    work: &'a WeightGradient<'a>,
    source: &'a [Row],
    delta: &'a [Row],
    gradient: &'a mut [f32],
}

/// Vectors of partial sums, per output and input channel.
type Partial<S, const N: usize, const O: usize, const I: usize> = [[[<S as Simd>::f32s; N]; I]; O];

impl Sums<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(&mut self, simd: S, outputs: usize, inputs: usize) {
        if S::REGISTER_COUNT >= 32 {
            with_sums!(
                self,
                S,
                N,
                simd,
                (outputs, inputs),
                (1, 1)(1, 2)(1, 3)(1, 4)(1, 5)(1, 6)(2, 1)(2, 2)(2, 3)(2, 4)(2, 5)(2, 6)(3, 1)(
                    3, 2
                )(3, 3)(3, 4)(3, 5)(3, 6)(4, 1)(4, 2)(4, 3)(4, 4)(4, 5)(4, 6)(5, 1)(
                    6, 1
                )(7, 1)(8, 1)(9, 1)(10, 1)(11, 1)(12, 1)
            );
        } else {
            with_sums!(
                self,
                S,
                N,
                simd,
                (outputs, inputs),
                (1, 1)(1, 2)(2, 1)(2, 2)(3, 1)(4, 1)(5, 1)
            );
        }
    }

    /// Goes through the pixels in strips that fit the nearest cache, half a row at a
    /// time, and for each strip through all taps; their sums wait in memory.
    #[inline(always)]
    fn block<S: Simd, const N: usize, const O: usize, const I: usize>(&mut self, simd: S) {
        let work = self.work;
        let zero: Partial<S, N, O, I> = [[[simd.splat_f32s(0.0); N]; I]; O];
        let mut sums = vec![zero; work.phase.taps.len()];
        let height = work.delta.plane.height;
        let strip = STRIP_PIXELS.div_ceil(work.delta.plane.width);
        for y in (0..height).step_by(strip) {
            let lines = y..(y + strip).min(height);
            for part in 0..LANES / SUM_LANES {
                for (tap, sums) in work.phase.taps.iter().zip(&mut sums) {
                    self.strip::<S, N, O, I>(simd, *tap, lines.clone(), part, sums);
                }
            }
        }
        for (tap, sums) in work.phase.taps.iter().zip(&sums) {
            for (o, sums) in sums.iter().enumerate() {
                for (i, sums) in sums.iter().enumerate() {
                    let at = (o * work.source.channels + i) * work.n_taps + tap.idx;
                    self.gradient[at] += total::<S, N>(sums);
                }
            }
        }
    }

    /// Adds the pixels of some lines for one tap.
    #[inline(always)]
    fn strip<S: Simd, const N: usize, const O: usize, const I: usize>(
        &self,
        simd: S,
        tap: Tap,
        lines: Range<usize>,
        part: usize,
        partial: &mut Partial<S, N, O, I>,
    ) {
        let work = self.work;
        let (delta_plane, source_plane) = (work.delta.plane, work.source.plane);
        let [stride_y, stride_x] = work.phase.stride;
        let [offset_y, offset_x] = tap.offset;
        let (first_y, end_y) = inside(delta_plane.height, source_plane.height, stride_y, offset_y);
        let (first_x, end_x) = inside(delta_plane.width, source_plane.width, stride_x, offset_x);
        if first_x >= end_x {
            return;
        }
        let n_x = end_x - first_x;
        let reach = (n_x - 1) * stride_x + 1;
        let source_x = (first_x * stride_x).wrapping_add_signed(offset_x);
        let mut sums = *partial;
        for y in lines.start.max(first_y)..lines.end.min(end_y) {
            let delta_at = delta_plane.at(y, first_x);
            let source_y = (y * stride_y).wrapping_add_signed(offset_y);
            let source_at = source_plane.at(source_y, source_x);
            let mut deltas: [&[Row]; O] = [&[]; O];
            for (o, line) in deltas.iter_mut().enumerate() {
                *line = &self.delta[o * delta_plane.rows() + delta_at..][..n_x];
            }
            let mut sources: [&[Row]; I] = [&[]; I];
            for (i, line) in sources.iter_mut().enumerate() {
                *line = &self.source[i * source_plane.rows() + source_at..][..reach];
            }
            for x in 0..n_x {
                let mut values = [[simd.splat_f32s(0.0); N]; I];
                for (value, line) in values.iter_mut().zip(&sources) {
                    *value = line[x * stride_x].vectors::<S, N>(part);
                }
                for (sums, delta) in sums.iter_mut().zip(&deltas) {
                    let delta = delta[x].vectors::<S, N>(part);
                    for (sums, value) in sums.iter_mut().zip(&values) {
                        for n in 0..N {
                            sums[n] = simd.mul_add_f32s(delta[n], value[n], sums[n]);
                        }
                    }
                }
            }
        }
        *partial = sums;
    }
}

/// Sum of 16 lanes, by halves.
#[inline(always)]
pub(super) fn total<S: Simd, const N: usize>(sums: &[S::f32s; N]) -> f32 {
    let mut lanes = [0.0_f32; SUM_LANES];
    let (vectors, _) = S::as_mut_simd_f32s(&mut lanes);
    vectors.copy_from_slice(sums);
    for width in [8, 4, 2, 1] {
        for idx in 0..width {
            lanes[idx] += lanes[idx + width];
        }
    }
    lanes[0]
}

/// The targets along one axis whose source lies within `0..source`.
fn inside(target: usize, source: usize, stride: usize, offset: isize) -> (usize, usize) {
    let first = usize::try_from(-offset).map_or(0, |before| before.div_ceil(stride));
    let reach = source.saturating_add_signed(-offset);
    (first.min(target), reach.div_ceil(stride).min(target))
}
