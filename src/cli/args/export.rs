//! What can be said to `sms-merge export`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::LayoutChoice;
use super::MaskArguments;
use super::ReadingArguments;
use super::ReportArguments;
use super::parse_size;

const EXPORT_EXAMPLES: &str = "\
Examples:
  sms-merge export soup.st -o small.st --layout bitmask
  sms-merge export small.st -o dense.st --layout dense
  sms-merge export soup.st -o theirs/ --layout compressed-tensors
  sms-merge export soup.st -o prune.st --layout torch-prune --mask mask.st
";

const EXPORT_LAYOUTS: &str = "\
Layouts:
  dense               zeros where a mask prunes; every reader takes it
  bitmask             T.values and T.bitmask in place of T: 13 % of dense F32 at a sparsity
                      of 90 %
  compressed-tensors  P.compressed, P.bitmask, P.shape and P.row_offsets in place of
                      P.weight, as that library up to 0.14 calls `sparse-bitmask`; other
                      names stay dense, and config.json has to say it
  torch-prune         X_orig and X_mask in place of X, as torch.nn.utils.prune has them
  All but dense store retained weights of zero as retained. sms-merge reads all of them
  wherever it reads a checkpoint.
";

const EXPORT_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output            path of the copy, as given
    bytes_read        bytes of all files of the checkpoint
    bytes_written     bytes of all files of the copy, of which there are n_files
    elapsed_secs      wall time
    layout            the layout
    mask              of all pruned tensors: digest, numel, retained, sparsity
    tensors           name, dtype, shape, stored_as, bytes_before, bytes, retained_zeros
    certificate       carried, dropped, or none
    sparsity_config   null, or what config.json needs under quantization_config
    sidecars, warnings
";

/// Write a checkpoint with its masks stored in another way
///
/// Retained weights keep their bits and pruned ones are zero or left out. The mask of a
/// tensor is the one that is stored with it or in --mask, else its zeros. A soup's
/// certificate is carried over, with the digests of the new form, if it holds.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
#[command(after_long_help =
    format!("{EXPORT_EXAMPLES}\n{EXPORT_LAYOUTS}\n{EXPORT_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct ExportArguments {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    /// The file to write, or a directory
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) layout: LayoutArguments,

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
