//! Checkpoints without a tensor: legal files, of which there is little to say.

use std::collections::BTreeMap;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::IngredientsError;
use sms_merge::format::torch::StateError;
use sms_merge::format::torch::TorchError;
use sms_merge::tensor::Printable;

use super::InspectObject;
use crate::cli::SCHEMA;
use crate::cli::args::InspectArguments;
use crate::cli::exit::Exit;
use crate::cli::inputs::open_options;
use crate::cli::masks::TotalObject;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::shown;

/// Whether an error only says that a well-formed file holds no tensor.
pub(super) fn is_empty(error: &anyhow::Error) -> bool {
    let is_without = |cause: &(dyn std::error::Error + 'static)| {
        let dict = match (cause.downcast_ref(), cause.downcast_ref()) {
            (Some(TorchError::State(dict)), _) => Some(dict),
            (_, dict) => dict,
        };
        let is_dict = matches!(
            dict,
            Some(StateError::NoTensor { candidates, .. }) if candidates.is_empty()
        );
        is_dict || matches!(cause.downcast_ref(), Some(IngredientsError::Empty { .. }))
    };
    error.chain().any(is_without)
}

/// Shows a checkpoint without a tensor.
pub(super) fn show(arguments: &InspectArguments) -> anyhow::Result<Exit> {
    // A dict of torch without tensors is not opened, and has no metadata.
    let options = open_options(&arguments.reading);
    let checkpoint = Checkpoint::open(&arguments.checkpoint, &options).ok();
    let metadata = checkpoint.as_ref().map(Checkpoint::metadata);
    let metadata: BTreeMap<&str, &str> = metadata.unwrap_or_default();
    let bytes = match &checkpoint {
        Some(checkpoint) => checkpoint
            .shards()
            .iter()
            .map(|shard| shard.source().bytes())
            .sum(),
        None => std::fs::metadata(&arguments.checkpoint).map_or(0, |found| found.len()),
    };
    if arguments.report.json {
        let object = InspectObject {
            schema: SCHEMA,
            path: arguments.checkpoint.to_string_lossy().into_owned(),
            bytes,
            shards: Vec::new(),
            tensors: Vec::new(),
            mask: TotalObject::new(&[], None),
            metadata,
            certificate: None,
            warnings: Vec::new(),
        };
        text::print(&text::json(&object)?)?;
        return Ok(Exit::Done);
    }
    let path = shown(&arguments.checkpoint);
    let mut lines = format!("{path}: {}, and no tensors\n", human_bytes(bytes));
    for (key, value) in metadata {
        let line = format!("metadata {} = {}", Printable(key), Printable(value));
        let line = text::cut(&line, arguments.report.verbose);
        lines.push_str(&format!("{line}\n"));
    }
    text::print(&lines)?;
    Ok(Exit::Done)
}
