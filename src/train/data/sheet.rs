//! Sheets of images for people: samples walk in, a picture walks out.

use crate::format::png::Canvas;
use crate::train::data::Samples;

/// Pixels that a small image is enlarged to, at least half of it.
const CELL: usize = 64;

/// Pixels between images.
const GAP: usize = 4;

/// Colour between images: neither black nor white.
const PAPER: [u8; 3] = [0xb8, 0xc4, 0xd0];

/// Rows of images of one size, one image per column: a set and a place in it. `None` if
/// there is no image or the picture would be too large.
pub fn sheet(rows: &[Vec<(&Samples, usize)>]) -> Option<Canvas> {
    let (first, _) = rows.iter().flatten().next()?;
    let image = first.image();
    let columns = rows.iter().map(Vec::len).max()?;
    let scale = (CELL / image.height.max(image.width)).max(1);
    let [height, width] = [image.height, image.width].map(|side| side.checked_mul(scale));
    let [height, width] = [height?, width?];
    let length = |cells: usize, side: usize| {
        let length = cells
            .checked_mul(side.checked_add(GAP)?)?
            .checked_add(GAP)?;
        u32::try_from(length).ok()
    };
    let mut canvas = Canvas::new(length(columns, width)?, length(rows.len(), height)?, PAPER)?;
    for (row, cells) in rows.iter().enumerate() {
        for (column, &(samples, sample)) in cells.iter().enumerate() {
            let top = GAP + row * (height + GAP);
            let left = GAP + column * (width + GAP);
            draw(&mut canvas, samples, sample, [top, left], scale);
        }
    }
    Some(canvas)
}

/// Draws one image. One or two channels are grey, of which the first counts; of three or
/// more, the first three are red, green and blue.
fn draw(
    canvas: &mut Canvas,
    samples: &Samples,
    sample: usize,
    [top, left]: [usize; 2],
    scale: usize,
) {
    let image = samples.image();
    let picture = samples.picture(sample);
    let white = u32::from(samples.white());
    let places: [usize; 3] = std::array::from_fn(|colour| match image.channels {
        1 | 2 => 0,
        _ => colour * image.pixels(),
    });
    for pixel in 0..image.pixels() {
        let colour = places.map(|place| {
            let level = u32::from(picture[place + pixel]);
            ((level * 255 + white / 2) / white) as u8
        });
        let (row, column) = (pixel / image.width, pixel % image.width);
        let [left, top, side] =
            [left + column * scale, top + row * scale, scale].map(|length| length as u32);
        canvas.fill(left, top, side, side, colour);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::graph::Features;

    #[test]
    fn images_stand_where_they_should() {
        let image = Features {
            channels: 3,
            height: 1,
            width: 2,
        };
        let pixels = vec![0, 1, 2, 3, 4, 16, 16, 0, 0, 0, 0, 0];
        let samples = Samples::new(Path::new("test"), image, 16, pixels, vec![0, 1]).unwrap();
        let canvas = sheet(&[vec![(&samples, 0)], vec![(&samples, 1), (&samples, 0)]]).unwrap();
        // An image is 64 by 32.
        assert_eq!((canvas.width(), canvas.height()), (4 + 68 * 2, 4 + 36 * 2));
        let at = |left: u32, top: u32| canvas.colours()[(top * canvas.width() + left) as usize];
        assert_eq!(at(4, 4), [0, 32, 64]);
        assert_eq!(at(36, 35), [16, 48, 255]);
        assert_eq!(at(4, 40), [255, 0, 0]);
        assert_eq!(at(72, 40), [0, 32, 64]);
        assert_eq!([at(0, 0), at(3, 4), at(72, 4), at(68, 40)], [PAPER; 4]);
        assert_eq!(sheet(&[]), None);
        assert_eq!(sheet(&[Vec::new()]), None);
    }
}
