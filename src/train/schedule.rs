//! Learning rates: a step walks in, its rate walks out.
//!
//! Steps are counted from 0. Cosines are those of `libm`, whose bits are the same on
//! every machine.

use std::f64::consts::PI;

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

/// How a learning rate falls after its warm-up; `j` counts the steps after it, of
/// which there are `R`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Curve {
    /// `peak`.
    Constant,
    /// `peak·(1 - j/R)`.
    Linear,
    /// `peak·(1 + cos(πj/R))/2`. Source: arXiv:1608.03983, without restarts.
    Cosine,
    /// `peak·factor^k`, `k` the number of milestones at or before the step.
    Step {
        /// Steps of the whole training, warm-up included, ascending.
        milestones: Vec<u64>,
        /// Factor at each of them.
        factor: f64,
    },
}

/// The learning rates of a training, `η_1` to `η_T`, as a function of the step.
///
/// The first `warmup_steps` rise linearly from 0, `peak·t/W`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub curve: Curve,
    /// Largest rate.
    pub peak: f64,
    /// Steps of the warm-up, `W`.
    pub warmup_steps: u64,
    /// Steps of the training, `T`.
    pub steps: u64,
}

impl Schedule {
    /// Rate of a step; past the end, that of the last step.
    pub fn rate(&self, step: u64) -> f64 {
        let step = step.min(self.steps.saturating_sub(1));
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let done = (step - self.warmup_steps) as f64;
        let rest = (self.steps - self.warmup_steps.min(self.steps)) as f64;
        match &self.curve {
            Curve::Constant => self.peak,
            Curve::Linear => self.peak * (1.0 - done / rest),
            Curve::Cosine => self.peak * (1.0 + libm::cos(PI * done / rest)) / 2.0,
            Curve::Step { milestones, factor } => {
                let passed = milestones.iter().filter(|&&milestone| milestone <= step);
                passed.fold(self.peak, |rate, _| rate * factor)
            }
        }
    }

    /// Largest rate: rates rise up to the end of the warm-up, and do not rise after it.
    fn largest(&self) -> f64 {
        let before = self.rate(self.warmup_steps.saturating_sub(1));
        before.max(self.rate(self.warmup_steps))
    }

    /// Smallest rate after the warm-up: that of the last step.
    fn smallest(&self) -> f64 {
        self.rate(self.steps.saturating_sub(1))
    }
}

/// A way to choose the learning rates of a retraining from those of the training
/// before the pruning.
///
/// Source: arXiv:2111.00843.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Fine-tuning: the smallest rate after the pretraining's warm-up, throughout.
    Ft,
    /// Learning-rate rewinding: the last rates again.
    Lrw,
    /// Scaled learning-rate restarting: the pretraining's schedule compressed, the
    /// largest rate in place of its warm-up.
    Slr,
    /// Cyclic learning-rate restarting: a cosine from the largest to the smallest rate.
    Clr,
    /// Linear learning-rate restarting: from the largest rate to 0.
    Llr,
    /// Adaptive linear learning-rate restarting: LLR scaled by what pruning took away,
    /// or by the length of the retraining.
    Allr,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 6] = [
        Self::Ft,
        Self::Lrw,
        Self::Slr,
        Self::Clr,
        Self::Llr,
        Self::Allr,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ft => "ft",
            Self::Lrw => "lrw",
            Self::Slr => "slr",
            Self::Clr => "clr",
            Self::Llr => "llr",
            Self::Allr => "allr",
        }
    }
}

/// The learning rates of a retraining of `N` steps, as a function of the step.
///
/// All but FT and LRW begin with a warm-up of `W = floor(N/10)` steps, the half cosine
/// `η·(1 - cos(πt/W))/2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retraining {
    method: Method,
    pretraining: Schedule,
    largest: f64,
    smallest: f64,
    scale: f64,
    steps: u64,
}

