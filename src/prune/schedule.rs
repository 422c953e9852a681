//! How sparsity grows over the phases of a run, or over its steps.

use serde::Deserialize;
use serde::Serialize;

use crate::prune::PruneError;
use crate::prune::amount::check_fraction;

/// How sparsity grows to its final value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// All of it in the first phase.
    OneShot,
    /// Each phase prunes the same fraction of what remains.
    ///
    /// `s(j) = 1 - (1 - S)^(j/k)`. Source: arXiv:2306.16788.
    Geometric,
    /// Steep at first, flat at the end.
    ///
    /// `s(t) = S + (s0 - S)(1 - t)^3` with `t = j/k` and `s0` the sparsity at the start.
    /// Source: arXiv:1710.01878.
    Cubic,
}

impl Schedule {
    /// Sparsity after phase `phase` of `phases` (from 1), from a start that has
    /// `initial`, in [0, 1).
    ///
    /// The last phase gives `target` itself. For [`Schedule::Geometric`] with a start
    /// that is sparse, `1 - (1 - s0) ((1 - S) / (1 - s0))^(j/k)`.
    ///
    /// # Errors
    /// [`PruneError::Fraction`] if a sparsity is outside of [0, 1), or `initial` above
    /// `target`, and [`PruneError::Phase`] if there is no such phase.
    pub fn sparsity(
        self,
        initial: f64,
        target: f64,
        phase: u32,
        phases: u32,
    ) -> Result<f64, PruneError> {
        check_fraction("the sparsity", target)?;
        check_fraction("the sparsity at the start", initial)?;
        if initial > target {
            let (what, found) = (
                "the sparsity at the start over the final one",
                initial / target,
            );
            return Err(PruneError::Fraction { what, found });
        }
        if phase == 0 || phase > phases {
            return Err(PruneError::Phase { phase, phases });
        }
        if phase == phases || self == Self::OneShot {
            return Ok(target);
        }
        let progress = f64::from(phase) / f64::from(phases);
        Ok(match self {
            Self::OneShot => target,
            Self::Geometric => {
                let dense = 1.0 - initial;
                1.0 - dense * libm::pow((1.0 - target) / dense, progress)
            }
            Self::Cubic => cubic(initial, target, progress),
        })
    }

    /// Fraction of the remaining weights that phase `phase` of `phases` prunes:
    /// `1 - (1 - s(j)) / (1 - s(j - 1))`. For [`Schedule::Geometric`] it is
    /// `1 - (1 - S)^(1/k)` in every phase.
    ///
    /// # Errors
    /// As of [`sparsity`](Self::sparsity).
    pub fn of_remaining(
        self,
        initial: f64,
        target: f64,
        phase: u32,
        phases: u32,
    ) -> Result<f64, PruneError> {
        let after = self.sparsity(initial, target, phase, phases)?;
        if self == Self::Geometric {
            let whole = (1.0 - target) / (1.0 - initial);
            return Ok(1.0 - libm::pow(whole, 1.0 / f64::from(phases)));
        }
        let before = match phase {
            1 => initial,
            _ => self.sparsity(initial, target, phase - 1, phases)?,
        };
        Ok(1.0 - (1.0 - after) / (1.0 - before))
    }
}

/// Sparsity of gradual magnitude pruning at `progress`, in [0, 1]:
/// `s(t) = S + (s0 - S)(1 - t)^3`.
fn cubic(initial: f64, target: f64, progress: f64) -> f64 {
    let left = 1.0 - progress;
    target + (initial - target) * (left * left * left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percents(schedule: Schedule, initial: f64, target: f64, phases: u32) -> Vec<f64> {
        (1..=phases)
            .map(|phase| 100.0 * schedule.sparsity(initial, target, phase, phases).unwrap())
            .collect()
    }

    #[track_caller]
    fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        }
    }

    #[test]
    fn geometric_phases_are_those_of_the_paper() {
        // SCIENCE: three phases to 98 % and to 90 %, in per cent with two digits.
        let found = percents(Schedule::Geometric, 0.0, 0.98, 3);
        assert_near(&found, &[72.86, 92.63, 98.0], 0.005);
        let found = percents(Schedule::Geometric, 0.0, 0.9, 3);
        assert_near(&found, &[53.58, 78.46, 90.0], 0.005);
        let p = Schedule::Geometric.of_remaining(0.0, 0.98, 2, 3).unwrap();
        assert!((p - (1.0 - 0.02_f64.cbrt())).abs() < 1e-15);
        // From 50 %, one of two phases to 87.5 % leaves a quarter.
        assert_near(
            &percents(Schedule::Geometric, 0.5, 0.875, 2),
            &[75.0, 87.5],
            1e-12,
        );
    }

    #[test]
    fn one_shot_prunes_all_at_once() {
        assert_eq!(percents(Schedule::OneShot, 0.0, 0.5, 3), [50.0; 3]);
        assert_eq!(Schedule::OneShot.of_remaining(0.0, 0.5, 1, 3).unwrap(), 0.5);
        assert_eq!(Schedule::OneShot.of_remaining(0.0, 0.5, 2, 3).unwrap(), 0.0);
    }

    #[test]
    fn cubic_follows_its_formula() {
        // s(t) = 0.9 + (0.1 - 0.9)(1 - t)^3 at t = 1/4, 1/2, 3/4, 1.
        let expected = [90.0 - 80.0 * 0.421_875, 80.0, 90.0 - 80.0 * 0.015_625, 90.0];
        assert_near(&percents(Schedule::Cubic, 0.1, 0.9, 4), &expected, 1e-12);
        let p = Schedule::Cubic.of_remaining(0.1, 0.9, 2, 4).unwrap();
        assert!((p - (1.0 - 0.2 / (1.0 - expected[0] / 100.0))).abs() < 1e-14);
    }

    #[test]
    fn phases_and_fractions_are_checked() {
        let sparsity =
            |initial, target, phase| Schedule::Geometric.sparsity(initial, target, phase, 3);
        assert!(matches!(
            sparsity(0.0, 0.9, 0),
            Err(PruneError::Phase {
                phase: 0,
                phases: 3
            })
        ));
        assert!(matches!(
            sparsity(0.0, 0.9, 4),
            Err(PruneError::Phase { .. })
        ));
        assert!(matches!(
            sparsity(0.0, 1.0, 1),
            Err(PruneError::Fraction { .. })
        ));
        assert!(matches!(
            sparsity(0.95, 0.9, 1),
            Err(PruneError::Fraction { .. })
        ));
        assert!(matches!(
            sparsity(f64::NAN, 0.9, 1),
            Err(PruneError::Fraction { .. })
        ));
    }
}
