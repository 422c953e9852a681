//! The embedded evaluator: a checkpoint walks in, its accuracy on held-out images after
//! a recalibration of batch norm walks out.

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::merge::Evaluate;
use sms_merge::tensor::DeviceName;
use sms_merge::train::Weights;
use sms_merge::train::card::Card;
use sms_merge::train::card::Origin;
use sms_merge::train::compute::Compute;
use sms_merge::train::data::Assembler;
use sms_merge::train::data::Dataset;
use sms_merge::train::data::epoch_order;
use sms_merge::train::evaluate::check_fit;
use sms_merge::train::evaluate::predict;
use sms_merge::train::masks::masks_of_zeros;
use sms_merge::train::recalibrate::Movement;
use sms_merge::train::recalibrate::Recalibration;
use sms_merge::train::recalibrate::recalibrate;

use crate::cli::args::MergeArguments;
use crate::cli::args::learning::EngineArguments;
use crate::cli::eval::Stopped;
use crate::cli::eval::normalisation;
use crate::cli::eval::split;
use crate::cli::exit::UsageError;
use crate::cli::inputs::open_options;
use crate::cli::learning::build_model;
use crate::cli::learning::card_of;
use crate::cli::learning::open_compute;
use crate::cli::learning::open_data;
use crate::cli::recalibrate::how_far;
use crate::cli::silence::OtherWay;
use crate::cli::silence::refuse_silence;
use crate::cli::text::Clean;
use crate::cli::text::note;
use crate::cli::text::shown;

/// Images of a batch where statistics are estimated: as in `sms-merge recalibrate`.
const OBSERVED_BATCH: usize = 128;

/// Seed of the order in which images are observed: as in `sms-merge recalibrate`.
const OBSERVED_SEED: u64 = 0;

/// Images that are classified at once: as in `sms-merge eval`.
const CLASSIFIED_BATCH: usize = 256;

/// Evaluates checkpoints by itself.
pub(super) struct Embedded<'a> {
    arguments: &'a MergeArguments,
    compute: Compute,
    /// What the first ingredient that says so is.
    card: Option<Card>,
    dataset: Dataset,
    /// Training images, in the order in which they are observed.
    observed: Vec<u32>,
    /// Images that are held out.
    held_out: Vec<u32>,
    has_warned: Cell<bool>,
    interrupted: &'a AtomicBool,
}

impl<'a> Embedded<'a> {
    pub(super) fn new(
        arguments: &'a MergeArguments,
        paths: &[PathBuf],
        interrupted: &'a AtomicBool,
    ) -> anyhow::Result<Self> {
        let reading = open_options(&arguments.reading);
        let greedy = &arguments.greedy.embedded;
        let mut card = None;
        for path in paths {
            let own = card_of(&Checkpoint::open(path, &reading)?)?;
            let by_command = OtherWay::ByCommand;
            refuse_silence(path, own.as_ref(), &greedy.model, &greedy.data, by_command)?;
            card = card.or(own);
        }
        let dataset = open_data(&greedy.data, Origin::of_checkpoint(card.as_ref()))?;
        let split = split(&greedy.split, card.as_ref(), &dataset)?;
        if split.validation.is_empty() {
            return Err(UsageError {
                message: format!(
                    "no images of `{}` are held out to compare soups on",
                    Clean(&dataset.name)
                ),
                next: Some("hold out some with `--validation`".to_owned()),
            }
            .into());
        }
        Ok(Self {
            arguments,
            compute: open_compute(&EngineArguments {
                device: DeviceName::Cpu,
                engine: greedy.engine,
                threads: arguments.reading.threads,
            })?,
            card,
            observed: epoch_order(OBSERVED_SEED, 0, &split.train),
            held_out: split.validation,
            dataset,
            has_warned: Cell::new(false),
            interrupted,
        })
    }

    /// Says once that the images hardly are those of the candidates.
    fn warn(&self, path: &Path, moved: &Movement) {
        let report = &self.arguments.report;
        let is_heard = !report.quiet && !report.json;
        if is_heard && moved.is_implausible() && !self.has_warned.replace(true) {
            let (path, far) = (shown(path), how_far(moved));
            note(&format!(
                "warning: statistics of batch norm of `{path}` moved implausibly far, {far}: is \
                 `{}` what the candidates were trained on?",
                Clean(&self.dataset.name)
            ));
        }
    }

    fn accuracy(&self, path: &Path) -> anyhow::Result<f64> {
        let dataset = &self.dataset;
        let checkpoint = Checkpoint::open(path, &open_options(&self.arguments.reading))?;
        // A soup of networks that say different things of themselves says nothing.
        let own = card_of(&checkpoint)?;
        let card = own.as_ref().or(self.card.as_ref());
        let origin = Origin::of_checkpoint(card);
        let (graph, _) = build_model(&self.arguments.greedy.embedded.model, origin, dataset)?;
        let weights = Weights::read(&graph, &checkpoint)?;
        let masks = masks_of_zeros(&graph, &weights);
        let mut engine = self.compute.engine(graph, &weights, masks)?;
        check_fit(engine.as_ref(), dataset.image(), dataset.classes())?;
        let normalisation = normalisation(card, dataset);
        let images = Assembler::new(&dataset.train, &normalisation);
        let done = recalibrate(
            engine.as_mut(),
            &images,
            &self.observed,
            OBSERVED_BATCH.min(self.observed.len()),
            &|_| (),
            self.interrupted,
        )?;
        if done == Recalibration::Interrupted {
            return Err(Stopped.into());
        }
        let estimated = engine.weights()?;
        if let Some(moved) = Movement::of(engine.graph(), &weights, &estimated) {
            self.warn(path, &moved);
        }
        let predictions = predict(
            engine.as_mut(),
            &images,
            &self.held_out,
            CLASSIFIED_BATCH,
            &|_| (),
            self.interrupted,
        )?;
        Ok(predictions.ok_or(Stopped)?.evaluate().accuracy)
    }
}

impl Evaluate for Embedded<'_> {
    fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
        let accuracy = self.accuracy(checkpoint);
        accuracy.map_err(anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace)
    }
}
