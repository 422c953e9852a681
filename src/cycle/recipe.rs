//! What a run of the cycle is asked for: TOML walks in, a [`Recipe`] walks out that has
//! been checked as far as it can be without data.

mod check;
mod effects;
mod error;
mod flat;
mod ingredients;
mod parse;
mod running;
mod template;
#[cfg(test)]
mod tests;
mod vary;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::tensor::DeviceKind;
use crate::train::choices::Augment;
use crate::train::choices::Choices;
use crate::train::data::VALIDATION_FRACTION;
use crate::train::data::VALIDATION_SEED;

pub use check::PatternKind;
pub use effects::RETRAINING_SCHEDULE;
pub use error::RecipeError;
pub use parse::Override;
pub use running::Keep;
pub use running::OnUnmasked;
pub use running::Run;
pub use running::Trainer;
pub use template::TEMPLATE;
pub use vary::Ingredient;
pub use vary::Varied;

/// Everything that a run can be told. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What the report is called.
    pub title: String,
    /// One study for each: names the first weights and, with phase and ordinal, the
    /// ingredients' random choices.
    pub seeds: Vec<u64>,
    /// Kind of device that this program trains and measures on: other kinds give other
    /// bits. Which devices of the kind there are is `run.devices`.
    #[serde(skip_serializing_if = "DeviceKind::is_cpu")]
    pub device: DeviceKind,
    /// The network.
    pub model: Model,
    /// The images.
    pub data: Data,
    /// How the dense network comes about.
    pub pretraining: Pretraining,
    /// How it is pruned.
    pub pruning: Pruning,
    /// How each ingredient is trained, where `ingredients` does not say otherwise. What is
    /// open is as in the pretraining, but epochs, schedule and rates are not taken over.
    pub retraining: Retraining,
    /// How many ingredients there are, and in what they differ.
    pub ingredients: Ingredients,
    /// How they are averaged.
    pub merge: Merge,
    /// How statistics of batch norm are estimated again.
    pub recalibration: Recalibration,
    /// What the soup is held against.
    pub baselines: Baselines,
    /// What is measured.
    pub evaluation: Evaluation,
    /// The user's own trainer in place of the embedded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainer: Option<Trainer>,
    /// How jobs are run; changes no bit of the outcome.
    pub run: Run,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Name of a model that ships with the program, or a file that describes one; where it
    /// is open, what the checkpoint says, or what suits the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Options of the model, such as `hidden` = `300,100`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Name of a data set, or a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the files of a known data set are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Most images that are trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    /// Share of the training images that is held out.
    pub validation: f64,
    /// Names which.
    pub validation_seed: u64,
    /// Whether training images are varied.
    pub augment: Augment,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            name: None,
            directory: None,
            limit_train: None,
            validation: VALIDATION_FRACTION,
            validation_seed: VALIDATION_SEED,
            augment: Augment::default(),
        }
    }
}

/// How the dense network comes about: it is given, or trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pretraining {
    /// A dense checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// How it is trained otherwise.
    #[serde(flatten)]
    pub training: Choices,
}

/// How a network is pruned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pruning {
    /// Sparsity after the last phase, in [0, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// Number of phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<u32>,
    /// How sparsity grows: `geometric` or `cubic`.
    pub schedule: SparsitySchedule,
    /// Sparsity after each phase, in place of the above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsities: Option<Vec<f64>>,
    /// How it is spread over the layers.
    pub distribution: Distribution,
    /// `unstructured`, `n:m` such as `2:4` (one phase), or `channels`.
    pub pattern: String,
    /// Tensors that are pruned; empty for the weights of linear and convolution layers.
    pub include: Vec<String>,
    /// Tensors that are not.
    pub exclude: Vec<String>,
}

impl Default for Pruning {
    fn default() -> Self {
        Self {
            sparsity: None,
            phases: None,
            schedule: SparsitySchedule::default(),
            sparsities: None,
            distribution: Distribution::default(),
            pattern: "unstructured".to_owned(),
            include: Vec::new(),
            exclude: Vec::new(),
        }
    }
}

