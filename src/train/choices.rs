//! What people say of a training: each choice made or left open. A network and a data set
//! walk in, a [`Recipe`] walks out in which nothing is open.

use serde::Deserialize;
use serde::Serialize;

use crate::graph::Graph;
use crate::train::data::Augmentation;
use crate::train::data::Dataset;
use crate::train::engine::Decay;
use crate::train::engine::Optimizer;
use crate::train::recipe::Average;
use crate::train::recipe::Fall;
use crate::train::recipe::Pace;
use crate::train::recipe::Recipe;
use crate::train::schedule::Method;
use crate::train::schedule::Schedule;

/// Added to the root of the second moment, as torch does by default.
const ADAM_EPSILON: f64 = 1e-8;
/// torch's default for AdamW.
const ADAM_DECAY: f64 = 0.01;
/// torch's default for AdamW.
const ADAM_RATE: f64 = 1e-3;
/// torch's default for AdamW.
const ADAM_BETAS: [f64; 2] = [0.9, 0.999];
/// The momentum of the literature on pruning.
const MOMENTUM: f64 = 0.9;
/// Factor of the learning rate at each milestone.
const FACTOR: f64 = 0.1;

/// An optimiser, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Stochastic gradient descent.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// A learning-rate schedule, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// To 0, as half a cosine.
    #[default]
    Cosine,
    /// To 0, evenly.
    Linear,
    /// At milestones.
    Step,
    /// Not.
    Constant,
    /// [`Method::Ft`].
    Ft,
    /// [`Method::Lrw`].
    Lrw,
    /// [`Method::Slr`].
    Slr,
    /// [`Method::Clr`].
    Clr,
    /// [`Method::Llr`].
    Llr,
    /// [`Method::Allr`].
    Allr,
}

impl ScheduleName {
    /// The method, if the rates come from those of a training before.
    pub fn method(self) -> Option<Method> {
        Some(match self {
            Self::Ft => Method::Ft,
            Self::Lrw => Method::Lrw,
            Self::Slr => Method::Slr,
            Self::Clr => Method::Clr,
            Self::Llr => Method::Llr,
            Self::Allr => Method::Allr,
            Self::Cosine | Self::Linear | Self::Step | Self::Constant => return None,
        })
    }
}

/// Whether training images are shifted and mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// As the literature does for the data set, if the network has batch norm.
    #[default]
    Auto,
    /// As the literature does for the data set.
    On,
    /// Not.
    Off,
}

/// Choices about a training. What is `None` is what suits network and data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Choices {
    /// Passes over the training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Images of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerName>,
    /// Share of the last step's direction, for SGD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether SGD looks ahead along the momentum; it does where there is momentum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Shares of the last moments, for AdamW.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// How the learning rate goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleName>,
    /// Largest rate, where the schedule does not take its rates from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Epochs in which the rate rises first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<f64>,
    /// Epochs before each fall of the rate, for `step`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milestones: Option<Vec<f64>>,
    /// Factor of the rate at each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Factor of the weight decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// What decays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
    /// Share of each label that is spread over all classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// Largest norm of all gradients together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// The outcome is an exponential moving average that keeps this share per step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// The outcome is the mean of the weights after each of so many last epochs; 0 for a
    /// quarter of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swa: Option<u64>,
}

/// A choice that has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its field.
    pub field: &'static str,
    /// Why it has none.
    pub why: &'static str,
}

/// What choices are made for.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The network.
    pub graph: &'a Graph,
    /// The images.
    pub dataset: &'a Dataset,
    /// Whether they are varied.
    pub augment: Augment,
    /// Share of the training images that is held out.
    pub validation_fraction: f64,
    /// Names which.
    pub validation_seed: u64,
    /// Most images that are trained on.
    pub limit_train: Option<usize>,
    /// Names the random choices of the training.
    pub seed: u64,
    /// Learning rates of the training before the pruning, for the schedules that take
    /// theirs from it.
    pub pretraining: Option<&'a Schedule>,
    /// What pruning took away, for ALLR.
    pub lost: Option<f64>,
}

impl Choices {
    /// The choices that have no effect beside the others.
    pub fn ignored(&self) -> impl Iterator<Item = Ignored> {
        let retrains = self.schedule.is_some_and(|name| name.method().is_some());
        let has_steps = self.schedule == Some(ScheduleName::Step);
        let is_adam = self.optimizer == Some(OptimizerName::AdamW);
        let rates = "the schedule takes its rates from the training before the pruning";
        let (steps, sgd) = (
            "only the schedule `step` has milestones",
            "only `sgd` has a momentum",
        );
        let given = [
            (
                retrains && self.learning_rate.is_some(),
                "learning_rate",
                rates,
            ),
            (
                retrains && self.warmup_epochs.is_some(),
                "warmup_epochs",
                rates,
            ),
            (!has_steps && self.milestones.is_some(), "milestones", steps),
            (!has_steps && self.factor.is_some(), "factor", steps),
            (is_adam && self.momentum.is_some(), "momentum", sgd),
            (is_adam && self.nesterov.is_some(), "nesterov", sgd),
            (
                !is_adam && self.betas.is_some(),
                "betas",
                "only `adamw` has betas",
            ),
            (
                self.ema.is_some() && self.swa.is_some(),
                "swa",
                "the outcome is the moving average that `ema` asks for",
            ),
        ];
        let ignored = given.into_iter().filter(|(is_ignored, ..)| *is_ignored);
        ignored.map(|(_, field, why)| Ignored { field, why })
    }

