//! Corrupted test images: [`Samples`] walk in, the same labels with other pictures walk
//! out.
//!
//! Kinds and constants are those of CIFAR-10-C, at any size of image: lengths in pixels
//! stay what they are for 32x32. Two more, rotation and translation, follow the shifts of
//! MNIST in arXiv:1906.02530. Pixels are computed in `f64` with the functions of `libm`
//! and rounded to 8 bits (the published code cuts the fraction off), so the bits are the
//! same on every machine.
//!
//! Source: Hendrycks and Dietterich, arXiv:1903.12261, and `make_cifar_c.py` of
//! <https://github.com/hendrycks/robustness>.

mod blur;
mod geometry;
mod noise;
mod tone;

use rayon::prelude::*;

use crate::graph::Features;
use crate::tensor::Stream;
use crate::train::data::Samples;
use crate::train::data::corruption::noise::Poisson;

/// A way in which images get worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Corruption {
    /// A normal number is added to every pixel.
    GaussianNoise,
    /// Every pixel counts photons: few of them in bad light.
    ShotNoise,
    /// Pixels become black or white.
    ImpulseNoise,
    /// A normal number times the pixel is added to it.
    SpeckleNoise,
    /// Convolution with a Gaussian.
    GaussianBlur,
    /// Convolution with a disk, as out of focus.
    DefocusBlur,
    /// The mean of enlarged copies, as of a camera that moves ahead.
    ZoomBlur,
    /// A constant is added to the value (of hue, saturation and value).
    Brightness,
    /// Pixels move towards the mean of their image.
    Contrast,
    /// Saturation changes. Only of colour images.
    Saturate,
    /// The image is made smaller and larger again.
    Pixelate,
    /// The image is turned about its middle, to either side.
    Rotation,
    /// The image is moved towards one of its sides.
    Translation,
}

/// How bad it gets: 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Severity(u8);

impl Severity {
    /// All of them, ascending.
    pub const ALL: [Self; 5] = [Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// The severity of this number, if it is from 1 to 5.
    pub fn new(number: u8) -> Option<Self> {
        (1..=5).contains(&number).then_some(Self(number))
    }

    /// From 1 to 5.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The entry of a table of five.
    fn of<T: Copy>(self, table: [T; 5]) -> T {
        table[usize::from(self.0 - 1)]
    }
}

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::ImpulseNoise,
        Self::SpeckleNoise,
        Self::GaussianBlur,
        Self::DefocusBlur,
        Self::ZoomBlur,
        Self::Brightness,
        Self::Contrast,
        Self::Saturate,
        Self::Pixelate,
        Self::Rotation,
        Self::Translation,
    ];

    /// Those that change images of this shape: all, but without colour no
    /// [`Saturate`](Self::Saturate).
    pub fn of_images(image: Features) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |&corruption| corruption != Self::Saturate || image.channels == 3)
    }

    /// Its name, such as `gaussian-noise`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian-noise",
            Self::ShotNoise => "shot-noise",
            Self::ImpulseNoise => "impulse-noise",
            Self::SpeckleNoise => "speckle-noise",
            Self::GaussianBlur => "gaussian-blur",
            Self::DefocusBlur => "defocus-blur",
            Self::ZoomBlur => "zoom-blur",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Saturate => "saturate",
            Self::Pixelate => "pixelate",
            Self::Rotation => "rotation",
            Self::Translation => "translation",
        }
    }

    /// The corruption of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|corruption| corruption.name() == name)
    }
}

/// All images of `samples`, corrupted; white is 255.
///
/// What happens to an image depends on (seed, corruption, severity, sample) alone, so
/// the result is the same for any number of threads.
pub fn corrupted(
    samples: &Samples,
    corruption: Corruption,
    severity: Severity,
    seed: u64,
) -> Samples {
    let image = samples.image();
    let effect = Effect::new(corruption, severity, samples.white());
    let mut pixels = vec![0; samples.pixels().len()];
    let pictures = pixels.par_chunks_exact_mut(image.numel()).enumerate();
    pictures.for_each(|(sample, pixels)| {
        let name = format!("{} {} sample {sample}", corruption.name(), severity.0);
        let mut stream = Stream::named(seed, "corruption", &name);
        let mut picture = Picture::new(image, samples.white(), samples.picture(sample));
        effect.apply(&mut picture, &mut stream);
        for (pixel, value) in pixels.iter_mut().zip(&picture.values) {
            *pixel = level(*value);
        }
    });
    samples.with_pixels(u8::MAX, pixels)
}

/// The nearest of the 256 levels, ties to even.
fn level(value: f64) -> u8 {
    (value * 255.0).round_ties_even().clamp(0.0, 255.0) as u8
}

/// An image with black 0 and white 1, row-major (channels, height, width).
#[derive(Clone, Debug)]
struct Picture {
    image: Features,
    values: Vec<f64>,
}

impl Picture {
    fn new(image: Features, white: u8, pixels: &[u8]) -> Self {
        let white = f64::from(white);
        Self {
            image,
            values: pixels
                .iter()
                .map(|&pixel| f64::from(pixel) / white)
                .collect(),
        }
    }

