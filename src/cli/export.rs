//! `sms-merge export`: a checkpoint walks in, a file in a format of others walks out.

mod template;

use std::sync::atomic::AtomicBool;

use crate::cli::args::export::ExportArguments;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::text::shown;

/// Exports.
pub(crate) fn run(arguments: &ExportArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    if let Some(model) = &arguments.template.template {
        return template::run(arguments, model, interrupted);
    }
    Err(UsageError {
        message: format!("`{}` needs a graph", shown(&arguments.output)),
        next: Some(
            "name a model with `--template` and what it was exported from with `--source`"
                .to_owned(),
        ),
    }
    .into())
}
