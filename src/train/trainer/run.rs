//! One training under way.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::graph::Op;
use crate::train::Loss;
use crate::train::Objective;
use crate::train::average::Running;
use crate::train::data::Assembler;
use crate::train::data::Batch;
use crate::train::data::Variation;
use crate::train::data::epoch_order;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;
use crate::train::engine::StepSeed;
use crate::train::engine::Update;
use crate::train::recalibrate::RecalibrateError;
use crate::train::recalibrate::Recalibration;
use crate::train::recalibrate::recalibrate;
use crate::train::recipe::Average;
use crate::train::trainer::EpochReport;
use crate::train::trainer::Event;
use crate::train::trainer::FitError;
use crate::train::trainer::Outcome;
use crate::train::trainer::Plan;
use crate::train::trainer::State;
use crate::train::trainer::StepReport;
use crate::train::trainer::Watch;
use crate::train::trainer::measure;

/// Names the order of the images that statistics of batch norm are estimated from.
const OBSERVED_SEED: u64 = 0;
/// Added to a norm before a division by it, as torch's `clip_grad_norm_` does.
const CLIP_EPSILON: f64 = 1e-6;

/// One training under way.
pub(super) struct Run<'a> {
    engine: &'a mut dyn Engine,
    plan: &'a Plan<'a>,
    watch: &'a mut dyn Watch,
    interrupted: &'a AtomicBool,
    assembler: Assembler<'a>,
    step: u64,
    tally: Loss,
    average: Running,
    /// Training images in the order of the current epoch; empty before its first step.
    order: Vec<u32>,
    batch: Batch,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        engine: &'a mut dyn Engine,
        plan: &'a Plan<'a>,
        state: Option<&State>,
        watch: &'a mut dyn Watch,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, FitError> {
        let (dataset, graph) = (plan.dataset, engine.graph());
        if plan.steps_per_epoch == 0 {
            return Err(FitError::NoImages);
        }
        if graph.input() != dataset.image() || graph.classes() < dataset.classes() {
            return Err(FitError::Shape {
                expected: graph.input().numel(),
                found: dataset.image().numel(),
                expected_classes: graph.classes(),
                found_classes: dataset.classes(),
            });
        }
        let mut run = Self {
            engine,
            plan,
            watch,
            interrupted,
            assembler: Assembler::new(&dataset.train, &dataset.normalisation),
            step: 0,
            tally: Loss::default(),
            average: Running::default(),
            order: Vec::new(),
            batch: Batch::default(),
        };
        if let Some(state) = state {
            run.step = state.step;
            run.tally = state.tally;
            run.average = state.average.clone();
            let set = run.engine.set_weights(&state.weights);
            set.map_err(|source| run.failed(source))?;
            let set = run.engine.set_optimizer_state(&state.optimizer);
            set.map_err(|source| run.failed(source))?;
        }
        Ok(run)
    }

    pub(super) fn go(mut self) -> Result<Outcome, FitError> {
        loop {
            if self.is_interrupted() {
                return self.interruption();
            }
            let is_epoch_over = self.step.is_multiple_of(self.plan.steps_per_epoch);
            if is_epoch_over && self.tally.samples > 0 {
                let Some(report) = self.finish_epoch()? else {
                    return self.interruption();
                };
                self.tell(Event::Epoch(&report))?;
                self.save()?;
            } else if self.step == self.plan.steps() {
                return self.finish();
            } else {
                let report = self.advance()?;
                self.tell(Event::Step(&report))?;
                if !self.step.is_multiple_of(self.plan.steps_per_epoch) {
                    self.save()?;
                }
            }
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn failed(&self, source: EngineError) -> FitError {
        let step = self.step;
        FitError::Engine { step, source }
    }

    fn tell(&mut self, event: Event<'_>) -> Result<(), FitError> {
        let step = self.step;
        let told = self.watch.watch(event);
        told.map_err(|source| FitError::Watch { step, source })
    }

    fn state(&mut self) -> Result<State, FitError> {
        let weights = self.engine.weights();
        let optimizer = self.engine.optimizer_state();
        Ok(State {
            step: self.step,
            tally: self.tally,
            weights: weights.map_err(|source| self.failed(source))?,
            optimizer: optimizer.map_err(|source| self.failed(source))?,
            average: self.average.clone(),
        })
    }

    fn interruption(&mut self) -> Result<Outcome, FitError> {
        Ok(Outcome::Interrupted(Box::new(self.state()?)))
    }

    fn save(&mut self) -> Result<(), FitError> {
        // The outcome itself is next: there is nothing to go on to.
        let is_last = self.step == self.plan.steps();
        if is_last || !self.watch.saves_at(self.step, self.plan.steps_per_epoch) {
            return Ok(());
        }
        let state = self.state()?;
        self.tell(Event::Save(&state))
    }

    /// One step.
    fn advance(&mut self) -> Result<StepReport, FitError> {
        let (recipe, step) = (self.plan.recipe, self.step);
        let epoch = step / self.plan.steps_per_epoch;
        let place = (step % self.plan.steps_per_epoch) as usize;
        if place == 0 || self.order.is_empty() {
            self.order = epoch_order(recipe.seed, epoch, &self.plan.split.train);
        }
        let begin = place * recipe.batch_size;
        let end = begin.saturating_add(recipe.batch_size);
        let indices = &self.order[begin..end.min(self.order.len())];
        let variation = Variation {
            augmentation: recipe.augmentation,
            seed: recipe.seed,
            epoch,
        };
        self.assembler
            .fill(indices, Some(&variation), &mut self.batch);
        let objective = Objective {
            label_smoothing: recipe.label_smoothing,
        };
        let seed = StepSeed {
            seed: recipe.seed,
            step,
        };
        let images = self.batch.images();
        let labels = &self.batch.labels;
        let loss = self.engine.backpropagate(images, labels, &objective, seed);
        let loss = loss.map_err(|source| self.failed(source))?;
        let learning_rate = self.plan.rates.rate(step);
        let check = |what, value: f64| {
            let error = FitError::NonFinite {
                what,
                value,
                step: step + 1,
                epoch: epoch + 1,
                learning_rate,
            };
            if value.is_finite() {
                Ok(())
            } else {
                Err(error)
            }
        };
        check("the loss", loss.mean())?;
        let mut gradient_scale = 1.0;
        let mut gradient_norm = None;
        if let Some(most) = recipe.clip_norm {
            let norm = self.engine.gradient_norm();
            let norm = norm.map_err(|source| self.failed(source))?;
            check("the norm of the gradients", norm)?;
            gradient_scale = (most / (norm + CLIP_EPSILON)).min(1.0);
            gradient_norm = Some(norm);
        }
        let update = Update {
            optimizer: recipe.optimizer,
            learning_rate,
            weight_decay: recipe.weight_decay,
            decay: recipe.decay,
            gradient_scale,
            step,
        };
        let updated = self.engine.update(&update);
        updated.map_err(|source| self.failed(source))?;
        if let Average::Ema { decay } = recipe.average {
            let weights = self.engine.weights();
            let weights = weights.map_err(|source| self.failed(source))?;
            self.average.ema(&weights, decay);
        }
        self.step += 1;
        self.tally.add(loss);
        Ok(StepReport {
            step: self.step,
            epoch,
            loss,
            learning_rate,
            gradient_norm,
        })
    }

    /// Validates; `None` if interrupted meanwhile.
    fn finish_epoch(&mut self) -> Result<Option<EpochReport>, FitError> {
        let plan = self.plan;
        let mut validation = None;
        if !plan.split.validation.is_empty() {
            let indices = &plan.split.validation;
            let batch_size = plan.recipe.batch_size;
            let measured = measure(
                self.engine,
                &self.assembler,
                indices,
                batch_size,
                self.interrupted,
            );
            match measured.map_err(|source| self.failed(source))? {
                None => return Ok(None),
                measured => validation = measured,
            }
        }
        let epoch = self.step / plan.steps_per_epoch;
        if let Average::Swa { start } = plan.recipe.average
            && epoch > start
        {
            let weights = self.engine.weights();
            let weights = weights.map_err(|source| self.failed(source))?;
            self.average.mean(&weights);
        }
        Ok(Some(EpochReport {
            epoch,
            step: self.step,
            train: std::mem::take(&mut self.tally),
            validation,
            learning_rate: plan.rates.rate(self.step - 1),
        }))
    }

    /// Puts the outcome into the engine.
    fn finish(mut self) -> Result<Outcome, FitError> {
        let latest = self.engine.weights();
        let latest = latest.map_err(|source| self.failed(source))?;
        if self.plan.recipe.average == Average::None {
            return Ok(Outcome::Done(latest));
        }
        let state = self.state()?;
        let averaged = self.average.weights(&latest);
        let set = self.engine.set_weights(&averaged);
        set.map_err(|source| self.failed(source))?;
        let is_swa = matches!(self.plan.recipe.average, Average::Swa { .. });
        let mut nodes = self.engine.graph().nodes.iter();
        let has_statistics = nodes.any(|node| matches!(node.op, Op::BatchNorm { .. }));
        if is_swa && has_statistics && !self.recalibrate()? {
            return Ok(Outcome::Interrupted(Box::new(state)));
        }
        let outcome = self.engine.weights();
        Ok(Outcome::Done(
            outcome.map_err(|source| self.failed(source))?,
        ))
    }

    /// Estimates the statistics of batch norm again on the training images; `false` if
    /// interrupted meanwhile.
    fn recalibrate(&mut self) -> Result<bool, FitError> {
        let train = &self.plan.split.train;
        let order = epoch_order(OBSERVED_SEED, 0, train);
        let size = self.plan.recipe.batch_size.min(order.len());
        let done = recalibrate(
            self.engine,
            &self.assembler,
            &order,
            size,
            &|_| (),
            self.interrupted,
        );
        match done {
            Ok(Recalibration::Interrupted) => Ok(false),
            Ok(Recalibration::Done { .. } | Recalibration::NoBatchNorm) => Ok(true),
            Err(RecalibrateError::Engine { source, .. }) => Err(self.failed(source)),
            Err(error) => unreachable!("there are images that fill a batch: {error}"),
        }
    }
}
