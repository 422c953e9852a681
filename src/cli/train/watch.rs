//! Who watches a training on behalf of the user: shows progress, records metrics, and
//! saves states.

use std::error::Error;
use std::time::Duration;
use std::time::Instant;

use serde::Serialize;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Target;
use sms_merge::graph::Graph;
use sms_merge::tensor::right_aligned;
use sms_merge::train::Loss;
use sms_merge::train::WeightsError;
use sms_merge::train::engine::Masks;
use sms_merge::train::record::Record;
use sms_merge::train::state::write_state;
use sms_merge::train::trainer::EpochReport;
use sms_merge::train::trainer::Event;
use sms_merge::train::trainer::State;
use sms_merge::train::trainer::StepReport;
use sms_merge::train::trainer::Watch;

use crate::cli::SCHEMA;
use crate::cli::args::train::Interval;
use crate::cli::progress::Steps;
use crate::cli::text::count;
use crate::cli::text::percent;
use crate::cli::train::logs::Events;
use crate::cli::train::logs::Lines;
use crate::cli::train::logs::LogError;

/// Steps after which the speed is shown anew.
const SPEED_STEPS: u64 = 8;

/// What images cost, for programs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct LossObject {
    loss: f64,
    accuracy: f64,
    images: u64,
}

impl LossObject {
    pub(super) fn new(loss: Loss) -> Self {
        Self {
            loss: loss.mean(),
            accuracy: loss.accuracy(),
            images: loss.samples,
        }
    }
}

#[derive(Serialize)]
struct StepLine {
    schema: u32,
    kind: &'static str,
    step: u64,
    epoch: u64,
    loss: f64,
    accuracy: f64,
    learning_rate: f64,
    gradient_norm: Option<f64>,
}

#[derive(Serialize)]
struct EpochLine {
    schema: u32,
    kind: &'static str,
    step: u64,
    epoch: u64,
    train: LossObject,
    validation: Option<LossObject>,
    learning_rate: f64,
    images_per_sec: f64,
    elapsed_secs: f64,
}

#[derive(Serialize)]
struct EndLine {
    schema: u32,
    kind: &'static str,
    step: u64,
    test: LossObject,
}

/// Where states are saved, and what goes with them.
pub(super) struct Saving<'a> {
    pub(super) graph: &'a Graph,
    pub(super) masks: &'a Masks,
    pub(super) record: &'a Record,
    pub(super) target: Target,
    pub(super) durability: Durability,
    pub(super) every: Option<Interval>,
}

impl Saving<'_> {
    /// Saves a state in place of the one before.
    pub(super) fn save(&self, state: &State) -> Result<(), WeightsError> {
        // What was there before is looked at anew: this program may have put it there.
        let path = self.target.path();
        let target = Target::for_file(path, sms_merge::format::replace::Existing::Replace)?;
        write_state(
            self.graph,
            state,
            self.masks,
            self.record,
            &target,
            self.durability,
        )
    }
}

/// Who watches.
pub(super) struct Watcher<'a> {
    pub(super) saving: &'a Saving<'a>,
    pub(super) progress: Steps,
    pub(super) lines: Option<Lines>,
    pub(super) events: Option<Events>,
    pub(super) log_every: u64,
    pub(super) epochs: u64,
    /// Images and time of the steps of this process.
    pub(super) images: u64,
    pub(super) computing: Duration,
    /// When the last step, or what came after it, was over.
    pub(super) resting: Instant,
    /// Images and time of the current epoch.
    pub(super) epoch_images: u64,
    pub(super) epoch_time: Duration,
    /// The last epoch.
    pub(super) last: Option<EpochReport>,
    /// Whether a state was saved.
    pub(super) has_saved: bool,
    pub(super) started: Instant,
}

