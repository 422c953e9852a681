//! What can be said to `sms-merge export`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueHint;

use super::EXIT_STATUS;
use super::ReadingArguments;
use super::ReportArguments;
use super::template::TEMPLATE_HELP;
use super::template::TemplateArguments;

/// Write a checkpoint in a format of other programs
///
/// With an output that ends in `.onnx`: a model of yours with the checkpoint's weights in
/// place of its own.
#[derive(Debug, Args)]
#[command(after_help = TEMPLATE_HELP)]
#[command(after_long_help = format!("{TEMPLATE_HELP}\n{EXIT_STATUS}"))]
pub(crate) struct ExportArguments {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) checkpoint: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) template: TemplateArguments,

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
