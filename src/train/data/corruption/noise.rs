//! Noise: numbers from a stream change every pixel on its own.

use crate::tensor::Stream;
use crate::train::data::corruption::Picture;
use crate::train::weights::normal;

/// Adds normal numbers.
pub(super) fn add(picture: &mut Picture, deviation: f64, stream: &mut Stream) {
    for value in &mut picture.values {
        *value += deviation * normal(stream);
    }
}

/// Adds normal numbers times the pixels.
pub(super) fn add_in_proportion(picture: &mut Picture, deviation: f64, stream: &mut Stream) {
    for value in &mut picture.values {
        *value += *value * (deviation * normal(stream));
    }
}

/// Makes a share of the pixels black or white, each as often.
pub(super) fn salt_and_pepper(picture: &mut Picture, share: f64, stream: &mut Stream) {
    for value in &mut picture.values {
        let drawn = stream.uniform();
        if drawn < share {
            *value = f64::from(drawn < share / 2.0);
        }
    }
}

/// Poisson distributions of the photons of all pixels that there can be.
pub(super) struct Poisson {
    /// Photons of white, on average.
    photons: f64,
    white: f64,
    /// By value of the pixel.
    distributions: Vec<Distribution>,
}

/// A distribution over the whole numbers from `first` on.
struct Distribution {
    first: u32,
    /// Probability of a number up to each.
    cumulative: Vec<f64>,
}

impl Poisson {
    pub(super) fn new(photons: f64, white: u8) -> Self {
        let distributions = (0..=white)
            .map(|pixel| Distribution::poisson(f64::from(pixel) / f64::from(white) * photons));
        Self {
            photons,
            white: white.into(),
            distributions: distributions.collect(),
        }
    }

    /// Replaces each pixel by the photons that came, as a share of those of white.
    pub(super) fn count(&self, picture: &mut Picture, stream: &mut Stream) {
        for value in &mut picture.values {
            // Exact: the value is a whole number divided by white.
            let pixel = (*value * self.white).round() as usize;
            let photons = self.distributions[pixel].quantile(stream.uniform());
            *value = f64::from(photons) / self.photons;
        }
    }
}

impl Distribution {
    fn poisson(mean: f64) -> Self {
        if mean == 0.0 {
            return Self {
                first: 0,
                cumulative: vec![1.0],
            };
        }
        // What is left out has a probability below 2^-53, the step of the uniform number.
        let reach = 12.0 * libm::sqrt(mean) + 20.0;
        let (first, last) = ((mean - reach).max(0.0) as u32, (mean + reach) as u32);
        let mut sum = 0.0;
        let cumulative = (first..=last).map(|number| {
            let number = f64::from(number);
            let log = number * libm::log(mean) - mean - libm::lgamma(number + 1.0);
            sum += libm::exp(log);
            sum
        });
        Self {
            first,
            cumulative: cumulative.collect(),
        }
    }

    /// The smallest number that is reached with a probability above `drawn`.
    fn quantile(&self, drawn: f64) -> u32 {
        let place = self.cumulative.partition_point(|&sum| sum <= drawn);
        self.first + place.min(self.cumulative.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_scipy() {
        let check = |mean: f64, drawn: [f64; 5], expected: [u32; 5]| {
            let distribution = Distribution::poisson(mean);
            assert_eq!(drawn.map(|drawn| distribution.quantile(drawn)), expected);
        };
        // scipy 1.17.1: poisson.ppf([1e-9, 0.01, 0.5, 0.99, 1 - 1e-9], mean).
        let drawn = [1e-9, 0.01, 0.5, 0.99, 1.0 - 1e-9];
        check(0.0, drawn, [0; 5]);
        check(0.1, drawn, GOLDEN[0]);
        check(7.3, drawn, GOLDEN[1]);
        check(500.0, drawn, GOLDEN[2]);
    }

    const GOLDEN: [[u32; 5]; 3] = [
        [0, 0, 0, 1, 6],
        [0, 2, 7, 14, 29],
        [372, 449, 500, 553, 640],
    ];
}
