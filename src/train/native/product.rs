//! The inner loop of dense layers: a block of weights times the rows they meet.
//!
//! Every sum is a chain of fused multiply-adds in a fixed order, one chain per output
//! and lane, so neither the vector width nor the block size changes a bit.

use pulp::Simd;

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
