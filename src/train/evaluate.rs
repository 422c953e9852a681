//! How good a network is: an engine and images walk in, [`Predictions`] walk out, and
//! from them an [`Evaluation`]. Several networks' predictions make an ensemble.
//!
//! In `f64` and with the functions of `libm`, so that the bits are the same on every
//! machine.

mod metrics;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use thiserror::Error;

use crate::graph::Features;
use crate::train::data::Assembler;
use crate::train::data::Batch;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;

pub use metrics::{Bin, CALIBRATION_BINS, ClassReport, Evaluation};

/// Why images cannot be evaluated.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// The network takes other images.
    #[error(
        "the network takes images of {} x {} x {} (channels, height, width), but those of the \
         data set are {} x {} x {}",
        expected.channels, expected.height, expected.width,
        found.channels, found.height, found.width
    )]
    Image {
        /// What the network takes.
        expected: Features,
        /// What the data set has.
        found: Features,
    },
    /// The network knows fewer classes than the data set.
    #[error("the network tells {expected} classes apart, but the data set has {found}")]
    Classes {
        /// Classes of the network.
        expected: usize,
        /// Classes of the data set.
        found: usize,
    },
    /// Logits are NaN or infinite.
    #[error("the logits of image {sample} are not finite: the weights have diverged")]
    NonFinite {
        /// Place of the first such image among those evaluated, from 0.
        sample: usize,
    },
    /// The engine failed.
    #[error("the images cannot be classified")]
    Engine(#[from] EngineError),
}

/// What a network, or an ensemble of networks, says about some images.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    classes: usize,
    labels: Vec<u32>,
    /// Logarithms of the probabilities, row-major (samples, classes). Probabilities
    /// themselves would fall to 0, and the loss rise to infinity.
    logarithms: Vec<f64>,
}

impl Predictions {
    /// The softmax of `logits`, row-major (samples, classes).
    ///
    /// # Errors
    /// [`EvaluateError::NonFinite`].
    ///
    /// # Panics
    /// If `logits` is not `labels.len() * classes` long, or a label is not a class.
    pub fn of_logits(
        logits: &[f32],
        labels: &[u32],
        classes: usize,
    ) -> Result<Self, EvaluateError> {
        let mut predictions = Self {
            classes,
            labels: Vec::new(),
            logarithms: Vec::new(),
        };
        predictions.append(logits, labels)?;
        Ok(predictions)
    }

    fn append(&mut self, logits: &[f32], labels: &[u32]) -> Result<(), EvaluateError> {
        assert_eq!(logits.len(), labels.len() * self.classes, "a row per label");
        for (row, &label) in logits.chunks_exact(self.classes).zip(labels) {
            assert!((label as usize) < self.classes, "labels are classes");
            if row.iter().any(|logit| !logit.is_finite()) {
                let sample = self.labels.len();
                return Err(EvaluateError::NonFinite { sample });
            }
            let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
            let log_sum = log_sum(row.iter().copied());
            self.logarithms
                .extend(row.iter().map(|logit| logit - log_sum));
            self.labels.push(label);
        }
        Ok(())
    }

    /// The ensemble: the mean of the probabilities of all members.
    ///
    /// # Panics
    /// If there are no members, or they are about other images or classes.
    pub fn ensemble(members: &[Self]) -> Self {
        let first = &members[0];
        let is_alike =
            |member: &Self| member.classes == first.classes && member.labels == first.labels;
        assert!(members.iter().all(is_alike), "members see the same images");
        let count = libm::log(members.len() as f64);
        let logarithms = (0..first.logarithms.len()).map(|idx| {
            let of_members = members.iter().map(|member| member.logarithms[idx]);
            log_sum(of_members) - count
        });
        Self {
            classes: first.classes,
            labels: first.labels.clone(),
            logarithms: logarithms.collect(),
        }
    }

    /// What the images are.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// For each image the label and the logarithms of the probabilities.
    fn rows(&self) -> impl Iterator<Item = (usize, &[f64])> {
        let rows = self.logarithms.chunks_exact(self.classes);
        self.labels.iter().map(|&label| label as usize).zip(rows)
    }

    /// How good they are.
    pub fn evaluate(&self) -> Evaluation {
        Evaluation::of(self)
    }
}

/// Logarithm of the sum of the exponentials of finite numbers.
fn log_sum(logarithms: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = logarithms.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logarithms.map(|value| libm::exp(value - top)).sum();
    top + libm::log(sum)
}

/// Fails unless a network of this graph can classify images of this shape and these
/// classes.
///
/// # Errors
/// [`EvaluateError::Image`], [`EvaluateError::Classes`].
pub fn check_fit(
    engine: &dyn Engine,
    image: Features,
    classes: usize,
) -> Result<(), EvaluateError> {
    let graph = engine.graph();
    if graph.input() != image {
        return Err(EvaluateError::Image {
            expected: graph.input(),
            found: image,
        });
    }
    if graph.classes() < classes {
        return Err(EvaluateError::Classes {
            expected: graph.classes(),
            found: classes,
        });
    }
    Ok(())
}

/// What the network of `engine` says about the images `indices`, never varied, in
/// batches of `batch_size`. `advance` is told the number of images done. `None` if
/// `interrupted` was set.
///
/// # Errors
/// [`EvaluateError::NonFinite`], [`EvaluateError::Engine`].
pub fn predict(
    engine: &mut dyn Engine,
    assembler: &Assembler<'_>,
    indices: &[u32],
    batch_size: usize,
    advance: &dyn Fn(u64),
    interrupted: &AtomicBool,
) -> Result<Option<Predictions>, EvaluateError> {
    let mut predictions = Predictions {
        classes: engine.graph().classes(),
        labels: Vec::with_capacity(indices.len()),
        logarithms: Vec::new(),
    };
    let mut batch = Batch::default();
    for indices in indices.chunks(batch_size.max(1)) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        assembler.fill(indices, None, &mut batch);
        let logits = engine.predict(batch.images())?;
        predictions.append(&logits, &batch.labels)?;
        advance(indices.len() as u64);
    }
    Ok(Some(predictions))
}

#[cfg(test)]
mod tests;