    /// The same training, stretched to so many epochs with all that is told in epochs.
    pub fn stretched(mut self, epochs: u64) -> Self {
        let before = self.epochs.replace(epochs).unwrap_or(epochs);
        let factor = epochs as f64 / before.max(1) as f64;
        self.warmup_epochs = self.warmup_epochs.map(|epochs| epochs * factor);
        for milestone in self.milestones.iter_mut().flatten() {
            *milestone *= factor;
        }
        self.swa = self
            .swa
            .map(|epochs| (epochs as f64 * factor).round() as u64);
        self
    }

    /// These choices, and where they are open those of `base`.
    pub fn or(&self, base: &Self) -> Self {
        Self {
            epochs: self.epochs.or(base.epochs),
            batch_size: self.batch_size.or(base.batch_size),
            optimizer: self.optimizer.or(base.optimizer),
            momentum: self.momentum.or(base.momentum),
            nesterov: self.nesterov.or(base.nesterov),
            betas: self.betas.or(base.betas),
            schedule: self.schedule.or(base.schedule),
            learning_rate: self.learning_rate.or(base.learning_rate),
            warmup_epochs: self.warmup_epochs.or(base.warmup_epochs),
            milestones: self.milestones.clone().or_else(|| base.milestones.clone()),
            factor: self.factor.or(base.factor),
            weight_decay: self.weight_decay.or(base.weight_decay),
            decay: self.decay.or(base.decay),
            label_smoothing: self.label_smoothing.or(base.label_smoothing),
            clip_norm: self.clip_norm.or(base.clip_norm),
            ema: self.ema.or(base.ema),
            swa: self.swa.or(base.swa),
        }
    }

    /// The recipe in which what is open is what suits network and data. It is checked
    /// only when its rates are asked for.
    ///
    /// # Panics
    /// If the schedule takes its rates from a training before and there is none.
    pub fn recipe(&self, circumstances: &Circumstances<'_>) -> Recipe {
        let suited = Recipe::suited(circumstances.graph, circumstances.dataset);
        let is_adam = self.optimizer == Some(OptimizerName::AdamW);
        let epochs = self.epochs.unwrap_or(suited.epochs);
        let decay = if is_adam {
            ADAM_DECAY
        } else {
            suited.weight_decay
        };
        let momentum = self.momentum.unwrap_or(MOMENTUM);
        let [beta1, beta2] = self.betas.unwrap_or(ADAM_BETAS);
        Recipe {
            epochs,
            batch_size: self.batch_size.unwrap_or(suited.batch_size),
            optimizer: if is_adam {
                Optimizer::AdamW {
                    beta1,
                    beta2,
                    epsilon: ADAM_EPSILON,
                }
            } else {
                Optimizer::Sgd {
                    momentum,
                    nesterov: self.nesterov.unwrap_or(momentum > 0.0),
                }
            },
            pace: self.pace(circumstances, &suited, epochs),
            weight_decay: self.weight_decay.unwrap_or(decay),
            decay: self.decay.unwrap_or(Decay::All),
            label_smoothing: self.label_smoothing.unwrap_or_default(),
            clip_norm: self.clip_norm,
            augmentation: match circumstances.augment {
                Augment::Auto => suited.augmentation,
                Augment::On => circumstances.dataset.augmentation,
                Augment::Off => Augmentation::default(),
            },
            average: match (self.ema, self.swa) {
                (Some(decay), _) => Average::Ema { decay },
                (None, Some(last)) => {
                    let last = if last == 0 { epochs.div_ceil(4) } else { last };
                    Average::Swa {
                        start: epochs.saturating_sub(last),
                    }
                }
                (None, None) => Average::None,
            },
            seed: circumstances.seed,
            validation_fraction: circumstances.validation_fraction,
            validation_seed: circumstances.validation_seed,
            limit_train: circumstances.limit_train,
        }
    }

