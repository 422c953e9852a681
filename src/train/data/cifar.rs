//! The binary version of CIFAR-10 and CIFAR-100: files of records walk in, [`Samples`]
//! walk out.
//!
//! A record is the label (in CIFAR-100 two: coarse, then fine, and the fine one counts)
//! and 3072 bytes: a red, a green and a blue plane of 32 rows. There is no header.
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::path::Path;

use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::graph::Features;
use crate::train::data::DataError;
use crate::train::data::Samples;

/// Shape of an image.
const IMAGE: Features = Features {
    channels: 3,
    height: 32,
    width: 32,
};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edition {
    /// One label per record.
    Ten,
    /// Two labels per record.
    Hundred,
}

impl Edition {
    /// Files of the training images, in order.
    pub(super) fn train_files(self) -> &'static [&'static str] {
        match self {
            Self::Ten => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            Self::Hundred => &["train.bin"],
        }
    }

    /// File of the test images.
    pub(super) fn test_file(self) -> &'static str {
        match self {
            Self::Ten => "test_batch.bin",
            Self::Hundred => "test.bin",
        }
    }

    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn classes(self) -> u8 {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }
}

/// The images of several files of `directory`, in order.
pub(super) fn read(
    directory: &Path,
    files: &[&str],
    edition: Edition,
) -> Result<Samples, DataError> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for file in files {
        let path = directory.join(file);
        let source = ByteSource::open(&path, Access::Mapped)?;
        append(&path, &source, edition, &mut pixels, &mut labels)?;
    }
    Samples::new(directory, IMAGE, u8::MAX, pixels, labels)
}

fn append(
    path: &Path,
    source: &ByteSource,
    edition: Edition,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<(), DataError> {
    let label_bytes = edition.label_bytes();
    let record = label_bytes + IMAGE.numel();
    let bytes = source.bytes();
    if bytes == 0 || !bytes.is_multiple_of(record as u64) {
        return Err(DataError::Records {
            path: path.to_owned(),
            found: bytes,
            record: record as u64,
        });
    }
    let no_memory = || DataError::Memory {
        path: path.to_owned(),
        bytes,
    };
    let len = usize::try_from(bytes).map_err(|_| no_memory())?;
    pixels.try_reserve(len).map_err(|_| no_memory())?;
    let mut scratch = Vec::new();
    let first = labels.len();
    for record in source.read(0, len, &mut scratch)?.chunks_exact(record) {
        let (names, picture) = record.split_at(label_bytes);
        let label = names[label_bytes - 1];
        if label >= edition.classes() {
            return Err(DataError::Label {
                path: path.to_owned(),
                sample: (labels.len() - first) as u64,
                found: label.into(),
                classes: edition.classes().into(),
            });
        }
        labels.push(label.into());
        pixels.extend_from_slice(picture);
    }
    source.check_unchanged()?;
    Ok(())
}
