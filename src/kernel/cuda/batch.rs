//! Tiles for the kernels, laid out in two buffers as `batch.cuh` says.
//!
//! Knows addresses of a device, and no device: a batch is bytes to send, kernels to
//! launch, and bytes to fetch.

mod launches;
mod request;
mod sizes;
mod tables;

use std::ops::Range;

use self::request::check;
use self::request::number_of;
use self::sizes::COUNTS_BYTES;
use self::sizes::OPERAND_BYTES;
use self::sizes::PIECE_BYTES;
use self::sizes::TILE_BYTES;
use self::sizes::aligned;
use self::sizes::gram_bytes;
use self::tables::Tables;
use super::launch::Launch;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::KernelError;
use crate::kernel::PIECE;
use crate::kernel::Weights;
use crate::kernel::float_bytes;
use crate::kernel::needs_exact_mean;
use crate::tensor::Dtype;

pub use self::request::Answer;
pub use self::request::MaskSource;
pub(super) use self::request::Placed;
pub use self::request::Request;
pub use self::sizes::batch_bytes;
pub(super) use self::sizes::placed_bytes;
pub use self::sizes::tile_bytes;

/// Bits of `Kind` in `batch.cuh`.
const FIND_MASK: u32 = 1;
const HAS_MASK: u32 = 2;
const WRITES: u32 = 4;
const EXACT: u32 = 8;

/// A tile that has its places.
#[derive(Clone, Debug)]
struct Tile {
    n_elements: u64,
    /// Addresses and numbers of element types.
    operands: Vec<(u64, u64)>,
    mask: u64,
    found_mask: Range<usize>,
    out: u64,
    found: Range<usize>,
    gram: Option<Range<usize>>,
    out_dtype: u32,
    kind: u32,
}

/// A buffer on the device: where it begins, and how many bytes it holds.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Its address there, a multiple of 16.
    pub address: u64,
    /// Its length.
    pub bytes: usize,
}

/// Tiles that are sent and computed together.
#[derive(Debug)]
pub struct Batch {
    to: Buffer,
    from: Buffer,
    weights: Weights,
    tiles: Vec<Tile>,
    /// Tile and place in it of every piece whose inner products are wanted.
    pieces: Vec<(u32, u32)>,
    /// Bytes of values that are sent.
    sent: usize,
    /// Bytes of results that are fetched.
    fetched: usize,
}

/// What is to be done for a batch: send, clear, launch in this order, fetch.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Bytes to send, from the beginning.
    pub sent: usize,
    /// Bytes of the other buffer to fetch, from the beginning.
    pub fetched: usize,
    /// Those of them that are set to zero before.
    pub cleared: Range<usize>,
    /// Kernels to launch.
    pub launches: Vec<Launch>,
}

impl Batch {
    /// An empty batch: `to` is the device's copy of what is sent, `from` of what is
    /// fetched.
    pub fn new(to: Buffer, from: Buffer, weights: &Weights) -> Self {
        Self {
            to,
            from,
            weights: weights.clone(),
            tiles: Vec::new(),
            pieces: Vec::new(),
            sent: 0,
            fetched: 0,
        }
    }

    /// Forgets all tiles.
    pub fn clear(&mut self) {
        self.tiles.clear();
        self.pieces.clear();
        self.sent = 0;
        self.fetched = 0;
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.tiles.len()
    }

    /// Whether there are no tiles.
    pub fn is_empty(&self) -> bool {
        self.tiles.is_empty()
    }

    /// Forgets all tiles, and combines by other coefficients from now on.
    pub(super) fn weigh(&mut self, weights: &Weights) {
        self.clear();
        self.weights = weights.clone();
    }

    /// Whether both buffers hold another tile of these sizes, tables included.
    fn has_room(&self, tile: (usize, usize)) -> bool {
        let n_ingredients = self.weights.values().len();
        let (to, from) = batch_bytes(n_ingredients);
        let tables = self.tiles.len() * (TILE_BYTES + n_ingredients * OPERAND_BYTES)
            + self.pieces.len() * PIECE_BYTES;
        let counts = self.tiles.len() * COUNTS_BYTES;
        let products = self.pieces.len() * gram_bytes(n_ingredients);
        self.sent + tables + to + tile.0 <= self.to.bytes
            && self.fetched + counts + products + from + tile.1 <= self.from.bytes
    }

