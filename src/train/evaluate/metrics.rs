//! Metrics of predictions.

use serde::Serialize;

use super::Predictions;

/// Bins of confidence. Source: Guo et al., arXiv:1706.04599.
pub const CALIBRATION_BINS: usize = 15;

/// How good predictions are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Number of images.
    pub samples: u64,
    /// Those whose most probable class is their label; of equally probable classes the
    /// first counts.
    pub correct: u64,
    /// `correct / samples`; 0 of no images.
    pub accuracy: f64,
    /// Mean cross-entropy in nats, without smoothing of labels; 0 of no images.
    pub loss: f64,
    /// Expected calibration error: mean over the images of the distance between accuracy
    /// and mean confidence of their bin.
    pub ece: f64,
    /// Maximum calibration error: the largest such distance of a bin.
    pub mce: f64,
    /// The class with the lowest accuracy, of those that have images; the first of
    /// several.
    pub worst_class: Option<usize>,
    /// Its accuracy.
    pub worst_class_accuracy: Option<f64>,
    /// One per class.
    pub classes: Vec<ClassReport>,
    /// Images by label (row) and prediction (column).
    pub confusion: Vec<Vec<u64>>,
    /// Bins of confidence, ascending: bin `b` of `n` holds confidences in
    /// `(b / n, (b + 1) / n]`.
    pub bins: Vec<Bin>,
}

/// How good predictions are for one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassReport {
    /// Images of this class.
    pub samples: u64,
    /// Images that are said to be of this class.
    pub predicted: u64,
    /// Images of this class that are said to be so.
    pub correct: u64,
    /// Share of the class's images that are recognised, if it has any.
    pub accuracy: Option<f64>,
    /// Share of the images said to be of this class that are, if there are any.
    pub precision: Option<f64>,
    /// The class that its images are most often mistaken for; the first of several.
    pub mistaken_for: Option<usize>,
    /// How often.
    pub mistakes: u64,
}

/// Images whose predictions are about equally confident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bin {
    /// Number of images.
    pub samples: u64,
    /// Mean probability of the most probable class; 0 of no images.
    pub confidence: f64,
    /// Share of the images that are classified correctly; 0 of no images.
    pub accuracy: f64,
}

impl Bin {
    fn gap(self) -> f64 {
        (self.accuracy - self.confidence).abs()
    }
}

impl Evaluation {
    pub(super) fn of(predictions: &Predictions) -> Self {
        let classes = predictions.classes();
        let mut confusion = vec![vec![0_u64; classes]; classes];
        let mut loss = 0.0;
        // Counts, sums of confidences and counts of what is correct, by bin.
        let mut sums = [(0_u64, 0.0, 0_u64); CALIBRATION_BINS];
        for (label, row) in predictions.rows() {
            let predicted = most_probable(row);
            confusion[label][predicted] += 1;
            loss -= row[label];
            let confidence = libm::exp(row[predicted]);
            let bin = &mut sums[bin_of(confidence)];
            bin.0 += 1;
            bin.1 += confidence;
            bin.2 += u64::from(predicted == label);
        }
        let samples = predictions.labels().len() as u64;
        let bins = sums.map(|(samples, confidence, correct)| Bin {
            samples,
            confidence: share(confidence, samples).unwrap_or_default(),
            accuracy: share(correct as f64, samples).unwrap_or_default(),
        });
        let weighted = bins.iter().map(|bin| bin.samples as f64 * bin.gap());
        let correct = (0..classes).map(|class| confusion[class][class]).sum();
        let reports: Vec<ClassReport> = (0..classes)
            .map(|class| ClassReport::of(class, &confusion))
            .collect();
        let worst_class = worst(&reports);
        Self {
            samples,
            correct,
            accuracy: share(correct as f64, samples).unwrap_or_default(),
            loss: share(loss, samples).unwrap_or_default(),
            ece: share(weighted.sum(), samples).unwrap_or_default(),
            mce: bins.iter().map(|bin| bin.gap()).fold(0.0, f64::max),
            worst_class,
            worst_class_accuracy: worst_class.and_then(|class| reports[class].accuracy),
            classes: reports,
            confusion,
            bins: bins.to_vec(),
        }
    }
}

impl ClassReport {
    fn of(class: usize, confusion: &[Vec<u64>]) -> Self {
        let row = &confusion[class];
        let samples = row.iter().sum();
        let predicted = confusion.iter().map(|row| row[class]).sum();
        let correct = row[class];
        let mut mistakes = 0;
        let mut mistaken_for = None;
        for (other, &count) in row.iter().enumerate() {
            if other != class && count > mistakes {
                (mistakes, mistaken_for) = (count, Some(other));
            }
        }
        Self {
            samples,
            predicted,
            correct,
            accuracy: share(correct as f64, samples),
            precision: share(correct as f64, predicted),
            mistaken_for,
            mistakes,
        }
    }
}

fn share(part: f64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part / whole as f64)
}

/// The first class of the largest logarithm.
fn most_probable(row: &[f64]) -> usize {
    let mut best = 0;
    for (class, logarithm) in row.iter().enumerate() {
        if *logarithm > row[best] {
            best = class;
        }
    }
    best
}

/// The bin of a confidence in (0, 1].
fn bin_of(confidence: f64) -> usize {
    let upper = (confidence * CALIBRATION_BINS as f64).ceil() as usize;
    upper.clamp(1, CALIBRATION_BINS) - 1
}

fn worst(reports: &[ClassReport]) -> Option<usize> {
    let mut worst: Option<(usize, f64)> = None;
    for (class, report) in reports.iter().enumerate() {
        if let Some(accuracy) = report.accuracy
            && worst.is_none_or(|(_, lowest)| accuracy < lowest)
        {
            worst = Some((class, accuracy));
        }
    }
    worst.map(|(class, _)| class)
}
