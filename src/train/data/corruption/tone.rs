//! Brightness, contrast and colour.

use crate::train::data::corruption::Picture;

/// Adds a constant to the value of hue, saturation and value; to all channels where
/// there are not three.
pub(super) fn brighten(picture: &mut Picture, change: f64) {
    if picture.image.channels != 3 {
        for value in &mut picture.values {
            *value += change;
        }
        return;
    }
    for_each_colour(picture, |colour| {
        let largest = colour.into_iter().fold(0.0, f64::max);
        let brighter = (largest + change).clamp(0.0, 1.0);
        // Hue and saturation stay, so all channels grow alike; black has neither.
        if largest > 0.0 {
            colour.map(|value| value * (brighter / largest))
        } else {
            [brighter; 3]
        }
    });
}

/// Moves all pixels of a channel towards the channel's mean.
pub(super) fn flatten(picture: &mut Picture, factor: f64) {
    for plane in picture.planes() {
        let mean = plane.iter().sum::<f64>() / plane.len() as f64;
        for value in plane {
            *value = (*value - mean) * factor + mean;
        }
    }
}

/// Multiplies the saturation and adds to it; nothing where there are not three
/// channels. Grey counts as a red of saturation 0, as in the published code.
pub(super) fn saturate(picture: &mut Picture, factor: f64, change: f64) {
    if picture.image.channels != 3 {
        return;
    }
    for_each_colour(picture, |colour| {
        let largest = colour.into_iter().fold(0.0, f64::max);
        let smallest = colour.into_iter().fold(1.0, f64::min);
        let range = largest - smallest;
        let saturation = if largest > 0.0 { range / largest } else { 0.0 };
        let wanted = (saturation * factor + change).clamp(0.0, 1.0);
        if range > 0.0 {
            colour.map(|value| largest * (1.0 - wanted * ((largest - value) / range)))
        } else {
            let rest = largest * (1.0 - wanted);
            [largest, rest, rest]
        }
    });
}

/// Replaces the red, green and blue of every pixel.
fn for_each_colour(picture: &mut Picture, change: impl Fn([f64; 3]) -> [f64; 3]) {
    let pixels = picture.image.pixels();
    for pixel in 0..pixels {
        let places = [pixel, pixel + pixels, pixel + 2 * pixels];
        let changed = change(places.map(|place| picture.values[place]));
        for (place, value) in places.into_iter().zip(changed) {
            picture.values[place] = value;
        }
    }
}
