//! Data sets as safetensors: one file walks in, a [`Dataset`] walks out.
//!
//! | tensor | type | shape |
//! | --- | --- | --- |
//! | `images` | U8 | (samples, height, width) or (samples, channels, height, width) |
//! | `labels` | an integer | (samples) |
//! | `test_images`, `test_labels` | the same | the same |
//!
//! Without the two test tensors, a fifth of the images, drawn at random by a fixed seed,
//! becomes the test set. Images of floats are refused: whether they are scaled and
//! normalised is not written in them.
//!
//! Metadata, all of it optional: `class_names`, a JSON list of strings; `mean` and
//! `deviation`, JSON lists of one number per channel, of pixels scaled to [0, 1]
//! (measured on the training images if absent); `white`, the value of a white pixel
//! (255); `crop_padding`, a number of pixels (0); `flip`, `true` or `false` (`false`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::StoredTensor;
use crate::graph::Features;
use crate::tensor::Dtype;
use crate::tensor::Stream;
use crate::train::data::Augmentation;
use crate::train::data::DataError;
use crate::train::data::Dataset;
use crate::train::data::Normalisation;
use crate::train::data::Samples;
use crate::train::data::VALIDATION_SEED;

/// Images and labels, for training and for testing.
const NAMES: [&str; 4] = ["images", "labels", "test_images", "test_labels"];

/// Most classes of a file that does not name them: its largest label decides, and a
/// wrong one must not ask for a network of billions of outputs.
const MOST_CLASSES: u32 = 1 << 16;

/// Of so many images, one is for testing where a file does not say which.
const TEST_SHARE: usize = 5;

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Dataset, DataError> {
    let file = File {
        path,
        checkpoint: Checkpoint::open(path, &OpenOptions::default())?,
    };
    let unknown = file.checkpoint.tensors().iter();
    if let Some(tensor) = unknown
        .map(|tensor| &tensor.name)
        .find(|name| !NAMES.contains(&name.as_str()))
    {
        return Err(DataError::TensorUnknown {
            path: path.to_owned(),
            tensor: tensor.clone(),
        });
    }
    let metadata = file.checkpoint.metadata();
    let metadata = Metadata { path, metadata };
    let white = metadata.white()?;
    let class_names: Option<Vec<String>> = metadata.json(
        "class_names",
        "a JSON list of at least one string",
        |names| !Vec::is_empty(names),
    )?;
    let classes = class_names.as_ref().map(|names| names.len() as u64);
    let has_test = NAMES[2..]
        .iter()
        .any(|name| file.checkpoint.find(name).is_some());
    let all = file.samples(NAMES[0], NAMES[1], white, classes)?;
    let (train, test) = if has_test {
        let test = file.samples(NAMES[2], NAMES[3], white, classes)?;
        if test.image() != all.image() {
            return Err(DataError::OtherShape {
                path: path.to_owned(),
                expected: all.image(),
                found: test.image(),
            });
        }
        (all, test)
    } else {
        parted(path, &all)?
    };
    file.checkpoint.check_unchanged()?;
    let largest = train.labels().iter().chain(test.labels()).max();
    let class_names = class_names.unwrap_or_else(|| {
        let classes = largest.map_or(0, |&label| label + 1);
        (0..classes).map(|class| class.to_string()).collect()
    });
    Ok(Dataset {
        name: path
            .file_stem()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        class_names,
        normalisation: metadata.normalisation(&train)?,
        augmentation: metadata.augmentation()?,
        train,
        test,
    })
}

/// The images to train on, and those to test on.
fn parted(path: &Path, all: &Samples) -> Result<(Samples, Samples), DataError> {
    let mut order = all.indices();
    Stream::named(VALIDATION_SEED, "test", "split").shuffle(&mut order);
    let mut train = order.split_off(order.len() / TEST_SHARE);
    if order.is_empty() {
        return Err(DataError::TooFew {
            path: path.to_owned(),
            found: train.len() as u64,
            expected: TEST_SHARE as u64,
        });
    }
    train.sort_unstable();
    order.sort_unstable();
    Ok((all.subset(&train), all.subset(&order)))
}

struct File<'a> {
    path: &'a Path,
    checkpoint: Checkpoint,
}

