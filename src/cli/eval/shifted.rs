//! Evaluation out of distribution: the same images, corrupted.

use serde::Serialize;
use sms_merge::graph::Features;
use sms_merge::train::data::Corruption;
use sms_merge::train::data::Samples;
use sms_merge::train::data::Severity;
use sms_merge::train::data::corrupted;
use sms_merge::train::evaluate::Evaluation;

use crate::cli::eval::Outcome;

/// Number of severities.
pub(super) const SEVERITIES: usize = Severity::ALL.len();

/// What one kind of corruption did, by severity.
#[derive(Serialize)]
pub(super) struct Shifted {
    pub(super) name: &'static str,
    pub(super) models: Vec<BySeverity>,
    pub(super) ensemble: Option<BySeverity>,
}

/// Metrics by severity, from 1 to 5.
#[derive(Default, Serialize)]
pub(super) struct BySeverity {
    pub(super) accuracy: Vec<f64>,
    pub(super) loss: Vec<f64>,
    pub(super) ece: Vec<f64>,
    pub(super) mean_accuracy: f64,
}

/// The corruptions that change images of this shape.
pub(super) fn kinds(image: Features) -> Vec<Corruption> {
    Corruption::of_images(image).collect()
}

impl Shifted {
    /// What `evaluate` finds of `samples` at each severity.
    pub(super) fn of(
        kind: Corruption,
        samples: &Samples,
        seed: u64,
        evaluate: &mut impl FnMut(&Samples) -> anyhow::Result<Outcome>,
    ) -> anyhow::Result<Self> {
        let mut outcomes = Vec::with_capacity(SEVERITIES);
        for severity in Severity::ALL {
            outcomes.push(evaluate(&corrupted(samples, kind, severity, seed))?);
        }
        let n_models = outcomes[0].models.len();
        let model = |idx: usize| BySeverity::of(outcomes.iter().map(|found| &found.models[idx]));
        let ensembles: Option<Vec<&Evaluation>> = outcomes
            .iter()
            .map(|found| found.ensemble.as_ref())
            .collect();
        Ok(Self {
            name: kind.name(),
            models: (0..n_models).map(model).collect(),
            ensemble: ensembles.map(|found| BySeverity::of(found.into_iter())),
        })
    }
}

impl BySeverity {
    fn of<'a>(evaluations: impl Iterator<Item = &'a Evaluation>) -> Self {
        let mut found = Self::default();
        for evaluation in evaluations {
            found.accuracy.push(evaluation.accuracy);
            found.loss.push(evaluation.loss);
            found.ece.push(evaluation.ece);
        }
        let sum: f64 = found.accuracy.iter().sum();
        found.mean_accuracy = sum / found.accuracy.len() as f64;
        found
    }
}
