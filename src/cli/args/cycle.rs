//! `sms-merge cycle` and `sms-merge job` on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use clap::ValueHint;
use sms_merge::cycle::recipe::Override;
use sms_merge::tensor::DeviceName;

use super::EXIT_STATUS;
use super::ReportArguments;
use super::at_least_one;
use super::thread_count;

const CYCLE_EXAMPLES: &str = "\
Examples:
  sms-merge cycle                                # a demonstration, in a minute
  sms-merge cycle --init recipe.toml             # a recipe with every key
  sms-merge cycle recipe.toml --run-dir fashion
  sms-merge cycle recipe.toml --plan             # jobs, epochs, disk, time
  sms-merge cycle recipe.toml --set pruning.phases=2 --set seeds=[0,1,2]
  sms-merge cycle recipe.toml --device cuda:0,cuda:1 --jobs 4
  sms-merge cycle status fashion                 # where a run stands
";

const CYCLE_JSON: &str = "\
JSON output:
  One object on standard output, with `schema` 1:
    run_directory     path of the run
    ended             done, failed or interrupted
    steps, reused     steps of the run, and those that were done before
    failures          step and reason of each step that failed for good
    elapsed_secs
    files             names of what it delivers in the run directory
    delivered         seed and phase of soup.safetensors; null before that is
                      there
    report            what report.json holds; null where no dense network is
                      done
  --plan prints `steps` (label, kind, epochs), `epochs`, `disk_bytes` and
  `estimated_secs` instead; `cycle status` prints `holder`, `steps` with their
  states, and `report`.

Recipe:
  `sms-merge cycle --init` prints one with every key, what it means and what it
  is if it is left out. Unknown keys are errors.
";

/// The whole of Sparse Model Soups: prune, retrain, merge, repeat
///
/// Without a recipe, goes on with the run in --run-dir, or begins a demonstration there:
/// a small network on digits that are part of the program. A run that was interrupted, at
/// any moment and in any way, goes on where it stopped and ends in the same bytes.
/// soup.safetensors, soup.onnx, report.html, report.md and report.json lie in the run
/// directory: the soup is that of the first seed and the last phase. `named/` there holds
/// links to all networks and masks, such as named/seed-1/phase-2/ingredient-3.safetensors.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = CYCLE_EXAMPLES)]
#[command(after_long_help = format!("{CYCLE_EXAMPLES}\n{CYCLE_JSON}\n{EXIT_STATUS}"))]
pub(crate) struct CycleArguments {
    #[command(subcommand)]
    pub(crate) command: Option<CycleCommand>,

    /// What to do, as TOML
    #[arg(value_name = "RECIPE", value_hint = ValueHint::FilePath)]
    pub(crate) recipe: Option<PathBuf>,

    /// Where the run lives
    #[arg(long, value_name = "DIRECTORY", default_value = "sms-run")]
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) run_dir: PathBuf,

    /// Change a value of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Override>,

    /// Where jobs compute: cpu, cuda, or cuda:0,cuda:1 and so on, which take turns
    ///
    /// In place of `device` and `run.devices` of the recipe. All are of one kind: the bits
    /// of a GPU are not those of the processor.
    #[arg(long, value_name = "DEVICES", value_delimiter = ',')]
    pub(crate) device: Vec<DeviceName>,

    /// Jobs at a time [default: the recipe's, or one per core, or one per GPU]
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    pub(crate) jobs: Option<usize>,

    /// Threads that all jobs share; changes no bit of the result [default: one per core]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,

    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(crate) plan: bool,

    /// Print a recipe with every key, its meaning and its default, or write it to FILE
    ///
    /// All keys are comments, so that it does what no recipe of one's own does: take the
    /// sign away in front of what is to be changed. A FILE that exists is not replaced.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["recipe", "run_dir", "set", "device", "jobs", "threads", "plan", "json"])]
    pub(crate) init: Option<Option<PathBuf>>,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// What to do with a run that exists.
#[derive(Debug, Subcommand)]
pub(crate) enum CycleCommand {
    Status(StatusArguments),
}

/// Show where a run stands, while it runs or not
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_STATUS)]
pub(crate) struct StatusArguments {
    /// The run directory
    #[arg(value_name = "DIRECTORY", default_value = "sms-run", value_hint = ValueHint::DirPath)]
    pub(crate) run_dir: PathBuf,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Run one job of a cycle from its directory
///
/// What `sms-merge cycle` does for each step. A job can be run by hand, twice, or on
/// another machine that shares the file system: the first receipt counts.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_STATUS)]
pub(crate) struct JobArguments {
    #[command(subcommand)]
    pub(crate) command: JobCommand,
}

/// What to do with a job.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    Run(JobRunArguments),
    #[command(hide = true)]
    Exec(JobExecArguments),
    /// End the process group that this leads once standard input ends
    #[command(hide = true)]
    Guard,
}

/// Work at a job until its receipt is there
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_STATUS)]
pub(crate) struct JobRunArguments {
    /// The job's directory, `jobs/KEY` of a run
    #[arg(value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,

    /// Worker threads; changes no bit of the result [default: one per core]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,

    /// End with the process that starts this
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<u32>,
}

/// Become another program that ends with the parent
#[derive(Debug, Args)]
pub(crate) struct JobExecArguments {
    /// The process that starts this
    #[arg(long, value_name = "PID")]
    pub(crate) parent: u32,

    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) words: Vec<OsString>,
}
