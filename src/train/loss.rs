//! Cross-entropy and its gradient: logits and labels walk in.
//!
//! In `f64` and with the functions of `libm`, so that the bits are the same on every
//! machine; logits are few.

/// What training minimises: the mean cross-entropy of the softmax, with smoothed
/// labels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objective {
    /// Share of the label that is spread evenly over all classes, in [0, 1).
    /// Source: Szegedy et al., arXiv:1512.00567.
    pub label_smoothing: f64,
}

/// What a batch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of the samples' losses.
    pub sum: f64,
    /// Samples whose largest logit is the label's (the first one, if several are).
    pub correct: u64,
    /// Samples.
    pub samples: u64,
}

impl Loss {
    /// Takes in what other samples cost.
    pub fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.correct += other.correct;
        self.samples += other.samples;
    }

    /// Mean over the samples; NaN of none.
    pub fn mean(self) -> f64 {
        self.sum / self.samples as f64
    }

    /// Share of the samples that are classified correctly; NaN of none.
    pub fn accuracy(self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

impl Objective {
    /// Loss of a batch, and its gradient.
    ///
    /// `logits` and the gradient are row-major (samples, classes); the gradient is that
    /// of the mean over the batch.
    ///
    /// # Panics
    /// If `logits` is not `labels.len() * classes` long, or a label is not a class.
    pub fn gradient(&self, logits: &[f32], labels: &[u32], classes: usize) -> (Loss, Vec<f32>) {
        assert_eq!(logits.len(), labels.len() * classes, "one row per label");
        let mut loss = Loss {
            samples: labels.len() as u64,
            ..Loss::default()
        };
        let mut gradient = Vec::with_capacity(logits.len());
        let spread = self.label_smoothing / classes as f64;
        let scale = 1.0 / labels.len() as f64;
        for (row, &label) in logits.chunks_exact(classes).zip(labels) {
            let label = label as usize;
            assert!(label < classes, "a label is one of the classes");
            let (probabilities, log_sum) = softmax(row);
            loss.correct += u64::from(largest(row) == label);
            for (class, (&logit, probability)) in row.iter().zip(probabilities).enumerate() {
                let sharp = if class == label {
                    1.0 - self.label_smoothing
                } else {
                    0.0
                };
                let target = sharp + spread;
                if target != 0.0 {
                    loss.sum -= target * (f64::from(logit) - log_sum);
                }
                gradient.push(((probability - target) * scale) as f32);
            }
        }
        (loss, gradient)
    }
}

/// Probabilities of one row of logits, and the logarithm of the sum of the
/// exponentials.
pub fn softmax(row: &[f32]) -> (Vec<f64>, f64) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let top = f64::from(top);
    let exponentials: Vec<f64> = row
        .iter()
        .map(|&logit| libm::exp(f64::from(logit) - top))
        .collect();
    let sum: f64 = exponentials.iter().sum();
    let probabilities = exponentials.into_iter().map(|value| value / sum).collect();
    (probabilities, top + libm::log(sum))
}

/// Place of the largest logit; the first of several.
pub fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (idx, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = idx;
        }
    }
    best
}
