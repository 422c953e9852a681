//! The loop of a training: an engine, a data set and a recipe walk in, trained weights
//! walk out. Reads no file and no clock: who calls it watches its events, writes what
//! is to be saved, and sets a flag to stop it.

mod error;
mod evaluation;
mod run;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;

use crate::tensor::Stream;
use crate::train::Loss;
use crate::train::Weights;
use crate::train::average::Running;
use crate::train::data::DataError;
use crate::train::data::Dataset;
use crate::train::data::Split;
use crate::train::engine::Engine;
use crate::train::engine::OptimizerState;
use crate::train::recipe::Rates;
use crate::train::recipe::Recipe;

pub use error::FitError;
pub use evaluation::measure;

use run::Run;

/// A training that can be followed: what is trained on, and how.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    dataset: &'a Dataset,
    recipe: &'a Recipe,
    split: Split,
    rates: Rates,
    steps_per_epoch: u64,
}

impl<'a> Plan<'a> {
    /// Parts the data and works out the learning rates.
    ///
    /// # Errors
    /// [`FitError::Recipe`], [`FitError::Data`].
    pub fn new(dataset: &'a Dataset, recipe: &'a Recipe) -> Result<Self, FitError> {
        let split = split(dataset, recipe)?;
        // The recipe is checked before it is asked: it may say that batches are empty.
        recipe.rates(1)?;
        let steps_per_epoch = recipe.steps_per_epoch(split.train.len());
        Ok(Self {
            rates: recipe.rates(steps_per_epoch)?,
            dataset,
            recipe,
            split,
            steps_per_epoch,
        })
    }

    /// The images that are trained on and those that are held out.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Learning rates, by step.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Steps of the whole training.
    pub fn steps(&self) -> u64 {
        // Checked where the rates were worked out.
        self.recipe.epochs * self.steps_per_epoch
    }
}

/// The images that are trained on and those that are held out, where some are left out
/// of the training: these are drawn at random, the same for every seed of a run.
fn split(dataset: &Dataset, recipe: &Recipe) -> Result<Split, DataError> {
    let (fraction, seed) = (recipe.validation_fraction, recipe.validation_seed);
    let mut split = Split::of(dataset.train.len(), fraction, seed)?;
    if let Some(most) = recipe.limit_train
        && most < split.train.len()
    {
        Stream::named(seed, "limit", "train").shuffle(&mut split.train);
        split.train.truncate(most);
        split.train.sort_unstable();
    }
    Ok(split)
}

/// All that is needed to go on: the same bits follow as without the break. Random
/// streams are named by epoch and step, so there is no generator to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// What the current epoch cost so far. Of a whole epoch: it is not validated yet.
    pub tally: Loss,
    /// Weights and statistics.
    pub weights: Weights,
    /// The optimiser's memory.
    pub optimizer: OptimizerState,
    /// The average along the way.
    pub average: Running,
}

/// What happens along a training.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step(&'a StepReport),
    /// An epoch is done.
    Epoch(&'a EpochReport),
    /// A state that may be saved; asked for by [`Watch::saves_at`].
    Save(&'a State),
}

/// What a step was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, with this one.
    pub step: u64,
    /// Epochs before this one.
    pub epoch: u64,
    /// What it cost.
    pub loss: Loss,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Norm of the gradients before they were clipped, if they are.
    pub gradient_norm: Option<f64>,
}

/// What an epoch was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochReport {
    /// Epochs done, with this one.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// What the training images cost while the weights changed.
    pub train: Loss,
    /// What the held-out images cost at its end, if there are any.
    pub validation: Option<Loss>,
    /// Learning rate of its last step.
    pub learning_rate: f64,
}

/// Who watches a training. Its errors end the training.
pub trait Watch {
    /// Is told what happened.
    ///
    /// # Errors
    /// Whatever makes it pointless to go on, such as a full disk.
    fn watch(&mut self, event: Event<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Whether the state after so many steps is to be saved; an epoch has
    /// `steps_per_epoch`.
    fn saves_at(&self, step: u64, steps_per_epoch: u64) -> bool;
}

/// How a training ended.
#[derive(Debug)]
pub enum Outcome {
    /// With these weights, which are the engine's.
    Done(Weights),
    /// By the flag: this is where to go on.
    Interrupted(Box<State>),
}

/// Trains.
///
/// The engine brings the first weights and the masks; with `state` it goes on from
/// there. `interrupted` is looked at after every batch.
///
/// # Errors
/// [`FitError`]; the engine's weights are then those of the last step, or undefined.
pub fn fit(
    engine: &mut dyn Engine,
    plan: &Plan<'_>,
    state: Option<&State>,
    watch: &mut dyn Watch,
    interrupted: &AtomicBool,
) -> Result<Outcome, FitError> {
    Run::new(engine, plan, state, watch, interrupted)?.go()
}
