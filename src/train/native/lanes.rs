//! How numbers lie in memory: the batch innermost.
//!
//! Images of a batch are dealt to *tiles* of [`LANES`]. Within a tile, the same element
//! of all its images is one [`Row`], so a weight times a row is a vector operation
//! whatever the layer is, and every image's sums are formed in the same order on every
//! machine. A map has a border of zero rows around each channel's plane, so that no
//! convolution asks whether a neighbour exists.

use std::ops::Range;

use pulp::Simd;

use crate::graph::Features;

/// Images in one tile.
pub(super) const LANES: usize = 32;

/// One element of all images of a tile.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Row(pub(super) [f32; LANES]);

impl Row {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    /// Part `part` of the row as vectors; `PARTS` of them make a row.
    #[inline(always)]
    pub(super) fn vectors<S: Simd, const N: usize>(&self, part: usize) -> [S::f32s; N] {
        let (vectors, _) = S::as_simd_f32s(&self.0);
        // A closure would not be compiled for the instruction set of the caller.
        let mut chosen = [vectors[0]; N];
        chosen.copy_from_slice(&vectors[part * N..(part + 1) * N]);
        chosen
    }

    /// Replaces part `part` of the row.
    #[inline(always)]
    pub(super) fn set_vectors<S: Simd, const N: usize>(
        &mut self,
        part: usize,
        values: [S::f32s; N],
    ) {
        let (vectors, _) = S::as_mut_simd_f32s(&mut self.0);
        vectors[part * N..(part + 1) * N].copy_from_slice(&values);
    }

    /// Sum of the first `n_lanes` lanes, by halves, in a fixed order.
    pub(super) fn sum(&self, n_lanes: usize) -> f32 {
        let mut lanes = self.0;
        lanes[n_lanes..].fill(0.0);
        let mut width = LANES / 2;
        while width > 0 {
            for idx in 0..width {
                lanes[idx] += lanes[idx + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// One channel's rows: height x width elements with a border of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plane {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) border: usize,
}

impl Plane {
    /// Rows from one element to the one below it.
    pub(super) fn stride(self) -> usize {
        self.width + 2 * self.border
    }

    /// Rows of the plane, border included.
    pub(super) fn rows(self) -> usize {
        (self.height + 2 * self.border) * self.stride()
    }

    /// Place of the element (y, x).
    pub(super) fn at(self, y: usize, x: usize) -> usize {
        (y + self.border) * self.stride() + x + self.border
    }

    /// Places of the elements of line `y`.
    pub(super) fn line(self, y: usize) -> Range<usize> {
        self.at(y, 0)..self.at(y, 0) + self.width
    }
}

/// What a buffer holds: maps of one shape, a tile after the other, a channel after the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) channels: usize,
    pub(super) plane: Plane,
}

impl Layout {
    pub(super) fn new(features: Features, border: usize) -> Self {
        Self {
            channels: features.channels,
            plane: Plane {
                height: features.height,
                width: features.width,
                border,
            },
        }
    }

    /// Elements of one image.
    pub(super) fn numel(self) -> usize {
        self.channels * self.plane.height * self.plane.width
    }

    /// Rows of one tile.
    pub(super) fn rows(self) -> usize {
        self.channels * self.plane.rows()
    }
}

/// How many images there are, and how many of a tile's lanes they fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) samples: usize,
}

impl Batch {
    pub(super) fn n_tiles(self) -> usize {
        self.samples.div_ceil(LANES)
    }

    /// Lanes of tile `tile` that hold an image.
    pub(super) fn lanes(self, tile: usize) -> usize {
        (self.samples - tile * LANES).min(LANES)
    }
}

/// What happens to a number that is written where another may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deposit {
    /// It takes the place.
    Set,
    /// It is added.
    Add,
}

/// Lays out row-major (samples, channels, height, width) numbers.
pub(super) fn scatter(images: &[f32], layout: Layout, n_lanes: usize, tile: &mut [Row]) {
    let plane = layout.plane;
    let image_numel = layout.numel();
    for (lane, image) in images
        .chunks_exact(image_numel.max(1))
        .take(n_lanes)
        .enumerate()
    {
        let lines = image.chunks_exact(plane.width);
        for (line_idx, line) in lines.enumerate() {
            let (channel, y) = (line_idx / plane.height, line_idx % plane.height);
            let first = channel * plane.rows() + plane.at(y, 0);
            for (row, &value) in tile[first..first + plane.width].iter_mut().zip(line) {
                row.0[lane] = value;
            }
        }
    }
    if n_lanes < LANES {
        for row in tile {
            row.0[n_lanes..].fill(0.0);
        }
    }
}

/// The inverse of [`scatter`] for a vector: row-major (samples, features).
pub(super) fn gather(tile: &[Row], n_lanes: usize, values: &mut [f32]) {
    let features = tile.len();
    for (lane, sample) in values
        .chunks_exact_mut(features.max(1))
        .take(n_lanes)
        .enumerate()
    {
        for (value, row) in sample.iter_mut().zip(tile) {
            *value = row.0[lane];
        }
    }
}
