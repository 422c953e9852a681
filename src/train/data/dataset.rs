//! What a data set is: images, labels, and how they are shown to a network.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::graph::Features;
use crate::train::data::DataError;

/// Images with their labels, for training and for testing.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Name, such as `fashion-mnist`, or that of the file.
    pub name: String,
    /// One name per class.
    pub class_names: Vec<String>,
    /// What may be trained on; a [`Split`](super::Split) takes the validation images
    /// from it.
    pub train: Samples,
    /// What is only evaluated on; images of the same shape.
    pub test: Samples,
    /// How pixels become what the network sees.
    pub normalisation: Normalisation,
    /// How training images are varied by default: as the literature does for this data
    /// set.
    pub augmentation: Augmentation,
}

impl Dataset {
    /// Shape of one image.
    pub fn image(&self) -> Features {
        self.train.image()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }
}

/// Images of one shape and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    image: Features,
    white: u8,
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Samples {
    /// Images with `pixels` in row-major order (samples, channels, height, width), in
    /// which black is 0 and white is `white`. `path` is where they come from.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::Shape`], [`DataError::Count`],
    /// [`DataError::Pixel`] and [`DataError::TooMany`].
    pub fn new(
        path: &Path,
        image: Features,
        white: u8,
        pixels: Vec<u8>,
        labels: Vec<u32>,
    ) -> Result<Self, DataError> {
        let path = || path.to_owned();
        let numel = image
            .height
            .checked_mul(image.width)
            .and_then(|pixels| pixels.checked_mul(image.channels))
            .filter(|&numel| numel > 0)
            .ok_or_else(|| DataError::Shape {
                path: path(),
                found: image,
            })?;
        if pixels.is_empty() {
            return Err(DataError::Empty { path: path() });
        }
        let images = pixels.len() / numel;
        if images != labels.len() || !pixels.len().is_multiple_of(numel) {
            return Err(DataError::Count {
                path: path(),
                images: images as u64,
                labels: labels.len() as u64,
            });
        }
        if u32::try_from(images).is_err() {
            return Err(DataError::TooMany {
                path: path(),
                found: images as u64,
            });
        }
        if let Some(idx) = pixels.iter().position(|&pixel| pixel > white) {
            return Err(DataError::Pixel {
                path: path(),
                sample: (idx / numel) as u64,
                found: pixels[idx],
                white,
            });
        }
        Ok(Self {
            image,
            white,
            pixels,
            labels,
        })
    }

    /// Shape of one image.
    pub fn image(&self) -> Features {
        self.image
    }

    /// Value of a white pixel, at least 1; black is 0.
    pub fn white(&self) -> u8 {
        self.white
    }

    /// Number of images; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// All labels, in the order of the images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// All pixels, row-major (samples, channels, height, width).
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Pixels of one image, row-major (channels, height, width).
    ///
    /// # Panics
    /// If `sample` is not below [`len`](Self::len).
    pub fn picture(&self, sample: usize) -> &[u8] {
        let numel = self.image.numel();
        &self.pixels[sample * numel..][..numel]
    }

    /// Indices of all images, ascending.
    pub fn indices(&self) -> Vec<u32> {
        (0..self.labels.len() as u32).collect()
    }

    /// The same labels with other pictures of the same shape.
    pub(super) fn with_pixels(&self, white: u8, pixels: Vec<u8>) -> Self {
        debug_assert_eq!(pixels.len(), self.pixels.len());
        Self {
            image: self.image,
            white,
            pixels,
            labels: self.labels.clone(),
        }
    }

    /// The images `indices`, in their order.
    ///
    /// # Panics
    /// If there is none, or an index is not below [`len`](Self::len).
    pub fn subset(&self, indices: &[u32]) -> Self {
        assert!(!indices.is_empty(), "samples have at least one image");
        let mut pixels = Vec::with_capacity(indices.len() * self.image.numel());
        for &sample in indices {
            pixels.extend_from_slice(self.picture(sample as usize));
        }
        let labels = indices.iter().map(|&sample| self.labels[sample as usize]);
        Self {
            image: self.image,
            white: self.white,
            pixels,
            labels: labels.collect(),
        }
    }
}

/// `(x - mean) / deviation` per channel, of pixels scaled to [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// One per channel.
    pub mean: Vec<f32>,
    /// One per channel, above 0.
    pub deviation: Vec<f32>,
}

impl Normalisation {
    /// The mean and the deviation of `samples` per channel. A channel of one value has
    /// deviation 1, so that it becomes 0.
    pub fn measured(samples: &Samples) -> Self {
        let image = samples.image();
        let mut counts = vec![[0_u64; 256]; image.channels];
        for (plane, pixels) in samples.pixels().chunks_exact(image.pixels()).enumerate() {
            let counts = &mut counts[plane % image.channels];
            for &pixel in pixels {
                counts[usize::from(pixel)] += 1;
            }
        }
        let white = f64::from(samples.white());
        let total = (samples.len() * image.pixels()) as f64;
        let mut measured = Self {
            mean: Vec::with_capacity(image.channels),
            deviation: Vec::with_capacity(image.channels),
        };
        for counts in counts {
            let values = || {
                let values = counts.iter().zip(0_u8..=255);
                values.map(|(&count, pixel)| (count as f64, f64::from(pixel) / white))
            };
            let mean = values().map(|(count, value)| count * value).sum::<f64>() / total;
            let squares: f64 = values()
                .map(|(count, value)| count * (value - mean) * (value - mean))
                .sum();
            let deviation = (squares / total).sqrt();
            measured.mean.push(mean as f32);
            measured.deviation.push(if deviation > 0.0 {
                deviation as f32
            } else {
                1.0
            });
        }
        measured
    }
}

/// How training images are varied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Black pixels added at each side, before a part of the image's size is cut out at
    /// random; 0 leaves the image where it is.
    pub crop_padding: usize,
    /// Whether one image in two is mirrored left to right.
    pub flip: bool,
}

impl Augmentation {
    /// Whether images stay as they are.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}
