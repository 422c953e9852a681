//! What can be said to `sms-merge model`, and about a model to any command.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;
use sms_merge::graph::Features;

use super::EXIT_STATUS;
use super::MaskArguments;
use super::ReadingArguments;
use super::ReportArguments;

const MODEL_EXAMPLES: &str = "\
Examples:
  sms-merge model --list
  sms-merge model resnet20
  sms-merge model mlp --option hidden=512,512 --input 1x8x8
  sms-merge model resnet20 pruned.st               # cost of what is retained
  sms-merge model lenet5 --describe toml > mine.toml
  sms-merge model mine.toml --classes 100
";

const MODEL_FILE: &str = "\
A model as a file:
  TOML (or JSON with the same keys). `sms-merge model lenet5 --describe toml`
  writes one.

    name = \"small\"
    input = \"1x28x28\"        # channels x height x width
    classes = 10

    [[layers]]
    op = \"conv2d\"
    name = \"conv1\"           # the module in torch: conv1.weight, conv1.bias
    channels = 8
    kernel = 3
    padding = 1

    [[layers]]
    op = \"relu\"

    [[layers]]
    op = \"global-avg-pool\"

    [[layers]]
    op = \"linear\"
    name = \"fc\"
    features = \"classes\"

  input and classes may be left out and given as options, which also win.
  Keys of every layer:
    op        what it computes
    name      name of torch's module; needed where there are parameters
    input     name of the layer whose output it takes, which must stand before
              it; \"input\" is the image; without it, the layer before
  Operations and their keys:
    conv2d           channels (a number or \"classes\"), kernel, stride = 1,
                     padding = 0, init, bias
    linear           features (a number or \"classes\"), init, bias
    batch-norm       epsilon = 1e-5, momentum = 0.1, scale = 1, shift = 0
    relu, flatten, global-avg-pool
    add              input is a list of two layers of one shape
    max-pool         kernel, stride = kernel, padding = 0
    avg-pool         kernel, stride = kernel
    pad-shortcut     stride = 1, before = 0, after = 0 (channels of zeros)
    dropout          probability
  kernel, stride and padding are one number or [vertical, horizontal].
  init is \"torch\" (uniform, bound 1/sqrt(fan_in)), \"he-fan-in\", \"he-fan-out\"
  (normal, deviation sqrt(2/fan)), a number, { normal = deviation } or
  { uniform = bound }. bias is true, false, or what init may be.
  scale and shift are a number, { normal = deviation } or { uniform = bound }.
";

const MODEL_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    name, input, classes
    parameters        learned parameters; multiply_adds per image, of linear and
                      convolution layers
    layers            op, name (null if it has none), output, parameters,
                      multiply_adds, retained, sparse_multiply_adds; the last
                      two are null without a checkpoint
    tensors           name, shape and role of each, in the order of torch's
                      state_dict
    sparse            null without a checkpoint, or checkpoint, weights,
                      retained, sparsity, multiply_adds, speed_up (dense by
                      sparse multiply-adds; null if none are left)
  With --list, models: name, about, input, options (name, default, about).
";

/// Show the layers of a model, its parameters and its multiply-adds
///
/// A model is one that ships with the program (`--list`) or a file that describes it.
/// With a checkpoint of it, shows what is retained and the theoretical speed-up: the
/// multiply-adds of the dense model by those of the retained weights. No kernel reaches
/// it.
#[derive(Debug, Args)]
#[command(after_help = MODEL_EXAMPLES)]
#[command(after_long_help =
    format!("{MODEL_EXAMPLES}\n{MODEL_FILE}\n{MODEL_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct ModelArguments {
    /// Name of a model, or a file that ends in .toml or .json
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    #[arg(required_unless_present = "list")]
    pub(crate) model: Option<OsString>,

    /// A checkpoint of the model, whose retained weights are counted
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    #[arg(conflicts_with = "describe")]
    pub(crate) checkpoint: Option<PathBuf>,

    /// List the models that ship with the program, and their options
    #[arg(long, conflicts_with_all = ["model", "describe"])]
    pub(crate) list: bool,

    /// Print the model as a file that can be changed and read again
    #[arg(long, value_enum, value_name = "SYNTAX", conflicts_with = "json")]
    pub(crate) describe: Option<Notation>,

    #[command(flatten)]
    pub(crate) choice: ModelChoice,

    #[command(flatten)]
    pub(crate) mask: MaskArguments,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// What is chosen about a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelChoice {
    /// Shape of an image, such as 3x32x32 [default: that of the model or file]
    #[arg(long, value_name = "CxHxW")]
    pub(crate) input: Option<Features>,

    /// Number of classes [default: that of the file, or 10]
    #[arg(long, value_name = "N")]
    pub(crate) classes: Option<usize>,

    /// An option of the model, such as hidden=300,100; may be repeated
    #[arg(long = "option", visible_alias = "model-option", value_name = "NAME=VALUE", value_parser = key_and_value)]
    pub(crate) options: Vec<(String, String)>,
}

/// `--describe`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Notation {
    Toml,
    Json,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "expected name=value, such as hidden=300,100".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}
