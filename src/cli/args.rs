//! What can be said on the command line, as clap definitions: `argv` walks in,
//! values walk out. Completions and man pages are made from the same definitions.
//!
//! Names only clap, the library's vocabulary and [`parse_size`], so that the test of
//! the man pages can include this file.

#[path = "args/adapter.rs"]
pub(crate) mod adapter;
#[path = "args/apply.rs"]
pub(crate) mod apply;
#[cfg(feature = "train")]
#[path = "args/cycle.rs"]
pub(crate) mod cycle;
#[cfg(feature = "train")]
#[path = "args/data.rs"]
pub(crate) mod data;
#[path = "args/device.rs"]
pub(crate) mod device;
#[cfg(feature = "train")]
#[path = "args/eval.rs"]
pub(crate) mod eval;
#[path = "args/export.rs"]
pub(crate) mod export;
#[path = "args/greedy.rs"]
pub(crate) mod greedy;
#[cfg(feature = "train")]
#[path = "args/learning.rs"]
pub(crate) mod learning;
#[path = "args/mask.rs"]
pub(crate) mod mask;
#[path = "args/model.rs"]
pub(crate) mod model;
#[path = "args/prune.rs"]
pub(crate) mod prune;
#[cfg(feature = "train")]
#[path = "args/recalibrate.rs"]
pub(crate) mod recalibrate;
#[path = "args/template.rs"]
pub(crate) mod template;
#[cfg(feature = "train")]
#[path = "args/train.rs"]
pub(crate) mod train;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap::ValueHint;

use super::size::parse_size;

use mask::MaskCommandArguments;
use prune::PruneArguments;

const EXIT_STATUS: &str = "\
Exit status:
    0  done
    1  failed
    2  the command line is wrong
    3  the inputs do not go together, or are no checkpoints
    4  the ingredients do not share one connectivity
    5  reading or writing failed, something named is not there, or space ran out
    6  verification failed
  128  and the number of the signal that interrupted it: 129 for SIGHUP, 130 for
       SIGINT (Ctrl-C), 143 for SIGTERM; a second signal ends the program at
       once
";

const MERGE_EXAMPLES: &str = "\
Examples:
  sms-merge a.st b.st c.st -o soup.st
  sms-merge a.st b.st c.st -w 0.5,0.3,0.2 -o soup.st
  sms-merge 'run/step-*.safetensors' --last 5 -o soup.st
  sms-merge @list.txt --best 3 --metrics m.json --metric accuracy -o soup.st
  sms-merge a.st b.st c.st --method greedy -o soup.st
  sms-merge a.st b.st c.st --method greedy -o soup.st \\
      --eval 'python eval.py {checkpoint}'
  sms-merge model-a/ model-b/ --shard-size 5GB -o soup/
  sms-merge a.st b.st --mask mask.st -o soup.st
  sms-merge lora-a/ lora-b/ --rank 16 -o soup/
";

const MERGE_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    output            path of the soup, as given
    bytes_written     bytes of all its files, of which there are n_files
    elapsed_secs      wall time
    method            uniform, weighted or greedy
    ingredients       paths, in the order of summation; of a greedy soup, those
                      kept
    selection         null, or of a greedy soup: better (higher or lower),
                      on_tie, candidates (name, digest, score), score of the
                      soup, decisions in the order tried (candidate by its
                      position from 0, score of the soup with it, is_kept)
    coefficients      one per ingredient; is_normalized if they were made to sum
                      to 1
    on_mask_mismatch  the policy
    mask              of all pruned tensors: digest, numel, retained, sparsity
    tensors           name, dtype, shape, action, retained_zeros, non_finite,
                      mask; mask is null or an object as in `sms-merge check`
    distances         null, or norms, pairs (first, second, l2, angle_degrees,
                      unrelated_share), to_barycentre
    needs_recalibration, dropped_metadata
    sidecars          files copied along; sidecars_left, those that were not
                      (name, reason)
    config_changes    what config.json says otherwise; config_open, what it
                      has to say
    devices           names of the GPUs that combined; empty for the processor
    warnings          sentences
  With --plan, plan: ingredients, output, coefficients, bytes_to_read,
  bytes_to_write, n_files, n_threads, devices, peak_memory_bytes,
  estimated_secs, tensors, n_evaluations. Of a greedy soup, coefficients is
  null, bytes are those of a choice that keeps every ingredient, the most that
  there can be, and the time of evaluations is not in estimated_secs.
  Of adapters whose products are averaged, also with --plan: output,
  bytes_written, bytes_to_write, elapsed_secs, method, ingredients,
  coefficients, products, modules (name, rule, rank, alpha, relative_error, and
  ranks of the ingredients that have it, by position), relative_error,
  n_other_tensors, sidecars, dropped_metadata, warnings.
  A run that fails prints error: kind, message, causes, exit, next. exit is the
  exit status, and next says what to do, or is null. With exit status 2 there is
  also argument, the one that is wrong, if it is known; with exit status 4,
  mismatch, as in `sms-merge check`.
