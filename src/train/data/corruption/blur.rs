//! Convolutions with kernels of a few pixels.

use crate::train::data::corruption::Picture;

/// Deviations after which a Gaussian is cut off. Source: the default of scikit-image.
const TRUNCATE: f64 = 4.0;

/// Side of the kernel of a defocus blur: the largest disk, and one pixel around it.
const DISK: usize = 5;

/// Convolution with a Gaussian; pixels beyond the edge are those of the edge.
pub(super) fn gaussian(picture: &mut Picture, deviation: f64) {
    let reach = (TRUNCATE * deviation + 0.5) as usize;
    let kernel = gaussian_kernel(reach, deviation);
    let [height, width] = picture.sides();
    for plane in picture.planes() {
        let convolve = |plane: &[f64], place: &dyn Fn(usize, usize, usize) -> usize| {
            let values = (0..height * width).map(|pixel| {
                let (row, column) = (pixel / width, pixel % width);
                let taps = kernel.iter().enumerate();
                taps.map(|(tap, weight)| weight * plane[place(row, column, tap)])
                    .sum()
            });
            values.collect::<Vec<f64>>()
        };
        let along = |position: usize, tap: usize, side: usize| {
            (position + tap).saturating_sub(reach).min(side - 1)
        };
        let columns = convolve(plane, &|row, column, tap| {
            along(row, tap, height) * width + column
        });
        let rows = convolve(&columns, &|row, column, tap| {
            row * width + along(column, tap, width)
        });
        plane.copy_from_slice(&rows);
    }
}

/// Weights at distances of up to `reach`, which sum to 1.
fn gaussian_kernel(reach: usize, deviation: f64) -> Vec<f64> {
    let weights = (0..=2 * reach).map(|tap| {
        let distance = (tap as f64 - reach as f64) / deviation;
        libm::exp(-0.5 * distance * distance)
    });
    let weights: Vec<f64> = weights.collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Convolution with a disk that is softened by a Gaussian of `deviation`; pixels beyond
/// the edge are mirrored at it.
pub(super) fn defocus(picture: &mut Picture, radius: f64, deviation: f64) {
    let kernel = disk(radius, deviation);
    let [height, width] = picture.sides();
    for plane in picture.planes() {
        let values = (0..height * width).map(|pixel| {
            let (row, column) = (pixel / width, pixel % width);
            let mut sum = 0.0;
            for (down, weights) in kernel.iter().enumerate() {
                let row = mirrored(row + down, height);
                for (right, weight) in weights.iter().enumerate() {
                    sum += weight * plane[row * width + mirrored(column + right, width)];
                }
            }
            sum
        });
        let values: Vec<f64> = values.collect();
        plane.copy_from_slice(&values);
    }
}

/// The place that stands for `position - DISK / 2`, mirrored at the middle of the first
/// and the last pixel until it lies within.
fn mirrored(position: usize, side: usize) -> usize {
    let period = 2 * (side - 1);
    if period == 0 {
        return 0;
    }
    // Enough periods are added first that nothing is below zero.
    let place = (position + DISK * period - DISK / 2) % period;
    place.min(period - place)
}

fn disk(radius: f64, deviation: f64) -> [[f64; DISK]; DISK] {
    let middle = (DISK / 2) as f64;
    let distance = |place: usize| place as f64 - middle;
    let is_inside = |down: usize, right: usize| {
        distance(down) * distance(down) + distance(right) * distance(right) <= radius * radius
    };
    let mut sharp = [[0.0; DISK]; DISK];
    let mut count = 0.0;
    for (down, row) in sharp.iter_mut().enumerate() {
        for (right, value) in row.iter_mut().enumerate() {
            *value = f64::from(is_inside(down, right));
            count += *value;
        }
    }
    // A 3x3 Gaussian; the disk leaves a pixel free at each side.
    let soft = gaussian_kernel(1, deviation);
    let mut disk = [[0.0; DISK]; DISK];
    for (down, row) in sharp.iter().enumerate() {
        for (right, value) in row.iter().enumerate() {
            if *value > 0.0 {
                for (tap, vertical) in soft.iter().enumerate() {
                    for (other, horizontal) in soft.iter().enumerate() {
                        disk[down + tap - 1][right + other - 1] += vertical * horizontal / count;
                    }
                }
            }
        }
    }
    disk
}
