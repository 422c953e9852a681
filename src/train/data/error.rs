//! Every way in which data can be unfit, and how it is said.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::map::SourceError;
use crate::graph::Features;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;
use crate::train::data::Known;

/// Why there is no data set.
#[derive(Debug, Error)]
pub enum DataError {
    /// Neither a known name nor a path.
    #[error(
        "`{}` is neither a file, a directory nor one of the data sets {}",
        Printable(name),
        known_names()
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The files of a known data set are not where they are looked for.
    #[error(
        "the files of `{}` are not {}; {}",
        known.name(), places(looked_in), known.remedy()
    )]
    Missing {
        /// The data set.
        known: Known,
        /// Directories that were looked in.
        looked_in: Vec<PathBuf>,
    },
    /// A data directory is given for something that is not looked for in it.
    #[error(
        "`{}` is not looked for in a data directory: leave `--data-dir` out",
        Printable(name)
    )]
    DirectoryUnused {
        /// What was asked for.
        name: String,
    },
    /// A directory holds no data set in a known format.
    #[error(
        "`{}` holds no data set: expected `train-images-idx3-ubyte` (or `.gz`), \
         `data_batch_1.bin`, `train.bin`, or name a `.st` file", path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// One file of several is named.
    #[error("`{}` is one file of a data set; name the directory that holds all of them", path.display())]
    Part {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Compressed bytes are damaged.
    #[error("`{}` is no sound gzip file: after {bytes} bytes of content, it cannot go on", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// Bytes that could be decompressed.
        bytes: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The first bytes are not those of the format.
    #[error(
        "`{}` begins with the bytes {found:02x?}, expected {expected:02x?}: no IDX file of {what}",
        path.display()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// What it should hold: images or labels.
        what: &'static str,
        /// The bytes that it should begin with.
        expected: [u8; 4],
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// The file ends before its header says.
    #[error("`{}` holds {found} bytes, but its header asks for {expected}: it is cut short", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes with the header, after decompression.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A compressed file is too short for what its header says.
    #[error(
        "the header of `{}` asks for {expected} bytes, which {stored} compressed bytes cannot hold",
        path.display()
    )]
    Oversized {
        /// The file.
        path: PathBuf,
        /// Bytes with the header, after decompression.
        expected: u64,
        /// Bytes of the file.
        stored: u64,
    },
    /// The file goes on after what its header says.
    #[error("`{}` holds more than the {expected} bytes that its header asks for", path.display())]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Bytes with the header, after decompression.
        expected: u64,
    },
    /// There is no image.
    #[error("`{}` holds no image", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// There are more images than can be numbered.
    #[error("`{}` holds {found} images, more than 2^32 - 1", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Number of images.
        found: u64,
    },
    /// Images have no pixel, or more than can be counted.
    #[error(
        "`{}` holds images of {} x {} x {} (channels, height, width), which are no images",
        path.display(), found.channels, found.height, found.width
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// Their shape.
        found: Features,
    },
    /// Images of one data set have different shapes.
    #[error(
        "images of `{}` are {} x {} x {} (channels, height, width), expected {} x {} x {}",
        path.display(),
        found.channels, found.height, found.width,
        expected.channels, expected.height, expected.width
    )]
    OtherShape {
        /// The file.
        path: PathBuf,
        /// Shape of the data set.
        expected: Features,
        /// Shape of the images in this file.
        found: Features,
    },
    /// There is not one label per image.
    #[error("`{}` holds {labels} labels for {images} images", path.display())]
    Count {
        /// The file of labels.
        path: PathBuf,
        /// Number of images.
        images: u64,
        /// Number of labels.
        labels: u64,
    },
    /// A label is no class.
    #[error("label {found} of image {sample} in `{}` is no class: expected 0 to {}", path.display(), classes - 1)]
    Label {
        /// The file of labels.
        path: PathBuf,
        /// Place of the first such image, from 0.
        sample: u64,
        /// Its label.
        found: i128,
        /// Number of classes.
        classes: u64,
    },
    /// A pixel is brighter than white.
    #[error("a pixel of image {sample} in `{}` is {found}, but white is {white}", path.display())]
    Pixel {
        /// The file.
        path: PathBuf,
        /// Place of the first such image, from 0.
        sample: u64,
        /// The pixel.
        found: u8,
        /// The brightest legal value.
        white: u8,
    },
    /// A part of the images cannot be held out.
    #[error(
        "cannot hold out {found} of {samples} images: expected a fraction of at least 0 and \
         below 1 that leaves images to train on"
    )]
    Fraction {
        /// The fraction.
        found: f64,
        /// Number of images.
        samples: u64,
    },
    /// A file of records does not end with one.
    #[error(
        "`{}` has {found} bytes, expected one or more records of {record}: cut short, or no \
         CIFAR file", path.display()
    )]
    Records {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// Bytes of one record.
        record: u64,
    },
    /// A file is no safetensors file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file lacks a tensor.
    #[error("`{}` lacks the tensor `{tensor}` of a data set", path.display())]
    TensorMissing {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
    },
    /// A file has a tensor that data sets do not have.
    #[error(
        "`{}` has the tensor `{}`, expected `images`, `labels`, `test_images`, `test_labels`: \
         no data set", path.display(), Printable(tensor)
    )]
    TensorUnknown {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor has the wrong element type.
    #[error("tensor `{tensor}` of `{}` is of dtype {found}, expected {expected}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        found: Dtype,
        /// What it should be.
        expected: &'static str,
    },
    /// A tensor has the wrong number of dimensions.
    #[error("tensor `{tensor}` of `{}` has the shape {found}, expected {expected}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        found: Shape,
        /// What it should be.
        expected: &'static str,
    },
    /// A value of the metadata cannot be read.
    #[error("metadata `{key}` of `{}` is `{}`, expected {expected}", path.display(), Printable(found))]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds, cut after the first few characters.
        found: String,
    },
    /// There are too few images to test on some of them.
    #[error(
        "`{}` has no tensor `test_images`, and its {found} images are too few to take one in \
         {expected} for testing", path.display()
    )]
    TooFew {
        /// The file.
        path: PathBuf,
        /// Number of images.
        found: u64,
        /// Images of which one is for testing.
        expected: u64,
    },
    /// There is no memory for the images.
    #[error("no memory for {bytes} bytes of `{}`", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        bytes: u64,
    },
}

fn known_names() -> String {
    Known::ALL
        .map(|known| format!("`{}`", known.name()))
        .join(", ")
}

fn places(directories: &[PathBuf]) -> String {
    let places: Vec<String> = directories
        .iter()
        .map(|directory| format!("`{}`", directory.display()))
        .collect();
    match places.as_slice() {
        [] => "in a place that is known without `--data-dir`".to_owned(),
        places => format!("in {}", places.join(", ")),
    }
}
