//! Batches: indices walk in, normalised pixels and labels walk out.

use crate::graph::Features;
use crate::tensor::Stream;
use crate::train::data::Augmentation;
use crate::train::data::Normalisation;
use crate::train::data::Samples;
use crate::train::engine::Images;

/// Images as a network takes them, and their labels. Kept between batches for its
/// memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Row-major (samples, channels, height, width), normalised.
    pub pixels: Vec<f32>,
    /// One per image.
    pub labels: Vec<u32>,
}

impl Batch {
    /// The images, for an engine.
    pub fn images(&self) -> Images<'_> {
        Images {
            pixels: &self.pixels,
            samples: self.labels.len(),
        }
    }
}

/// How the images of one epoch are varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variation {
    /// What may happen to an image.
    pub augmentation: Augmentation,
    /// Seed of the run.
    pub seed: u64,
    /// Epochs before this one.
    pub epoch: u64,
}

/// Makes batches of the images of one set.
#[derive(Clone, Debug)]
pub struct Assembler<'a> {
    samples: &'a Samples,
    /// What a pixel becomes, by channel and value.
    normalised: Vec<[f32; 256]>,
}

impl<'a> Assembler<'a> {
    /// Batches of `samples`, normalised: `(pixel / white - mean) / deviation`, each step
    /// rounded to `f32`, which for 8-bit images are the bits of torchvision's `ToTensor`
    /// and `Normalize`.
    ///
    /// # Panics
    /// If `normalisation` has not one entry per channel.
    pub fn new(samples: &'a Samples, normalisation: &Normalisation) -> Self {
        let channels = samples.image().channels;
        assert_eq!(normalisation.mean.len(), channels, "one mean per channel");
        assert_eq!(normalisation.deviation.len(), channels, "one per channel");
        let white = f32::from(samples.white());
        let normalised = normalisation.mean.iter().zip(&normalisation.deviation);
        let normalised = normalised.map(|(mean, deviation)| {
            std::array::from_fn(|pixel| (pixel as f32 / white - mean) / deviation)
        });
        Self {
            samples,
            normalised: normalised.collect(),
        }
    }

    /// Replaces `batch` by the images `indices`, as they are or varied. What happens to
    /// an image depends on (seed, epoch, sample) alone.
    ///
    /// # Panics
    /// If an index is not below the number of images.
    pub fn fill(&self, indices: &[u32], variation: Option<&Variation>, batch: &mut Batch) {
        let image = self.samples.image();
        let variation = variation.filter(|variation| !variation.augmentation.is_none());
        batch.labels.clear();
        batch.pixels.clear();
        batch.pixels.reserve(indices.len() * image.numel());
        for &sample in indices {
            let picture = self.samples.picture(sample as usize);
            batch.labels.push(self.samples.labels()[sample as usize]);
            match variation.map(|variation| Placement::drawn(variation, sample)) {
                None => self.append(picture, &mut batch.pixels),
                Some(placement) => self.append_placed(picture, placement, &mut batch.pixels),
            }
        }
    }

    fn append(&self, picture: &[u8], pixels: &mut Vec<f32>) {
        let planes = picture.chunks_exact(self.samples.image().pixels());
        for (plane, normalised) in planes.zip(&self.normalised) {
            pixels.extend(plane.iter().map(|&pixel| normalised[usize::from(pixel)]));
        }
    }

    fn append_placed(&self, picture: &[u8], placement: Placement, pixels: &mut Vec<f32>) {
        let Features { height, width, .. } = self.samples.image();
        let planes = picture.chunks_exact(height * width);
        // Columns that show the picture, and how many of them; the rest is padding.
        let (skipped, left) = clipped(placement.right, width);
        let shown = width - skipped - left;
        for (plane, normalised) in planes.zip(&self.normalised) {
            let black = normalised[0];
            for row in 0..height {
                let begin = pixels.len();
                let source = row.checked_add_signed(placement.down);
                match source.filter(|&source| source < height) {
                    None => pixels.resize(begin + width, black),
                    Some(source) => {
                        let source = &plane[source * width + skipped..][..shown];
                        pixels.resize(begin + left, black);
                        pixels.extend(source.iter().map(|&pixel| normalised[usize::from(pixel)]));
                        pixels.resize(begin + width, black);
                    }
                }
                if placement.is_mirrored {
                    pixels[begin..].reverse();
                }
            }
        }
    }
}

/// Pixels skipped at the start of a line, and pixels of padding before it, where the
/// window is `shift` to the right.
fn clipped(shift: isize, width: usize) -> (usize, usize) {
    let distance = shift.unsigned_abs().min(width);
    if shift > 0 {
        (distance, 0)
    } else {
        (0, distance)
    }
}

/// Where the window lies over the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    down: isize,
    right: isize,
    is_mirrored: bool,
}