impl Retraining {
    /// The schedule of a retraining of `steps` steps.
    ///
    /// `lost` is what [`lost_share`] gives; only ALLR asks for it.
    ///
    /// # Errors
    /// [`ScheduleError`] if there is nothing to choose from.
    pub fn new(
        method: Method,
        pretraining: Schedule,
        lost: Option<f64>,
        steps: u64,
    ) -> Result<Self, ScheduleError> {
        if pretraining.steps == 0 {
            return Err(ScheduleError::NoPretraining);
        }
        if method == Method::Lrw && steps > pretraining.steps {
            return Err(ScheduleError::Longer {
                expected: pretraining.steps,
                found: steps,
            });
        }
        let scale = match (method, lost) {
            (Method::Allr, None) => return Err(ScheduleError::NothingLost),
            (Method::Allr, Some(lost)) => lost.max(steps as f64 / pretraining.steps as f64),
            _ => 1.0,
        };
        Ok(Self {
            method,
            largest: pretraining.largest(),
            smallest: pretraining.smallest(),
            pretraining,
            scale,
            steps,
        })
    }

    /// Rate of a step; past the end, that of the last step.
    pub fn rate(&self, step: u64) -> f64 {
        let step = step.min(self.steps.saturating_sub(1));
        match self.method {
            Method::Ft => return self.smallest,
            Method::Lrw => {
                let skipped = self.pretraining.steps - self.steps;
                return self.pretraining.rate(skipped + step);
            }
            _ => {}
        }
        let peak = self.scale * self.largest;
        let warmup = self.steps / 10;
        if step < warmup {
            return peak * (1.0 - libm::cos(PI * step as f64 / warmup as f64)) / 2.0;
        }
        let (done, rest) = (step - warmup, self.steps - warmup);
        let share = done as f64 / rest as f64;
        match self.method {
            Method::Slr => {
                let at = u128::from(done) * u128::from(self.pretraining.steps) / u128::from(rest);
                let at = at as u64;
                if at < self.pretraining.warmup_steps {
                    self.largest
                } else {
                    self.pretraining.rate(at)
                }
            }
            Method::Clr => {
                let height = self.largest - self.smallest;
                self.smallest + height * (1.0 + libm::cos(PI * share)) / 2.0
            }
            _ => peak * (1.0 - share),
        }
    }
}

/// What pruning took away, `‖θ - θ_p‖ / (‖θ‖·√s)`: 1 if all weights were equally large.
///
/// `theta` are the prunable weights before the pruning, `pruned` the same weights
/// after it, and `s` (`fraction`) the share of those left before that it pruned.
pub fn lost_share<'a>(tensors: impl Iterator<Item = (&'a [f32], &'a [f32])>, fraction: f64) -> f64 {
    let (mut lost, mut all) = (0.0, 0.0);
    for (theta, pruned) in tensors {
        for (&before, &after) in theta.iter().zip(pruned) {
            let (before, after) = (f64::from(before), f64::from(after));
            lost += (before - after) * (before - after);
            all += before * before;
        }
    }
    if lost == 0.0 {
        return 0.0;
    }
    libm::sqrt(lost / (all * fraction))
}