";

const CHECK_EXAMPLES: &str = "\
Examples:
  sms-merge check a.st b.st c.st
  sms-merge check 'run/*.safetensors' --json
  sms-merge check a.st b.st --mask mask.st --strict
";

const CHECK_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    shared            whether all participants share one connectivity
    participants      paths: the mask file if there is one, then the ingredients
    mask              of all pruned tensors: digest, numel, retained, sparsity
    tensors           name, shape, is_pruned, numel, retained, sparsity,
                      pattern, broken_pattern, retained_by (each participant),
                      disagreements, first_difference (a coordinate),
                      is_tolerated, digest
    mismatch          null, or verdict (one-odd, one-unpruned, drift, nested,
                      independent), sentence, odd, order, participants, pairs
                      (first, second, iou, shared, only_first, only_second),
                      tensors
    warnings          sentences
  Exit status 4 goes with shared = false; other failures print an error object.
";

const INSPECT_EXAMPLES: &str = "\
Examples:
  sms-merge inspect soup.st
  sms-merge inspect model/ --json
";

const INSPECT_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    path, bytes       the checkpoint, and its size over all shards
    shards            path and bytes of each file
    tensors           name, dtype, shape, numel, bytes, stored_as, mask; mask is
                      null or an object as in `sms-merge check`
    mask              of all pruned tensors: digest, numel, retained, sparsity
    metadata          free text by key, as stored
    certificate       what a merge recorded: tool, method, weights, ingredients
                      with their lineage, options, digests; null if there is
                      none
    warnings          sentences
";

const VERIFY_EXAMPLES: &str = "\
Examples:
  sms-merge verify soup.st                 # digests, seal, nothing off the mask
  sms-merge verify soup.st a.st b.st c.st  # recompute every bit
";

const VERIFY_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    verified          whether everything that was checked holds
    mode              recomputed, or self-check
    n_tensors         number of tensors of the soup
    n_recalibrated    those of them that are statistics estimated again after
                      the merge
    not_covered       what no digest covers and no ingredient tells: files
                      beside the weights; metadata and graph of a soup without a
                      seal
    differences       kind, tensor, coordinate, message; the first element that
                      differs comes first
  Exit status 6 goes with verified = false; other failures print an error
  object.
";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  sms-merge completions bash > \\
      ~/.local/share/bash-completion/completions/sms-merge
  sms-merge completions zsh > ~/.zfunc/_sms-merge    # a directory of $fpath
  sms-merge completions fish > ~/.config/fish/completions/sms-merge.fish
";

/// Average pruned neural networks that share one connectivity
///
/// Sparse Model Soups: several networks that were pruned together and retrained
/// apart are averaged into one that is as sparse as each of them. `merge` is the
/// default command: `sms-merge a.st b.st -o soup.st`. A file whose name is that of a
/// command is given as `./check`.
///
/// Source: Zimmer, Spiegel, Pokutta, Sparse Model Soups, arXiv:2306.16788.
#[derive(Debug, Parser)]
#[command(
    name = "sms-merge",
    version = option_env!("SMS_MERGE_VERSION").unwrap_or(env!("CARGO_PKG_VERSION")),
    max_term_width = 100,
    after_help = "`sms-merge COMMAND --help` says more about a command. `merge` may be left out.",
    after_long_help = EXIT_STATUS,
    disable_help_subcommand = true,
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Merge(Box<MergeArguments>),
    Check(CheckArguments),
    Inspect(InspectArguments),
    Verify(VerifyArguments),
    Prune(Box<PruneArguments>),
    Apply(Box<apply::ApplyArguments>),
    Export(Box<export::ExportArguments>),
    Mask(MaskCommandArguments),
    Model(model::ModelArguments),
    #[cfg(feature = "train")]
    Data(data::DataArguments),
    #[cfg(feature = "train")]
    Train(Box<train::TrainArguments>),
    #[cfg(feature = "train")]
    Eval(Box<eval::EvalArguments>),
    #[cfg(feature = "train")]
    Recalibrate(Box<recalibrate::RecalibrateArguments>),
    #[cfg(feature = "train")]
    Cycle(Box<cycle::CycleArguments>),
    #[cfg(feature = "train")]
    Job(cycle::JobArguments),
    Completions(CompletionsArguments),
}

