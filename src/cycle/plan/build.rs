//! From a recipe to steps.

use std::collections::BTreeMap;

use super::ENSEMBLE;
use super::IMP;
use super::IMP_M_TIMES;
use super::IMP_REPRUNE;
use super::Input;
use super::PhasePlan;
use super::Plan;
use super::PlanError;
use super::Step;
use super::StudyPlan;
use crate::cycle::recipe::Ingredient;
use crate::cycle::recipe::Recipe;
use crate::cycle::scene::Scene;
use crate::cycle::work::CommandWork;
use crate::cycle::work::Cut;
use crate::cycle::work::Import;
use crate::cycle::work::Measure;
use crate::cycle::work::MergeWork;
use crate::cycle::work::Prune;
use crate::cycle::work::Reprune;
use crate::cycle::work::Train;
use crate::cycle::work::TrainerWork;
use crate::cycle::work::Work;
use crate::train::choices::Choices;
use crate::train::choices::Circumstances;
use crate::train::choices::ScheduleName;
use crate::train::recipe::Pace;
use crate::train::recipe::Rates;
use crate::train::recipe::Recipe as TrainingRecipe;
use crate::train::schedule::Schedule;
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

/// Makes steps.
pub(super) struct Builder<'a> {
    recipe: &'a Recipe,
    scene: &'a Scene,
    measure: Measure,
    /// Learning rates of the pretraining, if they are known.
    pretraining: Option<Schedule>,
    pretraining_epochs: u64,
    steps: Vec<Step>,
}

/// A training to plan.
struct Training {
    section: String,
    choices: Choices,
    seed: u64,
    phase: u32,
    ordinal: usize,
    sparsity: f64,
}

/// What is pruned, with what it is pruned from.
#[derive(Clone, Copy)]
struct Base {
    /// The step whose checkpoint is pruned.
    step: usize,
    /// The dense network of the study.
    dense: usize,
}