    /// Adds a tile, and copies what is sent to `buffer`; `false` if there is no room.
    ///
    /// # Errors
    /// [`KernelError`] if a length or element type does not fit.
    pub fn push(&mut self, buffer: &mut [u8], request: Request<'_>) -> Result<bool, KernelError> {
        let n_elements = check(request, &self.weights)?;
        let widths: Vec<usize> = request
            .inputs
            .iter()
            .map(|input| input.bytes.len() / n_elements.max(1))
            .collect();
        let out_width = request.out_dtype.and_then(float_bytes).unwrap_or(0);
        let gram = request.gram && request.out_dtype.is_some();
        let tile = tile_bytes(n_elements, &widths, out_width, gram);
        if buffer.len() < self.to.bytes || !self.has_room(tile) {
            return Ok(false);
        }
        let mut operands = Vec::with_capacity(request.inputs.len());
        for input in request.inputs {
            let address = self.to.address + self.sent as u64;
            operands.push((address, number_of(input.dtype).into()));
            self.send(buffer, input.bytes);
        }
        let n_words = n_elements.div_ceil(64);
        let mut found_mask = 0..0;
        let (mask, mut kind) = match request.mask {
            MaskSource::Dense => (0, 0),
            MaskSource::Given(words) => {
                let address = self.to.address + self.sent as u64;
                let bytes = &mut buffer[self.sent..][..8 * n_words];
                for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                    *bytes = word.to_le_bytes();
                }
                self.sent += aligned(8 * n_words);
                (address, HAS_MASK)
            }
            MaskSource::Zeros => {
                found_mask = self.fetch(8 * n_words);
                (self.from.address + found_mask.start as u64, FIND_MASK)
            }
        };
        let found = self.fetch(n_elements * out_width);
        let gram = gram.then(|| self.fetch(gram_bytes(request.inputs.len())));
        if let Some(dtype) = request.out_dtype {
            let dtypes = request.inputs.iter().map(|input| input.dtype);
            kind |= written(dtype, dtypes);
        }
        self.add(Tile {
            n_elements: n_elements as u64,
            operands,
            mask,
            found_mask,
            out: self.from.address + found.start as u64,
            found,
            gram,
            out_dtype: request.out_dtype.map_or(0, number_of),
            kind,
        });
        Ok(true)
    }

    /// Adds a tile whose values stay on the device; `false` if there is no room.
    pub(super) fn push_placed(&mut self, placed: &Placed) -> bool {
        let n_operands = placed.operands.len();
        if !self.has_room(placed_bytes(placed.n_elements, n_operands, placed.gram)) {
            return false;
        }
        let operands = placed.operands.iter();
        let dtypes = operands.clone().map(|&(_, dtype)| dtype);
        let (out, out_dtype) = placed.out;
        let mut kind = written(out_dtype, dtypes);
        if placed.mask.is_some() {
            kind |= FIND_MASK;
        }
        let gram = placed.gram.then(|| self.fetch(gram_bytes(n_operands)));
        self.add(Tile {
            n_elements: placed.n_elements as u64,
            operands: operands
                .map(|&(address, dtype)| (address, number_of(dtype).into()))
                .collect(),
            mask: placed.mask.unwrap_or(0),
            found_mask: 0..0,
            out,
            found: 0..0,
            gram,
            out_dtype: number_of(out_dtype),
            kind,
        });
        true
    }

    fn add(&mut self, tile: Tile) {
        if tile.gram.is_some() {
            let index = self.tiles.len() as u32;
            let n_pieces = tile.n_elements.div_ceil(PIECE as u64) as u32;
            self.pieces
                .extend((0..n_pieces).map(|piece| (index, piece)));
        }
        self.tiles.push(tile);
    }

    fn send(&mut self, buffer: &mut [u8], bytes: &[u8]) {
        buffer[self.sent..][..bytes.len()].copy_from_slice(bytes);
        self.sent += aligned(bytes.len());
    }

    fn fetch(&mut self, bytes: usize) -> Range<usize> {
        let begin = self.fetched;
        self.fetched += aligned(bytes);
        begin..begin + bytes
    }

    /// Writes the tables behind the values in `buffer`, and tells what is to be done.
    pub fn finish(&self, buffer: &mut [u8]) -> Orders {
        let n_ingredients = self.weights.values().len();
        let counts = self.fetched;
        let fetched = counts + self.tiles.len() * COUNTS_BYTES;
        let products = self.from.address + aligned(fetched) as u64;
        let mut tables = Tables::new(buffer, self.to.address, self.sent);
        let values = tables.begin();
        self.weights
            .factors()
            .iter()
            .for_each(|weight| tables.push(weight.to_bits()));
        let weights = tables.begin();
        let wide = self.weights.wide_divisor();
        let (high, low) = wide.parts();
        for word in [
            self.weights.divisor().to_bits(),
            self.weights.exact_reciprocal().unwrap_or(0.0).to_bits(),
            high.to_bits(),
            low.to_bits(),
            wide.growth().to_bits(),
            wide.is_power_of_two().into(),
            n_ingredients as u64,
            values,
        ] {
            tables.push(word);
        }
        let operands = tables.begin();
        for tile in &self.tiles {
            for &(address, dtype) in &tile.operands {
                tables.push(address);
                tables.push(dtype);
            }
        }
        let tiles = tables.begin();
        let mut first_piece = 0;
        for (index, tile) in self.tiles.iter().enumerate() {
            tables.push(tile.n_elements);
            tables.push(operands + (index * n_ingredients * OPERAND_BYTES) as u64);
            tables.push(tile.mask);
            tables.push(tile.out);
            tables.push(self.from.address + (counts + index * COUNTS_BYTES) as u64);
            let gram = tile.gram.as_ref();
            tables.push(gram.map_or(0, |gram| self.from.address + gram.start as u64));
            tables.push_pair(first_piece, tile.out_dtype);
            tables.push_pair(tile.kind, 0);
            if gram.is_some() {
                first_piece += tile.n_elements.div_ceil(PIECE as u64) as u32;
            }
        }
        let pieces = tables.begin();
        self.pieces
            .iter()
            .for_each(|&(tile, index)| tables.push_pair(tile, index));
        let sent = tables.end();
        Orders {
            sent,
            fetched,
            cleared: counts..fetched,
            launches: self.launches(tiles, weights, pieces, products),
        }
    }

    /// What was found for the tile of this index, in the bytes that were fetched.
    ///
    /// # Panics
    /// If there is no such tile, or `fetched` holds fewer bytes than the orders say.
    pub fn answer<'a>(&self, index: usize, fetched: &'a [u8]) -> Answer<'a> {
        let tile = &self.tiles[index];
        let counts = &fetched[self.fetched + index * COUNTS_BYTES..][..COUNTS_BYTES];
        let words = counts.as_chunks::<8>().0;
        let count = |index: usize| u64::from_le_bytes(words[index]);
        let gram = tile.gram.clone().map(|gram| {
            let products = fetched[gram].as_chunks::<8>().0;
            let products = products.iter().map(|bytes| f64::from_le_bytes(*bytes));
            Gram::from_products(tile.operands.len(), products.collect())
        });
        Answer {
            out: &fetched[tile.found.clone()],
            mask: &fetched[tile.found_mask.clone()],
            counts: Counts {
                retained_zeros: count(0),
                non_finite: count(1),
            },
            disputed: count(2),
            unsettled: count(3),
            gram,
        }
    }
}

/// What `kind` says of a tile that is written.
fn written(out_dtype: Dtype, dtypes: impl IntoIterator<Item = Dtype>) -> u32 {
    match needs_exact_mean(out_dtype, dtypes) {
        true => WRITES | EXACT,
        false => WRITES,
    }
}
