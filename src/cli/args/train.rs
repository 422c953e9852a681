//! `sms-merge train` on the command line.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::NameArguments;
use super::ReportArguments;
use super::at_least_one;
use super::learning::DataArguments;
use super::learning::EngineArguments;
use super::learning::ModelArguments;

const TRAIN_EXAMPLES: &str = "\
Examples:
  sms-merge train -o a.st                                  # a small network
  sms-merge train --model resnet20 --data cifar10 --data-dir ~/data -o dense.st
  sms-merge train --init pruned.st --schedule llr --epochs 10 --seed 1 -o a.st
  sms-merge train --data fashion-mnist -o a.st --save-every 1
  sms-merge train --data fashion-mnist -o a.st --save-every 1 --resume
";

const TRAIN_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output            path of the checkpoint, as given
    model             name, input (channels, height, width), classes, options
    data              name, digest, images, normalisation, class_names
    recipe            all that decided the outcome
    engine            native, candle or candle-cuda: whose bits these are
    n_threads
    n_parameters, n_prunable, n_retained
    steps, steps_per_epoch, resumed_at (null, or steps done before)
    train             loss and accuracy over the last epoch, while the weights
                      changed
    validation        loss and accuracy of the outcome on the held-out images,
                      or null
    test              loss and accuracy of the outcome on the test images
    elapsed_secs, images_per_sec
  A run that fails prints an error object, as `sms-merge merge` does; one that
  is interrupted too, with kind `interrupted` and exit status 128 + signal.

Metrics file:
  One object per line, with `schema` 1 and `kind`:
    step              step, epoch, loss, accuracy, learning_rate, gradient_norm
    epoch             step, epoch, train, validation (loss and accuracy each),
                      learning_rate, images_per_sec, elapsed_secs
    end               step, test (loss and accuracy)
";

/// Train a network on images, dense or with a mask that stays
///
/// Without options, trains a small network on 8x8 digits that are part of the program.
/// The same options give the same bytes, for any number of threads. With --init, what
/// is zero in the checkpoint's weights stays exactly +0. The output is a safetensors
/// file with torch's names; its metadata says what it was trained on and how.
#[derive(Debug, Args)]
#[command(after_help = TRAIN_EXAMPLES)]
#[command(after_long_help = format!("{TRAIN_EXAMPLES}\n{TRAIN_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct TrainArguments {
    /// The checkpoint to write
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) model: ModelArguments,

    #[command(flatten)]
    pub(crate) data: DataArguments,

    #[command(flatten)]
    pub(crate) images: ImageArguments,

    #[command(flatten)]
    pub(crate) start: StartArguments,

    #[command(flatten)]
    pub(crate) recipe: RecipeArguments,

    #[command(flatten)]
    pub(crate) regularisation: RegularisationArguments,

    #[command(flatten)]
    pub(crate) engine: EngineArguments,

    #[command(flatten)]
    pub(crate) saving: SavingArguments,

    #[command(flatten)]
    pub(crate) logging: LoggingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// How the images are used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct ImageArguments {
    /// Train on at most this many images, drawn at random, the same for every seed
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) limit_train: Option<usize>,

    /// Share of the training images that is held out to validate
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(crate) validation: f64,

    /// Seed of the choice of the held-out images
    ///
    /// Not that of the run: models that are to be averaged must hold out the same.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) validation_seed: u64,

    /// Whether training images are shifted and mirrored
    #[arg(long, value_enum, default_value_t)]
    pub(crate) augment: Augment,
}

/// Where a training begins.
#[derive(Debug, Args)]
#[command(next_help_heading = "Start")]
pub(crate) struct StartArguments {
    /// Begin with the weights of this checkpoint; its zeros are the mask
    ///
    /// A weight of a linear or convolution layer is pruned if more than 0.1 % of its
    /// elements are zero.
    #[arg(short, long, value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) init: Option<PathBuf>,

    /// Masks, one tensor of zeros and ones for each pruned weight
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) mask: Option<PathBuf>,

    /// Train all weights, whatever is zero in --init
    #[arg(long, requires = "init", conflicts_with = "mask")]
    pub(crate) dense: bool,

    /// The checkpoint that --init was pruned from, for `--schedule allr`
    #[arg(long, value_name = "CHECKPOINT", requires = "init", value_hint = ValueHint::AnyPath)]
    pub(crate) parent: Option<PathBuf>,

    /// Names the first weights, the order of the images, their variation, and dropout
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) names: NameArguments,
}

/// Steps and learning rates.
#[derive(Debug, Args)]
#[command(next_help_heading = "Optimisation")]
pub(crate) struct RecipeArguments {
    /// Passes over the training images [default: 30 for digits, otherwise 10]
    #[arg(short, long, value_name = "N")]
    pub(crate) epochs: Option<u64>,

    /// Images of a step [default: 32 for digits, otherwise 128]
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    pub(crate) batch_size: Option<usize>,

    /// Largest learning rate [default: 0.1 with batch norm, 0.05 without, 0.001 for adamw]
    #[arg(long, visible_alias = "lr", value_name = "RATE")]
    pub(crate) learning_rate: Option<f64>,

    /// How the learning rate falls
    ///
    /// ft to allr take their rates from the training of --init, by its metadata. All of
    /// them bring their own warm-up.
    #[arg(long, value_enum, default_value_t)]
    #[arg(hide_possible_values = false)]
    pub(crate) schedule: ScheduleChoice,

    /// Epochs in which the learning rate rises from 0 first [default: 1, or 0 for one epoch]
    #[arg(long, value_name = "EPOCHS")]
    pub(crate) warmup_epochs: Option<f64>,

