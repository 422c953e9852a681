//! What can be said about a model whose weights are replaced.

use std::path::PathBuf;

use clap::Args;
use clap::ValueHint;

/// What stands after the help.
pub(crate) const TEMPLATE_HELP: &str = "\
Template:
  Exporters fold batch norm, transpose and rename, and may keep the name of a
  weight that they changed. So weights are found by their bytes: an initialiser
  of the template becomes the tensor of the soup whose namesake in the source
  has the same bytes, or whose transpose has. What is left over is refused
  unless it is one number or named with `--keep`. Export the template with
  `optimize=False`, or, with `dynamo=False`, with `do_constant_folding=False`
  and `training=TrainingMode.PRESERVE`. The result carries no certificate;
  `verify` proves the soup that it was made from.

  With `--json`, one object: `schema` 1, `output`, `bytes_written`,
  `elapsed_secs`, `replaced` (objects of `initializer`, `tensor`, `transposed`)
  and `kept`.
";

/// A model, and what it was exported from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Template")]
pub(crate) struct TemplateArguments {
    /// An ONNX model of yours: its weights are replaced, all else stays
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::FilePath, requires = "source")]
    pub(crate) template: Option<PathBuf>,

    /// The checkpoint that the template was exported from; may be given several times
    #[arg(long, value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    #[arg(requires = "template")]
    pub(crate) source: Vec<PathBuf>,

    /// Initialisers of the template that are constants, and tensors of the source that
    /// it does without: shell patterns
    #[arg(long, value_name = "PATTERN", requires = "template")]
    pub(crate) keep: Vec<String>,
}