/// Average checkpoints into a soup (the default command)
///
/// All ingredients must hold the same tensors and share one mask. The soup keeps that
/// mask: pruned coordinates are +0, and retained ones are the weighted mean, summed in
/// f64 in the order given and rounded once. Nothing is written unless all of it can be.
#[derive(Debug, Args)]
#[command(after_help = MERGE_EXAMPLES)]
#[command(after_long_help = format!("{MERGE_EXAMPLES}\n{MERGE_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct MergeArguments {
    #[command(flatten)]
    pub(crate) ingredients: IngredientArguments,

    /// The soup to write: a file, or a directory of shards
    ///
    /// A directory is written if --shard-size is given, if the name ends in `/` or is
    /// that of a directory, and if all ingredients are directories and the name has no
    /// extension. Its weights are called as the first ingredient's, whose other files go
    /// along. An ingredient is never written to.
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    #[arg(required_unless_present = "plan")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) choice: ChoiceArguments,

    /// How weights are chosen [default: weighted if there are --weights, else uniform]
    ///
    /// A greedy soup starts from the best ingredient and tries the others from the best
    /// down: one is kept if the uniform soup with it is at least as good as without. What
    /// is good, --eval says, or the embedded evaluator: accuracy on held-out images, after
    /// batch norm's statistics were estimated again. Masks of all ingredients are
    /// compared before. Scores and decisions are recorded in the soup.
    #[arg(long, value_enum, help_heading = "Coefficients")]
    pub(crate) method: Option<MethodChoice>,

    /// One weight per ingredient, in the same order [default: all the same]
    ///
    /// Divided by their sum unless --no-normalize. Zero and negative weights are legal.
    /// With --best or --last, one weight for each ingredient that is kept.
    #[arg(short, long, value_name = "W,W,...", value_delimiter = ',')]
    #[arg(allow_hyphen_values = true, help_heading = "Coefficients")]
    pub(crate) weights: Option<Vec<f64>>,

    /// Take --weights as they are instead of dividing by their sum
    #[arg(long, requires = "weights", help_heading = "Coefficients")]
    pub(crate) no_normalize: bool,

    #[command(flatten)]
    pub(crate) greedy: greedy::GreedyArguments,

    #[command(flatten)]
    pub(crate) adapters: adapter::AdapterArguments,

    #[command(flatten)]
    pub(crate) selection: SelectionArguments,

    #[command(flatten)]
    pub(crate) from_first: FromFirstArguments,

    #[command(flatten)]
    pub(crate) mask: MaskArguments,

    /// What to do where masks differ
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    #[arg(hide_possible_values = false, help_heading = "Masks")]
    pub(crate) on_mask_mismatch: OnMaskMismatch,

    /// How the soup stores masks
    #[arg(long, value_enum, default_value_t, help_heading = "Masks")]
    pub(crate) layout: LayoutChoice,

    /// What to do with integer tensors that differ
    ///
    /// `num_batches_tracked` and `n_averaged` always take the largest.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    #[arg(help_heading = "Element types")]
    pub(crate) on_integer_mismatch: OnIntegerMismatch,

    /// Element type of averaged tensors [default: that of the ingredients]
    ///
    /// Needed where ingredients differ in it.
    #[arg(long, value_enum, ignore_case = true, help_heading = "Element types")]
    pub(crate) dtype: Option<FloatType>,

    /// Merge NaN and infinities instead of refusing them
    #[arg(long, help_heading = "Element types")]
    pub(crate) allow_non_finite: bool,

    /// Write shards of at most this size and an index, such as 5GB or 5GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Output")]
    pub(crate) shard_size: Option<u64>,

    /// Replace an output that exists
    #[arg(short, long, help_heading = "Output")]
    pub(crate) force: bool,

    /// Do not wait until the soup is on disk: it may be lost in a power cut
    #[arg(long, help_heading = "Output")]
    pub(crate) no_sync: bool,

    /// Record a SHA-256 digest of each whole ingredient file
    ///
    /// Costs a second pass over the bytes. Without it, XXH3 digests of the tensors
    /// are recorded, which detect accidents but not forgery.
    #[arg(long, help_heading = "Output")]
    pub(crate) sha256: bool,

    /// Distances and angles between ingredients in the report
    ///
    /// `auto` measures them for up to 16 ingredients: the cost grows with the square
    /// of their number.
    #[arg(long, value_enum, default_value_t, help_heading = "Report")]
    pub(crate) distances: Measure,

    /// Print what would be read and written, and do nothing
    #[arg(long, help_heading = "Report")]
    pub(crate) plan: bool,

    #[command(flatten)]
    pub(crate) device: device::DeviceArguments,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Do the ingredients share one connectivity, and where not?
