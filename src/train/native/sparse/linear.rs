//! Sparse linear layers: forwards, and the gradient with respect to the input.

use std::ops::Range;

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

use crate::train::native::lanes::LANES;
use crate::train::native::lanes::Row;
use crate::train::native::product::Store;
use crate::train::native::product::VECTORS;

/// Retained weights of a target row in one block of source rows, on average: enough
/// that loading and storing the sums does not count.
const ROUTES_PER_BLOCK: usize = 16;

/// Fewest source rows in a block: half of the nearest cache.
const LEAST_BLOCK: usize = 128;

/// Target rows of one task.
const CHUNK: usize = 128;

/// Which source rows each target row reads, by which weight.
#[derive(Clone, Debug)]
pub(in crate::train::native) struct Routes {
    n_target: usize,
    n_source: usize,
    /// `splits[block * n_target + target]`: where the block's routes of the target begin.
    /// One block more than there are, where the routes end.
    splits: Vec<u32>,
    sources: Vec<u32>,
    /// Places of the weights among the compact ones.
    weights: Vec<u32>,
}

impl Routes {
    /// Routes for weights at (target, source), in compact order.
    pub(super) fn new(places: &[(usize, usize)], n_target: usize, n_source: usize) -> Self {
        let mut routes: Vec<Vec<(u32, u32)>> = vec![Vec::new(); n_target];
        for (idx, &(target, source)) in places.iter().enumerate() {
            routes[target].push((source as u32, idx as u32));
        }
        let per_target = places.len().div_ceil(n_target.max(1)).max(1);
        let block = (n_source * ROUTES_PER_BLOCK / per_target).max(LEAST_BLOCK);
        let n_blocks = n_source.div_ceil(block).max(1);
        let mut splits = vec![0; (n_blocks + 1) * n_target];
        let (mut sources, mut weights) = (Vec::new(), Vec::new());
        for (target, routes) in routes.iter_mut().enumerate() {
            routes.sort_unstable();
            let first = sources.len();
            for split in 0..=n_blocks {
                let before =
                    routes.partition_point(|&(source, _)| (source as usize) < split * block);
                splits[split * n_target + target] = (first + before) as u32;
            }
            sources.extend(routes.iter().map(|&(source, _)| source));
            weights.extend(routes.iter().map(|&(_, weight)| weight));
        }
        Self {
            n_target,
            n_source,
            splits,
            sources,
            weights,
        }
    }

    fn routes(&self, block: usize, target: usize) -> Range<usize> {
        let split = |block: usize| self.splits[block * self.n_target + target] as usize;
        split(block)..split(block + 1)
    }

    /// Multiplies all tiles by the compact `weights`; `bias` has one number per target
    /// row, or none.
    pub(in crate::train::native) fn run(
        &self,
        arch: pulp::Arch,
        weights: &[f32],
        bias: &[f32],
        store: Store,
        source: &[Row],
        target: &mut [Row],
    ) {
        let ordered: Vec<f32> = self
            .weights
            .par_iter()
            .map(|&idx| weights[idx as usize])
            .collect();
        target
            .par_chunks_exact_mut(self.n_target)
            .zip(source.par_chunks_exact(self.n_source))
            .for_each(|(target, source)| {
                target
                    .par_chunks_mut(CHUNK)
                    .enumerate()
                    .for_each(|(chunk, target)| {
                        arch.dispatch(Chunk {
                            routes: self,
                            first: chunk * CHUNK,
                            weights: &ordered,
                            bias,
                            store,
                            source,
                            target,
                        });
                    });
            });
    }
}

/// Some target rows of one tile.
struct Chunk<'a> {
    routes: &'a Routes,
    first: usize,
    weights: &'a [f32],
    bias: &'a [f32],
    store: Store,
    source: &'a [Row],
    target: &'a mut [Row],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // A product that is added to what is there is formed on its own.
        let mut own = Vec::new();
        let sums = match self.store {
            Store::Add => {
                own.resize(self.target.len(), Row::ZERO);
                own.as_mut_slice()
            }
            Store::Plain | Store::Relu => &mut *self.target,
        };
        for (idx, row) in sums.iter_mut().enumerate() {
            let bias = self.bias.get(self.first + idx).copied().unwrap_or(0.0);
            row.0 = [bias; LANES];
        }
        let n_blocks = self.routes.splits.len() / self.routes.n_target - 1;
        for block in 0..n_blocks {
            for (idx, row) in sums.iter_mut().enumerate() {
                let routes = self.routes.routes(block, self.first + idx);
                let sources = &self.routes.sources[routes.clone()];
                let weights = &self.weights[routes];
                for part in 0..LANES / (VECTORS * S::F32_LANES) {
                    let mut sums = row.vectors::<S, VECTORS>(part);
                    for (&source, &weight) in sources.iter().zip(weights) {
                        let values = self.source[source as usize].vectors::<S, VECTORS>(part);
                        let weight = simd.splat_f32s(weight);
                        for (sum, &value) in sums.iter_mut().zip(&values) {
                            *sum = simd.mul_add_f32s(weight, value, *sum);
                        }
                    }
                    row.set_vectors::<S, VECTORS>(part, sums);
                }
            }
        }
        match self.store {
            Store::Plain => {}
            Store::Relu => {
                for value in self.target.iter_mut().flat_map(|row| &mut row.0) {
                    *value = if *value < 0.0 { 0.0 } else { *value };
                }
            }
            Store::Add => {
                for (row, sum) in self.target.iter_mut().zip(&own) {
                    for (value, &sum) in row.0.iter_mut().zip(&sum.0) {
                        *value += sum;
                    }
                }
            }
        }
    }
}
