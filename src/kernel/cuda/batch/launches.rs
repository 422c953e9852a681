//! Kernels that a batch takes, and in how many blocks.

use super::Batch;
use super::EXACT;
use crate::kernel::cuda::launch::Kernel;
use crate::kernel::cuda::launch::Launch;

/// Threads of a block, and groups of 8 elements that it takes at once.
const BLOCK: u64 = 256;
const GROUP: u64 = 8;
/// Ingredients along the side of a square of pairs: `SIDE` in `gram.cu`.
const SIDE: u64 = 16;
/// Most blocks along the second dimension of a grid.
const MOST_ROWS: u64 = 65_535;
/// Most blocks along the first: some waves on any device; threads take what is left.
const MOST_COLUMNS: u64 = 4096;

impl Batch {
    /// Kernels to launch, one after the other, with these tables.
    pub(super) fn launches(
        &self,
        tiles: u64,
        weights: u64,
        pieces: u64,
        products: u64,
    ) -> Vec<Launch> {
        let n_tiles = self.tiles.len() as u64;
        let n_ingredients = self.weights.values().len() as u64;
        let most = |kind: u32| {
            let tiles = self.tiles.iter().filter(|tile| tile.kind & EXACT == kind);
            tiles.map(|tile| tile.n_elements.next_multiple_of(64)).max()
        };
        let mut launches = Vec::new();
        for (kernel, kind) in [(Kernel::Combine, 0), (Kernel::CombineExact, EXACT)] {
            let Some(n_elements) = most(kind).filter(|&n_elements| n_elements > 0) else {
                continue;
            };
            let columns = n_elements.div_ceil(GROUP * BLOCK);
            launches.push(Launch::new(
                kernel,
                (columns.min(MOST_COLUMNS), n_tiles.min(MOST_ROWS)),
                &[tiles, n_tiles, weights],
            ));
        }
        if self.tiles.iter().any(|tile| tile.gram.is_some()) {
            let n_pieces = self.pieces.len() as u64;
            let n_squares = n_ingredients.div_ceil(SIDE) * (n_ingredients.div_ceil(SIDE) + 1) / 2;
            let n_pairs = n_ingredients * (n_ingredients + 1) / 2;
            if n_pieces > 0 {
                launches.push(Launch::new(
                    Kernel::GramPieces,
                    (n_squares, n_pieces.min(MOST_ROWS)),
                    &[tiles, pieces, n_pieces, n_ingredients, products],
                ));
            }
            launches.push(Launch::new(
                Kernel::GramTiles,
                (
                    n_pairs.div_ceil(BLOCK).min(MOST_COLUMNS),
                    n_tiles.min(MOST_ROWS),
                ),
                &[tiles, n_tiles, n_ingredients, products],
            ));
        }
        launches
    }
}