/// How sparsity grows over the phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SparsitySchedule {
    /// Each phase prunes the same share of what remains.
    #[default]
    Geometric,
    /// Steep at first, flat at the end. Source: arXiv:1710.01878.
    Cubic,
}

/// How sparsity is spread over the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// One threshold over all; of channels, the same share of every layer.
    #[default]
    Global,
    /// The same share of every layer.
    Uniform,
    /// Erdos-Renyi-kernel. Source: arXiv:1911.11134.
    Erk,
    /// Layer-adaptive magnitude. Source: arXiv:2010.07611.
    Lamp,
    /// Uniformly random.
    Random,
}

/// How ingredients are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Retraining {
    /// The training.
    #[serde(flatten)]
    pub training: Choices,
    /// Rewind the weights to the end of this epoch of the pretraining before each
    /// retraining, in place of going on from the soup. Source: SWAMP, arXiv:2305.14852.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewind_epoch: Option<u64>,
}

/// How many ingredients there are, and in what they differ beside their seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingredients {
    /// Number of ingredients; where it is open, as many as `vary` or `each` ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Values that ingredients take.
    pub vary: Varied,
    /// Ingredients that are spelled out, in place of the above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<Each>,
    /// Whether ingredients of a phase share their seed, and differ only in what varies.
    pub same_seed: bool,
    /// Fewest ingredients of a soup, if others fail for good; where it is open, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<usize>,
}

/// An ingredient that is spelled out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Each {
    /// Its seed, in every phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How it is trained, where that is not as all others are.
    #[serde(flatten)]
    pub training: Choices,
}

/// How ingredients are averaged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Merge {
    /// How the coefficients are chosen.
    pub method: Method,
    /// One per ingredient, for `weighted`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// Whether a candidate that changes nothing is kept, for `greedy`.
    pub tie: Tie,
}

/// How coefficients are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All the same.
    #[default]
    Uniform,
    /// As given.
    Weighted,
    /// Only what helps, by validation accuracy.
    Greedy,
}

impl Method {
    /// Name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Weighted => "weighted",
            Self::Greedy => "greedy",
        }
    }
}

/// What happens to a candidate that makes the greedy soup neither better nor worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tie {
    /// It is kept, as in the code of Sparse Model Soups.
    #[default]
    Keep,
    /// It is dropped, as in the code of Model Soups.
    Drop,
}

/// How statistics of batch norm are estimated again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recalibration {
    /// Training images that are used, all where it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Images of a batch.
    pub batch_size: usize,
}

impl Default for Recalibration {
    fn default() -> Self {
        Self {
            images: None,
            batch_size: 128,
        }
    }
}

/// What the soup is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Baselines {
    /// One network, the same epochs in every phase.
    pub imp: bool,
    /// One network, as many times the epochs as there are ingredients.
    pub imp_m_times: bool,
    /// As many networks as ingredients, pruned and retrained apart, averaged and pruned
    /// again.
    pub imp_reprune: bool,
    /// The mean of the ingredients' predictions.
    pub ensemble: bool,
}

impl Default for Baselines {
    fn default() -> Self {
        Self {
            imp: true,
            imp_m_times: true,
            imp_reprune: false,
            ensemble: true,
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Whether soups, ingredients and baselines are measured on corrupted images.
    pub ood: bool,
    /// Points between two ingredients at which accuracy is measured.
    pub segment_points: usize,
    /// A command that measures a checkpoint in place of the embedded evaluator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Which number it prints, if it prints a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            title: "Sparse Model Soups".to_owned(),
            seeds: vec![0],
            device: DeviceKind::default(),
            model: Model::default(),
            data: Data::default(),
            pretraining: Pretraining::default(),
            pruning: Pruning::default(),
            retraining: Retraining::default(),
            ingredients: Ingredients::default(),
            merge: Merge::default(),
            recalibration: Recalibration::default(),
            baselines: Baselines::default(),
            evaluation: Evaluation::default(),
            trainer: None,
            run: Run::default(),
        }
    }
}
