//! Dense linear layers: products of a matrix and the rows of all tiles.

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

use super::lanes::LANES;
use super::lanes::Row;
use super::product::Store;
use super::product::Sums;
use super::product::VECTORS;
use super::product::add_product;
use super::product::block_size;
use super::product::largest_block;
use super::product::with_block;

/// `target[r] = bias[r] + sum over k of weight(r, k) * source[k]`, in every tile.
pub(super) struct Product<'a> {
    /// Rows of a tile of the source.
    pub(super) n_source: usize,
    /// Rows of a tile of the target.
    pub(super) n_target: usize,
    /// One per target row; none are zeros.
    pub(super) bias: &'a [f32],
    pub(super) store: Store,
}

impl Product<'_> {
    /// Multiplies. `pack(first, panel)` fills a panel, row-major (k, r), with the weights
    /// of the target rows from `first` on.
    ///
    /// Blocks of target rows meet all tiles while their panel is in the cache, so the
    /// result is first laid out (target row, tile) in `scratch`.
    pub(super) fn run(
        &self,
        arch: pulp::Arch,
        pack: impl Fn(usize, usize, &mut [f32]) + Sync,
        scratch: &mut Vec<Row>,
        source: &[Row],
        target: &mut [Row],
    ) {
        let n_tiles = source.len() / self.n_source;
        let block = block_size(self.n_target, largest_block(arch));
        let n_blocks = self.n_target.div_ceil(block);
        scratch.resize(n_blocks * block * n_tiles, Row::ZERO);
        scratch
            .par_chunks_exact_mut(block * n_tiles)
            .enumerate()
            .for_each_init(
                || vec![0.0; block * self.n_source],
                |panel, (block_idx, sums)| {
                    let first = block_idx * block;
                    panel.fill(0.0);
                    pack(first, block, panel);
                    arch.dispatch(Block {
                        block,
                        bias: self.bias.get(first..).unwrap_or_default(),
                        panel,
                        source,
                        n_source: self.n_source,
                        sums,
                    });
                },
            );
        let scratch = &*scratch;
        target
            .par_chunks_exact_mut(self.n_target)
            .enumerate()
            .for_each(|(tile, target)| {
                for (r, row) in target.iter_mut().enumerate() {
                    let at = (r / block * n_tiles + tile) * block + r % block;
                    let sum = &scratch[at].0;
                    for (value, &sum) in row.0.iter_mut().zip(sum) {
                        *value = match self.store {
                            Store::Plain => sum,
                            Store::Relu if sum < 0.0 => 0.0,
                            Store::Relu => sum,
                            Store::Add => *value + sum,
                        };
                    }
                }
            });
    }
}

/// Some target rows in all tiles: `sums` is laid out (tile, target row).
struct Block<'a> {
    block: usize,
    bias: &'a [f32],
    panel: &'a [f32],
    source: &'a [Row],
    n_source: usize,
    sums: &'a mut [Row],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_block!(self.block, simd, multiply(self));
    }
}

#[inline(always)]
fn multiply<S: Simd, const BLOCK: usize>(simd: S, work: Block<'_>) {
    let (weights, _) = work.panel.as_chunks::<BLOCK>();
    let mut bias = [0.0; BLOCK];
    for (value, &given) in bias.iter_mut().zip(work.bias) {
        *value = given;
    }
    let tiles = work.source.chunks_exact(work.n_source);
    for (source, target) in tiles.zip(work.sums.chunks_exact_mut(BLOCK)) {
        for part in 0..LANES / (VECTORS * S::F32_LANES) {
            let mut sums: Sums<S, BLOCK> = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
            for (sums, &bias) in sums.iter_mut().zip(&bias) {
                *sums = [simd.splat_f32s(bias); VECTORS];
            }
            for (weights, row) in weights.iter().zip(source) {
                let row = row.vectors::<S, VECTORS>(part);
                add_product::<S, BLOCK>(simd, &mut sums, weights, &row);
            }
            for (row, sums) in target.iter_mut().zip(sums) {
                row.set_vectors::<S, VECTORS>(part, sums);
            }
        }
    }
}

/// Fills a panel (k, r) with rows `first..` of a row-major (target, source) matrix.
pub(super) fn pack_rows(matrix: &[f32], n_source: usize) -> impl Fn(usize, usize, &mut [f32]) {
    move |first, block, panel| {
        let rows = matrix.chunks_exact(n_source).skip(first).take(block);
        for (r, row) in rows.enumerate() {
            for (place, &value) in panel.iter_mut().skip(r).step_by(block).zip(row) {
                *place = value;
            }
        }
    }
}

/// Fills a panel (k, r) with columns `first..` of a row-major (source, target) matrix.
pub(super) fn pack_columns(matrix: &[f32], n_target: usize) -> impl Fn(usize, usize, &mut [f32]) {
    move |first, block, panel| {
        let end = (first + block).min(n_target);
        for (place, row) in panel
            .chunks_exact_mut(block)
            .zip(matrix.chunks_exact(n_target))
        {
            place[..end - first].copy_from_slice(&row[first..end]);
        }
    }
}

/// `gradient[o, i] = sum over images of delta[o] * source[i]`, row-major.
///
/// The images are the inner dimension of this product, so the input is turned: `turned`
/// is scratch memory, laid out (block of 32 inputs, image).
pub(super) fn weight_gradient(
    arch: pulp::Arch,
    n_source: usize,
    n_delta: usize,
    source: &[Row],
    delta: &[Row],
    turned: &mut Vec<Row>,
    gradient: &mut [f32],
) {
    let n_images = source.len() / n_source * LANES;
    let n_panels = n_source.div_ceil(LANES);
    turned.resize(n_panels * n_images, Row::ZERO);
    turned
        .par_chunks_exact_mut(n_images)
        .enumerate()
        .for_each(|(panel, turned)| {
            let first = panel * LANES;
            let width = LANES.min(n_source - first);
            for (tile, rows) in turned.chunks_exact_mut(LANES).enumerate() {
                let source = &source[tile * n_source + first..][..width];
                for (image, row) in rows.iter_mut().enumerate() {
                    row.0 = [0.0; LANES];
                    for (value, row) in row.0.iter_mut().zip(source) {
                        *value = row.0[image];
                    }
                }
            }
        });
    let block = block_size(n_delta, largest_block(arch));
    let turned = &*turned;
    gradient
        .par_chunks_mut(block * n_source)
        .enumerate()
        .for_each_init(
            || (vec![0.0; block * n_images], vec![Row::ZERO; block]),
            |(weights, sums), (block_idx, gradient)| {
                let first = block_idx * block;
                let n_rows = gradient.len() / n_source;
                weights.fill(0.0);
                for (tile, weights) in weights.chunks_exact_mut(block * LANES).enumerate() {
                    let delta = &delta[tile * n_delta + first..][..n_rows];
                    for (r, row) in delta.iter().enumerate() {
                        for (place, &value) in weights.iter_mut().skip(r).step_by(block).zip(&row.0)
                        {
                            *place = value;
                        }
                    }
                }
                for (panel, turned) in turned.chunks_exact(n_images).enumerate() {
                    arch.dispatch(Block {
                        block,
                        bias: &[],
                        panel: weights,
                        source: turned,
                        n_source: n_images,
                        sums,
                    });
                    let at = panel * LANES;
                    let width = LANES.min(n_source - at);
                    for (row, sum) in gradient.chunks_exact_mut(n_source).zip(sums.iter()) {
                        row[at..at + width].copy_from_slice(&sum.0[..width]);
                    }
                }
            },
        );
}
