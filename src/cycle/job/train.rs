//! Steps that train, by this program.

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;

use super::Bench;
use super::JobError;
use super::Made;
use super::Progress;
use super::progress::Reporter;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::cycle::findings::Epoch;
use crate::cycle::measure::Gauge;
use crate::cycle::work::Measure;
use crate::cycle::work::Train;
use crate::cycle::work::TrainerWork;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::Target;
use crate::graph::Graph;
use crate::tensor::DeviceKind;
use crate::train::Weights;
use crate::train::card::metadata;
use crate::train::engine::Engine;
use crate::train::lost::lost;
use crate::train::masks::read_masks;
use crate::train::memory::Task;
use crate::train::memory::require;
use crate::train::recipe::Pace;
use crate::train::recipe::Recipe;
use crate::train::record::FORMAT_VERSION;
use crate::train::record::Record;
use crate::train::record::StartRecord;
use crate::train::schedule::Method;
use crate::train::trainer::Event;
use crate::train::trainer::Outcome;
use crate::train::trainer::Plan;
use crate::train::trainer::Watch;
use crate::train::trainer::fit;

impl Bench<'_> {
    /// Trains, and measures the outcome.
    pub(super) fn train(&self, train: &Train) -> Result<Made, JobError> {
        match &train.trainer {
            TrainerWork::Command(command) => self.command(command, &train.measure),
            TrainerWork::Embedded {
                recipe,
                early_epoch,
            } => self.embedded(recipe, *early_epoch, &train.measure),
        }
    }

    fn embedded(
        &self,
        recipe: &Recipe,
        early_epoch: Option<u64>,
        measure: &Measure,
    ) -> Result<Made, JobError> {
        let gauge = self.gauge(measure)?;
        let gauge = gauge.ok_or_else(|| JobError::NoInput {
            role: "model".to_owned(),
        })?;
        let graph = gauge.graph();
        let open = |path: PathBuf| Checkpoint::open(&path, &OpenOptions::default());
        let (weights, masks) = match self.optional("base") {
            None => {
                if measure.device == DeviceKind::Cpu {
                    let slots = recipe.optimizer.slots();
                    require(graph, recipe.batch_size, Task::Train { slots })?;
                }
                let weights = Weights::initial(graph, recipe.seed);
                (weights, vec![None; graph.parameters.len()])
            }
            Some(base) => {
                let weights = Weights::read(graph, &open(base.clone())?)?;
                weights.check_finite(graph, &base)?;
                let masks = read_masks(graph, &open(self.input("mask")?)?)?;
                (weights, masks)
            }
        };
        let mut recipe = recipe.clone();
        if let Pace::Retraining {
            method: Method::Allr,
            lost: share,
            ..
        } = &mut recipe.pace
        {
            // What the mask took of the parent: the base may hold earlier weights.
            let parent = Weights::read(graph, &open(self.input("parent")?)?)?;
            let found = lost(graph, &parent, &parent, &masks).share;
            *share = Some(found.ok_or(JobError::NothingLost)?);
        }
        let plan = Plan::new(gauge.dataset(), &recipe)?;
        let model = measure.model.clone().ok_or_else(|| JobError::NoInput {
            role: "model".to_owned(),
        })?;
        let record = Record {
            format_version: FORMAT_VERSION,
            tool: format!("sms-merge {}", env!("CARGO_PKG_VERSION")),
            engine: gauge.engine_name().to_owned(),
            model,
            data: gauge.record().clone(),
            recipe: recipe.clone(),
            start: StartRecord::new(graph, &weights, &masks),
            steps_per_epoch: plan.steps_per_epoch(),
        };
        let mut engine = gauge.engine(&weights, masks)?;
        let early_step = early_epoch.map(|epoch| epoch * plan.steps_per_epoch());
        let mut watcher = Watcher {
            reporter: Reporter::new(&self.attempt.directory(), self.around.clock),
            graph,
            record: &record,
            steps: plan.steps(),
            curve: Vec::new(),
            early: early_step.map(|step| (step, self.output("early"))),
        };
        let interrupted = self.around.interrupted;
        let outcome = fit(engine.as_mut(), &plan, None, &mut watcher, interrupted)?;
        let Outcome::Done(trained) = outcome else {
            return Err(JobError::Interrupted);
        };
        let mut made = Made::default();
        if let Some((step, path)) = watcher.early.take() {
            if step >= plan.steps() {
                write(graph, &trained, &record, &path)?;
            }
            made.outputs.insert("early".to_owned(), path);
        }
        let curve = std::mem::take(&mut watcher.curve);
        let output = self.output("checkpoint");
        self.write_recalibrated(&gauge, engine.as_mut(), &record, &output)?;
        let mut model = gauge.model_of(&output, engine.as_mut())?;
        model.curve = curve;
        if measure.command.is_some() {
            model.scores = self.commanded(measure, &output)?;
        }
        made.metrics.model = Some(model);
        made.outputs.insert("checkpoint".to_owned(), output);
        Ok(made)
    }

    /// Writes a trained network, its statistics of batch norm estimated again, as those
    /// of the soup that it is held against are.
    fn write_recalibrated(
        &self,
        gauge: &Gauge<'_>,
        engine: &mut dyn Engine,
        record: &Record,
        output: &Path,
    ) -> Result<(), JobError> {
        let mut metadata = metadata(record);
        if let Some(recalibration) = gauge.recalibrate(output, engine)? {
            metadata.insert(RECALIBRATION_KEY.to_owned(), recalibration.to_text());
        }
        let target = Target::for_file(output, Existing::Refuse)?;
        let weights = engine.weights()?;
        let durability = Durability::Unsynced;
        Ok(weights.write(gauge.graph(), &metadata, &target, durability)?)
    }
}

fn write(graph: &Graph, weights: &Weights, record: &Record, path: &Path) -> Result<(), JobError> {
    let target = Target::for_file(path, Existing::Refuse)?;
    Ok(weights.write(graph, &metadata(record), &target, Durability::Unsynced)?)
}

/// Tells how far a training is, and keeps its early weights.
struct Watcher<'a> {
    reporter: Reporter<'a>,
    graph: &'a Graph,
    record: &'a Record,
    steps: u64,
    curve: Vec<Epoch>,
    /// The step after which weights are kept, and where.
    early: Option<(u64, PathBuf)>,
}

impl Watch for Watcher<'_> {
    fn watch(&mut self, event: Event<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        match event {
            Event::Step(report) => self.reporter.tell(|| Progress {
                step: report.step,
                steps: self.steps,
                text: match self
                    .curve
                    .last()
                    .and_then(|epoch| epoch.validation_accuracy)
                {
                    None => format!("loss {:.3}", report.loss.mean()),
                    Some(accuracy) => format!(
                        "loss {:.3}, validation {:.1} %",
                        report.loss.mean(),
                        100.0 * accuracy
                    ),
                },
            }),
            Event::Epoch(report) => self.curve.push(Epoch {
                epoch: report.epoch,
                train_loss: Some(report.train.mean()),
                train_accuracy: Some(report.train.accuracy()),
                validation_accuracy: report.validation.map(|loss| loss.accuracy()),
                learning_rate: Some(report.learning_rate),
            }),
            Event::Save(state) => {
                if let Some((_, path)) = &self.early {
                    write(self.graph, &state.weights, self.record, path)?;
                }
            }
        }
        Ok(())
    }

    fn saves_at(&self, step: u64, _steps_per_epoch: u64) -> bool {
        self.early.as_ref().is_some_and(|(early, _)| *early == step)
    }
}
