//! Who is compared: a study and a phase walk in; the model that competes there, and what
//! was measured of it, walk out.

use serde::Serialize;
use serde::Serializer;

use crate::cycle::findings::Findings;
use crate::cycle::findings::Ingredient;
use crate::cycle::findings::Model;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Study;

/// A model, or a mean of models, that is compared in every phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contender {
    /// The soup.
    Soup,
    /// The mean over the ingredients.
    MeanCandidate,
    /// The ingredient of the highest test accuracy: an oracle's choice, which no one could
    /// make without the test images. It favours the soup's opponent.
    BestCandidate,
    /// The ingredient of the highest validation accuracy.
    ByValidation,
    /// A baseline, by its key in the findings.
    Baseline(String),
    /// The dense network before the first phase.
    Dense,
}

/// Baselines in the order in which they are shown, and their names. Others follow.
const BASELINES: [(&str, &str); 4] = [
    ("imp", "IMP"),
    ("imp-m-times", "IMP m-times"),
    ("imp-reprune", "IMP-RePrune"),
    ("ensemble", "prediction ensemble"),
];

/// What is measured of a model.
pub(super) type Metric<'a> = &'a dyn Fn(&Model) -> Option<f64>;

impl Contender {
    /// Everyone in these findings, in the order in which they are shown.
    pub(super) fn all(findings: &Findings) -> Vec<Self> {
        let phases = || findings.studies.iter().flat_map(|study| &study.phases);
        let mut keys: Vec<&String> = phases().flat_map(|phase| phase.baselines.keys()).collect();
        let place = |key: &str| BASELINES.iter().position(|(known, _)| *known == key);
        keys.sort_by_key(|key| (place(key).unwrap_or(BASELINES.len()), *key));
        keys.dedup();
        let baselines = keys.into_iter().cloned().map(Self::Baseline);
        let candidates = [Self::MeanCandidate, Self::BestCandidate, Self::ByValidation];
        let first = std::iter::once(Self::Soup).chain(candidates);
        first.chain(baselines).chain([Self::Dense]).collect()
    }

    /// IMP with the epochs of one ingredient.
    pub(super) fn imp() -> Self {
        Self::Baseline("imp".to_owned())
    }

    /// IMP with the epochs of all ingredients.
    pub(super) fn imp_m_times() -> Self {
        Self::Baseline("imp-m-times".to_owned())
    }

    /// Its name in JSON.
    pub fn key(&self) -> &str {
        match self {
            Self::Soup => "soup",
            Self::MeanCandidate => "mean-candidate",
            Self::BestCandidate => "best-candidate",
            Self::ByValidation => "best-by-validation",
            Self::Baseline(key) => key,
            Self::Dense => "dense",
        }
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        match self {
            Self::Soup => "soup",
            Self::MeanCandidate => "mean candidate",
            Self::BestCandidate => "best candidate",
            Self::ByValidation => "best by validation",
            Self::Baseline(key) => BASELINES
                .iter()
                .find(|(known, _)| known == key)
                .map_or(key, |(_, name)| name),
            Self::Dense => "dense",
        }
    }

    /// The model, where it is one.
    pub(super) fn model<'a>(&self, study: &'a Study, phase: &'a Phase) -> Option<&'a Model> {
        let highest = |metric| highest(&phase.ingredients, metric).map(|found| &found.model);
        match self {
            Self::Soup => Some(&phase.soup.model),
            Self::MeanCandidate => None,
            Self::BestCandidate => highest(&accuracy),
            Self::ByValidation => highest(&validation_accuracy),
            Self::Baseline(key) => phase.baselines.get(key),
            Self::Dense => Some(&study.dense),
        }
    }

    /// What was measured of it; of the mean candidate, the mean over those measured.
    pub(super) fn measure(&self, study: &Study, phase: &Phase, metric: Metric) -> Option<f64> {
        if *self == Self::MeanCandidate {
            let models = phase.ingredients.iter().map(|ingredient| &ingredient.model);
            return mean(models.filter_map(metric));
        }
        self.model(study, phase)
            .and_then(metric)
            .filter(|value| value.is_finite())
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

/// Test accuracy.
pub(super) fn accuracy(model: &Model) -> Option<f64> {
    model.scores.accuracy
}

/// Accuracy on held-out images.
pub(super) fn validation_accuracy(model: &Model) -> Option<f64> {
    model.scores.validation_accuracy
}

/// Mean of the finite values; `None` of none.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values
        .filter(|value| value.is_finite())
        .fold((0.0, 0_usize), |(sum, count), value| {
            (sum + value, count + 1)
        });
    (count > 0).then(|| sum / count as f64)
}

/// The first ingredient of which `metric` is highest.
fn highest<'a>(ingredients: &'a [Ingredient], metric: Metric) -> Option<&'a Ingredient> {
    let measured = ingredients.iter().filter_map(|ingredient| {
        let value = metric(&ingredient.model).filter(|value| value.is_finite())?;
        Some((ingredient, value))
    });
    measured
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(ingredient, _)| ingredient)
}

/// The numbers of all phases that some study has reached, ascending.
pub(super) fn phase_numbers(findings: &Findings) -> Vec<u32> {
    let phases = findings.studies.iter().flat_map(|study| &study.phases);
    let mut numbers: Vec<u32> = phases.map(|phase| phase.phase).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The studies that have reached phase `number`, with that phase.
pub(super) fn at_phase(findings: &Findings, number: u32) -> impl Iterator<Item = (&Study, &Phase)> {
    findings.studies.iter().filter_map(move |study| {
        let phase = study.phases.iter().find(|phase| phase.phase == number)?;
        Some((study, phase))
    })
}