fn input(role: &str, step: usize, output: &'static str) -> Input {
    Input {
        role: role.to_owned(),
        step,
        output,
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(recipe: &'a Recipe, scene: &'a Scene) -> Result<Self, PlanError> {
        let mut builder = Self {
            recipe,
            scene,
            measure: scene.measure(recipe),
            pretraining: None,
            pretraining_epochs: recipe.pretraining.training.epochs.unwrap_or_default(),
            steps: Vec::new(),
        };
        if let Some(given) = &scene.given {
            builder.pretraining.clone_from(&given.schedule);
        } else if recipe.trainer.is_none() {
            let training = &recipe.pretraining.training;
            let (pretraining, rates) = builder.training_recipe("pretraining", training, 0)?;
            builder.pretraining_epochs = pretraining.epochs;
            if let Rates::Schedule(schedule) = rates {
                builder.pretraining = Some(schedule);
            }
            if let Some(epoch) = recipe.retraining.rewind_epoch
                && epoch > pretraining.epochs
            {
                return Err(PlanError::Rewind {
                    found: epoch,
                    epochs: pretraining.epochs,
                });
            }
        }
        Ok(builder)
    }

    pub(super) fn build(mut self) -> Result<Plan, PlanError> {
        let mut studies = Vec::with_capacity(self.recipe.seeds.len());
        for &seed in &self.recipe.seeds {
            studies.push(self.study(seed)?);
        }
        Ok(Plan {
            steps: self.steps,
            studies,
        })
    }

    /// Adds a step, unless the same is there already.
    fn push(&mut self, step: Step) -> usize {
        let is_same = |other: &Step| other.work == step.work && other.inputs == step.inputs;
        match self.steps.iter().position(is_same) {
            Some(idx) => idx,
            None => {
                self.steps.push(step);
                self.steps.len() - 1
            }
        }
    }

    fn study(&mut self, seed: u64) -> Result<StudyPlan, PlanError> {
        let dense = self.dense(seed)?;
        let ingredients = self.recipe.ingredients();
        let baselines = self.recipe.baselines;
        let mut soup = dense;
        let mut imp = dense;
        let mut long = dense;
        let mut apart = vec![dense; ingredients.len()];
        let mut phases = Vec::new();
        for (idx, target) in self.recipe.sparsities().into_iter().enumerate() {
            let phase = idx as u32 + 1;
            let name = format!("seed {seed}, phase {phase}");
            let cut = self.cut(seed, target);
            let base = |step| Base { step, dense };
            let prune = self.prune(format!("{name}, prune"), &cut, base(soup));
            let mut trained = Vec::with_capacity(ingredients.len());
            for (place, ingredient) in ingredients.iter().enumerate() {
                let label = format!("{name}, ingredient {}", place + 1);
                let training = self.ingredient(ingredient, seed, phase, place + 1, target);
                trained.push(self.train(label, &training, Some((prune, soup)))?);
            }
            soup = self.merge(format!("{name}, soup"), &trained, prune);
            let mut found = BTreeMap::new();
            if baselines.imp {
                let pruned = self.prune(format!("{name}, IMP, prune"), &cut, base(imp));
                let choices = self.retraining(&Choices::default());
                let training = self.plain(choices, seed, phase, 1, target);
                imp = self.train(format!("{name}, IMP"), &training, Some((pruned, imp)))?;
                found.insert(IMP, imp);
            }
            if baselines.imp_m_times {
                let label = format!("{name}, IMP m times, prune");
                let pruned = self.prune(label, &cut, base(long));
                let mut choices = self.retraining(&Choices::default());
                let times = ingredients.len() as u64;
                choices.epochs = choices.epochs.map(|epochs| epochs.saturating_mul(times));
                let training = self.plain(choices, seed, phase, 1, target);
                let label = format!("{name}, IMP m times");
                long = self.train(label, &training, Some((pruned, long)))?;
                found.insert(IMP_M_TIMES, long);
            }
            if baselines.imp_reprune {
                for (place, ingredient) in ingredients.iter().enumerate() {
                    let label = format!("{name}, IMP {}", place + 1);
                    let pruned = self.prune(format!("{label}, prune"), &cut, base(apart[place]));
                    let training = self.ingredient(ingredient, seed, phase, place + 1, target);
                    let from = Some((pruned, apart[place]));
                    apart[place] = self.train(label, &training, from)?;
                }
                found.insert(IMP_REPRUNE, self.reprune(name, cut.clone(), &apart));
            }
            if baselines.ensemble && self.scene.network.is_some() {
                // Measured where the soup is made.
                found.insert(ENSEMBLE, soup);
            }
            phases.push(PhasePlan {
                phase,
                target,
                prune,
                ingredients: trained,
                soup,
                baselines: found,
            });
        }
        Ok(StudyPlan {
            seed,
            dense,
            phases,
        })
    }

    fn dense(&mut self, seed: u64) -> Result<usize, PlanError> {
        if self.scene.given.is_some() {
            return Ok(self.push(Step {
                label: "the given checkpoint".to_owned(),
                work: Work::Import(Import {
                    measure: self.measure.clone(),
                }),
                inputs: Vec::new(),
                min_ingredients: None,
                epochs: 0,
            }));
        }
        let training = Training {
            section: "pretraining".to_owned(),
            choices: self.recipe.pretraining.training.clone(),
            seed,
            phase: 0,
            ordinal: 0,
            sparsity: 0.0,
        };
        self.train(format!("seed {seed}, pretraining"), &training, None)
    }

    fn cut(&self, seed: u64, sparsity: f64) -> Cut {
        let pruning = &self.recipe.pruning;
        Cut {
            sparsity,
            distribution: pruning.distribution,
            pattern: pruning.pattern.clone(),
            seed,
            include: pruning.include.clone(),
            exclude: pruning.exclude.clone(),
        }
    }

    fn prune(&mut self, label: String, cut: &Cut, base: Base) -> usize {
        let mut inputs = vec![input("base", base.step, "checkpoint")];
        if self.recipe.retraining.rewind_epoch.is_some() {
            inputs.push(input("early", base.dense, "early"));
        }
        self.push(Step {
            label,
            work: Work::Prune(Prune {
                cut: cut.clone(),
                measure: self.measure.clone(),
            }),
            inputs,
            min_ingredients: None,
            epochs: 0,
        })
    }

    fn merge(&mut self, label: String, trained: &[usize], prune: usize) -> usize {
        let mut inputs = ingredient_inputs(trained);
        inputs.push(input("mask", prune, "mask"));
        self.push(Step {
            label,
            work: Work::Merge(MergeWork {
                merge: self.recipe.merge.clone(),
                ordinals: (1..=trained.len()).collect(),
                ensemble: self.recipe.baselines.ensemble && self.scene.network.is_some(),
                segment_points: self.recipe.evaluation.segment_points,
                measure: self.measure.clone(),
            }),
            inputs,
            min_ingredients: self.recipe.ingredients.min,
            epochs: 0,
        })
    }

    fn reprune(&mut self, name: String, cut: Cut, apart: &[usize]) -> usize {
        self.push(Step {
            label: format!("{name}, IMP-RePrune"),
            work: Work::Reprune(Reprune {
                cut,
                measure: self.measure.clone(),
            }),
            inputs: ingredient_inputs(apart),
            min_ingredients: None,
            epochs: 0,
        })
    }

    /// How networks are retrained: the choices, and where they are open those of the
    /// retraining, and of what does not depend on its length those of the pretraining.
    fn retraining(&self, own: &Choices) -> Choices {
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
        choices.schedule = choices.schedule.or(Some(ScheduleName::Llr));
        choices
    }

    fn plain(
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
            seed: training_seed(study, phase, ordinal),
            phase,
            ordinal,
            sparsity,
        }
    }

    fn ingredient(
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
            seed: ingredient.seed.unwrap_or(derived),
            phase,
            ordinal,
            sparsity,
        }
    }

    /// Adds a training; of a retraining, `from` is the pruning and what was pruned.
    fn train(
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
                let work = CommandWork {
                    command: trainer.command.clone(),
                    training: training.choices.clone(),
                    seed: training.seed,
                    phase: training.phase,
                    ingredient: training.ordinal,
                    sparsity: training.sparsity,
                    on_unmasked: trainer.on_unmasked,
                    parameters: parameters.unwrap_or_default(),
                };
                let epochs = training.choices.epochs.unwrap_or_default();
                (TrainerWork::Command(Box::new(work)), epochs)
            }
            None => {
                let section = &training.section;
                let (own, _) = self.training_recipe(section, &training.choices, training.seed)?;
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
    fn training_recipe(
        &self,
        section: &str,
        choices: &Choices,
        seed: u64,
    ) -> Result<(TrainingRecipe, Rates), PlanError> {
        let (network, images) = (self.scene.network.as_ref(), self.scene.images.as_ref());
        let (Some(network), Some(images)) = (network, images) else {
            unreachable!("a scene without network belongs to a trainer of the user's");
        };
        let needs_rates = choices.schedule.is_some_and(|name| name.method().is_some());
        if needs_rates && self.pretraining.is_none() {
            return Err(PlanError::NoRates {
                section: section.to_owned(),
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
            seed,
            pretraining: self.pretraining.as_ref(),
            lost: None,
        });
        let failed = |source| PlanError::Training {
            section: section.to_owned(),
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
        Pace::Retraining { method, lost, .. }
            if *method == crate::train::schedule::Method::Allr =>
        {
            *lost = value;
            true
        }
        _ => false,
    }
}

fn ingredient_inputs(steps: &[usize]) -> Vec<Input> {
    let numbered = steps.iter().enumerate();
    numbered
        .map(|(idx, &step)| input(&format!("ingredient-{}", idx + 1), step, "checkpoint"))
        .collect()
}
