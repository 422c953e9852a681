//! `sms-merge export`: a checkpoint walks in, another form of it walks out.

mod safetensors;

use std::sync::atomic::AtomicBool;

use crate::cli::args::export::ExportArguments;
use crate::cli::exit::Exit;

/// Exports.
pub(crate) fn run(arguments: &ExportArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    safetensors::run(arguments, interrupted)
}
