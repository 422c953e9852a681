//! Zoom, pixelation, rotation and translation: pixels come from other places.

use std::iter;

use crate::train::data::corruption::Picture;
use crate::train::data::corruption::level;

/// A little more than 0.01, as the steps of `np.arange(1, 1.26, 0.01)`: it decides which
/// way 26 * 1.25 is rounded to a whole pixel.
const ZOOM_STEP: f64 = 1.01 - 1.0;

/// The mean of the image and of `copies` copies, enlarged about the middle by 1.00, 1.01
/// and so on.
pub(super) fn zoom(picture: &mut Picture, copies: u32) {
    let [height, width] = picture.sides();
    for plane in picture.planes() {
        let mut sum = plane.to_vec();
        for copy in 0..copies {
            let factor = 1.0 + f64::from(copy) * ZOOM_STEP;
            let rows = zoomed(height, factor);
            let columns = zoomed(width, factor);
            for (pixel, sum) in sum.iter_mut().enumerate() {
                *sum += bilinear(plane, width, rows[pixel / width], columns[pixel % width]);
            }
        }
        for (value, sum) in plane.iter_mut().zip(sum) {
            *value = sum / f64::from(copies + 1);
        }
    }
}

/// Two neighbours and the share of the second.
type Between = (usize, usize, f64);

/// Where the pixels of a line come from that is cut at both ends, enlarged to the whole
/// pixel that is nearest, and cut again.
fn zoomed(side: usize, factor: f64) -> Vec<Between> {
    let kept = (side as f64 / factor).ceil() as usize;
    let begin = (side - kept) / 2;
    let enlarged = (kept as f64 * factor).round_ties_even() as usize;
    let cut = (enlarged - side) / 2;
    let step = if enlarged > 1 {
        (kept - 1) as f64 / (enlarged - 1) as f64
    } else {
        0.0
    };
    let places = (cut..cut + side).map(|place| {
        let source = place as f64 * step;
        let first = (source.floor() as usize).min(kept - 1);
        let second = (first + 1).min(kept - 1);
        (begin + first, begin + second, source - first as f64)
    });
    places.collect()
}

fn bilinear(plane: &[f64], width: usize, row: Between, column: Between) -> f64 {
    let along = |row: usize| {
        let (left, right, share) = column;
        plane[row * width + left] * (1.0 - share) + plane[row * width + right] * share
    };
    along(row.0) * (1.0 - row.2) + along(row.1) * row.2
}

/// Makes the image smaller by `factor` and larger again, with 8 bits between all steps,
/// as Pillow's `resize` with a box filter does.
pub(super) fn pixelate(picture: &mut Picture, factor: f64) {
    let [height, width] = picture.sides();
    let small = |side: usize| ((side as f64 * factor) as usize).max(1);
    for plane in picture.planes() {
        let levels: Vec<u8> = plane.iter().map(|&value| level(value)).collect();
        let levels = resized(&levels, [height, width], [small(height), small(width)]);
        let levels = resized(&levels, [small(height), small(width)], [height, width]);
        for (value, level) in plane.iter_mut().zip(levels) {
            *value = f64::from(level) / 255.0;
        }
    }
}

/// A plane of other sides; first its rows, then its columns.
fn resized(plane: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let spans = boxes(from[1], to[1]);
    let rows = plane.chunks_exact(from[1]);
    let wide: Vec<u8> = rows
        .flat_map(|row| {
            spans
                .iter()
                .map(|&(begin, end)| mean(row[begin..end].iter().copied()))
        })
        .collect();
    let spans = boxes(from[0], to[0]);
    let columns = |(begin, end): (usize, usize)| {
        let wide = &wide;
        (0..to[1]).map(move |column| mean((begin..end).map(|row| wide[row * to[1] + column])))
    };
    spans.into_iter().flat_map(columns).collect()
}

/// Mean of whole numbers, rounded; ties go up.
fn mean(levels: impl Iterator<Item = u8>) -> u8 {
    let (sum, count) = levels.fold((0, 0), |(sum, count), level| {
        (sum + u64::from(level), count + 1)
    });
    ((2 * sum + count) / (2 * count)) as u8
}

/// The pixels whose middles lie in the box of each new pixel.
fn boxes(from: usize, to: usize) -> Vec<(usize, usize)> {
    let scale = from as f64 / to as f64;
    let spread = scale.max(1.0);
    let boxes = (0..to).map(|place| {
        let middle = (place as f64 + 0.5) * scale;
        let is_inside = |pixel: &usize| {
            let distance = (*pixel as f64 + 0.5 - middle) / spread;
            distance > -0.5 && distance <= 0.5
        };
        let begin = (0..from).find(is_inside).unwrap_or(0);
        let inside = (begin + 1..from).take_while(is_inside).count();
        (begin, begin + 1 + inside)
    });
    boxes.collect()
}

/// Turns the image about its middle, counter-clockwise; what comes from outside is black.
pub(super) fn rotate(picture: &mut Picture, degrees: f64) {
    let (sine, cosine) = libm::sincos(degrees.to_radians());
    let [height, width] = picture.sides();
    let middle = [height, width].map(|side| (side as f64 - 1.0) / 2.0);
    for plane in picture.planes() {
        let before = plane.to_vec();
        let at = |row: f64, column: f64| {
            let is_inside =
                row >= 0.0 && column >= 0.0 && row < height as f64 && column < width as f64;
            if is_inside {
                before[row as usize * width + column as usize]
            } else {
                0.0
            }
        };
        for (pixel, value) in plane.iter_mut().enumerate() {
            let down = (pixel / width) as f64 - middle[0];
            let right = (pixel % width) as f64 - middle[1];
            let row = cosine * down + sine * right + middle[0];
            let column = -sine * down + cosine * right + middle[1];
            let (top, left) = (row.floor(), column.floor());
            let (low, far) = (row - top, column - left);
            let above = at(top, left) * (1.0 - far) + at(top, left + 1.0) * far;
            let below = at(top + 1.0, left) * (1.0 - far) + at(top + 1.0, left + 1.0) * far;
            *value = above * (1.0 - low) + below * low;
        }
    }
}

/// Moves the image by whole pixels; what comes from outside is black.
pub(super) fn translate(picture: &mut Picture, down: isize, right: isize) {
    let [height, width] = picture.sides();
    for plane in picture.planes() {
        let before = plane.to_vec();
        let places = (0..height).flat_map(|row| iter::repeat(row).zip(0..width));
        for (value, (row, column)) in plane.iter_mut().zip(places) {
            let row = row.checked_sub_signed(down).filter(|&row| row < height);
            let column = column.checked_sub_signed(right);
            let column = column.filter(|&column| column < width);
            *value = row
                .zip(column)
                .map_or(0.0, |(row, column)| before[row * width + column]);
        }
    }
}
