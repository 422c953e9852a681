//! Bytes that tiles and their tables take, as `batch.cuh` lays them out.

use crate::kernel::PIECE;

/// What the kernels read from and write to begins at multiples of this.
const ALIGNMENT: usize = 16;
/// Bytes of the structures of `batch.cuh`.
pub(super) const TILE_BYTES: usize = 64;
pub(super) const OPERAND_BYTES: usize = 16;
pub(super) const PIECE_BYTES: usize = 8;
pub(super) const COUNTS_BYTES: usize = 32;
const WEIGHTS_BYTES: usize = 64;

pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Bytes of the triangle of pairs, in `f64`.
pub(super) fn gram_bytes(n_ingredients: usize) -> usize {
    n_ingredients * (n_ingredients + 1) / 2 * 8
}

/// Bytes that one tile takes of both buffers: inputs of `n_elements` whose types take
/// `input_bytes` each, an output of `out_bytes` each, and inner products if `gram` says so.
pub fn tile_bytes(
    n_elements: usize,
    input_bytes: &[usize],
    out_bytes: usize,
    gram: bool,
) -> (usize, usize) {
    let mask = aligned(n_elements.div_ceil(64) * 8);
    let inputs: usize = input_bytes
        .iter()
        .map(|width| aligned(n_elements * width))
        .sum();
    let (tables, results) = placed_bytes(n_elements, input_bytes.len(), gram);
    (
        mask + inputs + tables,
        mask + aligned(n_elements * out_bytes) + results,
    )
}

/// The same of a tile whose values, mask and output stay on the device.
pub(in crate::kernel::cuda) fn placed_bytes(
    n_elements: usize,
    n_operands: usize,
    gram: bool,
) -> (usize, usize) {
    let n_pieces = n_elements.div_ceil(PIECE);
    let tables = TILE_BYTES + n_operands * OPERAND_BYTES + n_pieces * PIECE_BYTES;
    let products = match gram {
        true => (n_pieces + 1) * gram_bytes(n_operands),
        false => 0,
    };
    (tables, COUNTS_BYTES + products + ALIGNMENT)
}

/// Bytes that a batch takes of both buffers beside its tiles.
pub fn batch_bytes(n_ingredients: usize) -> (usize, usize) {
    let tables = aligned(8 * n_ingredients) + aligned(WEIGHTS_BYTES) + 4 * ALIGNMENT;
    (tables, 4 * ALIGNMENT)
}
