//! What decides the outcome of a training, apart from model, data and start: a
//! [`Recipe`]. The number of steps of an epoch walks in, learning rates walk out.

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::graph::Graph;
use crate::graph::Op;
use crate::train::data::Augmentation;
use crate::train::data::Dataset;
use crate::train::data::Known;
use crate::train::data::VALIDATION_FRACTION;
use crate::train::data::VALIDATION_SEED;
use crate::train::engine::Decay;
use crate::train::engine::Optimizer;
use crate::train::schedule::Curve;
use crate::train::schedule::Method;
use crate::train::schedule::Retraining;
use crate::train::schedule::Schedule;
use crate::train::schedule::ScheduleError;

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: u64,
    /// Images of a step. The last step of an epoch takes the rest, or leaves it out
    /// where it is a single image.
    pub batch_size: usize,
    /// The rule.
    pub optimizer: Optimizer,
    /// Learning rates.
    pub pace: Pace,
    /// Factor of the decay.
    pub weight_decay: f64,
    /// What decays.
    pub decay: Decay,
    /// Share of a label that is spread over all classes.
    pub label_smoothing: f64,
    /// Largest norm of all gradients together; longer ones are scaled down to it.
    pub clip_norm: Option<f64>,
    /// How training images are varied.
    pub augmentation: Augmentation,
    /// What is averaged along the way.
    pub average: Average,
    /// Names the order of the images, their variation, dropout and the first weights.
    pub seed: u64,
    /// Share of the training images that is held out.
    pub validation_fraction: f64,
    /// Names which are held out: not the seed of the run, so that models that are to be
    /// averaged hold out the same.
    pub validation_seed: u64,
    /// Most images that are trained on, drawn at random from those that are not held out.
    pub limit_train: Option<usize>,
}

/// How learning rates are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pace {
    /// By a formula.
    Curve {
        /// Largest rate.
        learning_rate: f64,
        /// How it falls.
        shape: Fall,
        /// Epochs in which it rises first.
        warmup_epochs: f64,
    },
    /// From those of the training before the pruning.
    Retraining {
        /// How they are chosen.
        method: Method,
        /// The training before the pruning.
        pretraining: Schedule,
        /// What pruning took away, for ALLR.
        lost: Option<f64>,
    },
}

/// How a learning rate falls after its warm-up, in terms of epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fall {
    /// Not.
    Constant,
    /// To 0, evenly.
    Linear,
    /// To 0, as half a cosine.
    Cosine,
    /// At some epochs.
    Step {
        /// Epochs before each of them.
        milestones: Vec<f64>,
        /// Factor at each of them.
        factor: f64,
    },
}

/// What is averaged along a training. Pruned weights stay pruned: all models along it
/// share the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Average {
    /// Nothing: the last weights are the outcome.
    #[default]
    None,
    /// An exponential moving average over all steps, statistics of batch norm too.
    ///
    /// `a += (1 - d)·(w - a)`, with `d = min(decay, (1 + n)/(10 + n))` after `n` steps,
    /// so that the first weights are soon forgotten.
    Ema {
        /// Share of the average that is kept at each step, in [0, 1).
        decay: f64,
    },
    /// The mean of the weights at the ends of the last epochs, batch norm re-estimated
    /// on the training images. Source: arXiv:1803.05407.
    Swa {
        /// Epochs before the first that counts.
        start: u64,
    },
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            optimizer: Optimizer::Sgd {
                momentum: 0.9,
                nesterov: true,
            },
            pace: Pace::Curve {
                learning_rate: 0.1,
                shape: Fall::Cosine,
                warmup_epochs: 1.0,
            },
            weight_decay: 5e-4,
            decay: Decay::All,
            label_smoothing: 0.0,
            clip_norm: None,
            augmentation: Augmentation::default(),
            average: Average::None,
            seed: 0,
            validation_fraction: VALIDATION_FRACTION,
            validation_seed: VALIDATION_SEED,
            limit_train: None,
        }
    }
}

impl Recipe {
    /// The same training, stretched to so many epochs with all that is told in epochs.
    pub fn stretched(mut self, epochs: u64) -> Self {
        let factor = epochs as f64 / self.epochs.max(1) as f64;
        self.epochs = epochs;
        if let Pace::Curve {
            shape,
            warmup_epochs,
            ..
        } = &mut self.pace
        {
            *warmup_epochs *= factor;
            if let Fall::Step { milestones, .. } = shape {
                for milestone in milestones {
                    *milestone *= factor;
                }
            }
        }
        if let Average::Swa { start } = &mut self.average {
            *start = (*start as f64 * factor).round() as u64;
        }
        self
    }

    /// What suits a network and a data set where nothing else is known: short trainings
    /// on the digits, larger rates and varied images where there is batch norm.
    pub fn suited(graph: &Graph, dataset: &Dataset) -> Self {
        let is_small = Known::from_name(&dataset.name) == Some(Known::Digits);
        let mut nodes = graph.nodes.iter();
        let has_batch_norm = nodes.any(|node| matches!(node.op, Op::BatchNorm { .. }));
        Self {
            epochs: if is_small { 30 } else { 10 },
            batch_size: if is_small { 32 } else { 128 },
            pace: Pace::Curve {
                learning_rate: if has_batch_norm { 0.1 } else { 0.05 },
                shape: Fall::Cosine,
                warmup_epochs: 1.0,
            },
            augmentation: if has_batch_norm {
                dataset.augmentation
            } else {
                Augmentation::default()
            },
            ..Self::default()
        }
    }

