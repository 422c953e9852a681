//! What can be said of `sms-merge prune`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::LayoutChoice;
use super::ReadingArguments;
use super::ReportArguments;
use super::parse_size;

const EXAMPLES: &str = "\
Examples:
  sms-merge prune dense.st -o pruned.st --sparsity 0.9
  sms-merge prune dense.st -o pruned.st --sparsity 0.9 --exclude 'head.*'
  sms-merge prune dense.st -o pruned.st --sparsity 0.9 --distribution lamp
  sms-merge prune pruned.st -o sparser.st --of-remaining 0.5 --mask-out mask.st
  sms-merge prune dense.st -o half.st --pattern 2:4
  sms-merge prune dense.st -o narrow.st --sparsity 0.3 --pattern channels
  sms-merge prune dense.st -o pruned.st --from-mask mask.st
  sms-merge prune model/ --sparsity 0.9 --distribution erk --plan
";

const JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output, mask_output  paths as given, or null
    bytes_written     bytes of all files of the checkpoint
    elapsed_secs      wall time
    target            what was asked for: weights (amount, distribution),
                      channels (amount, distribution), pattern, or given
    mask              of all prunable tensors: digest, numel, retained, sparsity
    tensors           name, dtype, shape, standing (prunable, or why not),
                      numel, remaining (before), retained, sparsity, threshold,
                      retained_zeros, pattern, digest. What scores below the
                      threshold was pruned, what scores above it was not; of
                      what is equal, the first. It is a magnitude, a LAMP score,
                      the norm of the largest pruned channel, or null
    sidecars          files copied along; sidecars_left, those that were not
                      (name, reason)
    config_changes    what config.json says otherwise; config_open, what it
                      has to say
    warnings          sentences
  A run that fails prints an error object, as a merge does.
";

/// Prune a checkpoint: one mask, met exactly
///
/// Prunes a dense checkpoint, or a pruned one further: a pruned weight never returns.
/// Pruned coordinates become +0, everything else keeps its bits. Prunable are the
/// weights of linear layers and convolutions: F16, BF16, F32 and F64 tensors of 2 to 5
/// dimensions whose last name component contains `weight` or `kernel`, and that are no
/// norm, embedding or bias by name. Of equal scores, that of the lower (tensor, index)
/// goes first. The result is a function of the inputs, for any number of threads, and
/// memory does not grow with the size of the tensors: at most 96 MiB and 3 KB per tensor.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(after_long_help = format!("{EXAMPLES}\n{JSON}\n{EXIT_STATUS}"))]
pub(crate) struct PruneArguments {
    /// A safetensors file, a checkpoint of torch, a shard index, or a directory of these
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    /// The pruned checkpoint to write: a file, or a directory
    ///
    /// A directory is written if --shard-size is given, if the name ends in `/` or is
    /// that of a directory, and if the checkpoint is a directory and the name has no
    /// extension. The checkpoint is never written to.
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    #[arg(required_unless_present_any = ["plan", "mask_out"])]
    pub(crate) output: Option<PathBuf>,

    /// Fraction of the prunable weights that is pruned in the end, such as 0.9
    ///
    /// `round(S * weights)` are pruned in all, ties to even; with --pattern channels, the
    /// same of channels.
    #[arg(long, value_name = "S", help_heading = "How much")]
    pub(crate) sparsity: Option<f64>,

    /// Fraction of the remaining weights that is pruned now
    ///
    /// `round(P * remaining)` are pruned, ties to even.
    #[arg(
        long,
        value_name = "P",
        conflicts_with = "sparsity",
        help_heading = "How much"
    )]
    pub(crate) of_remaining: Option<f64>,

    /// Which weights are pruned, and how they are spread over tensors
    ///
    /// [default: global, and uniform with --pattern channels]
    #[arg(long, value_enum, help_heading = "Which weights")]
    pub(crate) distribution: Option<DistributionChoice>,

    /// What is pruned together: unstructured, channels, or n:m such as 2:4
    ///
    /// n:m keeps the n largest of every m consecutive weights along the input dimension;
    /// m is 2, 4, 8, 16 or 32. channels prunes the output channels of least L2 norm.
    #[arg(long, value_name = "PATTERN", value_parser = pattern_choice)]
    #[arg(default_value = "unstructured", help_heading = "Which weights")]
    pub(crate) pattern: PatternChoice,

    /// Names the draw of --distribution random
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Which weights"
    )]
    pub(crate) seed: u64,

    /// Prune what this mask file prunes, and nothing else
    ///
    /// A safetensors file of zeros and ones whose tensors have the names of the tensors
    /// to prune, or these with `_mask`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["sparsity", "of_remaining", "distribution", "pattern", "seed", "include", "exclude", "mask"])]
    #[arg(help_heading = "Which weights")]
    pub(crate) from_mask: Option<PathBuf>,

    /// Tensors whose names match are prunable too; may be repeated
    ///
    /// Shell patterns over whole names; `*` matches dots too.
    #[arg(long, value_name = "PATTERN", help_heading = "Which tensors")]
    pub(crate) include: Vec<String>,

    /// Tensors whose names match are not pruned; may be repeated
    #[arg(long, value_name = "PATTERN", help_heading = "Which tensors")]
    pub(crate) exclude: Vec<String>,

    /// What the checkpoint's masks are now, as a mask file
    ///
    /// Without it, a tensor's mask is the one stored beside it, else its zeros if they are
    /// more than 0.1 % of it, else it is dense.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = "Masks")]
    pub(crate) mask: Option<PathBuf>,

    /// Write the masks of all prunable tensors to a file: BOOL tensors of their names
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = "Masks")]
    pub(crate) mask_out: Option<PathBuf>,

    /// How the output stores masks: `keep` or `dense`; `sms-merge export` writes the others
    #[arg(long, value_enum, default_value_t, help_heading = "Masks")]
    pub(crate) layout: LayoutChoice,

    /// Write shards of at most this size and an index, such as 5GB or 5GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Output")]
    pub(crate) shard_size: Option<u64>,

    /// Replace outputs that exist
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    /// Do not wait until the output is on disk: it may be lost in a power cut
    #[arg(long, help_heading = "Output")]
    pub(crate) no_sync: bool,

    /// Print what would be pruned, and write nothing
    #[arg(long, help_heading = "Report")]
    pub(crate) plan: bool,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// `--distribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DistributionChoice {
    /// Those of least magnitude over all tensors
    Global,
    /// The same fraction of each tensor
    Uniform,
    /// Each tensor retains in proportion to its summed dimensions
    Erk,
    /// Those of least LAMP score over all tensors
    Lamp,
    /// Random ones over all tensors, by --seed
    Random,
}

/// `--pattern`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternChoice {
    /// Single weights.
    Unstructured,
    /// Whole output channels.
    Channels,
    /// At most n of every m consecutive weights along the input dimension.
    Groups(u64, u64),
}

fn pattern_choice(text: &str) -> Result<PatternChoice, String> {
    let groups = || {
        let (n, m) = text.split_once(':')?;
        Some(PatternChoice::Groups(n.parse().ok()?, m.parse().ok()?))
    };
    match text {
        "unstructured" => Ok(PatternChoice::Unstructured),
        "channels" => Ok(PatternChoice::Channels),
        _ => groups().ok_or_else(|| "expected unstructured, channels, or n:m such as 2:4".into()),
    }
}
