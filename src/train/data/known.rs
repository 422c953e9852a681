//! The data sets that are known by name, with what the literature does to them.

use crate::graph::Features;
use crate::train::data::Augmentation;
use crate::train::data::Normalisation;

/// A data set that is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// 8x8 handwritten digits, part of this program.
    Digits,
    /// 28x28 handwritten digits.
    Mnist,
    /// 28x28 pieces of clothing.
    FashionMnist,
    /// 32x32 colour photographs of 10 classes.
    Cifar10,
    /// 32x32 colour photographs of 100 classes.
    Cifar100,
}

impl Known {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Digits,
        Self::Mnist,
        Self::FashionMnist,
        Self::Cifar10,
        Self::Cifar100,
    ];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    /// The data set of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Where a system keeps its files; empty if no package has them.
    pub fn system_directory(self) -> Option<&'static str> {
        match self {
            // Where Debian's package dataset-fashion-mnist puts them.
            Self::FashionMnist => Some("/usr/share/datasets/fashion-mnist"),
            _ => None,
        }
    }

    /// Directories below a user's data directory in which other programs put it; the
    /// data directory itself comes first.
    pub(super) fn subdirectories(self) -> &'static [&'static str] {
        match self {
            Self::Digits => &[],
            // torchvision's.
            Self::Mnist => &["", "mnist", "MNIST/raw"],
            Self::FashionMnist => &["", "fashion-mnist", "FashionMNIST/raw"],
            // Those of the archives.
            Self::Cifar10 => &["", "cifar10", "cifar-10-batches-bin"],
            Self::Cifar100 => &["", "cifar100", "cifar-100-binary"],
        }
    }

    /// What to do where its files are missing.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Digits => "`digits` needs no files",
            Self::Mnist => {
                "put `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`, \
                 `t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz` (or the same without \
                 `.gz`) into a directory and name it with `--data-dir`"
            }
            Self::FashionMnist => {
                "`apt-get install dataset-fashion-mnist` puts it where it is found, or put \
                 `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`, \
                 `t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz` into a directory \
                 and name it with `--data-dir`"
            }
            Self::Cifar10 => {
                "unpack the binary version, `cifar-10-binary.tar.gz` of <https://www.cs.toronto.edu/~kriz/cifar.html> \
                 and name the directory of `data_batch_1.bin` with `--data-dir`"
            }
            Self::Cifar100 => {
                "unpack the binary version, `cifar-100-binary.tar.gz` of <https://www.cs.toronto.edu/~kriz/cifar.html> \
                 and name the directory of `train.bin` with `--data-dir`"
            }
        }
    }

    /// Shape of its images.
    pub fn image(self) -> Features {
        let (channels, side) = match self {
            Self::Digits => (1, 8),
            Self::Mnist | Self::FashionMnist => (1, 28),
            Self::Cifar10 | Self::Cifar100 => (3, 32),
        };
        Features {
            channels,
            height: side,
            width: side,
        }
    }

    /// Names of its classes, by label.
    pub fn class_names(self) -> &'static [&'static str] {
        match self {
            Self::Digits | Self::Mnist => &DIGITS,
            Self::FashionMnist => &FASHION,
            Self::Cifar10 => &CIFAR10,
            Self::Cifar100 => &CIFAR100,
        }
    }

    /// Mean and deviation of the training pixels, to the four digits that are usual.
    pub fn normalisation(self) -> Normalisation {
        let (mean, deviation): (&[f32], &[f32]) = match self {
            Self::Digits => (&[0.3054], &[0.3761]),
            Self::Mnist => (&[0.1307], &[0.3081]),
            Self::FashionMnist => (&[0.2860], &[0.3530]),
            Self::Cifar10 => (&[0.4914, 0.4822, 0.4465], &[0.2470, 0.2435, 0.2616]),
            Self::Cifar100 => (&[0.5071, 0.4865, 0.4409], &[0.2673, 0.2564, 0.2762]),
        };
        Normalisation {
            mean: mean.to_vec(),
            deviation: deviation.to_vec(),
        }
    }

    /// How its training images are varied in the literature.
    ///
    /// CIFAR: four pixels of padding and mirroring, He et al., arXiv:1512.03385, section
    /// 4.2. Fashion-MNIST: the same, Zhong et al., arXiv:1708.04896, section 4.
    pub fn augmentation(self) -> Augmentation {
        match self {
            Self::Digits | Self::Mnist => Augmentation::default(),
            Self::FashionMnist | Self::Cifar10 | Self::Cifar100 => Augmentation {
                crop_padding: 4,
                flip: true,
            },
        }
    }
}

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// Source: the data set's README, section Labels.
const FASHION: [&str; 10] = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

/// Source: `batches.meta.txt` of the archive.
const CIFAR10: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// Source: `fine_label_names.txt` of the archive.
const CIFAR100: [&str; 100] = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
];