/// Why there is no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// The training before the pruning has no steps.
    #[error("the training before the pruning has no steps to take learning rates from")]
    NoPretraining,
    /// There are fewer rates than steps.
    #[error(
        "rewinding takes the last {found} learning rates of the training before the pruning, \
         which has {expected}; retrain for fewer epochs, or use `llr`"
    )]
    Longer {
        /// Steps of the pretraining.
        expected: u64,
        /// Steps of the retraining.
        found: u64,
    },
    /// ALLR is asked for without the weights before the pruning.
    #[error("`allr` needs the weights before the pruning; name them, or use `llr`")]
    NothingLost,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Rates that numpy computed; `fixtures/schedules/make.py` wrote them.
    const GOLDEN: &str = include_str!("../../fixtures/schedules/golden.json");

    fn golden() -> Value {
        serde_json::from_str(GOLDEN).unwrap()
    }

    /// Numbers of an array; the last bits of a cosine may differ.
    fn assert_close(found: impl Iterator<Item = f64>, expected: &Value, what: &Value) {
        let expected = expected.as_array().unwrap();
        let found: Vec<f64> = found.collect();
        assert_eq!(found.len(), expected.len());
        for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
            let expected = expected.as_f64().unwrap();
            let difference = (found - expected).abs();
            assert!(difference < 1e-14, "{found} {expected} at {step} of {what}");
        }
    }

    #[test]
    fn schedules_are_their_formulas() {
        let golden = golden();
        let cases = golden["schedules"].as_array().unwrap();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
            let rates = (0..schedule.steps).map(|step| schedule.rate(step));
            assert_close(rates, &case["rates"], &case["schedule"]);
            let last = schedule.rate(schedule.steps - 1);
            assert_eq!(schedule.rate(schedule.steps + 7), last);
        }
    }

    #[test]
    fn retraining_schedules_are_their_formulas() {
        let golden = golden();
        let cases = golden["retraining"].as_array().unwrap();
        assert_eq!(cases.len(), 8 * 6 * 3);
        for case in cases {
            let method: Method = serde_json::from_value(case["method"].clone()).unwrap();
            let pretraining = serde_json::from_value(case["pretraining"].clone()).unwrap();
            let (lost, steps) = (case["lost"].as_f64(), case["steps"].as_u64().unwrap());
            let retraining = Retraining::new(method, pretraining, lost, steps).unwrap();
            let rates = (0..steps).map(|step| retraining.rate(step));
            assert_close(rates, &case["rates"], case);
            assert_eq!(case["method"], method.name());
        }
    }

    #[test]
    fn what_pruning_took_away() {
        let golden = golden();
        let lost = &golden["lost"];
        let tensors =
            |key: &str| -> Vec<Vec<f32>> { serde_json::from_value(lost[key].clone()).unwrap() };
        let (theta, pruned) = (tensors("theta"), tensors("pruned"));
        let pairs = theta.iter().zip(&pruned);
        let pairs = pairs.map(|(theta, pruned)| (theta.as_slice(), pruned.as_slice()));
        let share = lost_share(pairs, lost["fraction"].as_f64().unwrap());
        assert!((share - lost["share"].as_f64().unwrap()).abs() < 1e-12);
        let equal = [1.0, -1.0, 1.0, -1.0];
        let half = [1.0, 0.0, 0.0, -1.0];
        assert_eq!(lost_share([(&equal[..], &half[..])].into_iter(), 0.5), 1.0);
        assert_eq!(lost_share([(&half[..], &half[..])].into_iter(), 0.0), 0.0);
    }

    #[test]
    fn schedules_are_text_and_back() {
        let check = |curve: Curve, expected: &str| {
            let schedule = Schedule {
                curve,
                peak: 0.1,
                warmup_steps: 3,
                steps: 20,
            };
            let text = toml::to_string(&schedule).unwrap();
            assert!(text.contains(expected), "{text}");
            assert_eq!(toml::from_str::<Schedule>(&text).unwrap(), schedule);
        };
        check(Curve::Cosine, "curve = \"cosine\"");
        let step = Curve::Step {
            milestones: vec![5, 10],
            factor: 0.2,
        };
        check(step, "[curve.step]");
        assert!(toml::from_str::<Schedule>("curve = \"cosin\"").is_err());
    }

    #[test]
    fn what_has_no_schedule() {
        let schedule = |steps| Schedule {
            curve: Curve::Linear,
            peak: 1.0,
            warmup_steps: 0,
            steps,
        };
        let check = |method, steps, lost, expected| {
            let found = Retraining::new(method, schedule(steps), lost, 5);
            assert_eq!(found.unwrap_err(), expected);
        };
        check(Method::Llr, 0, None, ScheduleError::NoPretraining);
        check(Method::Allr, 9, None, ScheduleError::NothingLost);
        let longer = ScheduleError::Longer {
            expected: 4,
            found: 5,
        };
        check(Method::Lrw, 4, None, longer);
    }
}