impl Watcher<'_> {
    /// Images of a second, as long as steps were computed.
    pub(super) fn images_per_sec(&self) -> f64 {
        rate(self.images, self.computing)
    }

    /// Records how good the outcome is.
    pub(super) fn end(&mut self, step: u64, test: Loss) -> Result<(), LogError> {
        if let Some(lines) = &mut self.lines {
            lines.write(&EndLine {
                schema: SCHEMA,
                kind: "end",
                step,
                test: LossObject::new(test),
            })?;
        }
        if let Some(events) = &mut self.events {
            let values = [
                ("test/loss", test.mean()),
                ("test/accuracy", test.accuracy()),
            ];
            events.write(step, &values)?;
        }
        Ok(())
    }

    fn step(&mut self, report: &StepReport) -> Result<(), LogError> {
        let spent = self.resting.elapsed();
        self.computing += spent;
        self.epoch_time += spent;
        self.images += report.loss.samples;
        self.epoch_images += report.loss.samples;
        if report.step.is_multiple_of(SPEED_STEPS) {
            self.progress.say(format!(
                "loss {:.4}, accuracy {}, {} images/s",
                report.loss.mean(),
                percent(report.loss.accuracy()),
                count(rate(self.epoch_images, self.epoch_time) as u64),
            ));
        }
        self.progress.at(report.step, report.epoch + 1, self.epochs);
        if report.step.is_multiple_of(self.log_every) {
            if let Some(lines) = &mut self.lines {
                lines.write(&StepLine {
                    schema: SCHEMA,
                    kind: "step",
                    step: report.step,
                    epoch: report.epoch + 1,
                    loss: report.loss.mean(),
                    accuracy: report.loss.accuracy(),
                    learning_rate: report.learning_rate,
                    gradient_norm: report.gradient_norm,
                })?;
            }
            if let Some(events) = &mut self.events {
                let mut values = vec![
                    ("step/loss", report.loss.mean()),
                    ("step/learning_rate", report.learning_rate),
                ];
                values.extend(
                    report
                        .gradient_norm
                        .map(|norm| ("step/gradient_norm", norm)),
                );
                events.write(report.step, &values)?;
            }
        }
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<(), LogError> {
        let speed = rate(self.epoch_images, self.epoch_time);
        (self.epoch_images, self.epoch_time) = (0, Duration::ZERO);
        self.last = Some(*report);
        let width = self.epochs.to_string().len();
        let mut line = format!(
            "epoch {} of {}: loss {:.4}, accuracy {}",
            right_aligned(&report.epoch.to_string(), width),
            self.epochs,
            report.train.mean(),
            percent(report.train.accuracy()),
        );
        if let Some(validation) = report.validation {
            let held_out = percent(validation.accuracy());
            line.push_str(&format!(", validation {held_out}"));
        }
        line.push_str(&format!(", {} images/s", count(speed as u64)));
        self.progress.line(&line);
        if let Some(lines) = &mut self.lines {
            lines.write(&EpochLine {
                schema: SCHEMA,
                kind: "epoch",
                step: report.step,
                epoch: report.epoch,
                train: LossObject::new(report.train),
                validation: report.validation.map(LossObject::new),
                learning_rate: report.learning_rate,
                images_per_sec: speed,
                elapsed_secs: self.started.elapsed().as_secs_f64(),
            })?;
        }
        if let Some(events) = &mut self.events {
            let mut values = vec![
                ("train/loss", report.train.mean()),
                ("train/accuracy", report.train.accuracy()),
                ("train/images_per_sec", speed),
            ];
            if let Some(validation) = report.validation {
                values.push(("validation/loss", validation.mean()));
                values.push(("validation/accuracy", validation.accuracy()));
            }
            events.write(report.step, &values)?;
        }
        Ok(())
    }
}

impl Watch for Watcher<'_> {
    fn watch(&mut self, event: Event<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        match event {
            Event::Step(report) => self.step(report)?,
            Event::Epoch(report) => self.epoch(report)?,
            Event::Save(state) => {
                self.saving.save(state)?;
                self.has_saved = true;
            }
        }
        self.resting = Instant::now();
        Ok(())
    }

    fn saves_at(&self, step: u64, steps_per_epoch: u64) -> bool {
        let every = match self.saving.every {
            None => return false,
            Some(Interval::Steps(steps)) => Some(steps),
            Some(Interval::Epochs(epochs)) => epochs.checked_mul(steps_per_epoch),
        };
        every.is_some_and(|every| step.is_multiple_of(every))
    }
}

fn rate(images: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        images as f64 / seconds
    } else {
        0.0
    }
}
