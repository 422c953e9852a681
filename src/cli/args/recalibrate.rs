//! What can be said to `sms-merge recalibrate`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::NameArguments;
use super::ReportArguments;
use super::at_least_one;
use super::eval::SplitArguments;
use super::learning;

const RECALIBRATE_EXAMPLES: &str = "\
Examples:
  sms-merge recalibrate soup.st -o ready.st
  sms-merge recalibrate soup.st -o ready.st --images 10000 --batch-size 256
  sms-merge recalibrate soup.st -o soup.st --force
";

const RECALIBRATE_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output          path of the checkpoint, as given
    bytes_written   bytes of the file
    has_batch_norm  false if the output is the input as it was
    data            name, images, batches, batch_size, seed
    tensors         names of the statistics that were estimated
    moved           null, or how far they moved: channels that are compared;
                    medians of mean_shift (in standard deviations) and
                    variance_factor (at least 1); layers: name and both medians
                    of each
    elapsed_secs    wall time
    warnings        sentences
";

/// Estimate batch norm's statistics again: what makes an averaged model usable
///
/// Running means and variances become the mean over batches of training images, without
/// augmentation and dropout; everything else keeps its bits. Images that do not fill a
/// last batch are left out. A model without batch norm is copied as it is.
///
/// A checkpoint that `sms-merge train` wrote, or a soup of such, says which model it is
/// and on which images it was trained; for others, say it with --model and --data. Where
/// statistics move far, a warning asks whether these are the images of the model. Models
/// of your own are recalibrated in PyTorch: torch.optim.swa_utils.update_bn(loader, model).
///
/// The certificate of a soup stays: it names the statistics that were estimated, and
/// `sms-merge verify` proves the rest.
#[derive(Debug, Args)]
#[command(after_help = RECALIBRATE_EXAMPLES)]
#[command(after_long_help = format!("{RECALIBRATE_EXAMPLES}\n{RECALIBRATE_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct RecalibrateArguments {
    /// The checkpoint, in one file
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    /// The checkpoint to write
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) model: learning::ModelArguments,

    #[command(flatten)]
    pub(crate) data: learning::DataArguments,

    #[command(flatten)]
    pub(crate) images: ObservedArguments,

    #[command(flatten)]
    pub(crate) engine: learning::EngineArguments,

    #[command(flatten)]
    pub(crate) names: NameArguments,

    /// Replace an output that exists
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    /// Do not wait until the file is on disk: it may be lost in a power cut
    #[arg(long, help_heading = "Output")]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Which images are observed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct ObservedArguments {
    /// Training images to observe, drawn at random [default: all that are not held out]
    #[arg(long, value_name = "N")]
    pub(crate) images: Option<usize>,

    /// Images of a batch
    #[arg(short, long, value_name = "N", value_parser = at_least_one, default_value_t = 128)]
    pub(crate) batch_size: usize,

    /// Seed of the order of the images
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) split: SplitArguments,
}