    /// The planes of the channels.
    fn planes(&mut self) -> impl Iterator<Item = &mut [f64]> {
        self.values.chunks_exact_mut(self.image.pixels())
    }

    /// Height and width.
    fn sides(&self) -> [usize; 2] {
        [self.image.height, self.image.width]
    }
}

/// A corruption with its constants.
enum Effect {
    Gaussian { deviation: f64 },
    Shot(Poisson),
    Impulse { share: f64 },
    Speckle { deviation: f64 },
    GaussianBlur { deviation: f64 },
    Defocus { radius: f64, deviation: f64 },
    Zoom { copies: u32 },
    Brightness { change: f64 },
    Contrast { factor: f64 },
    Saturate { factor: f64, change: f64 },
    Pixelate { factor: f64 },
    Rotation { degrees: f64 },
    Translation { sixteenths: usize },
}

impl Effect {
    fn new(corruption: Corruption, severity: Severity, white: u8) -> Self {
        let of = |table| severity.of(table);
        match corruption {
            Corruption::GaussianNoise => Self::Gaussian {
                deviation: of([0.04, 0.06, 0.08, 0.09, 0.10]),
            },
            Corruption::ShotNoise => {
                Self::Shot(Poisson::new(of([500.0, 250.0, 100.0, 75.0, 50.0]), white))
            }
            Corruption::ImpulseNoise => Self::Impulse {
                share: of([0.01, 0.02, 0.03, 0.05, 0.07]),
            },
            Corruption::SpeckleNoise => Self::Speckle {
                deviation: of([0.06, 0.1, 0.12, 0.16, 0.2]),
            },
            Corruption::GaussianBlur => Self::GaussianBlur {
                deviation: of([0.4, 0.6, 0.7, 0.8, 1.0]),
            },
            Corruption::DefocusBlur => Self::Defocus {
                radius: of([0.3, 0.4, 0.5, 1.0, 1.5]),
                deviation: of([0.4, 0.5, 0.6, 0.2, 0.1]),
            },
            // Copies enlarged by 1.00, 1.01 and so on: the lengths of the published
            // `np.arange(1, 1.06, 0.01)` and its like.
            Corruption::ZoomBlur => Self::Zoom {
                copies: severity.of(ZOOM_COPIES),
            },
            Corruption::Brightness => Self::Brightness {
                change: of([0.05, 0.1, 0.15, 0.2, 0.3]),
            },
            Corruption::Contrast => Self::Contrast {
                factor: of([0.75, 0.5, 0.4, 0.3, 0.15]),
            },
            Corruption::Saturate => Self::Saturate {
                factor: of([0.3, 0.1, 1.5, 2.0, 2.5]),
                change: of([0.0, 0.0, 0.0, 0.1, 0.2]),
            },
            Corruption::Pixelate => Self::Pixelate {
                factor: of([0.95, 0.9, 0.85, 0.75, 0.65]),
            },
            // Source of both: arXiv:1906.02530, figure 1: steps of 15 degrees, and of
            // 2 of 28 pixels.
            Corruption::Rotation => Self::Rotation {
                degrees: of([15.0, 30.0, 45.0, 60.0, 75.0]),
            },
            Corruption::Translation => Self::Translation {
                sixteenths: severity.0.into(),
            },
        }
    }

    fn apply(&self, picture: &mut Picture, stream: &mut Stream) {
        match *self {
            Self::Gaussian { deviation } => noise::add(picture, deviation, stream),
            Self::Shot(ref poisson) => poisson.count(picture, stream),
            Self::Impulse { share } => noise::salt_and_pepper(picture, share, stream),
            Self::Speckle { deviation } => noise::add_in_proportion(picture, deviation, stream),
            Self::GaussianBlur { deviation } => blur::gaussian(picture, deviation),
            Self::Defocus { radius, deviation } => blur::defocus(picture, radius, deviation),
            Self::Zoom { copies } => geometry::zoom(picture, copies),
            Self::Brightness { change } => tone::brighten(picture, change),
            Self::Contrast { factor } => tone::flatten(picture, factor),
            Self::Saturate { factor, change } => tone::saturate(picture, factor, change),
            Self::Pixelate { factor } => geometry::pixelate(picture, factor),
            Self::Rotation { degrees } => {
                let is_left = stream.bits() >> 63 == 1;
                geometry::rotate(picture, if is_left { degrees } else { -degrees });
            }
            Self::Translation { sixteenths } => {
                let sides = picture.sides();
                let [down, right] = sides.map(|side| (side * sixteenths).div_ceil(16) as isize);
                let (down, right) = match stream.below(4) {
                    0 => (down, 0),
                    1 => (-down, 0),
                    2 => (0, right),
                    _ => (0, -right),
                };
                geometry::translate(picture, down, right);
            }
        }
    }
}

/// Copies in the mean of a zoom blur, by severity.
const ZOOM_COPIES: [u32; 5] = [7, 12, 16, 21, 26];

#[cfg(test)]
mod tests;
