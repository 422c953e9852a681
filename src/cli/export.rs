//! `sms-merge export`: a checkpoint walks in, another form of it or a file in a format of
//! others walks out.

pub(crate) mod onnx;
mod safetensors;
mod template;

use std::sync::atomic::AtomicBool;

use crate::cli::args::LayoutChoice;
use crate::cli::args::export::ExportArguments;
use crate::cli::args::export::OnnxEncoding;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;

/// Exports.
pub(crate) fn run(arguments: &ExportArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let is_model = arguments
        .output
        .extension()
        .is_some_and(|end| end == "onnx");
    refuse_misplaced(arguments, is_model)?;
    match &arguments.template.template {
        Some(model) => template::run(arguments, model, interrupted),
        None if is_model => onnx::run(arguments, interrupted),
        None => safetensors::run(arguments, interrupted),
    }
}

/// Refuses options that say nothing about the format that is written.
fn refuse_misplaced(arguments: &ExportArguments, is_model: bool) -> Result<(), UsageError> {
    let (layout, onnx) = (&arguments.layout, &arguments.onnx);
    let is_template = arguments.template.template.is_some();
    let computed = [
        (
            !matches!(onnx.onnx_encoding, OnnxEncoding::Dense),
            "--onnx-encoding",
        ),
        (onnx.external_data.is_some(), "--external-data"),
        (onnx.softmax, "--softmax"),
        (onnx.fold_batch_norm, "--fold-batch-norm"),
        (arguments.model.is_some(), "--model"),
        (arguments.choice.input.is_some(), "--input"),
        (arguments.choice.classes.is_some(), "--classes"),
        (!arguments.choice.options.is_empty(), "--option"),
    ];
    let mask = &arguments.mask;
    let masking = [
        (mask.mask.is_some(), "--mask"),
        (!mask.prunable.is_empty(), "--prunable"),
        (!mask.dense.is_empty(), "--dense"),
        (mask.strict, "--strict"),
    ];
    let stored = [
        (!matches!(layout.layout, LayoutChoice::Keep), "--layout"),
        (layout.shard_size.is_some(), "--shard-size"),
    ];
    let find = |options: &[(bool, &'static str)]| {
        let mut given = options.iter().filter(|(is_given, _)| *is_given);
        given.next().map(|(_, name)| *name)
    };
    let refused = |name: &str, message: &str, next: &str| {
        Err(UsageError {
            message: format!("`{name}` {message}"),
            next: Some(next.to_owned()),
        })
    };
    if is_template {
        if let Some(name) = find(&computed) {
            let next = "leave it out: the template's graph stays as it is";
            return refused(name, "does not go with `--template`", next);
        }
        if let Some(name) = find(&masking) {
            let next = "leave it out: weights are taken as they are stored";
            return refused(name, "does not go with `--template`", next);
        }
        if !is_model {
            let next = "end the output in .onnx";
            return refused("--template", "makes an ONNX model", next);
        }
    }
    if let (Some(name), false) = (find(&computed), is_model) {
        return refused(name, "is about ONNX models", "end the output in .onnx");
    }
    match find(&stored) {
        Some(name) if is_model || is_template => {
            let next = "see `--onnx-encoding` for ONNX models";
            refused(name, "is about safetensors files", next)
        }
        _ => Ok(()),
    }
}
