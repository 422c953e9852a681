//! The IDX format, raw or compressed: files walk in, [`Samples`] walk out.
//!
//! Two zeros, a type (8 is unsigned bytes), the number of dimensions, the dimensions as
//! big-endian `u32`, and the bytes. Source: LeCun's page of MNIST, and the IDX chapter of
//! <https://github.com/zalandoresearch/fashion-mnist>.

use std::path::Path;

use crate::graph::Features;
use crate::train::data::DataError;
use crate::train::data::Samples;
use crate::train::data::gzip::Content;
use crate::train::data::gzip::Header;
use crate::train::data::gzip::read_bytes;
use crate::train::data::gzip::read_file;

/// Files of MNIST and of those that took its format: images and labels, for training
/// and for testing. Any of them may end in `.gz`.
pub(super) const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// Dimensions of an array of bytes.
struct Dims<const RANK: usize>([u32; RANK]);

impl<const RANK: usize> Dims<RANK> {
    const MAGIC: [u8; 4] = [0, 0, 8, RANK as u8];
}

/// (images, height, width).
type ImageDims = Dims<3>;
/// (labels).
type LabelDims = Dims<1>;

impl<const RANK: usize> Header for Dims<RANK> {
    const BYTES: usize = 4 + 4 * RANK;

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        if !bytes.starts_with(&Self::MAGIC) {
            return Err(DataError::Magic {
                path: path.to_owned(),
                what: if RANK == 1 { "labels" } else { "images" },
                expected: Self::MAGIC,
                found: bytes.iter().copied().take(4).collect(),
            });
        }
        if bytes.len() < Self::BYTES {
            return Err(DataError::Truncated {
                path: path.to_owned(),
                expected: Self::BYTES as u64,
                found: bytes.len() as u64,
            });
        }
        let (dims, _) = bytes[4..].as_chunks::<4>();
        Ok(Self(std::array::from_fn(|axis| {
            u32::from_be_bytes(dims[axis])
        })))
    }

    fn body_bytes(&self) -> u64 {
        let dims = self.0.iter().map(|&dim| u64::from(dim));
        dims.fold(1, u64::saturating_mul)
    }
}

/// The images and labels of two files.
pub(super) fn read(images: &Path, labels: &Path) -> Result<Samples, DataError> {
    samples(
        (images, read_file(images)?),
        (labels, read_file(labels)?),
        u8::MAX,
    )
}

/// The images and labels of two embedded files, with names for messages.
pub(super) fn read_embedded(
    images: (&str, &[u8]),
    labels: (&str, &[u8]),
    white: u8,
) -> Result<Samples, DataError> {
    let (image_path, label_path) = (Path::new(images.0), Path::new(labels.0));
    samples(
        (image_path, read_bytes(image_path, images.1)?),
        (label_path, read_bytes(label_path, labels.1)?),
        white,
    )
}

fn samples(
    (image_path, images): (&Path, Content<ImageDims>),
    (label_path, labels): (&Path, Content<LabelDims>),
    white: u8,
) -> Result<Samples, DataError> {
    let [count, height, width] = images.header.0;
    if count == 0 {
        return Err(DataError::Empty {
            path: image_path.to_owned(),
        });
    }
    let image = Features {
        channels: 1,
        height: height as usize,
        width: width as usize,
    };
    if image.numel() == 0 {
        return Err(DataError::Shape {
            path: image_path.to_owned(),
            found: image,
        });
    }
    if labels.body.len() as u64 != u64::from(count) {
        return Err(DataError::Count {
            path: label_path.to_owned(),
            images: u64::from(count),
            labels: labels.body.len() as u64,
        });
    }
    let labels = labels.body.into_iter().map(u32::from).collect();
    Samples::new(image_path, image, white, images.body, labels)
}
