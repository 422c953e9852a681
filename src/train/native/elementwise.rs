//! What moves or adds rows without weights.

use rayon::prelude::*;

use super::lanes::Deposit;
use super::lanes::LANES;
use super::lanes::Layout;
use super::lanes::Row;
use super::norm::Rectify;

/// Copies maps between buffers whose planes may have different borders, or adds them.
pub(super) fn transfer(
    source: &[Row],
    from: Layout,
    deposit: Deposit,
    target: &mut [Row],
    to: Layout,
) {
    let source_rows = from.plane.rows();
    target
        .par_chunks_exact_mut(to.plane.rows())
        .enumerate()
        .for_each(|(idx, target)| {
            let source = &source[idx * source_rows..][..source_rows];
            for y in 0..to.plane.height {
                let source = &source[from.plane.line(y)];
                for (target, source) in target[to.plane.line(y)].iter_mut().zip(source) {
                    for (target, &value) in target.0.iter_mut().zip(&source.0) {
                        *target = match deposit {
                            Deposit::Set => value,
                            Deposit::Add => *target + value,
                        };
                    }
                }
            }
        });
}

/// `target = max(source + addend, 0)`, or without the rectifier or the addend.
pub(super) fn add(
    source: (&[Row], Layout),
    addend: Option<(&[Row], Layout)>,
    rectify: Rectify,
    target: &mut [Row],
    to: Layout,
) {
    transfer(source.0, source.1, Deposit::Set, target, to);
    if let Some((rows, layout)) = addend {
        transfer(rows, layout, Deposit::Add, target, to);
    }
    if rectify == Rectify::Yes {
        target.par_iter_mut().for_each(|row| {
            for value in &mut row.0 {
                *value = if *value < 0.0 { 0.0 } else { *value };
            }
        });
    }
}

/// Sets `delta` to 0 where `output` is not positive.
pub(super) fn rectify_backward(output: &[Row], delta: &mut [Row]) {
    delta
        .par_iter_mut()
        .zip(output)
        .for_each(|(delta, output)| {
            for (delta, &output) in delta.0.iter_mut().zip(&output.0) {
                *delta = if output > 0.0 { *delta } else { 0.0 };
            }
        });
}

/// Sum of `delta` over images and pixels, per channel: lanes of one line first, then
/// lines, then tiles.
pub(super) fn channel_sums(delta: &[Row], layout: Layout) -> Vec<f32> {
    let n_tiles = delta.len() / layout.rows();
    (0..layout.channels)
        .into_par_iter()
        .map(|channel| {
            let mut sum = 0.0_f64;
            for tile in 0..n_tiles {
                let first = tile * layout.rows() + channel * layout.plane.rows();
                let plane = &delta[first..first + layout.plane.rows()];
                for y in 0..layout.plane.height {
                    let mut lanes = Row::ZERO;
                    for row in &plane[layout.plane.line(y)] {
                        for (sum, &value) in lanes.0.iter_mut().zip(&row.0) {
                            *sum += value;
                        }
                    }
                    sum += f64::from(lanes.sum(LANES));
                }
            }
            sum as f32
        })
        .collect()
}

/// The shortcut of option A: every `stride`-th element, between channels of zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortcut {
    pub(super) stride: usize,
    pub(super) before: usize,
    pub(super) source: Layout,
    pub(super) target: Layout,
}

impl Shortcut {
    /// Writes the target; channels without a source become 0.
    pub(super) fn forward(&self, source: &[Row], target: &mut [Row]) {
        let Self {
            stride,
            source: from,
            target: to,
            ..
        } = *self;
        target
            .par_chunks_exact_mut(to.plane.rows())
            .enumerate()
            .for_each(|(idx, target)| {
                let (tile, channel) = (idx / to.channels, idx % to.channels);
                let origin = channel
                    .checked_sub(self.before)
                    .filter(|&c| c < from.channels);
                let Some(channel) = origin else {
                    target.fill(Row::ZERO);
                    return;
                };
                let first = (tile * from.channels + channel) * from.plane.rows();
                let source = &source[first..first + from.plane.rows()];
                for y in 0..to.plane.height {
                    for x in 0..to.plane.width {
                        target[to.plane.at(y, x)] = source[from.plane.at(y * stride, x * stride)];
                    }
                }
            });
    }

    /// Adds the gradient to the source's.
    pub(super) fn backward(&self, delta: &[Row], source: &mut [Row]) {
        let Self {
            stride,
            source: from,
            target: to,
            ..
        } = *self;
        source
            .par_chunks_exact_mut(from.plane.rows())
            .enumerate()
            .for_each(|(idx, source)| {
                let (tile, channel) = (idx / from.channels, idx % from.channels);
                let first = (tile * to.channels + channel + self.before) * to.plane.rows();
                let delta = &delta[first..first + to.plane.rows()];
                for y in 0..to.plane.height {
                    for x in 0..to.plane.width {
                        let sum = &mut source[from.plane.at(y * stride, x * stride)];
                        let delta = &delta[to.plane.at(y, x)];
                        for (sum, &value) in sum.0.iter_mut().zip(&delta.0) {
                            *sum += value;
                        }
                    }
                }
            });
    }
}

/// `values *= factors`.
pub(super) fn scale(factors: &[Row], values: &mut [Row]) {
    values
        .par_iter_mut()
        .zip(factors)
        .for_each(|(row, factors)| {
            for (value, &factor) in row.0.iter_mut().zip(&factors.0) {
                *value *= factor;
            }
        });
}

/// Lays out maps as vectors, in the order (channel, row, column).
pub(super) fn flatten(source: &[Row], from: Layout, target: &mut [Row]) {
    let planes = source.chunks_exact(from.plane.rows());
    let vectors = target.chunks_exact_mut(from.plane.height * from.plane.width);
    for (source, target) in planes.zip(vectors) {
        for (y, target) in target.chunks_exact_mut(from.plane.width).enumerate() {
            target.copy_from_slice(&source[from.plane.line(y)]);
        }
    }
}

/// Writes the gradient of a vector to that of the map it came from, or adds it.
pub(super) fn flatten_backward(delta: &[Row], deposit: Deposit, target: &mut [Row], to: Layout) {
    let vectors = delta.chunks_exact(to.plane.height * to.plane.width);
    let planes = target.chunks_exact_mut(to.plane.rows());
    for (delta, target) in vectors.zip(planes) {
        for (y, delta) in delta.chunks_exact(to.plane.width).enumerate() {
            for (target, delta) in target[to.plane.line(y)].iter_mut().zip(delta) {
                for (target, &value) in target.0.iter_mut().zip(&delta.0) {
                    *target = match deposit {
                        Deposit::Set => value,
                        Deposit::Add => *target + value,
                    };
                }
            }
        }
    }
}
