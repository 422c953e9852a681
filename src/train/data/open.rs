//! From what the user says to a [`Dataset`].

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;

use crate::train::data::Augmentation;
use crate::train::data::DataError;
use crate::train::data::Dataset;
use crate::train::data::Known;
use crate::train::data::Normalisation;
use crate::train::data::Samples;
use crate::train::data::cifar;
use crate::train::data::cifar::Edition;
use crate::train::data::idx;
use crate::train::data::tensors;

/// Which data set is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSpec {
    /// The name of a [`Known`] data set, or the path of a directory or a `.st` file. A
    /// name wins over a path; `./mnist` is always a path.
    pub name: String,
    /// Where the files of a known data set are, or a directory that holds that of this
    /// data set; without it, they are where the system's packages put them.
    pub directory: Option<PathBuf>,
}

impl Default for DataSpec {
    fn default() -> Self {
        Self {
            name: Known::Digits.name().to_owned(),
            directory: None,
        }
    }
}

/// Reads a data set into memory.
///
/// # Errors
/// [`DataError`] names the file and what is wrong with it, or says how to get it.
pub fn open(spec: &DataSpec) -> Result<Dataset, DataError> {
    let known = Known::from_name(&spec.name);
    if spec.directory.is_some() && known.is_none_or(|known| known == Known::Digits) {
        return Err(DataError::DirectoryUnused {
            name: spec.name.clone(),
        });
    }
    match known {
        Some(Known::Digits) => digits(),
        Some(known) => open_known(known, spec.directory.as_deref()),
        None => open_path(Path::new(&spec.name)),
    }
}

/// Value of a white pixel of the digits: they count the black pixels of 4x4 squares.
const DIGITS_WHITE: u8 = 16;

/// An embedded file and its name.
macro_rules! embedded {
    ($name:literal) => {
        (
            concat!("digits/", $name),
            include_bytes!(concat!("digits/", $name)).as_slice(),
        )
    };
}

fn digits() -> Result<Dataset, DataError> {
    let train = idx::read_embedded(
        embedded!("train-images-idx3-ubyte.gz"),
        embedded!("train-labels-idx1-ubyte.gz"),
        DIGITS_WHITE,
    )?;
    let test = idx::read_embedded(
        embedded!("t10k-images-idx3-ubyte.gz"),
        embedded!("t10k-labels-idx1-ubyte.gz"),
        DIGITS_WHITE,
    )?;
    let embedded = Path::new("digits");
    of_known(Known::Digits, train, test, embedded, [embedded; 2])
}

/// `images` is the file of the training images; `labels` are those of the labels, for
/// training and for testing.
fn of_known(
    known: Known,
    train: Samples,
    test: Samples,
    images: &Path,
    labels: [&Path; 2],
) -> Result<Dataset, DataError> {
    if train.image() != known.image() {
        return Err(DataError::OtherShape {
            path: images.to_owned(),
            expected: known.image(),
            found: train.image(),
        });
    }
    let classes = known.class_names().len();
    check_labels(labels[0], &train, classes)?;
    check_labels(labels[1], &test, classes)?;
    Ok(Dataset {
        name: known.name().to_owned(),
        class_names: known
            .class_names()
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        train,
        test,
        normalisation: known.normalisation(),
        augmentation: known.augmentation(),
    })
}

fn check_labels(path: &Path, samples: &Samples, classes: usize) -> Result<(), DataError> {
    let mut labels = samples.labels().iter();
    match labels.position(|&label| label as usize >= classes) {
        None => Ok(()),
        Some(sample) => Err(DataError::Label {
            path: path.to_owned(),
            sample: sample as u64,
            found: samples.labels()[sample].into(),
            classes: classes as u64,
        }),
    }
}

fn open_known(known: Known, directory: Option<&Path>) -> Result<Dataset, DataError> {
    let looked_in: Vec<PathBuf> = match directory {
        Some(directory) => known
            .subdirectories()
            .iter()
            .map(|name| match *name {
                "" => directory.to_owned(),
                name => directory.join(name),
            })
            .collect(),
        None => known
            .system_directory()
            .map(PathBuf::from)
            .into_iter()
            .collect(),
    };
    let is_right = |layout: &Layout| layout.known().is_none_or(|found| found == known);
    let found = looked_in
        .iter()
        .find_map(|directory| Layout::find(directory).filter(is_right));
    match found {
        Some(layout) => layout.read_known(known),
        None => Err(DataError::Missing { known, looked_in }),
    }
}

fn open_path(path: &Path) -> Result<Dataset, DataError> {
    if path.is_dir() {
        let layout = Layout::find(path).ok_or_else(|| DataError::Directory {
            path: path.to_owned(),
        })?;
        return match layout.known() {
            Some(known) => layout.read_known(known),
            None => layout.read_unknown(path),
        };
    }
    if Layout::has_part(path) {
        return Err(DataError::Part {
            path: path.to_owned(),
        });
    }
    if path.exists() {
        return tensors::read(path);
    }
    Err(DataError::Unknown {
        name: path.to_string_lossy().into_owned(),
    })
}

/// The files of a data set in one directory.
#[derive(Debug)]
enum Layout {
    /// Images and labels, for training and for testing.
    Idx([PathBuf; 4]),
    /// CIFAR in a directory.
    Cifar(PathBuf, Edition),
}