    /// Epochs before which `--schedule step` lowers the rate [default: at 1/2 and 3/4]
    #[arg(long, value_name = "EPOCH,EPOCH,...", value_delimiter = ',')]
    pub(crate) milestones: Option<Vec<f64>>,

    /// Factor by which `--schedule step` lowers the rate [default: 0.1]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) factor: Option<f64>,

    /// The rule of the update
    #[arg(long, value_enum, default_value_t)]
    pub(crate) optimizer: OptimizerChoice,

    /// Share of the last step's direction, for sgd [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    pub(crate) momentum: Option<f64>,

    /// Do not look ahead along the momentum
    #[arg(long)]
    pub(crate) no_nesterov: bool,

    /// Look ahead along the momentum (the default)
    #[arg(long, conflicts_with = "no_nesterov", hide = true)]
    pub(crate) nesterov: bool,

    /// Shares of the last moments, for adamw [default: 0.9,0.999]
    #[arg(long, value_name = "B1,B2", value_parser = pair)]
    pub(crate) betas: Option<[f64; 2]>,

    /// Scale gradients down to this norm of all of them together
    #[arg(long, value_name = "NORM")]
    pub(crate) clip_norm: Option<f64>,
}

/// What keeps a network from learning its images by heart.
#[derive(Debug, Args)]
#[command(next_help_heading = "Regularisation")]
pub(crate) struct RegularisationArguments {
    /// Factor of the weight decay [default: 0.0005, 0.01 for adamw]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) weight_decay: Option<f64>,

    /// What decays
    #[arg(long, value_enum, default_value_t)]
    pub(crate) decay: DecayChoice,

    /// Share of each label that is spread over all classes
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) label_smoothing: f64,

    /// The outcome is an exponential moving average that keeps this share per step
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = "0.999")]
    #[arg(conflicts_with = "swa")]
    pub(crate) ema: Option<f64>,

    /// The outcome is the mean of the weights after each of the last N epochs
    ///
    /// Batch norm is then re-estimated on the training images. Without N, the last
    /// quarter of the epochs.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    pub(crate) swa: Option<u64>,
}

/// What is written on the way.
#[derive(Debug, Args)]
#[command(next_help_heading = "Saving and resuming")]
pub(crate) struct SavingArguments {
    /// Save the state of the training every N epochs, or with `steps`, such as 500steps
    ///
    /// It is saved on the first Ctrl-C or SIGTERM in any case.
    #[arg(long, value_name = "N", value_parser = parse_interval)]
    pub(crate) save_every: Option<Interval>,

    /// Where the state is saved; removed when the training is complete [default: OUTPUT.state]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) state: Option<PathBuf>,

    /// Go on from a saved state, to the same bits as without the break
    ///
    /// Repeat the command that was interrupted, and add --resume. Without a value, the
    /// state is that of --state. A state of another recipe, model or data is refused.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) resume: Option<Option<PathBuf>>,

    /// Replace an output that exists, and the state of a training that is not resumed
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Do not wait until files are on disk: they may be lost in a power cut
    #[arg(long)]
    pub(crate) no_sync: bool,
}

/// What is recorded on the way.
#[derive(Debug, Args)]
#[command(next_help_heading = "Metrics")]
pub(crate) struct LoggingArguments {
    /// Write metrics as JSON lines
    ///
    /// With --resume, lines of steps after the saved state are removed, and new ones
    /// follow.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) metrics: Option<PathBuf>,

    /// Write an event file for TensorBoard into this directory
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) tensorboard: Option<PathBuf>,

    /// Record every Nth step, and every epoch
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value_t = 10)]
    pub(crate) log_every: usize,
}

/// `--save-every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interval {
    /// So many epochs.
    Epochs(u64),
    /// So many steps.
    Steps(u64),
}

fn pair(text: &str) -> Result<[f64; 2], String> {
    let numbers = text.split_once(',').and_then(|(first, second)| {
        let numbers = [first.trim().parse().ok()?, second.trim().parse().ok()?];
        Some(numbers)
    });
    numbers.ok_or_else(|| "expected two numbers, such as 0.9,0.999".to_owned())
}

fn parse_interval(text: &str) -> Result<Interval, String> {
    let (digits, unit): (&str, fn(u64) -> Interval) = match text.strip_suffix("steps") {
        Some(digits) => (digits.trim_end(), Interval::Steps),
        None => (text, Interval::Epochs),
    };
    let number = digits.parse().ok().filter(|&number: &u64| number > 0);
    let number = number.ok_or_else(|| "expected such as 2 (epochs) or 500steps".to_owned())?;
    Ok(unit(number))
}

/// `--augment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Augment {
    /// As usual for the data set, if the network has batch norm
    #[default]
    Auto,
    /// As usual for the data set
    On,
    /// Never
    Off,
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleChoice {
    /// Down to 0, as half a cosine
    #[default]
    Cosine,
    /// Down to 0, evenly
    Linear,
    /// Down at --milestones, by --factor
    Step,
    /// The rate does not change
    Constant,
    /// The smallest rate of the training before, throughout
    Ft,
    /// The last rates of the training before, again
    Lrw,
    /// The schedule of the training before, compressed
    Slr,
    /// A cosine from its largest to its smallest rate
    Clr,
    /// Evenly from its largest rate to 0
    Llr,
    /// As llr, scaled by what pruning took away; needs --parent
    Allr,
}

/// `--optimizer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimizerChoice {
    /// Stochastic gradient descent with Nesterov's momentum
    #[default]
    Sgd,
    /// Adam with decoupled weight decay
    Adamw,
}

/// `--decay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DecayChoice {
    /// All that is learned
    #[default]
    All,
    /// Weights of linear and convolution layers
    Weights,
}
