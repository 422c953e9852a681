//! What can be said to `sms-merge export`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::LayoutChoice;
use super::MaskArguments;
use super::ReadingArguments;
use super::ReportArguments;
use super::model::ModelChoice;
use super::parse_size;
use super::template::TEMPLATE_HELP;
use super::template::TemplateArguments;

const EXPORT_EXAMPLES: &str = "\
Examples:
  sms-merge export soup.st -o small.st --layout bitmask
  sms-merge export small.st -o dense.st --layout dense
  sms-merge export soup.st -o theirs/ --layout compressed-tensors
  sms-merge export soup.st -o prune.st --layout torch-prune --mask mask.st
  sms-merge export soup.st -o soup.onnx
  sms-merge export soup.st -o soup.onnx --model resnet20 --classes 100
  sms-merge export soup.st -o soup.onnx --onnx-encoding bitmask --softmax
  sms-merge export soup.st -o soup.onnx --external-data
  sms-merge export soup.st -o soup.onnx --template model.onnx --source dense.st
";

const EXPORT_LAYOUTS: &str = "\
Layouts:
  dense               zeros where a mask prunes; every reader takes it
  bitmask             T.values and T.bitmask in place of T: 13 % of dense F32 at
                      a sparsity of 90 %
  compressed-tensors  P.compressed, P.bitmask, P.shape and P.row_offsets in
                      place of P.weight, as that library up to 0.14 calls
                      `sparse-bitmask`; other names stay dense, and config.json
                      has to say it
  torch-prune         X_orig and X_mask in place of X, as torch.nn.utils.prune
                      has them
  All but dense store retained weights of zero as retained. sms-merge reads all
  of them wherever it reads a checkpoint.
";

const EXPORT_ONNX: &str = "\
ONNX:
  Opset 18, IR version 8. The input is (batch, channels, height, width), or
  (batch, features) where an image is one pixel, of images as the network was
  trained on:
  normalised. Batches may have any size. Weights keep their type and are cast to
  single precision, in which everything is computed.
    dense               every reader; zeros are stored
    bitmask             retained values and one bit per weight; nodes decode
                        them
    delta               retained values and one byte per gap; nodes decode them
    sparse-initializer  retained values and eight-byte indices; onnxruntime
                        reads them
  The nodes that decode are computed once, when a reader loads the model: files
  become smaller, inference does not become faster.
";

const EXPORT_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1. For safetensors:
    output            path of the copy, as given
    bytes_read        bytes of all files of the checkpoint
    bytes_written     bytes of all files of the copy, of which there are n_files
    elapsed_secs      wall time
    layout            the layout
    mask              of all pruned tensors: digest, numel, retained, sparsity
    tensors           name, dtype, shape, stored_as, bytes_before, bytes,
                      retained_zeros
    certificate       carried, dropped, or none
    sparsity_config   null, or what config.json needs under quantization_config
    sidecars          files copied along; sidecars_left, those that were not
                      (name, reason)
    config_changes    what config.json says otherwise; config_open, what it
                      has to say
    warnings          sentences
  For an ONNX model:
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

/// Write a checkpoint with its masks stored in another way, or as an ONNX model
///
/// Retained weights keep their bits and pruned ones are zero or left out. The mask of a
/// tensor is the one that is stored with it or in --mask, else its zeros. A soup's
/// certificate is carried over to safetensors files, with the digests of the new form, if
/// it holds. With an output that ends in `.onnx`, the network is written with its weights.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
#[command(after_long_help =
    format!("{EXPORT_EXAMPLES}\n{EXPORT_LAYOUTS}\n{EXPORT_ONNX}\n{TEMPLATE_HELP}\n{EXPORT_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct ExportArguments {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    /// The file to write, `.onnx` or safetensors, or a directory
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) layout: LayoutArguments,

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

/// How a checkpoint is stored in safetensors files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct LayoutArguments {
    /// How masks are stored
    #[arg(long, value_enum, default_value_t)]
    pub(crate) layout: LayoutChoice,

    /// Write shards of at most this size and an index, such as 5GB or 5GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shard_size: Option<u64>,
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
    /// beside the model to a file of its name and `.data`, or `.2.data` where it replaces
    /// a model whose weights have the first name.
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