impl Layout {
    /// What lies in `directory`, by its first file.
    fn find(directory: &Path) -> Option<Self> {
        if idx_file(directory, idx::FILES[0]).is_file() {
            let files = idx::FILES.map(|name| idx_file(directory, name));
            return Some(Self::Idx(files));
        }
        [Edition::Ten, Edition::Hundred]
            .into_iter()
            .find(|edition| directory.join(edition.train_files()[0]).is_file())
            .map(|edition| Self::Cifar(directory.to_owned(), edition))
    }

    /// Whether `path` exists and has the name of one of several files.
    fn has_part(path: &Path) -> bool {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let name = name.strip_suffix(".gz").unwrap_or(name);
        let is_cifar =
            |edition: Edition| edition.train_files().contains(&name) || edition.test_file() == name;
        let is_part =
            idx::FILES.contains(&name) || is_cifar(Edition::Ten) || is_cifar(Edition::Hundred);
        is_part && path.exists()
    }

    /// The only data set that it can be.
    fn known(&self) -> Option<Known> {
        match self {
            Self::Idx(_) => None,
            Self::Cifar(_, Edition::Ten) => Some(Known::Cifar10),
            Self::Cifar(_, Edition::Hundred) => Some(Known::Cifar100),
        }
    }

    fn read(&self) -> Result<(Samples, Samples), DataError> {
        match self {
            Self::Idx([train_images, train_labels, test_images, test_labels]) => {
                let train = idx::read(train_images, train_labels)?;
                let test = idx::read(test_images, test_labels)?;
                if test.image() != train.image() {
                    return Err(DataError::OtherShape {
                        path: test_images.clone(),
                        expected: train.image(),
                        found: test.image(),
                    });
                }
                Ok((train, test))
            }
            Self::Cifar(directory, edition) => {
                let train = cifar::read(directory, edition.train_files(), *edition)?;
                let test = cifar::read(directory, &[edition.test_file()], *edition)?;
                Ok((train, test))
            }
        }
    }

    fn read_known(&self, known: Known) -> Result<Dataset, DataError> {
        let (train, test) = self.read()?;
        match self {
            Self::Idx([images, train_labels, _, test_labels]) => {
                of_known(known, train, test, images, [train_labels, test_labels])
            }
            Self::Cifar(directory, _) => of_known(known, train, test, directory, [directory; 2]),
        }
    }

    fn read_unknown(&self, directory: &Path) -> Result<Dataset, DataError> {
        let (train, test) = self.read()?;
        let largest = train.labels().iter().chain(test.labels()).max();
        let classes = largest.map_or(0, |&label| label + 1);
        let name = directory.file_name().map(OsStr::to_string_lossy);
        Ok(Dataset {
            name: name.map_or_else(|| "data".to_owned(), Cow::into_owned),
            class_names: (0..classes).map(|class| class.to_string()).collect(),
            normalisation: Normalisation::measured(&train),
            augmentation: Augmentation::default(),
            train,
            test,
        })
    }
}

/// The file called `name`, or `name.gz` if only that exists.
fn idx_file(directory: &Path, name: &str) -> PathBuf {
    let plain = directory.join(name);
    let compressed = directory.join(format!("{name}.gz"));
    if !plain.exists() && compressed.exists() {
        compressed
    } else {
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_scikit_learn() {
        let digits = open(&DataSpec::default()).unwrap();
        assert_eq!((digits.train.len(), digits.test.len()), (1437, 360));
        assert_eq!((digits.image().numel(), digits.classes()), (64, 10));
        // Printed by digits/make.py.
        let sum = |samples: &Samples| samples.pixels().iter().map(|&p| u64::from(p)).sum::<u64>();
        assert_eq!((sum(&digits.train), sum(&digits.test)), (449_368, 112_350));
        let labels = |samples: &Samples| samples.labels().iter().sum::<u32>();
        assert_eq!((labels(&digits.train), labels(&digits.test)), (6452, 1618));
        assert_eq!(digits.train.labels()[..10], [3, 9, 1, 3, 1, 9, 4, 4, 2, 8]);
        assert_eq!(digits.train.picture(0)[..8], [0, 0, 8, 16, 16, 12, 0, 0]);
        let measured = Normalisation::measured(&digits.train);
        assert!((measured.mean[0] - 0.305_383_4).abs() < 1e-6);
        assert!((measured.deviation[0] - 0.376_119_17).abs() < 1e-6);
    }

    #[test]
    fn fashion_mnist_is_what_its_constants_say() {
        let spec = DataSpec {
            name: "fashion-mnist".to_owned(),
            directory: None,
        };
        let fashion = match open(&spec) {
            Err(DataError::Missing { .. }) => {
                eprintln!("skipped: Fashion-MNIST is not installed");
                return;
            }
            fashion => fashion.unwrap(),
        };
        assert_eq!((fashion.train.len(), fashion.test.len()), (60_000, 10_000));
        assert_eq!(fashion.image().numel(), 784);
        let mut counts = [0; 10];
        for &label in fashion.train.labels() {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, [6000; 10]);
        let measured = Normalisation::measured(&fashion.train);
        assert!((measured.mean[0] - fashion.normalisation.mean[0]).abs() < 1e-4);
        assert!((measured.deviation[0] - fashion.normalisation.deviation[0]).abs() < 1e-4);
    }
}
