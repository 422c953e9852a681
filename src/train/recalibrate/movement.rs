//! How far an estimate moved batch norm's statistics: the network before and after walks
//! in, medians over its channels walk out.

use serde::Serialize;

use crate::graph::Graph;
use crate::graph::Op;
use crate::train::Weights;

/// Standard deviations by which means move, at the median, before that is implausible.
///
/// Statistics that describe the images move little, and those of other images, or of the
/// same ones normalised otherwise, move far: .001 and .8 were measured on a torch network
/// that was averaged, with its own images and with others. A convnet that was trained on
/// the digits for 4 epochs, and a soup of three that were retrained from it, moved by
/// .001 to .004 on the digits, and the soup by .30 on noise and .33 on inverted digits.
const MOST_SHIFT: f64 = 0.15;

/// Factor by which variances change, at the median, before that is implausible: 1.0015 was
/// measured with a network's own images, 7.6 with others; 1.004 to 1.017 for that convnet
/// and its soup. Two batches of training leave 2.4, since a running variance comes slowly
/// to where it belongs, and pruning without retraining leaves 3.2.
const MOST_FACTOR: f64 = 3.0;

/// How far statistics moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Movement {
    /// Channels that are compared: those with statistics before.
    pub channels: usize,
    /// Median over them of `|mean after - mean before| / deviation before`.
    pub mean_shift: f64,
    /// Median over them of the larger of `after / before` and `before / after` of the
    /// variances, each with the epsilon of its layer: at least 1.
    pub variance_factor: f64,
    /// The same, layer by layer.
    pub layers: Vec<LayerMovement>,
}

/// How far the statistics of one layer moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerMovement {
    /// Name of its module.
    pub name: String,
    /// As of the network.
    pub mean_shift: f64,
    /// As of the network.
    pub variance_factor: f64,
}

impl Movement {
    /// From `before` to `after`, both of `graph`. `None` where no batch norm had
    /// statistics before: there is none, or it had seen no batch.
    pub fn of(graph: &Graph, before: &Weights, after: &Weights) -> Option<Self> {
        let (mut shifts, mut factors) = (Vec::new(), Vec::new());
        let mut layers = Vec::new();
        for node in &graph.nodes {
            let Op::BatchNorm {
                running_mean,
                running_var,
                num_batches_tracked,
                epsilon,
                ..
            } = node.op
            else {
                continue;
            };
            // What a layer begins with is no estimate.
            let begins = |values: &[f32], value| values.iter().all(|&found| found == value);
            let is_new = before.counts[num_batches_tracked] == 0
                && begins(&before.values[running_mean], 0.0)
                && begins(&before.values[running_var], 1.0);
            if is_new {
                continue;
            }

            let first = shifts.len();
            for channel in 0..before.values[running_mean].len() {
                let at = |weights: &Weights| {
                    let value = |values: &[f32]| f64::from(values[channel]);
                    let variance = value(&weights.values[running_var]) + epsilon;
                    (value(&weights.values[running_mean]), variance)
                };
                let ((mean, variance), (new_mean, new_variance)) = (at(before), at(after));
                let is_usable = |value: f64| value.is_finite() && value > 0.0;
                if mean.is_finite() && is_usable(variance) && is_usable(new_variance) {
                    shifts.push((new_mean - mean).abs() / variance.sqrt());
                    let ratio = new_variance / variance;
                    factors.push(ratio.max(1.0 / ratio));
                }
            }

            let mean_name = &graph.parameters[running_mean].name;
            if let (Some(mean_shift), Some(variance_factor)) =
                (median(&shifts[first..]), median(&factors[first..]))
            {
                let name = mean_name.strip_suffix(".running_mean");
                layers.push(LayerMovement {
                    name: name.unwrap_or(mean_name).to_owned(),
                    mean_shift,
                    variance_factor,
                });
            }
        }

        Some(Self {
            channels: shifts.len(),
            mean_shift: median(&shifts)?,
            variance_factor: median(&factors)?,
            layers,
        })
    }

    /// Whether statistics of the network's own images would hardly move so far.
    pub fn is_implausible(&self) -> bool {
        self.mean_shift > MOST_SHIFT || self.variance_factor > MOST_FACTOR
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::BatchNorm;
    use crate::graph::Builder;
    use crate::graph::Features;
    use crate::graph::Role;

    /// Three channels of one batch norm, with means and variances.
    fn network(means: [f32; 3], variances: [f32; 3], count: i64) -> (Graph, Weights) {
        let mut builder = Builder::new("norm", Features::vector(3)).unwrap();
        let input = builder.input();
        builder
            .batch_norm("bn", input, BatchNorm::default())
            .unwrap();
        let graph = builder.finish().unwrap();
        let mut weights = Weights::initial(&graph, 0);
        for (idx, parameter) in graph.parameters.iter().enumerate() {
            match parameter.role {
                Role::RunningMean => weights.values[idx] = means.to_vec(),
                Role::RunningVariance => weights.values[idx] = variances.to_vec(),
                Role::BatchCount => weights.counts[idx] = count,
                _ => {}
            }
        }
        (graph, weights)
    }

    #[test]
    fn medians_tell_other_images_from_a_networks_own() {
        let (graph, before) = network([0.0, 1.0, -2.0], [4.0, 1.0, 0.25], 9);
        let check = |means, variances, shift: f64, factor: f64, implausible| {
            let after = network(means, variances, 9).1;
            let moved = Movement::of(&graph, &before, &after).unwrap();
            assert!((moved.mean_shift - shift).abs() < 1e-3, "{moved:?}");
            assert!((moved.variance_factor - factor).abs() < 1e-3, "{moved:?}");
            assert_eq!(moved.is_implausible(), implausible, "{moved:?}");
            assert_eq!((moved.channels, moved.layers.len()), (3, 1));
            assert_eq!(moved.layers[0].name, "bn");
        };
        check([0.0, 1.0, -2.0], [4.0, 1.0, 0.25], 0.0, 1.0, false);
        // One channel of three is no reason to warn.
        check([9.0, 1.0, -2.0], [4.0, 50.0, 0.25], 0.0, 1.0, false);
        check([1.6, 1.8, -2.4], [4.0, 1.0, 0.25], 0.8, 1.0, true);
        check([0.0, 1.0, -2.0], [30.4, 7.6, 1.9], 0.0, 7.6, true);
        check([0.0, 1.0, -2.0], [0.4, 0.1, 0.025], 0.0, 10.0, true);
    }

    #[test]
    fn what_was_never_estimated_has_not_moved() {
        let (graph, before) = network([0.0; 3], [1.0; 3], 0);
        let after = network([9.0; 3], [9.0; 3], 1).1;
        assert_eq!(Movement::of(&graph, &before, &after), None);
        let broken = network([f32::NAN; 3], [1.0; 3], 3).1;
        assert_eq!(Movement::of(&graph, &broken, &after), None);
        let negative = network([0.0; 3], [-1.0; 3], 3).1;
        assert_eq!(Movement::of(&graph, &negative, &after), None);
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