///
/// Reads every tensor once and writes nothing. Reports sparsity and n:m pattern of each
/// pruned tensor, and, where masks differ, how: one odd ingredient, drift, nested
/// masks, or masks chosen independently.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
#[command(after_long_help = format!("{CHECK_EXAMPLES}\n{CHECK_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(crate) ingredients: IngredientArguments,

    #[command(flatten)]
    pub(crate) choice: ChoiceArguments,

    #[command(flatten)]
    pub(crate) selection: SelectionArguments,

    #[command(flatten)]
    pub(crate) from_first: FromFirstArguments,

    #[command(flatten)]
    pub(crate) mask: MaskArguments,

    #[command(flatten)]
    pub(crate) device: device::DeviceArguments,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Show tensors, sparsity, n:m patterns, metadata and lineage
#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
#[command(after_long_help = format!("{INSPECT_EXAMPLES}\n{INSPECT_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct InspectArguments {
    /// A safetensors file, a checkpoint of torch, a shard index, or a directory of these
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    #[command(flatten)]
    pub(crate) mask: MaskArguments,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Prove that a soup is what its metadata says
///
/// With the ingredients, recomputes the soup in a stream and compares every bit,
/// metadata and graph too. Without them, checks the digests that the merge recorded,
/// the seal on all else that is in the files, the mask, and that nothing off the mask
/// is non-zero.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
#[command(after_long_help = format!("{VERIFY_EXAMPLES}\n{VERIFY_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct VerifyArguments {
    /// The soup
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) soup: PathBuf,

    /// Its ingredients, in the order in which they were merged
    ///
    /// Paths, patterns and `@list.txt` as for a merge.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) ingredients: Vec<OsString>,

    /// The mask file that the merge was given
    #[arg(long, value_name = "FILE", requires = "ingredients", value_hint = ValueHint::FilePath)]
    pub(crate) mask: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) device: device::DeviceArguments,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Which checkpoints.
#[derive(Debug, Args)]
pub(crate) struct IngredientArguments {
    /// Checkpoints: files, shard indexes, directories, patterns, or @list.txt
    ///
    /// Files are safetensors or what `torch.save` wrote.
    ///
    /// A pattern such as 'run/step-*.st' stands for its matches, step-2 before step-10.
    /// A file of that literal name wins. `@list.txt` stands for the lines of list.txt,
    /// paths relative to the current directory; empty lines and lines that begin with
    /// `#` are skipped. The order given is the order of summation.
    #[arg(value_name = "INGREDIENT", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) ingredients: Vec<OsString>,
}

/// Which of them are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing ingredients")]
pub(crate) struct ChoiceArguments {
    /// Keep the last N ingredients
    #[arg(long, value_name = "N", conflicts_with = "best", value_parser = at_least_one)]
    pub(crate) last: Option<usize>,

    /// Keep the N ingredients that are best by a metric, in the order given
    #[arg(long, value_name = "N", requires = "metrics", value_parser = at_least_one)]
    pub(crate) best: Option<usize>,

    /// Metrics of the ingredients, as JSON or JSON lines
    ///
    /// {"a.st": {"accuracy": 0.9}}, {"a.st": 0.9}, [{"checkpoint": "a.st", "accuracy":
    /// 0.9}], or one such object per line. An ingredient is found by its path as given,
    /// its file name, or its file name without the extension.
    #[arg(long, value_name = "FILE", requires = "best", value_hint = ValueHint::FilePath)]
    pub(crate) metrics: Option<PathBuf>,

    /// Name of the metric; needed unless there is one number for each checkpoint
    ///
    /// Of those in the metrics file or, of a greedy soup, those that --eval prints.
    #[arg(long, value_name = "NAME")]
    pub(crate) metric: Option<String>,

    /// The metric is a loss: lower is better
    #[arg(long)]
    pub(crate) lower_is_better: bool,
}

/// Which tensors.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing tensors")]
pub(crate) struct SelectionArguments {
    /// Take only tensors whose names match; may be repeated
    ///
    /// Shell patterns over whole names; `*` matches dots too.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,

    /// Leave out tensors whose names match; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
}

/// Which tensors are not averaged.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing tensors")]
pub(crate) struct FromFirstArguments {
    /// Take tensors whose names match from the first ingredient as they are; may be repeated
    ///
    /// Whatever the others have of that name, in any shape or type, or not at all: so models
    /// with different heads or vocabularies become a whole one. Its mask is the first
    /// ingredient's, too. --exclude wins over it, and it wins over --include.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) from_first: Vec<String>,
}

