//! What a run of the cycle found, as data: the coordinator fills it in, reports are made
//! of it, and `report.json` is it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::tensor::Digest;

/// Version of the fields of `report.json`.
pub const FORMAT_VERSION: u32 = 1;

/// Everything that a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Version of these fields.
    pub format_version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// The recipe's title.
    pub title: String,
    /// The recipe as it was run, as TOML.
    pub recipe: String,
    /// The network, if it is one that this program can compute.
    pub network: Option<Network>,
    /// The images, if this program reads them.
    pub data: Option<Data>,
    /// Ingredients of each soup.
    pub n_ingredients: usize,
    /// Phases that the recipe asks for.
    pub n_phases: usize,
    /// Seeds that the recipe asks for.
    pub n_seeds: usize,
    /// One study per seed whose dense network is done, in the recipe's order.
    pub studies: Vec<Study>,
    /// Whose soup the run delivers, once that is there.
    #[serde(default)]
    pub delivered: Option<Delivered>,
    /// Seconds that the steps took, those of parallel jobs added up.
    pub computing_secs: f64,
}

/// The soup that a run delivers as `soup.safetensors`: of all seeds, that of the first; of
/// all phases, that of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Its seed.
    pub seed: u64,
    /// Its phase, from 1.
    pub phase: u32,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Learned parameters.
    pub parameters: u64,
    /// Multiply-adds of one image.
    pub multiply_adds: u64,
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Its name.
    pub name: String,
    /// Images that are trained on.
    pub train: usize,
    /// Images that are held out to validate.
    pub validation: usize,
    /// Images that are tested on.
    pub test: usize,
    /// Classes.
    pub classes: usize,
}

/// The cycle from one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// Its seed.
    pub seed: u64,
    /// The dense network before the first phase.
    pub dense: Model,
    /// The phases, in order; fewer than planned while the run goes on.
    pub phases: Vec<Phase>,
}

/// One phase: pruned, retrained, merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// From 1.
    pub phase: u32,
    /// Sparsity that was asked for, in [0, 1).
    pub target: f64,
    /// Fraction of the prunable weights that is pruned.
    pub sparsity: f64,
    /// Prunable tensors, in the order of their names.
    pub layers: Vec<Layer>,
    /// Cost of one image with the retained weights only, if the network is known.
    pub cost: Option<Cost>,
    /// The network after the pruning and before any retraining, if it was measured.
    pub pruned: Option<Scores>,
    /// The ingredients, in the order in which they are summed.
    pub ingredients: Vec<Ingredient>,
    /// The soup.
    pub soup: Soup,
    /// What the soup is held against, by name: `imp`, `imp-m-times`, `imp-reprune`,
    /// `ensemble`.
    pub baselines: BTreeMap<String, Model>,
    /// Distances between the ingredients over retained coordinates.
    pub distances: Option<Distances>,
    /// Accuracy on the straight lines between ingredients.
    pub segments: Vec<Segment>,
}

/// A prunable tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub numel: u64,
    /// Those that are retained.
    pub retained: u64,
}

/// What an image costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Learned parameters that are retained.
    pub parameters: u64,
    /// Multiply-adds with retained weights only.
    pub multiply_adds: u64,
    /// Multiply-adds of the dense network divided by these: a bound, not a measurement.
    pub theoretical_speedup: f64,
}

/// A model that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// How good it is.
    pub scores: Scores,
    /// How it came there, an entry per epoch; empty if it was not trained.
    #[serde(default)]
    pub curve: Vec<Epoch>,
    /// On corrupted images, if that was asked for.
    #[serde(default)]
    pub shifted: Vec<Shifted>,
    /// Digest of its file, if it is one.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// How good a model is. What was not measured is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    /// Share of the test images that are classified correctly, in [0, 1]; of a model that
    /// only an external command measures, its number.
    pub accuracy: Option<f64>,
    /// Mean cross-entropy of the test images, in nats.
    pub loss: Option<f64>,
    /// Accuracy on the images that were held out of the training.
    pub validation_accuracy: Option<f64>,
    /// Expected calibration error (15 bins, L1).
    pub ece: Option<f64>,
    /// Maximum calibration error.
    pub mce: Option<f64>,
    /// Accuracy of the worst class.
    pub worst_class_accuracy: Option<f64>,
}

impl Scores {
    /// These scores, and where one is absent that of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            accuracy: self.accuracy.or(other.accuracy),
            loss: self.loss.or(other.loss),
            validation_accuracy: self.validation_accuracy.or(other.validation_accuracy),
            ece: self.ece.or(other.ece),
            mce: self.mce.or(other.mce),
            worst_class_accuracy: self.worst_class_accuracy.or(other.worst_class_accuracy),
        }
    }
}

/// One epoch of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Epochs done.
    pub epoch: u64,
    /// Mean loss of the training images while the weights changed, if it is known.
    pub train_loss: Option<f64>,
    /// Their accuracy.
    pub train_accuracy: Option<f64>,
    /// Accuracy of the held-out images, if there are any.
    pub validation_accuracy: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: Option<f64>,
}

/// Accuracy on images that were corrupted in one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shifted {
    /// The corruption.
    pub corruption: String,
    /// Accuracy at severities 1 to 5.
    pub accuracies: Vec<f64>,
}

/// An ingredient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ingredient {
    /// Its place in the soup, from 1.
    pub ordinal: usize,
    /// What it was trained with that others were not, such as `seed` or `weight_decay`.
    pub varied: BTreeMap<String, String>,
    /// Its coefficient in the soup; 0 of one that the greedy soup dropped.
    pub coefficient: f64,
    /// The trained network.
    pub model: Model,
}

/// A soup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Soup {
    /// `uniform`, `weighted` or `greedy`.
    pub method: String,
    /// The merged network, statistics of batch norm estimated again.
    pub model: Model,
    /// What the greedy soup decided, in order; empty of others.
    pub decisions: Vec<Decision>,
    /// Why there are fewer ingredients than were asked for, if so.
    pub missing: Vec<String>,
}

/// A candidate that the greedy soup looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Ordinal of the ingredient, from 1.
    pub ordinal: usize,
    /// Validation score of the soup with it.
    pub score: f64,
    /// Validation score of the soup without it; `None` for the first.
    pub before: Option<f64>,
    /// Whether it was kept.
    pub kept: bool,
}

/// Distances between ingredients over retained coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// L2 distances, `l2[i][k]`.
    pub l2: Vec<Vec<f64>>,
    /// Angles in degrees, `angles[i][k]`.
    pub angles: Vec<Vec<f64>>,
    /// L2 distance of each ingredient from the soup.
    pub to_soup: Vec<f64>,
}

/// Accuracy on the straight line from one ingredient to another, statistics of batch norm
/// estimated again at each point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Ordinal of the ingredient at 0.
    pub from: usize,
    /// Ordinal of the ingredient at 1.
    pub to: usize,
    /// Shares of the second ingredient and the test accuracies there, ascending.
    pub points: Vec<(f64, f64)>,
}

impl Segment {
    /// The barrier: how far accuracy falls below the straight line between the ends, at
    /// worst, in [0, 1]. Source: Frankle et al., arXiv:1912.05671, in terms of error.
    pub fn barrier(&self) -> f64 {
        let (Some(&(_, first)), Some(&(_, last))) = (self.points.first(), self.points.last())
        else {
            return 0.0;
        };
        let below = |&(share, accuracy): &(f64, f64)| first + share * (last - first) - accuracy;
        self.points.iter().map(below).fold(0.0, f64::max)
    }
}
