//! `sms-merge data`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueHint;
use clap::builder::PossibleValuesParser;
use sms_merge::train::data::Corruption;

use super::EXIT_STATUS;
use super::ReportArguments;

const DATA_EXAMPLES: &str = "\
Examples:
  sms-merge data
  sms-merge data fashion-mnist --picture clothes.png
  sms-merge data cifar10 --data-dir ~/data --corruption fog --picture fog.png
  sms-merge data mine.st --json
";

const DATA_FORMATS: &str = "\
Formats:
  digits            part of this program: 1,797 images of 8x8 pixels
  mnist, fashion-mnist
                    train-images-idx3-ubyte, train-labels-idx1-ubyte,
                    t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each raw or
                    .gz; another directory with these four files is read as well
  cifar10, cifar100
                    the binary version: data_batch_1.bin to data_batch_5.bin and
                    test_batch.bin, or train.bin and test.bin
  a .st file        tensors `images`, U8, (samples, height, width) or (samples,
                    channels, height, width); `labels`, integers, (samples); and
                    `test_images`, `test_labels`, without which a fifth of the
                    images, drawn by a fixed seed, is for testing. Metadata, all
                    optional: class_names (a JSON list), mean and deviation
                    (JSON lists, one number per channel, of pixels scaled to
                    [0, 1]; measured if absent), white (255), crop_padding (0),
                    flip (false)
";

const DATA_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    name              of the data set
    image             channels, height, width
    train, test       number of images
    validation        how many of train are held out by default
    classes           name, and number of images: train, test
    normalisation     mean and deviation per channel, of pixels scaled to
                      [0, 1]; measured_mean and measured_deviation of the
                      training images
    augmentation      crop_padding, flip: the default in training
    corruptions       names of those that apply
    picture           null, or path, rows, columns (what they show)
";

/// Show what a data set holds
///
/// Counts images and classes, measures mean and deviation against those that images are
/// normalised by, and draws a sheet of test images, as they are or corrupted.
#[derive(Debug, Args)]
#[command(after_help = DATA_EXAMPLES)]
#[command(after_long_help = format!("{DATA_EXAMPLES}\n{DATA_FORMATS}\n{DATA_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct DataArguments {
    /// digits, mnist, fashion-mnist, cifar10, cifar100, a directory, or a .st file
    #[arg(value_name = "DATA", default_value = "digits", value_hint = ValueHint::AnyPath)]
    pub(crate) name: String,

    /// Where the files of a named data set are [default: where the system's packages are]
    ///
    /// That directory, or below it the one that the archive or torchvision makes.
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Draw test images into this PNG file
    ///
    /// A row for each class; with --corruption a row for each severity, the first as
    /// they are; with --severity too, again a row for each class.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) picture: Option<PathBuf>,

    /// Corrupt the images of the picture; `all` draws a row for each corruption
    #[arg(long, value_name = "NAME", requires = "picture")]
    #[arg(value_parser = PossibleValuesParser::new(corruptions()))]
    pub(crate) corruption: Option<String>,

    /// How much, from 1 to 5
    #[arg(long, value_name = "N", requires = "corruption")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) severity: Option<u8>,

    /// Replace a picture that exists
    #[arg(short, long, requires = "picture")]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

fn corruptions() -> Vec<&'static str> {
    let names = Corruption::ALL.iter().map(|corruption| corruption.name());
    names.chain(["all"]).collect()
}
