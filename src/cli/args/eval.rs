//! What can be said to `sms-merge eval`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::NameArguments;
use super::ReportArguments;
use super::at_least_one;
use super::learning;

const EVAL_EXAMPLES: &str = "\
Examples:
  sms-merge eval soup.st
  sms-merge eval a.st b.st c.st soup.st            # and their ensemble
  sms-merge eval soup.st --on validation --json
  sms-merge eval soup.st --ood --confusion confusion.svg
  sms-merge eval other.st --model resnet20 --data cifar10 --data-dir ~/data
";

const EVAL_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    data         name, part (test, validation or train), images, class_names
    models       path, model (name, input, classes, options), n_prunable,
                 n_retained, and evaluation, one for each checkpoint
    ensemble     an evaluation of the mean of the probabilities; null for one
                 checkpoint, or where they do not tell the same classes apart
    ood          null, or seed, severities (1 to 5), and corruptions: name, and
                 models, and ensemble, each with accuracy, loss, ece (lists by
                 severity) and mean_accuracy
    confusion    path of the picture, or null
    warnings     sentences
  An evaluation: samples, correct, accuracy, loss, ece, mce, worst_class,
  worst_class_accuracy, classes (samples, predicted, correct, accuracy,
  precision, mistaken_for, mistakes), confusion (rows are labels, columns
  predictions), bins (samples, confidence, accuracy). Classes are numbered from
  0. accuracy or precision of a class is null where it has no images or is never
  predicted.

Metrics:
  loss         mean cross-entropy in nats
  ECE          expected calibration error: 15 bins of confidence of equal width,
               mean distance between accuracy and confidence over the images
               (arXiv:1706.04599)
  MCE          maximum calibration error: the largest such distance of a bin
  worst class  the lowest accuracy of a class
  --ood        test images with noise, blur and more at severity 1 to 5, as in
               CIFAR-10-C (arXiv:1903.12261)
";

/// Measure how well checkpoints classify images, alone and as an ensemble
///
/// A checkpoint that `sms-merge train` wrote, or a soup of such, says which model it is
/// and on which data it was trained; for others, say it with --model and --data. A soup
/// of models with batch norm needs `sms-merge recalibrate` before.
#[derive(Debug, Args)]
#[command(after_help = EVAL_EXAMPLES)]
#[command(after_long_help = format!("{EVAL_EXAMPLES}\n{EVAL_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct EvalArguments {
    /// Checkpoints to evaluate; of several, their ensemble too
    #[arg(required = true, value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoints: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) model: learning::ModelArguments,

    #[command(flatten)]
    pub(crate) data: learning::DataArguments,

    #[command(flatten)]
    pub(crate) images: EvaluatedArguments,

    #[command(flatten)]
    pub(crate) engine: learning::EngineArguments,

    #[command(flatten)]
    pub(crate) names: NameArguments,

    /// Draw the confusion matrix as SVG; of several checkpoints, that of the ensemble
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = "Output")]
    pub(crate) confusion: Option<PathBuf>,

    /// Replace a picture that exists
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Which images are classified.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct EvaluatedArguments {
    /// Which part of the data set
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on: Part,

    #[command(flatten)]
    pub(crate) split: SplitArguments,

    /// Classify at most this many images, drawn at random
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) limit: Option<usize>,

    /// Classify corrupted images too: out of distribution
    #[arg(long)]
    pub(crate) ood: bool,

    /// Seed of the corruptions and of --limit
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,

    /// Images that are classified at once; changes no prediction but for rounding
    #[arg(short, long, value_name = "N", value_parser = at_least_one, default_value_t = 256)]
    pub(crate) batch_size: usize,
}

/// How training images are parted from those held out.
#[derive(Debug, Args)]
pub(crate) struct SplitArguments {
    /// Share of the training images that is held out [default: the checkpoint's own, or 0.1]
    #[arg(long, value_name = "SHARE")]
    pub(crate) validation: Option<f64>,

    /// Seed of the choice of the held-out images [default: the checkpoint's own, or 0]
    #[arg(long, value_name = "SEED")]
    pub(crate) validation_seed: Option<u64>,
}

/// `--on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Images that are only evaluated on
    #[default]
    Test,
    /// Training images that are held out
    Validation,
    /// Images that are trained on
    Train,
}
