//! `sms-merge recalibrate`: a checkpoint and training images walk in, the checkpoint with
//! batch norm's statistics estimated again walks out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::RewriteError;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::checkpoint::refuse_other_name;
use sms_merge::checkpoint::rewrite;
use sms_merge::cycle::recalibrated::Observation;
use sms_merge::cycle::recalibrated::RecalibrationRecord;
use sms_merge::cycle::recalibrated::kept_metadata;
use sms_merge::format::replace::Target;
use sms_merge::merge::CertificateError;
use sms_merge::train::Weights;
use sms_merge::train::card::Card;
use sms_merge::train::card::Origin;
use sms_merge::train::data::Assembler;
use sms_merge::train::data::Dataset;
use sms_merge::train::data::Normalisation;
use sms_merge::train::data::epoch_order;
use sms_merge::train::evaluate::check_fit;
use sms_merge::train::masks::masks_of_zeros;
use sms_merge::train::recalibrate::Movement;
use sms_merge::train::recalibrate::Recalibration;
use sms_merge::train::recalibrate::has_statistics;
use sms_merge::train::recalibrate::recalibrate;
use sms_merge::train::recalibrate::stored_statistics;
use sms_merge::train::record::DataRecord;

use crate::cli::SCHEMA;
use crate::cli::args::recalibrate::RecalibrateArguments;
use crate::cli::eval::Stopped;
use crate::cli::eval::normalisation;
use crate::cli::eval::split;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::images::ImageBar;
use crate::cli::inputs::named;
use crate::cli::learning::build_model;
use crate::cli::learning::card_of;
use crate::cli::learning::open_compute;
use crate::cli::learning::open_data;
use crate::cli::outputs;
use crate::cli::silence::OtherWay;
use crate::cli::silence::refuse_silence;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;

/// What `--json` prints.
#[derive(Serialize)]
struct RecalibrateObject<'a> {
    schema: u32,
    output: String,
    bytes_written: u64,
    has_batch_norm: bool,
    data: ObservedObject<'a>,
    tensors: Vec<String>,
    moved: Option<&'a Movement>,
    elapsed_secs: f64,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ObservedObject<'a> {
    name: &'a str,
    images: usize,
    batches: usize,
    batch_size: usize,
    seed: u64,
}

/// What was observed, and what follows from it.
struct Observed {
    images: usize,
    batches: usize,
    /// New bytes of statistics, by tensor.
    replaced: BTreeMap<String, Vec<u8>>,
    /// How far they moved, if there were statistics before.
    moved: Option<Movement>,
    /// How images were normalised.
    normalisation: Normalisation,
}

/// Recalibrates.
pub(crate) fn run(
    arguments: &RecalibrateArguments,
    interrupted: &AtomicBool,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let existing = outputs::existing(arguments.force);
    let durability = outputs::durability(arguments.no_sync);
    let data = arguments.data.data.as_deref().map(Path::new);
    let inputs = [arguments.checkpoint.as_path()].into_iter().chain(data);
    refuse_named_input(&arguments.output, inputs)?;
    refuse_other_name(&arguments.output)?;
    let target = Target::for_file(&arguments.output, existing)?;
    let checkpoint = Checkpoint::open(&arguments.checkpoint, &named(&arguments.names))?;
    if checkpoint.model().is_some() {
        let path = arguments.checkpoint.clone();
        return Err(RewriteError::Model { path }.into());
    }
    target.probe(checkpoint.tensor_bytes())?;
    let card = card_of(&checkpoint)?;
    let (model, data) = (&arguments.model, &arguments.data);
    let in_torch = OtherWay::InTorch;
    refuse_silence(&arguments.checkpoint, card.as_ref(), model, data, in_torch)?;
    let dataset = open_data(data, Origin::of_checkpoint(card.as_ref()))?;
    let observed = observe(arguments, &checkpoint, card.as_ref(), &dataset, interrupted)?;
    let replaced = observed.as_ref().map(|observed| &observed.replaced);
    let (metadata, refused) = match &observed {
        None => kept_metadata(&checkpoint),
        Some(observed) => metadata(arguments, &checkpoint, &dataset, observed),
    };
    let refused = refused.map(|error| format!("{error}; it is left out"));
    let mut warnings: Vec<String> = refused.into_iter().collect();
    warnings.extend(observed.as_ref().and_then(Observed::warning));
    let moved = observed.as_ref().and_then(|found| found.moved.as_ref());
    let nothing = BTreeMap::new();
    let replaced = replaced.unwrap_or(&nothing);
    let bytes_written = rewrite(&checkpoint, &metadata, replaced, &target, durability)?;
    let (images, batches) = observed
        .as_ref()
        .map_or((0, 0), |observed| (observed.images, observed.batches));
    if arguments.report.json {
        let object = RecalibrateObject {
            schema: SCHEMA,
            output: arguments.output.to_string_lossy().into_owned(),
            bytes_written,
            has_batch_norm: observed.is_some(),
            data: ObservedObject {
                name: &dataset.name,
                images,
                batches,
                batch_size: arguments.images.batch_size,
                seed: arguments.images.seed,
            },
            tensors: replaced.keys().cloned().collect(),
            moved,
            elapsed_secs: started.elapsed().as_secs_f64(),
            warnings,
        };
        text::print(&text::json(&object)?)?;
        return Ok(Exit::Done);
    }
    let output = shown(&arguments.output);
    if arguments.report.quiet {
        return Ok(Exit::Done);
    }
    text::print(&match &observed {
        None => format!("no batch norm: `{output}` is the input as it was\n"),
        Some(_) => format!(
            "`{output}`: {} estimated from {} of `{}` ({}){}\n",
            plural(replaced.len() as u64, "tensor"),
            plural(images as u64, "training image"),
            Clean(&dataset.name),
            plural(batches as u64, "batch").replace("batchs", "batches"),
            match moved {
                Some(moved) => format!("; they moved: {}", how_far(moved)),
                None => String::new(),
            },
        ),
    })?;
    for warning in &warnings {
        note(&format!("warning: {warning}"));
    }
    Ok(Exit::Done)
}