impl Placement {
    /// Row, column and mirror are always drawn, so that leaving one out changes no
    /// other.
    fn drawn(variation: &Variation, sample: u32) -> Self {
        let Variation {
            augmentation,
            seed,
            epoch,
        } = *variation;
        let name = format!("epoch {epoch} sample {sample}");
        let mut stream = Stream::named(seed, "augmentation", &name);
        // Any more would only make it likelier that nothing is seen.
        let padding = augmentation.crop_padding.min(u16::MAX.into());
        let mut shift = || stream.below(2 * padding as u64 + 1) as isize - padding as isize;
        let (down, right) = (shift(), shift());
        let is_mirrored = stream.bits() >> 63 == 1;
        Self {
            down,
            right,
            is_mirrored: augmentation.flip && is_mirrored,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Two images of 2 channels, 2 rows and 3 columns with pixels 1, 2, ... 24.
    fn samples() -> Samples {
        let image = Features {
            channels: 2,
            height: 2,
            width: 3,
        };
        let pixels = (1..=24).collect();
        Samples::new(Path::new("test"), image, 255, pixels, vec![5, 7]).unwrap()
    }

    fn plain() -> Normalisation {
        Normalisation {
            mean: vec![0.0; 2],
            deviation: vec![1.0 / 255.0; 2],
        }
    }

    fn placed(down: isize, right: isize, is_mirrored: bool) -> Vec<f32> {
        let samples = samples();
        let assembler = Assembler::new(&samples, &plain());
        let placement = Placement {
            down,
            right,
            is_mirrored,
        };
        let mut pixels = Vec::new();
        assembler.append_placed(samples.picture(0), placement, &mut pixels);
        pixels.iter().map(|pixel| pixel.round()).collect()
    }

    #[test]
    fn windows_show_their_part_of_the_image_and_black_around_it() {
        let check = |down, right, is_mirrored, expected: [u8; 12]| {
            let expected = expected.map(f32::from);
            assert_eq!(placed(down, right, is_mirrored), expected, "{down} {right}");
        };
        check(0, 0, false, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        check(0, 0, true, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
        check(1, 0, false, [4, 5, 6, 0, 0, 0, 10, 11, 12, 0, 0, 0]);
        check(-1, 1, false, [0, 0, 0, 2, 3, 0, 0, 0, 0, 8, 9, 0]);
        check(0, -2, false, [0, 0, 1, 0, 0, 4, 0, 0, 7, 0, 0, 10]);
        check(0, -2, true, [1, 0, 0, 4, 0, 0, 7, 0, 0, 10, 0, 0]);
        check(0, 3, false, [0; 12]);
        check(0, -70_000, false, [0; 12]);
        check(9, 9, true, [0; 12]);
    }

    #[test]
    fn batches_are_normalised_as_torchvision_does() {
        let samples = samples();
        let normalisation = Normalisation {
            mean: vec![0.1307, 0.5],
            deviation: vec![0.3081, 0.25],
        };
        let mut batch = Batch::default();
        let assembler = Assembler::new(&samples, &normalisation);
        assembler.fill(&[1, 0], None, &mut batch);
        assert_eq!(batch.labels, [7, 5]);
        assert_eq!(batch.images().samples, 2);
        // torch 2.15.0: (torch.tensor([13, 24, 1]) / 255 - mean) / deviation, in f32.
        let found = [batch.pixels[0], batch.pixels[11], batch.pixels[12]];
        assert_eq!(found.map(f32::to_bits), GOLDEN);
    }

    const GOLDEN: [u32; 3] = [3_196_353_113, 3_218_067_408, 3_201_478_176];

    #[test]
    fn variation_depends_on_seed_epoch_and_sample_alone() {
        let samples = samples();
        let assembler = Assembler::new(&samples, &plain());
        let fill = |indices: &[u32], seed, epoch| {
            let variation = Variation {
                augmentation: Augmentation {
                    crop_padding: 20,
                    flip: true,
                },
                seed,
                epoch,
            };
            let mut batch = Batch::default();
            assembler.fill(indices, Some(&variation), &mut batch);
            batch.pixels
        };
        let both = fill(&[0, 1], 3, 0);
        assert_eq!(both[12..], fill(&[1], 3, 0));
        assert_eq!(fill(&[1, 0], 3, 0)[12..], both[..12]);
        let draws = |seed, epoch| {
            let variation = Variation {
                augmentation: Augmentation {
                    crop_padding: 20,
                    flip: true,
                },
                seed,
                epoch,
            };
            Placement::drawn(&variation, 0)
        };
        assert_ne!(draws(3, 0), draws(3, 1));
        assert_ne!(draws(3, 0), draws(4, 0));
    }

    #[test]
    fn all_places_and_both_sides_are_equally_likely() {
        let mut counts = [[[0_u32; 2]; 3]; 3];
        for sample in 0..18_000 {
            let variation = Variation {
                augmentation: Augmentation {
                    crop_padding: 1,
                    flip: true,
                },
                seed: 0,
                epoch: 0,
            };
            let drawn = Placement::drawn(&variation, sample);
            let (row, column) = ((drawn.down + 1) as usize, (drawn.right + 1) as usize);
            counts[row][column][usize::from(drawn.is_mirrored)] += 1;
        }
        // Five standard deviations: sqrt(18000 * 17/324) is 31.
        let all = counts.as_flattened().as_flattened();
        assert!(
            all.iter().all(|count| count.abs_diff(1000) < 155),
            "{all:?}"
        );
    }
}