    /// Steps of an epoch over `images` images.
    pub fn steps_per_epoch(&self, images: usize) -> u64 {
        let (full, rest) = (images / self.batch_size, images % self.batch_size);
        // Batch norm cannot train on one value.
        let is_rest_used = rest > 1 || rest == 1 && full == 0;
        full as u64 + u64::from(is_rest_used)
    }

    /// Learning rates, where an epoch has `steps_per_epoch` steps.
    ///
    /// # Errors
    /// [`RecipeError`] names the first field that cannot be.
    pub fn rates(&self, steps_per_epoch: u64) -> Result<Rates, RecipeError> {
        self.check()?;
        let steps = self.epochs.checked_mul(steps_per_epoch);
        let steps = steps.filter(|&steps| steps < 1 << 53);
        let steps = steps.ok_or(RecipeError::Field {
            field: "epochs",
            expected: "fewer than 2^53 steps in all",
            found: self.epochs as f64,
        })?;
        let step_at = |epochs: f64| (epochs * steps_per_epoch as f64).round_ties_even() as u64;
        match &self.pace {
            Pace::Curve {
                learning_rate,
                shape,
                warmup_epochs,
            } => Ok(Rates::Schedule(Schedule {
                curve: match shape {
                    Fall::Constant => Curve::Constant,
                    Fall::Linear => Curve::Linear,
                    Fall::Cosine => Curve::Cosine,
                    Fall::Step { milestones, factor } => Curve::Step {
                        milestones: milestones.iter().copied().map(step_at).collect(),
                        factor: *factor,
                    },
                },
                peak: *learning_rate,
                warmup_steps: step_at(*warmup_epochs),
                steps,
            })),
            Pace::Retraining {
                method,
                pretraining,
                lost,
            } => {
                let retraining = Retraining::new(*method, pretraining.clone(), *lost, steps)?;
                Ok(Rates::Retraining(retraining))
            }
        }
    }

    fn check(&self) -> Result<(), RecipeError> {
        let share = "a number in [0, 1)";
        let positive = "a number above 0";
        let not_negative = "a number of at least 0";
        let is_share = |value: f64| (0.0..1.0).contains(&value);
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        let is_not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let field = |is_legal: bool, field, expected, found: f64| {
            let error = RecipeError::Field {
                field,
                expected,
                found,
            };
            if is_legal { Ok(()) } else { Err(error) }
        };
        let whole = "a whole number of at least 1";
        field(self.epochs > 0, "epochs", whole, 0.0)?;
        field(self.batch_size > 0, "batch_size", whole, 0.0)?;
        field(self.limit_train != Some(0), "limit_train", whole, 0.0)?;
        match self.optimizer {
            Optimizer::Sgd { momentum, nesterov } => {
                field(is_share(momentum), "momentum", share, momentum)?;
                let is_legal = !nesterov || momentum > 0.0;
                let expected = "above 0 with Nesterov's momentum";
                field(is_legal, "momentum", expected, momentum)?;
            }
            Optimizer::AdamW {
                beta1,
                beta2,
                epsilon,
            } => {
                field(is_share(beta1), "beta1", share, beta1)?;
                field(is_share(beta2), "beta2", share, beta2)?;
                field(is_positive(epsilon), "epsilon", positive, epsilon)?;
            }
        }
        if let Pace::Curve {
            learning_rate: rate,
            shape,
            warmup_epochs,
        } = &self.pace
        {
            field(is_positive(*rate), "learning_rate", positive, *rate)?;
            let is_legal = is_not_negative(*warmup_epochs) && *warmup_epochs < self.epochs as f64;
            let expected = "at least 0 and below the number of epochs";
            field(is_legal, "warmup_epochs", expected, *warmup_epochs)?;
            if let Fall::Step { milestones, factor } = shape {
                field(is_positive(*factor), "factor", positive, *factor)?;
                for &epoch in milestones {
                    field(is_positive(epoch), "milestones", positive, epoch)?;
                }
                for pair in milestones.windows(2) {
                    let expected = "more than the one before it";
                    field(pair[0] < pair[1], "milestones", expected, pair[1])?;
                }
            }
        }
        let decay = self.weight_decay;
        field(is_not_negative(decay), "weight_decay", not_negative, decay)?;
        let smoothing = self.label_smoothing;
        field(is_share(smoothing), "label_smoothing", share, smoothing)?;
        if let Some(norm) = self.clip_norm {
            field(is_positive(norm), "clip_norm", positive, norm)?;
        }
        match self.average {
            Average::None => Ok(()),
            Average::Ema { decay } => field(is_share(decay), "ema", share, decay),
            Average::Swa { start } => {
                let expected = "an epoch before the last";
                field(start < self.epochs, "swa", expected, start as f64)
            }
        }
    }
}

