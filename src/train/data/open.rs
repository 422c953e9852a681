//! From what the user says to a [`Dataset`].

use std::path::Path;
use std::path::PathBuf;

use crate::train::data::Augmentation;
use crate::train::data::DataError;
use crate::train::data::Dataset;
use crate::train::data::Known;
use crate::train::data::Normalisation;
use crate::train::data::Samples;
use crate::train::data::idx;

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
    match Known::from_name(&spec.name) {
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
    of_known(Known::Digits, train, test, [Path::new("digits"); 2])
}

/// `label_paths` are the files of the labels, for training and for testing.
fn of_known(
    known: Known,
    train: Samples,
    test: Samples,
    label_paths: [&Path; 2],
) -> Result<Dataset, DataError> {
    let classes = known.class_names().len();
    check_labels(label_paths[0], &train, classes)?;
    check_labels(label_paths[1], &test, classes)?;
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
            .map(|name| directory.join(name))
            .collect(),
        None => known
            .system_directory()
            .map(PathBuf::from)
            .into_iter()
            .collect(),
    };
    let found = looked_in
        .iter()
        .find_map(|directory| Layout::find(directory));
    let Some(layout) = found else {
        return Err(DataError::Missing { known, looked_in });
    };
    let (train, test) = layout.read()?;
    of_known(known, train, test, layout.label_paths())
}

fn open_path(path: &Path) -> Result<Dataset, DataError> {
    if !path.is_dir() {
        return Err(DataError::Unknown {
            name: path.to_string_lossy().into_owned(),
        });
    }
    let layout = Layout::find(path).ok_or_else(|| DataError::Directory {
        path: path.to_owned(),
    })?;
    let (train, test) = layout.read()?;
    let largest = train.labels().iter().chain(test.labels()).max();
    let classes = largest.map_or(0, |&label| label as usize + 1);
    Ok(Dataset {
        name: path.file_name().map_or_else(
            || "data".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        ),
        class_names: (0..classes).map(|class| class.to_string()).collect(),
        normalisation: Normalisation::measured(&train),
        augmentation: Augmentation::default(),
        train,
        test,
    })
}

/// The files of a data set in one directory.
enum Layout {
    /// Images and labels, for training and for testing.
    Idx([PathBuf; 4]),
}

impl Layout {
    /// What lies in `directory`, by its first file.
    fn find(directory: &Path) -> Option<Self> {
        idx_file(directory, idx::FILES[0])
            .is_file()
            .then(|| Self::Idx(idx::FILES.map(|name| idx_file(directory, name))))
    }

    /// The files of the labels, for training and for testing.
    fn label_paths(&self) -> [&Path; 2] {
        match self {
            Self::Idx(files) => [&files[1], &files[3]],
        }
    }

    fn read(&self) -> Result<(Samples, Samples), DataError> {
        match self {
            Self::Idx(files) => {
                let train = idx::read(&files[0], &files[1])?;
                let test = idx::read(&files[2], &files[3])?;
                if test.image() != train.image() {
                    return Err(DataError::OtherShape {
                        path: files[2].clone(),
                        expected: train.image(),
                        found: test.image(),
                    });
                }
                Ok((train, test))
            }
        }
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
