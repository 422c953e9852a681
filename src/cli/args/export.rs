//! What can be said to `sms-merge export`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::MaskArguments;
use super::ReadingArguments;
use super::ReportArguments;
use super::model::ModelChoice;
use super::template::TEMPLATE_HELP;
use super::template::TemplateArguments;

const EXPORT_EXAMPLES: &str = "\
Examples:
  sms-merge export soup.st -o soup.onnx
  sms-merge export soup.st -o soup.onnx --model resnet20 --classes 100
  sms-merge export soup.st -o soup.onnx --onnx-encoding bitmask --softmax
  sms-merge export soup.st -o soup.onnx --external-data
  sms-merge export soup.st -o soup.onnx --template model.onnx --source dense.st
";

const EXPORT_ONNX: &str = "\
ONNX:
  Opset 18, IR version 8. The input is (batch, channels, height, width), or (batch,
  features) where an image is one pixel, of images as the network was trained on:
  normalised. Batches may have any size. Weights keep their type and are cast to
  single precision, in which everything is computed.
    dense               every reader; zeros are stored
    bitmask             retained values and one bit per weight; nodes decode them
    delta               retained values and one byte per gap; nodes decode them
    sparse-initializer  retained values and eight-byte indices; onnxruntime reads them
  The nodes that decode are computed once, when a reader loads the model: files become
  smaller, inference does not become faster.
";

const EXPORT_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output          path of the model, as given
    data            path of the file beside it that has the weights, or null
    bytes_written   bytes of all its files
    elapsed_secs    wall time
    model           name, input, classes
    opset, ir_version
    encoding        that of pruned weights
    batch_norms     kept and folded: how many
    mask            of all pruned weights: numel, retained, sparsity
    sizes           bytes of a file with all weights inside, by encoding
    warnings        sentences
";

/// Write a checkpoint in a format of other programs
///
/// With an output that ends in `.onnx`: the network with its weights, as an ONNX model.
/// What a mask prunes is zero or left out; weights on the mask are kept even if they
/// are zero.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
#[command(after_long_help =
    format!("{EXPORT_EXAMPLES}\n{EXPORT_ONNX}\n{TEMPLATE_HELP}\n{EXPORT_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct ExportArguments {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    /// The file to write; its extension says in which format
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) onnx: OnnxArguments,

    /// Name of the model, or a file that ends in .toml or .json [default: what the
    /// checkpoint says]
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = "Model")]
    pub(crate) model: Option<OsString>,

    #[command(flatten)]
    pub(crate) choice: ModelChoice,

    #[command(flatten)]
    pub(crate) template: TemplateArguments,

    #[command(flatten)]
    pub(crate) mask: MaskArguments,

    /// Replace an output that exists
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    /// Do not wait until the output is on disk: it may be lost in a power cut
    #[arg(long, help_heading = "Output")]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// What is chosen about an ONNX model.
#[derive(Debug, Args)]
#[command(next_help_heading = "ONNX")]
pub(crate) struct OnnxArguments {
    /// How pruned weights are stored
    #[arg(long, value_name = "ENCODING", value_enum, default_value_t)]
    pub(crate) onnx_encoding: OnnxEncoding,

    /// Store weights outside of the model's file: needed past 2 GiB
    ///
    /// Without a value, or with `checkpoint`, the model refers to the checkpoint, which
    /// must stay where it is, beside the model or below. With `file`, they are written
    /// beside the model to a file of its name and `.data`.
    #[arg(long, value_name = "WHERE", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "checkpoint")]
    pub(crate) external_data: Option<ExternalData>,

    /// Give probabilities instead of logits
    #[arg(long)]
    pub(crate) softmax: bool,

    /// Fold batch norm into the layer before it, where that is possible
    ///
    /// Folded weights are computed in f64 and stored in F32.
    #[arg(long)]
    pub(crate) fold_batch_norm: bool,
}

/// `--onnx-encoding`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum OnnxEncoding {
    /// With their zeros
    #[default]
    Dense,
    /// Retained values and one bit per weight
    Bitmask,
    /// Retained values and one byte for each gap
    Delta,
    /// Retained values and their indices
    SparseInitializer,
}

/// `--external-data`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ExternalData {
    /// In the checkpoint, where they are
    Checkpoint,
    /// In a second file
    File,
}
