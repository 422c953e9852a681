//! What a step measured, as its receipt keeps it.

use serde::Deserialize;
use serde::Serialize;

use crate::cycle::findings::Decision;
use crate::cycle::findings::Distances;
use crate::cycle::findings::Layer;
use crate::cycle::findings::Model;
use crate::cycle::findings::Segment;

/// What a step measured. What does not apply to it is absent or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// The model that it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// The prunable tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// The mean of the ingredients' predictions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ensemble: Option<Model>,
    /// Coefficients of the ingredients, in their order; 0 of those that were dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coefficients: Vec<f64>,
    /// What the greedy soup decided; ordinals are places in the job's list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// Distances between the ingredients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances: Option<Distances>,
    /// Accuracy between them; ordinals are places in the job's list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<Segment>,
    /// Pruned weights that the user's trainer revived, and that were pruned again.
    #[serde(skip_serializing_if = "is_zero")]
    pub remasked: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
