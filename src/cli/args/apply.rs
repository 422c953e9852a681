//! What can be said of `sms-merge apply`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::LayoutChoice;
use super::MaskArguments;
use super::ReadingArguments;
use super::ReportArguments;
use super::SelectionArguments;
use super::parse_size;

const EXAMPLES: &str = "\
Examples:
  sms-merge apply adapter/ --to pruned.st -o adapted.st
  sms-merge apply adapter/ --to model/ -o adapted/ --scale 0.5
  sms-merge apply lora.safetensors --to unet/ -o adapted/ --exclude 'lora_te*'
  sms-merge apply adapter/ --to pruned.st --plan
";

const JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output            path as given, or null with --plan
    bytes_written     bytes of all its files
    elapsed_secs      wall time
    adapter, network  paths as given
    scale             as given
    mask              of all pruned tensors: digest, numel, retained, sparsity
    changed           tensor, change (product, bias or replaced), rank, scale,
                      norm and retained_norm of what is added: to a dense
                      network, and inside the mask; rank and scale are null of
                      what is no product, and norms with --plan
    outside_share     the part of the squared norm that fell outside the mask;
                      null with --plan
    retained_zeros    retained weights that are zero now
    sidecars          files copied along
    warnings          sentences
  A run that fails prints an error object, as a merge does.
";

/// Add an adapter (LoRA) to a network, inside its mask
///
/// Each weight that the adapter changes becomes w + S * scale * up * down where the mask
/// retains it, and stays +0 where it is pruned; tensors without a mask take the whole
/// change. It is computed in f64 and rounded once to the network's type. Everything else
/// keeps its bits. The mask of a tensor is the one that is stored with it or in --mask,
/// else its zeros. Adapters of peft, kohya and diffusers are told by the names of their
/// tensors; their modules are found in the network by name.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(after_long_help = format!("{EXAMPLES}\n{JSON}\n{EXIT_STATUS}"))]
pub(crate) struct ApplyArguments {
    /// The adapter: a directory that peft wrote, or a file
    #[arg(value_name = "ADAPTER", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) adapter: Vec<PathBuf>,

    /// The network: a file, a shard index, or a directory
    #[arg(long, value_name = "NETWORK", value_hint = ValueHint::AnyPath)]
    pub(crate) to: PathBuf,

    /// The network to write: a file, or a directory
    ///
    /// A directory is written if --shard-size is given, if the name ends in `/` or is
    /// that of a directory, and if the network is a directory and the name has no
    /// extension. Neither input is ever written to.
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    #[arg(required_unless_present = "plan")]
    pub(crate) output: Option<PathBuf>,

    /// Multiply what the adapter adds
    #[arg(
        long,
        value_name = "S",
        default_value_t = 1.0,
        allow_hyphen_values = true
    )]
    pub(crate) scale: f64,

    #[command(flatten)]
    pub(crate) selection: SelectionArguments,

    #[command(flatten)]
    pub(crate) mask: MaskArguments,

    /// How the output stores masks
    #[arg(long, value_enum, default_value_t, help_heading = "Masks")]
    pub(crate) layout: LayoutChoice,

    /// Write shards of at most this size and an index, such as 5GB or 5GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Output")]
    pub(crate) shard_size: Option<u64>,

    /// Replace an output that exists
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    /// Do not wait until the output is on disk: it may be lost in a power cut
    #[arg(long, help_heading = "Output")]
    pub(crate) no_sync: bool,

    /// Print what would be changed, and write nothing
    #[arg(long, help_heading = "Report")]
    pub(crate) plan: bool,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}