    fn pace(&self, circumstances: &Circumstances<'_>, suited: &Recipe, epochs: u64) -> Pace {
        let schedule = self.schedule.unwrap_or_default();
        if let Some(method) = schedule.method() {
            let pretraining = circumstances.pretraining;
            return Pace::Retraining {
                method,
                pretraining: pretraining
                    .expect("a retraining has a training before")
                    .clone(),
                lost: circumstances.lost,
            };
        }
        let Pace::Curve {
            learning_rate,
            warmup_epochs,
            ..
        } = suited.pace
        else {
            unreachable!("what suits is a curve");
        };
        let learning_rate = match self.optimizer {
            Some(OptimizerName::AdamW) => ADAM_RATE,
            _ => learning_rate,
        };
        let warmup_epochs = if epochs > 1 { warmup_epochs } else { 0.0 };
        Pace::Curve {
            learning_rate: self.learning_rate.unwrap_or(learning_rate),
            shape: match schedule {
                ScheduleName::Constant => Fall::Constant,
                ScheduleName::Linear => Fall::Linear,
                ScheduleName::Step => Fall::Step {
                    milestones: self
                        .milestones
                        .clone()
                        .unwrap_or_else(|| vec![0.5 * epochs as f64, 0.75 * epochs as f64]),
                    factor: self.factor.unwrap_or(FACTOR),
                },
                _ => Fall::Cosine,
            },
            warmup_epochs: self.warmup_epochs.unwrap_or(warmup_epochs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::models;
    use crate::graph::models::ModelSpec;
    use crate::train::data;
    use crate::train::data::DataSpec;
    use crate::train::schedule::Curve;

    fn recipe(choices: &Choices, pretraining: Option<&Schedule>) -> Recipe {
        let dataset = data::open(&DataSpec::default()).unwrap();
        let spec = ModelSpec::new("mlp", dataset.image(), dataset.classes());
        choices.recipe(&Circumstances {
            graph: &models::build(&spec).unwrap(),
            dataset: &dataset,
            augment: Augment::Auto,
            validation_fraction: 0.1,
            validation_seed: 0,
            limit_train: None,
            seed: 7,
            pretraining,
            lost: None,
        })
    }

    #[test]
    fn what_is_open_suits_and_what_is_said_stays() {
        let suited = recipe(&Choices::default(), None);
        assert_eq!((suited.epochs, suited.batch_size, suited.seed), (30, 32, 7));
        let choices = Choices {
            epochs: Some(8),
            optimizer: Some(OptimizerName::AdamW),
            swa: Some(0),
            ..Choices::default()
        };
        let adam = recipe(&choices, None);
        assert_eq!(adam.weight_decay, 0.01);
        assert_eq!(adam.average, Average::Swa { start: 6 });
        assert!(matches!(
            adam.optimizer,
            Optimizer::AdamW { beta1: 0.9, .. }
        ));
        let Pace::Curve { learning_rate, .. } = adam.pace else {
            panic!("not a curve");
        };
        assert_eq!(learning_rate, 1e-3);
    }

    #[test]
    fn retraining_takes_the_rates_of_before() {
        let pretraining = Schedule {
            curve: Curve::Linear,
            peak: 0.2,
            warmup_steps: 0,
            steps: 10,
        };
        let choices = Choices {
            schedule: Some(ScheduleName::Llr),
            ..Choices::default()
        };
        let found = recipe(&choices, Some(&pretraining));
        assert_eq!(
            found.pace,
            Pace::Retraining {
                method: Method::Llr,
                pretraining,
                lost: None
            }
        );
    }

    #[test]
    fn open_choices_are_those_of_the_base() {
        let base = Choices {
            epochs: Some(3),
            weight_decay: Some(0.1),
            ..Choices::default()
        };
        let choices = Choices {
            epochs: Some(5),
            ..Choices::default()
        };
        let both = choices.or(&base);
        assert_eq!((both.epochs, both.weight_decay), (Some(5), Some(0.1)));
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let check = |change: fn(&mut Choices), expected: &[&str]| {
            let mut choices = Choices::default();
            change(&mut choices);
            let fields: Vec<_> = choices.ignored().map(|ignored| ignored.field).collect();
            assert_eq!(fields, expected);
        };
        check(
            |choices| {
                choices.learning_rate = Some(0.1);
                choices.momentum = Some(0.8);
                choices.ema = Some(0.99);
            },
            &[],
        );
        check(
            |choices| {
                choices.learning_rate = Some(0.1);
                choices.warmup_epochs = Some(1.0);
                choices.schedule = Some(ScheduleName::Llr);
            },
            &["learning_rate", "warmup_epochs"],
        );
        check(|choices| choices.milestones = Some(vec![]), &["milestones"]);
        check(
            |choices| {
                choices.factor = Some(0.5);
                choices.schedule = Some(ScheduleName::Step);
            },
            &[],
        );
        check(|choices| choices.betas = Some([0.9, 0.99]), &["betas"]);
        check(
            |choices| {
                choices.optimizer = Some(OptimizerName::AdamW);
                choices.momentum = Some(0.9);
                choices.nesterov = Some(false);
                choices.betas = Some([0.9, 0.99]);
            },
            &["momentum", "nesterov"],
        );
        check(
            |choices| {
                choices.ema = Some(0.9);
                choices.swa = Some(1);
            },
            &["swa"],
        );
    }
}
