//! The inner loop of dense layers: a block of weights times the rows they meet.
//!
//! Every sum is a chain of fused multiply-adds in a fixed order, one chain per output
//! and lane, so neither the vector width nor the block size changes a bit.

use pulp::Simd;

use super::lanes::Row;

/// Vectors of one row that a block holds in registers.
pub(super) const VECTORS: usize = 2;

/// Outputs that a block holds in registers: fewer where there are fewer registers.
pub(super) fn largest_block(arch: pulp::Arch) -> usize {
    struct Registers;
    impl pulp::WithSimd for Registers {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            if S::REGISTER_COUNT >= 32 { 12 } else { 6 }
        }
    }
    arch.dispatch(Registers)
}

/// Cuts `n_outputs` into blocks of nearly equal size, none above `largest`. Returns the
/// size of all blocks but the last.
pub(super) fn block_size(n_outputs: usize, largest: usize) -> usize {
    let n_blocks = n_outputs.div_ceil(largest).max(1);
    n_outputs.div_ceil(n_blocks).max(1)
}

/// Sums of a block: one per output and vector.
pub(super) type Sums<S, const BLOCK: usize> = [[<S as Simd>::f32s; VECTORS]; BLOCK];

/// `sums[r] += weights[r] * row`.
#[inline(always)]
pub(super) fn add_product<S: Simd, const BLOCK: usize>(
    simd: S,
    sums: &mut Sums<S, BLOCK>,
    weights: &[f32; BLOCK],
    row: &[S::f32s; VECTORS],
) {
    for (sums, &weight) in sums.iter_mut().zip(weights) {
        let weight = simd.splat_f32s(weight);
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum = simd.mul_add_f32s(weight, value, *sum);
        }
    }
}

/// What happens to a sum before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// It is the output.
    Plain,
    /// Negative sums become 0.
    Relu,
    /// It is added to what is there.
    Add,
}

/// Stores sums as part `part` of a row.
#[inline(always)]
pub(super) fn store_sums<S: Simd>(
    simd: S,
    store: Store,
    mut sums: [S::f32s; VECTORS],
    row: &mut Row,
    part: usize,
) {
    match store {
        Store::Plain => {}
        Store::Relu => {
            let zero = simd.splat_f32s(0.0);
            for sum in &mut sums {
                *sum = simd.select_f32s(simd.less_than_f32s(*sum, zero), zero, *sum);
            }
        }
        Store::Add => {
            let before = row.vectors::<S, VECTORS>(part);
            for (sum, &before) in sums.iter_mut().zip(&before) {
                *sum = simd.add_f32s(before, *sum);
            }
        }
    }
    row.set_vectors::<S, VECTORS>(part, sums);
}

/// Runs `$run::<S, BLOCK>($($argument),*)` for the block size given at run time.
macro_rules! with_block {
    ($block:expr, $simd:ident, $run:ident($($argument:expr),*)) => {
        match $block {
            1 => $run::<S, 1>($simd, $($argument),*),
            2 => $run::<S, 2>($simd, $($argument),*),
            3 => $run::<S, 3>($simd, $($argument),*),
            4 => $run::<S, 4>($simd, $($argument),*),
            5 => $run::<S, 5>($simd, $($argument),*),
            6 => $run::<S, 6>($simd, $($argument),*),
            7 => $run::<S, 7>($simd, $($argument),*),
            8 => $run::<S, 8>($simd, $($argument),*),
            9 => $run::<S, 9>($simd, $($argument),*),
            10 => $run::<S, 10>($simd, $($argument),*),
            11 => $run::<S, 11>($simd, $($argument),*),
            12 => $run::<S, 12>($simd, $($argument),*),
            other => unreachable!("a block of {other} outputs"),
        }
    };
}
pub(super) use with_block;

/// Calls `$work.$run::<S, N>($simd)` with as many vectors N as hold the 16 lanes of a
/// partial sum.
macro_rules! with_sum_lanes {
    ($work:expr, $simd:ident, $run:ident) => {
        match S::F32_LANES {
            16 => $work.$run::<S, 1>($simd),
            8 => $work.$run::<S, 2>($simd),
            4 => $work.$run::<S, 4>($simd),
            1 => $work.$run::<S, 16>($simd),
            lanes => unreachable!("vectors of {lanes} lanes"),
        }
    };
}
pub(super) use with_sum_lanes;
