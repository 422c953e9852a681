//! What a step of a run does, as data: all that decides its outcome beside its inputs.
//!
//! A [`Work`] is part of a step's key. It names no path: what a step reads is named by
//! digest, and where that lies is the run directory's business.

use serde::Deserialize;
use serde::Serialize;

use crate::cycle::recipe::Distribution;
use crate::cycle::recipe::Merge;
use crate::cycle::recipe::OnUnmasked;
use crate::cycle::recipe::Recalibration;
use crate::tensor::DeviceKind;
use crate::tensor::Digest;
use crate::train::choices::Choices;
use crate::train::recipe::Recipe as TrainingRecipe;
use crate::train::record::ModelRecord;

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Takes a checkpoint of the user's into the run directory: `given` becomes
    /// `checkpoint`.
    Import(Import),
    /// Trains: `base` (absent for a dense network), `mask` and, for ALLR, `parent` become
    /// `checkpoint`, and `early` if that is asked for.
    Train(Box<Train>),
    /// Prunes: `base` becomes `checkpoint` and `mask`. With `early`, the weights of the
    /// checkpoint are those of `early`.
    Prune(Prune),
    /// Averages: `ingredient-1` and so on, which share `mask`, become `checkpoint`.
    Merge(MergeWork),
    /// Averages networks whose masks differ, and prunes the average: `ingredient-1` and so
    /// on become `checkpoint` and `mask`.
    Reprune(Reprune),
}

impl Work {
    /// Its name in receipts and messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Import(_) => "import",
            Self::Train(_) => "train",
            Self::Prune(_) => "prune",
            Self::Merge(_) => "merge",
            Self::Reprune(_) => "reprune",
        }
    }
}

/// How a model is measured, and which images it sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The network, if it is one that this program can compute.
    pub model: Option<ModelRecord>,
    /// The images, if this program reads them.
    pub images: Option<ImagesRecord>,
    /// What networks are computed on. The processor has no name, so that steps have the keys
    /// that they had before there was another device.
    #[serde(default, skip_serializing_if = "DeviceKind::is_cpu")]
    pub device: DeviceKind,
    /// How statistics of batch norm are estimated again.
    pub recalibration: Recalibration,
    /// Whether it is measured on corrupted images.
    pub ood: bool,
    /// A command of the user's that measures it.
    pub command: Option<String>,
    /// Which number the command prints.
    pub metric: Option<String>,
}

/// Which images there are, and which are held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagesRecord {
    /// Name or path of the data set.
    pub name: String,
    /// Digest of the training images and their labels.
    pub digest: Digest,
    /// Digest of the test images and their labels.
    pub test_digest: Digest,
    /// Share of the training images that is held out.
    pub validation_fraction: f64,
    /// Names which.
    pub validation_seed: u64,
}

/// A checkpoint of the user's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// How it is measured.
    pub measure: Measure,
}

/// A training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Who trains.
    pub trainer: TrainerWork,
    /// How the outcome is measured.
    pub measure: Measure,
}

/// Who trains, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainerWork {
    /// This program.
    Embedded {
        /// How. Of ALLR, what was lost is found out from `parent`.
        recipe: Box<TrainingRecipe>,
        /// The epoch after which the weights are kept as `early`, from 1.
        early_epoch: Option<u64>,
    },
    /// The user's own trainer.
    Command(Box<CommandWork>),
}

/// A training by the user's own trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandWork {
    /// The command, with placeholders.
    pub command: String,
    /// What the recipe says of the training; what is open is the trainer's choice.
    pub training: Choices,
    /// Names its random choices.
    pub seed: u64,
    /// Phase, from 1; 0 for the dense network.
    pub phase: u32,
    /// Ordinal of the ingredient in its phase, from 1; 0 for the dense network.
    pub ingredient: usize,
    /// Sparsity of the mask.
    pub sparsity: f64,
    /// What happens if it revives pruned weights.
    pub on_unmasked: OnUnmasked,
    /// What the recipe passes on.
    pub parameters: serde_json::Value,
}

/// A pruning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prune {
    /// What is pruned, and how much.
    pub cut: Cut,
    /// How the outcome is measured before it is retrained.
    pub measure: Measure,
}

/// What is pruned, and how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Sparsity of the outcome, in [0, 1).
    pub sparsity: f64,
    /// How it is spread over the layers.
    pub distribution: Distribution,
    /// As in recipes.
    pub pattern: String,
    /// Names a random draw.
    pub seed: u64,
    /// Tensors that are pruned; empty for the weights of linear and convolution layers.
    pub include: Vec<String>,
    /// Tensors that are not.
    pub exclude: Vec<String>,
}

/// An average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeWork {
    /// How.
    pub merge: Merge,
    /// Ordinals of the ingredients that there are, from 1.
    pub ordinals: Vec<usize>,
    /// Whether the mean of the ingredients' predictions is measured too.
    pub ensemble: bool,
    /// Points between two ingredients at which accuracy is measured, or 0.
    pub segment_points: usize,
    /// How the soup is measured.
    pub measure: Measure,
}

/// An average of networks whose masks differ, pruned again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reprune {
    /// How the average is pruned.
    pub cut: Cut,
    /// How it is measured.
    pub measure: Measure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_device_is_named_where_it_is_not_the_processor() {
        let check = |device, expected: Option<&str>| {
            let measure = Measure {
                model: None,
                images: None,
                device,
                recalibration: Recalibration::default(),
                ood: false,
                command: None,
                metric: None,
            };
            let value = serde_json::to_value(&measure).unwrap();
            let named = value.get("device").and_then(|name| name.as_str());
            assert_eq!(named, expected);
            let back: Measure = serde_json::from_value(value).unwrap();
            assert_eq!(back, measure);
        };
        check(DeviceKind::Cpu, None);
        check(DeviceKind::Cuda, Some("cuda"));
    }
}
