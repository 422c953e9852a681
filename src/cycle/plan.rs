//! The steps of a run and what they read of each other: a recipe and its scene walk in, a
//! [`Plan`] walks out. Pure data; nothing is trained.

mod build;
mod error;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::cycle::recipe::Recipe;
use crate::cycle::scene::Scene;
use crate::cycle::work::Work;

pub use build::training_seed;
pub use error::PlanError;

/// Names of the baselines, in the order of reports.
pub const BASELINES: [&str; 4] = [IMP, IMP_M_TIMES, IMP_REPRUNE, ENSEMBLE];
/// One network, the same epochs in every phase.
pub const IMP: &str = "imp";
/// One network, as many times the epochs as there are ingredients.
pub const IMP_M_TIMES: &str = "imp-m-times";
/// Networks pruned and retrained apart, averaged and pruned again.
pub const IMP_REPRUNE: &str = "imp-reprune";
/// The mean of the ingredients' predictions.
pub const ENSEMBLE: &str = "ensemble";

/// Everything that a run does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The steps; each reads only of steps before it.
    pub steps: Vec<Step>,
    /// Which step is what, by study.
    pub studies: Vec<StudyPlan>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it is called, such as `seed 0, phase 1, ingredient 2`.
    pub label: String,
    /// What it does.
    pub work: Work,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// Fewest of its ingredients that must be there; `None` where all must.
    pub min_ingredients: Option<usize>,
    /// Passes over the training images.
    pub epochs: u64,
}

/// What a step reads of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is to the step that reads, such as `base`.
    pub role: String,
    /// The step that makes it.
    pub step: usize,
    /// What it is to the step that makes it, such as `checkpoint`.
    pub output: &'static str,
}

/// The steps of one study.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyPlan {
    /// Its seed.
    pub seed: u64,
    /// Makes the dense network.
    pub dense: usize,
    /// The phases, in order.
    pub phases: Vec<PhasePlan>,
}

/// The steps of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PhasePlan {
    /// From 1.
    pub phase: u32,
    /// Sparsity after it.
    pub target: f64,
    /// Prunes.
    pub prune: usize,
    /// Train the ingredients, in their order.
    pub ingredients: Vec<usize>,
    /// Makes the soup.
    pub soup: usize,
    /// Make the baselines, by name.
    pub baselines: BTreeMap<&'static str, usize>,
}

impl Plan {
    /// The steps of a recipe.
    ///
    /// # Errors
    /// [`PlanError`] if a training cannot be followed.
    pub fn new(recipe: &Recipe, scene: &Scene) -> Result<Self, PlanError> {
        build::Builder::new(recipe, scene)?.build()
    }

    /// Steps that read of each step.
    pub fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.steps.len()];
        for (idx, step) in self.steps.iter().enumerate() {
            for input in &step.inputs {
                if !readers[input.step].contains(&idx) {
                    readers[input.step].push(idx);
                }
            }
        }
        readers
    }

    /// Passes over the training images, of all steps.
    pub fn epochs(&self) -> u64 {
        self.steps.iter().map(|step| step.epochs).sum()
    }
}
