//! Averages of the weights along one training: the weights of a step walk in, their
//! average walks out. Pruned weights stay `+0`, as they are in every step.

use crate::train::Weights;

/// An average under way, in `f64`, in the graph's order of parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// One per parameter, as long as the parameter; empty before the first weights.
    pub values: Vec<Vec<f64>>,
    /// How many weights went in.
    pub count: u64,
}

impl Running {
    /// Moves the average by the share `1 - min(decay, (1 + n)/(10 + n))` towards
    /// `weights`, after `n` others.
    pub fn ema(&mut self, weights: &Weights, decay: f64) {
        let seen = self.count as f64;
        let kept = decay.min((1.0 + seen) / (10.0 + seen));
        self.approach(weights, 1.0 - kept);
    }

    /// Takes `weights` into the mean of all that went in.
    pub fn mean(&mut self, weights: &Weights) {
        self.approach(weights, 1.0 / (self.count as f64 + 1.0));
    }

    fn approach(&mut self, weights: &Weights, share: f64) {
        if self.count == 0 {
            let widened = weights.values.iter();
            self.values = widened
                .map(|values| values.iter().copied().map(f64::from).collect())
                .collect();
        } else {
            for (averages, values) in self.values.iter_mut().zip(&weights.values) {
                for (average, &value) in averages.iter_mut().zip(values) {
                    *average += share * (f64::from(value) - *average);
                }
            }
        }
        self.count += 1;
    }

    /// The average, rounded once, with the counts of `latest`; `latest` itself where
    /// nothing went in.
    pub fn weights(&self, latest: &Weights) -> Weights {
        let mut averaged = latest.clone();
        for (values, averages) in averaged.values.iter_mut().zip(&self.values) {
            for (value, &average) in values.iter_mut().zip(averages) {
                *value = average as f32;
            }
        }
        averaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(value: f32) -> Weights {
        Weights {
            values: vec![vec![value, 0.0], vec![]],
            counts: vec![0, value as i64],
        }
    }

    #[test]
    fn a_mean_is_the_mean() {
        let mut running = Running::default();
        assert_eq!(running.weights(&weights(9.0)), weights(9.0));
        for value in [1.0, 2.0, 6.0] {
            running.mean(&weights(value));
        }
        assert_eq!(running.count, 3);
        let found = running.weights(&weights(6.0));
        assert!((found.values[0][0] - 3.0).abs() < 1e-6);
        assert_eq!(found.values[0][1].to_bits(), 0);
        assert_eq!(found.counts, [0, 6]);
    }

    #[test]
    fn an_exponential_average_warms_up_and_then_keeps_its_share() {
        let mut running = Running::default();
        let mut expected = 1.0;
        running.ema(&weights(1.0), 0.4);
        for (step, value) in [(1, 5.0), (2, -3.0), (3, 2.0), (60, 7.0)] {
            running.count = step;
            // 2/11, 3/12 and 4/13 are below 0.4; 61/70 is not.
            let kept = [2.0 / 11.0, 0.25, 4.0 / 13.0, 0.4][[1, 2, 3, 60]
                .iter()
                .position(|&known| known == step)
                .unwrap()];
            expected = kept * expected + (1.0 - kept) * f64::from(value);
            running.ema(&weights(value), 0.4);
            assert!((running.values[0][0] - expected).abs() < 1e-12);
        }
        assert_eq!(running.values[0][1], 0.0);
    }
}
