//! Trainings of a plan.

use super::Builder;
use super::input;
use crate::cycle::plan::PlanError;
use crate::cycle::plan::Step;
use crate::cycle::recipe::Ingredient;
use crate::cycle::recipe::RETRAINING_SCHEDULE;
use crate::cycle::work::CommandWork;
use crate::cycle::work::Train;
use crate::cycle::work::TrainerWork;
use crate::cycle::work::Work;
use crate::train::choices::Choices;
use crate::train::choices::Circumstances;
use crate::train::choices::ScheduleName;
use crate::train::recipe::Pace;
use crate::train::recipe::Rates;
use crate::train::recipe::Recipe as TrainingRecipe;
use crate::train::schedule::Method;
use crate::train::trainer;
use crate::train::trainer::FitError;

/// Epochs of a retraining where the recipe does not say: as many as of the pretraining,
/// divided by this, and at least one.
const SHORTER: u64 = 3;

/// Seed of the training of an ingredient (ordinal from 1) in a phase (from 1) of a study:
/// `1,000,000·study + 1,000·phase + ordinal`, in which people can read where it belongs.
pub fn training_seed(study: u64, phase: u32, ordinal: usize) -> u64 {
    let place = 1000 * u64::from(phase) + ordinal as u64;
    study.wrapping_mul(1_000_000).wrapping_add(place)
}

/// A training to plan.
pub(super) struct Training {
    pub(super) section: String,
    pub(super) choices: Choices,
    /// Epochs that it is stretched to, if it is longer than the choices say.
    pub(super) stretched: Option<u64>,
    pub(super) seed: u64,
    pub(super) phase: u32,
    pub(super) ordinal: usize,
    pub(super) sparsity: f64,
}

impl Builder<'_> {
    /// How networks are retrained: the choices, and where they are open those of the
    /// retraining, and of what does not depend on its length those of the pretraining.
    pub(super) fn retraining(&self, own: &Choices) -> Choices {
        let before = Choices {
            epochs: None,
            schedule: None,
            learning_rate: None,
            warmup_epochs: None,
            milestones: None,
            factor: None,
            ema: None,
            swa: None,
            ..self.recipe.pretraining.training.clone()
        };
        let mut choices = own.or(&self.recipe.retraining.training).or(&before);
        let epochs = (self.pretraining_epochs / SHORTER).max(1);
        choices.epochs = choices.epochs.or(Some(epochs));
        choices.schedule = choices.schedule.or(Some(RETRAINING_SCHEDULE));
        choices
    }

    pub(super) fn plain(
        &self,
        choices: Choices,
        study: u64,
        phase: u32,
        ordinal: usize,
        sparsity: f64,
    ) -> Training {
        Training {
            section: "retraining".to_owned(),
            choices,
            stretched: None,
            seed: training_seed(study, phase, ordinal),
            phase,
            ordinal,
            sparsity,
        }
    }

    pub(super) fn ingredient(
        &self,
        ingredient: &Ingredient,
        study: u64,
        phase: u32,
        ordinal: usize,
        sparsity: f64,
    ) -> Training {
        let of_seed = if self.recipe.ingredients.same_seed {
            1
        } else {
            ordinal
        };
        let derived = training_seed(study, phase, of_seed);
        Training {
            section: format!("retraining` of ingredient `{ordinal}"),
            choices: self.retraining(&ingredient.training),
            stretched: None,
            seed: ingredient.seed.unwrap_or(derived),
            phase,
            ordinal,
            sparsity,
        }
    }

    /// Adds a training; of a retraining, `from` is the pruning and what was pruned.
    pub(super) fn train(
        &mut self,
        label: String,
        training: &Training,
        from: Option<(usize, usize)>,
    ) -> Result<usize, PlanError> {
        let mut inputs = Vec::new();
        if let Some((prune, _)) = from {
            inputs.push(input("base", prune, "checkpoint"));
            inputs.push(input("mask", prune, "mask"));
        }
        let recipe = self.recipe;
        let (trainer, epochs) = match &recipe.trainer {
            Some(trainer) => {
                let parameters = serde_json::to_value(&trainer.parameters);
                let choices = training.choices.clone();
                let choices = match training.stretched {
                    Some(epochs) => choices.stretched(epochs),
                    None => choices,
                };
                let epochs = choices.epochs.unwrap_or_default();
                let work = CommandWork {
                    command: trainer.command.clone(),
                    training: choices,
                    seed: training.seed,
                    phase: training.phase,
                    ingredient: training.ordinal,
                    sparsity: training.sparsity,
                    on_unmasked: trainer.on_unmasked,
                    parameters: parameters.unwrap_or_default(),
                };
                (TrainerWork::Command(Box::new(work)), epochs)
            }
            None => {
                let (own, _) = self.training_recipe(training)?;
                let is_allr = training.choices.schedule == Some(ScheduleName::Allr);
                if let (true, Some((_, parent))) = (is_allr, from) {
                    inputs.push(input("parent", parent, "checkpoint"));
                }
                let epochs = own.epochs;
                let early_epoch = recipe.retraining.rewind_epoch;
                let work = TrainerWork::Embedded {
                    recipe: Box::new(own),
                    early_epoch: early_epoch.filter(|_| from.is_none()),
                };
                (work, epochs)
            }
        };
        Ok(self.push(Step {
            label,
            work: Work::Train(Box::new(Train {
                trainer,
                measure: self.measure.clone(),
            })),
            inputs,
            min_ingredients: None,
            epochs,
        }))
    }

    /// The recipe of an embedded training, and its learning rates.
    pub(super) fn training_recipe(
        &self,
        training: &Training,
    ) -> Result<(TrainingRecipe, Rates), PlanError> {
        let Training {
            section,
            choices,
            stretched,
            seed,
            ..
        } = training;
        let (network, images) = (self.scene.network.as_ref(), self.scene.images.as_ref());
        let (Some(network), Some(images)) = (network, images) else {
            unreachable!("a scene without network belongs to a trainer of the user's");
        };
        let needs_rates = choices.schedule.is_some_and(|name| name.method().is_some());
        if needs_rates && self.pretraining.is_none() {
            return Err(PlanError::NoRates {
                section: section.clone(),
            });
        }
        let data = &self.recipe.data;
        let mut recipe = choices.recipe(&Circumstances {
            graph: &network.graph,
            dataset: &images.dataset,
            augment: data.augment,
            validation_fraction: data.validation,
            validation_seed: data.validation_seed,
            limit_train: data.limit_train,
            seed: *seed,
            pretraining: self.pretraining.as_ref(),
            lost: None,
        });
        if let Some(epochs) = *stretched {
            recipe = recipe.stretched(epochs);
        }
        let failed = |source| PlanError::Training {
            section: section.clone(),
            source: Box::new(source),
        };
        // What ALLR lost is known only when it is pruned; any number will do to check.
        let is_open = set_lost(&mut recipe, Some(0.5));
        let plan = trainer::Plan::new(&images.dataset, &recipe).map_err(failed)?;
        if plan.steps_per_epoch() == 0 {
            return Err(failed(FitError::NoImages));
        }
        let rates = plan.rates().clone();
        if is_open {
            set_lost(&mut recipe, None);
        }
        Ok((recipe, rates))
    }
}

/// Sets what was lost, of a recipe that asks for it.
fn set_lost(recipe: &mut TrainingRecipe, value: Option<f64>) -> bool {
    match &mut recipe.pace {
        Pace::Retraining { method, lost, .. } if *method == Method::Allr => {
            *lost = value;
            true
        }
        _ => false,
    }
}
