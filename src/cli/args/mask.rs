//! What can be said of `sms-merge mask`.

use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::ReadingArguments;
use super::ReportArguments;
use super::SelectionArguments;

const EXAMPLES: &str = "\
Examples:
  sms-merge mask diff mask.st pruned.st
  sms-merge mask union a.st b.st c.st -o union.st
  sms-merge mask intersect a.st b.st -o both.st
";

const JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    operation         diff, union or intersect
    inputs, output    paths as given; output may be null
    same              whether all inputs have the same masks
    mask              of all tensors with a mask: numel, retained (each input),
                      result, shared, union
    tensors           name, shape, numel, retained (each input), result, shared,
                      union, first_difference (a coordinate), differing
    warnings          sentences
  result counts what the written mask retains, shared what all inputs retain,
  and union what any does. A diff that finds any ends with exit status 4.
";

/// Compare masks, or combine them into a mask file
///
/// Inputs are mask files or pruned checkpoints, in any mix. A mask is a tensor of BOOL or
/// U8, one stored beside a tensor's values, or the zeros of a floating tensor of two or
/// more dimensions of which they are more than 0.1 %. What is masked in one input and
/// dense in another counts as retained there.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(after_long_help = format!("{EXAMPLES}\n{EXIT_STATUS}"))]
pub(crate) struct MaskCommandArguments {
    #[command(subcommand)]
    pub(crate) command: MaskCommand,
}

/// What to do with masks.
#[derive(Debug, Subcommand)]
pub(crate) enum MaskCommand {
    /// Where do the masks of two inputs differ?
    ///
    /// Ends with exit status 4 if they do. With -o, writes what the first retains and the
    /// second does not.
    #[command(after_help = EXAMPLES)]
    #[command(after_long_help = format!("{EXAMPLES}\n{JSON}\n{EXIT_STATUS}"))]
    Diff(MaskDiffArguments),
    /// Retain what any input retains
    #[command(after_help = EXAMPLES)]
    #[command(after_long_help = format!("{EXAMPLES}\n{JSON}\n{EXIT_STATUS}"))]
    Union(MaskSetArguments),
    /// Retain what every input retains
    #[command(after_help = EXAMPLES)]
    #[command(after_long_help = format!("{EXAMPLES}\n{JSON}\n{EXIT_STATUS}"))]
    Intersect(MaskSetArguments),
}

/// `sms-merge mask diff`.
#[derive(Debug, Args)]
pub(crate) struct MaskDiffArguments {
    /// A mask file or a pruned checkpoint
    #[arg(value_name = "FIRST", value_hint = ValueHint::AnyPath)]
    pub(crate) first: PathBuf,

    /// Another one
    #[arg(value_name = "SECOND", value_hint = ValueHint::AnyPath)]
    pub(crate) second: PathBuf,

    /// Write what the first retains and the second does not
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) common: MaskCommonArguments,
}

/// `sms-merge mask union` and `intersect`.
#[derive(Debug, Args)]
pub(crate) struct MaskSetArguments {
    /// Mask files or pruned checkpoints, two or more
    #[arg(value_name = "INPUT", required = true, num_args = 2.., value_hint = ValueHint::AnyPath)]
    pub(crate) inputs: Vec<PathBuf>,

    /// The mask file to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) common: MaskCommonArguments,
}

/// What all of them take.
#[derive(Debug, Args)]
pub(crate) struct MaskCommonArguments {
    /// Replace an output that exists
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    /// Do not wait until the output is on disk: it may be lost in a power cut
    #[arg(long, help_heading = "Output")]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) selection: SelectionArguments,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}