impl File<'_> {
    fn tensor(&self, name: &str) -> Result<&StoredTensor, DataError> {
        let idx = self.checkpoint.find(name);
        let idx = idx.ok_or_else(|| DataError::TensorMissing {
            path: self.path.to_owned(),
            tensor: name.to_owned(),
        })?;
        Ok(&self.checkpoint.tensors()[idx])
    }

    fn samples(
        &self,
        images: &str,
        labels: &str,
        white: u8,
        classes: Option<u64>,
    ) -> Result<Samples, DataError> {
        let images = self.tensor(images)?;
        if images.dtype != Dtype::U8 {
            return Err(self.wrong_dtype(images, "U8, pixels from 0 to 255"));
        }
        let sizes: Option<Vec<usize>> = images
            .shape
            .dims()
            .iter()
            .map(|&dim| dim.try_into().ok())
            .collect();
        let image = match sizes.as_deref() {
            Some(&[_, height, width]) => Features {
                channels: 1,
                height,
                width,
            },
            Some(&[_, channels, height, width]) => Features {
                channels,
                height,
                width,
            },
            _ => {
                let expected = "(samples, height, width) or (samples, channels, height, width)";
                return Err(self.wrong_shape(images, expected));
            }
        };
        let count = images.shape.dims()[0];
        let labels = self.tensor(labels)?;
        if labels.shape.rank() != 1 {
            return Err(self.wrong_shape(labels, "(samples)"));
        }
        if labels.shape.numel() != count {
            return Err(DataError::Count {
                path: self.path.to_owned(),
                images: count,
                labels: labels.shape.numel(),
            });
        }
        let labels = self.labels(labels, classes.unwrap_or(MOST_CLASSES.into()))?;
        Samples::new(self.path, image, white, self.bytes(images)?, labels)
    }

    fn bytes(&self, tensor: &StoredTensor) -> Result<Vec<u8>, DataError> {
        let mut scratch = Vec::new();
        let numel = tensor.shape.numel();
        let bytes = self.checkpoint.read(tensor, 0, numel, &mut scratch)?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len())
            .map_err(|_| DataError::Memory {
                path: self.path.to_owned(),
                bytes: bytes.len() as u64,
            })?;
        copy.extend_from_slice(bytes);
        Ok(copy)
    }

    fn labels(&self, tensor: &StoredTensor, classes: u64) -> Result<Vec<u32>, DataError> {
        let bytes = self.bytes(tensor)?;
        let numbers: Vec<i128> = match tensor.dtype {
            Dtype::U8 => bytes.iter().map(|&byte| byte.into()).collect(),
            Dtype::I8 => numbers(&bytes, |byte| i8::from_le_bytes(byte).into()),
            Dtype::U16 => numbers(&bytes, |bytes| u16::from_le_bytes(bytes).into()),
            Dtype::I16 => numbers(&bytes, |bytes| i16::from_le_bytes(bytes).into()),
            Dtype::U32 => numbers(&bytes, |bytes| u32::from_le_bytes(bytes).into()),
            Dtype::I32 => numbers(&bytes, |bytes| i32::from_le_bytes(bytes).into()),
            Dtype::U64 => numbers(&bytes, |bytes| u64::from_le_bytes(bytes).into()),
            Dtype::I64 => numbers(&bytes, |bytes| i64::from_le_bytes(bytes).into()),
            _ => return Err(self.wrong_dtype(tensor, "an integer type")),
        };
        let labels = numbers.into_iter().enumerate().map(|(sample, number)| {
            u32::try_from(number)
                .ok()
                .filter(|&label| u64::from(label) < classes)
                .ok_or_else(|| DataError::Label {
                    path: self.path.to_owned(),
                    sample: sample as u64,
                    found: number,
                    classes,
                })
        });
        labels.collect()
    }

    fn wrong_dtype(&self, tensor: &StoredTensor, expected: &'static str) -> DataError {
        DataError::TensorDtype {
            path: self.path.to_owned(),
            tensor: tensor.name.clone(),
            found: tensor.dtype,
            expected,
        }
    }

    fn wrong_shape(&self, tensor: &StoredTensor, expected: &'static str) -> DataError {
        DataError::TensorShape {
            path: self.path.to_owned(),
            tensor: tensor.name.clone(),
            found: tensor.shape.clone(),
            expected,
        }
    }
}

fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> i128) -> Vec<i128> {
    let (words, _) = bytes.as_chunks::<N>();
    words.iter().map(|&word| number(word)).collect()
}

/// What a file says about its images.
struct Metadata<'a> {
    path: &'a Path,
    metadata: BTreeMap<&'a str, &'a str>,
}

impl Metadata<'_> {
    /// The value of `key`, if there is one.
    fn json<T: DeserializeOwned>(
        &self,
        key: &'static str,
        expected: &'static str,
        is_legal: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, DataError> {
        let Some(text) = self.metadata.get(key) else {
            return Ok(None);
        };
        let value = serde_json::from_str(text).ok().filter(is_legal);
        let value = value.ok_or_else(|| DataError::Metadata {
            path: self.path.to_owned(),
            key,
            expected,
            found: text.chars().take(60).collect(),
        })?;
        Ok(Some(value))
    }

    fn white(&self) -> Result<u8, DataError> {
        let white = self.json("white", "a whole number from 1 to 255", |&white: &u8| {
            white > 0
        })?;
        Ok(white.unwrap_or(u8::MAX))
    }

    fn normalisation(&self, train: &Samples) -> Result<Normalisation, DataError> {
        let channels = train.image().channels;
        let mut measured = Normalisation::measured(train);
        let mean = self.json(
            "mean",
            "a JSON list of one number per channel",
            |mean: &Vec<f32>| mean.len() == channels && mean.iter().all(|mean| mean.is_finite()),
        )?;
        let deviation = self.json(
            "deviation",
            "a JSON list of one positive number per channel",
            |deviation: &Vec<f32>| {
                deviation.len() == channels
                    && deviation
                        .iter()
                        .all(|&value| value.is_normal() && value > 0.0)
            },
        )?;
        measured.mean = mean.unwrap_or(measured.mean);
        measured.deviation = deviation.unwrap_or(measured.deviation);
        Ok(measured)
    }

    fn augmentation(&self) -> Result<Augmentation, DataError> {
        let expected = "a whole number from 0 to 65535";
        let crop_padding: Option<u16> = self.json("crop_padding", expected, |_| true)?;
        let flip = self.json("flip", "`true` or `false`", |_: &bool| true)?;
        Ok(Augmentation {
            crop_padding: crop_padding.unwrap_or_default().into(),
            flip: flip.unwrap_or_default(),
        })
    }
}
