//! Means over seeds: numbers walk in; a mean and how far it can be trusted walk out.

use serde::Serialize;

/// Mean and standard deviation of one number per seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Seeds in which it was measured; at least 1.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation, divided by `count - 1`; `None` of one seed.
    pub deviation: Option<f64>,
}

impl Spread {
    /// `None` of no values. Values that are not finite count as not measured.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        Some(Self {
            count,
            mean,
            deviation,
        })
    }

    /// Standard error of the mean; `None` of one seed.
    pub fn standard_error(&self) -> Option<f64> {
        self.deviation
            .map(|deviation| deviation / (self.count as f64).sqrt())
    }
}

/// The soup against a rival, seed by seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Seeds in which both were measured; at least 1.
    pub count: usize,
    /// Mean of soup minus rival.
    pub mean: f64,
    /// Standard error of that mean; `None` of one seed.
    pub standard_error: Option<f64>,
    /// Whether the mean is further from 0 than seeds scatter, by Student's t at 95 %, two
    /// sides; `None` of one seed.
    pub is_clear: Option<bool>,
    /// Seeds in which the soup is better.
    pub won: usize,
    /// Seeds in which it is worse.
    pub lost: usize,
    /// Seeds in which both are equal.
    pub tied: usize,
}

/// Which of two is better on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The soup.
    Better,
    /// The rival.
    Worse,
    /// Neither.
    Equal,
}

/// Means closer to 0 are rounding errors of sums of accuracies.
const ROUNDING: f64 = 1e-12;

/// Student's t at 97.5 % for 1 to 30 degrees of freedom; more are taken for 30, which
/// calls less clear. Source: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
const STUDENT_T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

impl Paired {
    /// Pairs of soup and rival, one per seed. `None` of no pairs.
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let is_finite = |pair: &(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
        let pairs: Vec<(f64, f64)> = pairs.into_iter().filter(is_finite).collect();
        let spread = Spread::of(pairs.iter().map(|(soup, rival)| soup - rival))?;
        let number = |is: fn(&(f64, f64)) -> bool| pairs.iter().filter(|pair| is(pair)).count();
        let standard_error = spread.standard_error();
        let most = STUDENT_T[(spread.count.max(2) - 2).min(STUDENT_T.len() - 1)];
        Some(Self {
            count: spread.count,
            mean: spread.mean,
            standard_error,
            is_clear: standard_error.map(|error| spread.mean.abs() > (most * error).max(ROUNDING)),
            won: number(|(soup, rival)| soup > rival),
            lost: number(|(soup, rival)| soup < rival),
            tied: number(|(soup, rival)| soup == rival),
        })
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.mean > ROUNDING {
            Outcome::Better
        } else if self.mean < -ROUNDING {
            Outcome::Worse
        } else {
            Outcome::Equal
        }
    }
}
