//! From a recipe to steps.

mod training;

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
use crate::connectivity::NamePatterns;
use crate::cycle::recipe::Recipe;
use crate::cycle::scene::Scene;
use crate::cycle::work::Cut;
use crate::cycle::work::Import;
use crate::cycle::work::Measure;
use crate::cycle::work::MergeWork;
use crate::cycle::work::Prune;
use crate::cycle::work::Reprune;
use crate::cycle::work::Work;
use crate::train::choices::Choices;
use crate::train::recipe::Rates;
use crate::train::schedule::Schedule;

pub use training::training_seed;

use training::Training;

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
        check_patterns(recipe, scene)?;
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
            if let (None, Some(epochs)) = (recipe.pretraining.training.epochs, given.epochs) {
                builder.pretraining_epochs = epochs;
            }
        } else if recipe.trainer.is_none() {
            let (pretraining, rates) = builder.training_recipe(&builder.pretraining_of(0))?;
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
                let choices = self.retraining(&Choices::default());
                let lengths = ingredients.iter().map(|ingredient| {
                    let choices = self.retraining(&ingredient.training);
                    choices.epochs.unwrap_or_default()
                });
                let epochs = lengths.fold(0, u64::saturating_add);
                let training = Training {
                    section: "baselines.imp_m_times".to_owned(),
                    stretched: Some(epochs),
                    ..self.plain(choices, seed, phase, 1, target)
                };
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
            if self.has_ensemble() {
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
        let training = self.pretraining_of(seed);
        self.train(format!("seed {seed}, pretraining"), &training, None)
    }

    fn pretraining_of(&self, seed: u64) -> Training {
        Training {
            section: "pretraining".to_owned(),
            choices: self.recipe.pretraining.training.clone(),
            stretched: None,
            seed,
            phase: 0,
            ordinal: 0,
            sparsity: 0.0,
        }
    }

    /// Whether predictions are averaged: only this program's evaluator can, and what a
    /// command measures is not held against that.
    fn has_ensemble(&self) -> bool {
        let is_embedded = self.scene.network.is_some() && self.recipe.evaluation.command.is_none();
        self.recipe.baselines.ensemble && is_embedded
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
                ensemble: self.has_ensemble(),
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
}

/// Refuses patterns that match no tensor of the network, before it is trained in vain.
fn check_patterns(recipe: &Recipe, scene: &Scene) -> Result<(), PlanError> {
    let Some(network) = &scene.network else {
        return Ok(());
    };
    let pruning = &recipe.pruning;
    let parameters = network.graph.parameters.iter();
    let names = parameters.map(|parameter| parameter.name.as_str());
    for (field, texts) in [("include", &pruning.include), ("exclude", &pruning.exclude)] {
        // They were compiled when the recipe was read.
        let patterns = NamePatterns::new(texts).unwrap_or_default();
        if let Some(pattern) = patterns.unused(names.clone()) {
            return Err(PlanError::Pattern {
                field,
                pattern: pattern.to_owned(),
                model: network.graph.name.clone(),
            });
        }
    }
    Ok(())
}

fn ingredient_inputs(steps: &[usize]) -> Vec<Input> {
    let numbered = steps.iter().enumerate();
    numbered
        .map(|(idx, &step)| input(&format!("ingredient-{}", idx + 1), step, "checkpoint"))
        .collect()
}