/// How masks are found.
#[derive(Debug, Args)]
#[command(next_help_heading = "Masks")]
pub(crate) struct MaskArguments {
    /// Masks, one tensor of zeros and ones for each pruned tensor
    ///
    /// A safetensors file whose tensors have the names of the pruned ones, or these
    /// with `_mask`. Every ingredient must agree with it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) mask: Option<PathBuf>,

    /// These tensors are pruned, and their zeros are the mask; may be repeated
    ///
    /// Without this, floating tensors of two or more dimensions are pruned if more than
    /// 0.1 % of the elements are zero in at least one ingredient.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) prunable: Vec<String>,

    /// These tensors are dense, whatever their zeros; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) dense: Vec<String>,

    /// A single differing zero is a mismatch
    ///
    /// Without this, where masks are read from zeros, zeros that only some ingredients
    /// have are taken for retained weights that happen to be zero, if they are at most
    /// 1e-5 of a tensor's retained weights and an n:m pattern still holds.
    #[arg(long)]
    pub(crate) strict: bool,
}

/// How files are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reading")]
pub(crate) struct ReadingArguments {
    /// Worker threads; changes no bit of the result [default: one per core, at most 16]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,

    /// Read with pread(2) instead of mapping files into memory
    #[arg(long)]
    pub(crate) no_mmap: bool,

    /// Largest header of a file that is parsed, or pickle of a checkpoint of torch
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "64MiB")]
    pub(crate) max_header_bytes: u64,

    #[command(flatten)]
    pub(crate) names: NameArguments,
}

/// Which tensors a file holds, and what they are called.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reading")]
pub(crate) struct NameArguments {
    /// Key of the state dict in checkpoints of torch, such as `model` or `ema.model`
    ///
    /// Without it, the state dict is what a checkpoint holds, or what is in that under
    /// `state_dict`, `model_state_dict` or `model`. `.` stands for all that it holds: the
    /// names of dicts within dicts are joined with dots.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,

    /// Take this off the beginning of tensor names, such as `module.` (repeatable)
    ///
    /// `module.` is what torch's DataParallel puts there, `_orig_mod.` is that of
    /// torch.compile. Several are taken off one after the other. Names without one stay.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) strip_prefix: Vec<String>,
}

/// What is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub(crate) struct ReportArguments {
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// Print nothing but errors, and what was asked for
    ///
    /// No progress, no summary, no warnings. A question that is answered by the exit
    /// status, as by `check`, `verify` and `mask diff`, is answered by that alone if the
    /// answer is yes; if it is no, what is wrong is still told.
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Show every tensor, and the whole chain of an error
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodChoice {
    /// All weights are the same
    Uniform,
    /// As --weights says
    Weighted,
    /// The same, for the ingredients that make the soup better
    Greedy,
}

/// `--on-mask-mismatch`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum OnMaskMismatch {
    /// Refuse to merge
    #[default]
    Error,
    /// Retain what every ingredient retains
    Intersect,
    /// Retain what any ingredient retains: sparsity falls
    Union,
    /// Retain what at least half, by weight, retain
    Vote,
    /// Retain what the first, or the mask file, retains
    First,
}

/// `--on-integer-mismatch`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum OnIntegerMismatch {
    /// Refuse to merge
    #[default]
    Error,
    /// Take the first ingredient's
    First,
    /// Take the largest
    Max,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FloatType {
    F16,
    Bf16,
    F32,
    F64,
}

/// `--layout`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LayoutChoice {
    /// As the first input stores them
    #[default]
    Keep,
    /// As zeros of plain tensors
    Dense,
    /// As bits, beside the retained values
    Bitmask,
    /// As bits, for compressed-tensors up to 0.14
    CompressedTensors,
    /// As X_orig and X_mask, for torch.nn.utils.prune
    TorchPrune,
}

/// `--distances`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Measure {
    #[default]
    Auto,
    On,
    Off,
}

/// A shell that completes command lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number: &usize| number > 0);
    number.ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

/// Most threads that can be asked for: more than processors have, and few enough that a
/// slip of the keyboard does not stop the machine.
const MOST_THREADS: usize = 1024;

fn thread_count(text: &str) -> Result<usize, String> {
    let number = at_least_one(text)
        .ok()
        .filter(|&number| number <= MOST_THREADS);
    number.ok_or_else(|| format!("expected a whole number from 1 to {MOST_THREADS}"))
}