/// `None` of a network without batch norm.
fn observe(
    arguments: &RecalibrateArguments,
    checkpoint: &Checkpoint,
    card: Option<&Card>,
    dataset: &Dataset,
    interrupted: &AtomicBool,
) -> anyhow::Result<Option<Observed>> {
    let compute = open_compute(&arguments.engine)?;
    let (graph, _) = build_model(&arguments.model, Origin::of_checkpoint(card), dataset)?;
    let weights = Weights::read(&graph, checkpoint)?;
    if !has_statistics(&graph) {
        return Ok(None);
    }
    let masks = masks_of_zeros(&graph, &weights);
    let mut engine = compute.engine(graph.clone(), &weights, masks)?;
    check_fit(engine.as_ref(), dataset.image(), dataset.classes())?;
    let images = &arguments.images;
    let split = split(&images.split, card, dataset)?;
    let mut order = epoch_order(images.seed, 0, &split.train);
    if let Some(asked) = images.images {
        if asked > order.len() {
            return Err(UsageError {
                message: format!(
                    "`--images {asked}`, but `{}` has {} training images that are not held out",
                    Clean(&dataset.name),
                    order.len()
                ),
                next: Some("leave `--images` out to use all".to_owned()),
            }
            .into());
        }
        order.truncate(asked);
    }
    let bar = ImageBar::new(order.len() as u64, &arguments.report);
    let normalisation = normalisation(card, dataset);
    let done = recalibrate(
        engine.as_mut(),
        &Assembler::new(&dataset.train, &normalisation),
        &order,
        images.batch_size,
        &|images| bar.advance(images),
        interrupted,
    );
    bar.clear();
    let path = || format!("`{}` cannot be recalibrated", shown(checkpoint.path()));
    match done.with_context(path)? {
        Recalibration::NoBatchNorm => Ok(None),
        Recalibration::Interrupted => Err(Stopped.into()),
        Recalibration::Done { batches, images } => {
            let estimated = engine.weights()?;
            let replaced = stored_statistics(&graph, &estimated, checkpoint);
            Ok(Some(Observed {
                images,
                batches,
                replaced: replaced.with_context(path)?,
                moved: Movement::of(&graph, &weights, &estimated),
                normalisation,
            }))
        }
    }
}

impl Observed {
    /// What there is to say if the images hardly are those of the network.
    fn warning(&self) -> Option<String> {
        let moved = self.moved.as_ref().filter(|moved| moved.is_implausible())?;
        let numbers = |values: &[f32]| {
            let values: Vec<String> = values.iter().map(f32::to_string).collect();
            values.join(", ")
        };
        Some(format!(
            "statistics moved implausibly far, {}: are \
             these the images that the network was trained on, normalised as in its training (here \
             by mean {} and deviation {})? Statistics move so far too where weights were changed, as by pruning, and \
             not trained since",
            how_far(moved),
            numbers(&self.normalisation.mean),
            numbers(&self.normalisation.deviation),
        ))
    }
}

/// How far statistics moved, in words.
pub(super) fn how_far(moved: &Movement) -> String {
    format!(
        "means by {} standard deviations, variances by a factor of {} (medians over {})",
        significant(moved.mean_shift),
        significant(moved.variance_factor),
        plural(moved.channels as u64, "channel"),
    )
}

/// A number with four digits after what leads it.
fn significant(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

/// The checkpoint's metadata, with a record of the recalibration and, of a soup, a
/// certificate that knows of it.
fn metadata(
    arguments: &RecalibrateArguments,
    checkpoint: &Checkpoint,
    dataset: &Dataset,
    observed: &Observed,
) -> (BTreeMap<String, String>, Option<CertificateError>) {
    let record = RecalibrationRecord::new(Observation {
        data: &dataset.name,
        data_digest: DataRecord::new(dataset).digest,
        images: observed.images,
        batches: observed.batches,
        batch_size: arguments.images.batch_size,
        seed: arguments.images.seed,
    });
    record.metadata(checkpoint, &observed.replaced)
}
