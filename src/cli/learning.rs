//! From arguments to the trainer's terms: a data set, a network and an engine.

use std::path::Path;

use anyhow::Context;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::graph::Graph;
use sms_merge::merge::default_threads;
use sms_merge::tensor::DeviceName;
use sms_merge::train::card::Card;
use sms_merge::train::card::Named;
use sms_merge::train::card::Origin;
use sms_merge::train::card::choose_data;
use sms_merge::train::card::choose_model;
use sms_merge::train::compute::Compute;
use sms_merge::train::data;
use sms_merge::train::data::DataSpec;
use sms_merge::train::data::Dataset;
use sms_merge::train::record::ModelRecord;
use sms_merge::train::record::NetworkError;
use sms_merge::train::record::Record;

use crate::cli::architecture;
use crate::cli::args::learning::DataArguments;
use crate::cli::args::learning::EngineArguments;
use crate::cli::args::learning::EngineChoice;
use crate::cli::args::learning::ModelArguments;
use crate::cli::exit::UsageError;
use crate::cli::text::shown;

/// What a checkpoint says of the training that it came out of, if it came out of one.
pub(crate) fn record_of(checkpoint: &Checkpoint) -> anyhow::Result<Option<Record>> {
    let record = Record::of(&checkpoint.metadata());
    record.with_context(|| format!("`{}` cannot be understood", shown(checkpoint.path())))
}

/// What a checkpoint says of its network and its images, if it says so.
pub(crate) fn card_of(checkpoint: &Checkpoint) -> anyhow::Result<Option<Card>> {
    let card = Card::of(&checkpoint.metadata());
    card.with_context(|| format!("`{}` cannot be understood", shown(checkpoint.path())))
}

/// Reads the data set that is asked for, or that a checkpoint was trained on, or, where
/// there is no checkpoint, the digits.
pub(crate) fn open_data(arguments: &DataArguments, origin: Origin<'_>) -> anyhow::Result<Dataset> {
    let Some(name) = choose_data(arguments.data.as_deref(), origin) else {
        let message = match origin.card() {
            Some(card) => format!(
                "the checkpoint was trained on `{}`, which is not known by name; say where it is",
                shown(Path::new(&card.data.name))
            ),
            None => "the checkpoint does not say which images it was trained on".to_owned(),
        };
        return Err(UsageError {
            message,
            next: Some("add `--data PATH`".to_owned()),
        }
        .into());
    };
    let spec = DataSpec {
        name,
        directory: arguments.data_dir.clone(),
    };
    Ok(data::open(&spec)?)
}

/// The network that is asked for, or that a checkpoint says it is, or, where there is no
/// checkpoint, one that suits the data; and how to build it again.
pub(crate) fn build_model(
    arguments: &ModelArguments,
    origin: Origin<'_>,
    dataset: &Dataset,
) -> anyhow::Result<(Graph, ModelRecord)> {
    let file = arguments.model.as_deref().map(Path::new);
    let described = file.and_then(|path| Some((path, architecture::syntax(path)?)));
    let described = described.map(|(path, syntax)| {
        let (input, classes) = (dataset.image(), dataset.classes());
        architecture::described(path, syntax, Some(input), Some(classes))
    });
    let described = described.transpose()?;
    let named = match (&described, &arguments.model) {
        (Some(graph), _) => Some(Named::Described(graph)),
        (None, Some(name)) => Some(Named::Model(name)),
        (None, None) => None,
    };
    let options = arguments.model_option.iter().cloned().collect();
    let Some(record) = choose_model(named, options, origin, dataset) else {
        return Err(UsageError {
            message: "the checkpoint does not say which network it holds".to_owned(),
            next: Some("add `--model MODEL`; `sms-merge model --list` lists them".to_owned()),
        }
        .into());
    };
    Ok((rebuild(&record)?, record))
}

/// The network of a record.
pub(crate) fn rebuild(record: &ModelRecord) -> anyhow::Result<Graph> {
    if record.description.is_some() && !record.options.is_empty() {
        return Err(UsageError {
            message: "a network that a file describes has no options".to_owned(),
            next: Some("leave `--model-option` out, or edit the file".to_owned()),
        }
        .into());
    }
    Ok(match record.graph() {
        Ok(graph) => graph,
        Err(NetworkError::Model(error)) => return Err(error.into()),
        Err(NetworkError::Description(error)) => return Err(error.into()),
    })
}

/// Number of threads that compute.
pub(crate) fn engine_threads(arguments: &EngineArguments) -> usize {
    arguments.threads.unwrap_or_else(default_threads)
}

/// The device that is asked for, opened, with the engine that is meant for it or asked for.
pub(crate) fn open_compute(arguments: &EngineArguments) -> anyhow::Result<Compute> {
    match (arguments.engine, arguments.device) {
        (Some(EngineChoice::Native), DeviceName::Cuda(_)) => Err(UsageError {
            message: "the native engine computes on the processor alone".to_owned(),
            next: Some(format!(
                "leave `--engine` out, or `--device {}`",
                arguments.device
            )),
        }
        .into()),
        (Some(EngineChoice::Candle), DeviceName::Cpu) => Ok(Compute::candle_on_processor()),
        (_, device) => Ok(Compute::open(device, engine_threads(arguments))?),
    }
}