/// The learning rates of a training, by step.
#[derive(Clone, Debug, PartialEq)]
pub enum Rates {
    /// By a formula.
    Schedule(Schedule),
    /// From those of the training before the pruning.
    Retraining(Retraining),
}

impl Rates {
    /// Rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        match self {
            Self::Schedule(schedule) => schedule.rate(step),
            Self::Retraining(retraining) => retraining.rate(step),
        }
    }
}

/// Why a recipe cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum RecipeError {
    /// A value is out of its range.
    #[error("`{field}` is {found}, expected {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// There are no learning rates.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_have_steps_for_all_images_but_a_last_single_one() {
        let check = |images, batch_size, expected| {
            let recipe = Recipe {
                batch_size,
                ..Recipe::default()
            };
            assert_eq!(recipe.steps_per_epoch(images), expected, "{images}");
        };
        check(256, 128, 2);
        check(257, 128, 2);
        check(258, 128, 3);
        check(1, 128, 1);
        check(3, 1, 3);
        check(0, 8, 0);
    }

    #[test]
    fn epochs_become_steps() {
        let mut recipe = Recipe {
            epochs: 4,
            ..Recipe::default()
        };
        let shape = Fall::Step {
            milestones: vec![2.0, 3.5],
            factor: 0.5,
        };
        recipe.pace = Pace::Curve {
            learning_rate: 0.8,
            shape,
            warmup_epochs: 0.5,
        };
        let rates = recipe.rates(10).unwrap();
        let found: Vec<f64> = [0, 1, 4, 5, 19, 20, 34, 35, 39]
            .map(|step| rates.rate(step))
            .to_vec();
        assert_eq!(found, [0.0, 0.16, 0.64, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]);
        let Rates::Schedule(pretraining) = rates else {
            panic!("not a schedule");
        };
        recipe.epochs = 2;
        recipe.pace = Pace::Retraining {
            method: Method::Lrw,
            pretraining,
            lost: None,
        };
        let rates = recipe.rates(10).unwrap();
        assert_eq!([0, 14, 15].map(|step| rates.rate(step)), [0.4, 0.4, 0.2]);
    }

    #[test]
    fn recipes_are_text_and_back() {
        let check = |recipe: &Recipe| {
            let text = toml::to_string(recipe).unwrap();
            assert_eq!(&toml::from_str::<Recipe>(&text).unwrap(), recipe, "{text}");
            let text = serde_json::to_string(recipe).unwrap();
            assert_eq!(&serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        };
        let mut recipe = Recipe::default();
        check(&recipe);
        recipe.optimizer = Optimizer::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        };
        recipe.clip_norm = Some(1.0);
        recipe.limit_train = Some(100);
        recipe.average = Average::Ema { decay: 0.99 };
        let pretraining = Schedule {
            curve: Curve::Linear,
            peak: 0.1,
            warmup_steps: 5,
            steps: 50,
        };
        recipe.pace = Pace::Retraining {
            method: Method::Allr,
            pretraining,
            lost: Some(0.25),
        };
        check(&recipe);
        assert!(toml::from_str::<Recipe>("epoch = 3").is_err());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let check = |change: fn(&mut Recipe), expected: &str| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            let error = recipe.rates(10).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(
            |recipe| recipe.epochs = 0,
            "`epochs` is 0, expected a whole number of at least 1",
        );
        check(
            |recipe| recipe.epochs = u64::MAX / 2,
            "`epochs` is 9223372036854776000, expected fewer than 2^53 steps in all",
        );
        check(
            |recipe| recipe.batch_size = 0,
            "`batch_size` is 0, expected a whole number of at least 1",
        );
        check(
            |recipe| recipe.label_smoothing = 1.0,
            "`label_smoothing` is 1, expected a number in [0, 1)",
        );
        check(
            |recipe| recipe.weight_decay = f64::NAN,
            "`weight_decay` is NaN, expected a number of at least 0",
        );
        check(
            |recipe| recipe.clip_norm = Some(0.0),
            "`clip_norm` is 0, expected a number above 0",
        );
        check(
            |recipe| recipe.average = Average::Swa { start: 10 },
            "`swa` is 10, expected an epoch before the last",
        );
        check(
            |recipe| recipe.average = Average::Ema { decay: 1.0 },
            "`ema` is 1, expected a number in [0, 1)",
        );
        check(
            |recipe| {
                recipe.optimizer = Optimizer::Sgd {
                    momentum: 0.0,
                    nesterov: true,
                }
            },
            "`momentum` is 0, expected above 0 with Nesterov's momentum",
        );
        check(
            |recipe| {
                recipe.pace = Pace::Curve {
                    learning_rate: -0.1,
                    shape: Fall::Cosine,
                    warmup_epochs: 0.0,
                }
            },
            "`learning_rate` is -0.1, expected a number above 0",
        );
        check(
            |recipe| {
                recipe.pace = Pace::Curve {
                    learning_rate: 0.1,
                    shape: Fall::Cosine,
                    warmup_epochs: 10.0,
                }
            },
            "`warmup_epochs` is 10, expected at least 0 and below the number of epochs",
        );
    }
}
