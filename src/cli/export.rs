//! `sms-merge export`: a checkpoint walks in, a file in a format of others walks out.

mod onnx;
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
    if arguments
        .output
        .extension()
        .is_some_and(|end| end == "onnx")
    {
        return onnx::run(arguments, interrupted);
    }
    Err(UsageError {
        message: format!(
            "`{}` does not say which format to write",
            shown(&arguments.output)
        ),
        next: Some("end the output in .onnx".to_owned()),
    }
    .into())
}
