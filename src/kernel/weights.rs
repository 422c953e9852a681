//! Coefficients of a linear combination, checked once.

use super::double::Divisor;
use super::double::is_power_of_two;

/// Whether the combination is divided by the sum of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// Divided by the sum of the weights.
    SumToOne,
    /// Taken as given.
    AsGiven,
}

/// Weights that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// There is no weight at all.
    #[error("there are no weights")]
    Empty,
    /// A weight is NaN or infinite.
    #[error("weight {position} is {value}; weights must be finite numbers")]
    NotFinite {
        /// Position, from 1.
        position: usize,
        /// The weight.
        value: f64,
    },
    /// The weights cannot be normalised.
    #[error(
        "the weights sum to {sum}, so they cannot be normalised; give others or `--no-normalize`"
    )]
    Sum {
        /// Their sum.
        sum: f64,
    },
}

/// Finite weights, one per ingredient, and the divisor of their combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    values: Vec<f64>,
    /// Those that are multiplied with.
    factors: Vec<f64>,
    divisor: f64,
    wide_divisor: Divisor,
    normalization: Normalization,
}

impl Weights {
    /// Equal weights for `n_ingredients`, which divides their sum.
    ///
    /// # Errors
    /// [`WeightError::Empty`] for none.
    pub fn uniform(n_ingredients: usize) -> Result<Self, WeightError> {
        Self::new(vec![1.0; n_ingredients], Normalization::SumToOne)
    }

    /// Weights in ingredient order. Zero and negative weights are legal.
    ///
    /// # Errors
    /// [`WeightError`] for no weights, one that is NaN or infinite, or a sum
    /// that is zero or overflows when it has to divide.
    pub fn new(values: Vec<f64>, normalization: Normalization) -> Result<Self, WeightError> {
        if values.is_empty() {
            return Err(WeightError::Empty);
        }
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            return Err(WeightError::NotFinite {
                position: position + 1,
                value: values[position],
            });
        }
        let factors = match normalization {
            Normalization::AsGiven => values.clone(),
            Normalization::SumToOne => away_from_underflow(&values),
        };
        let (divisor, wide_divisor) = match normalization {
            Normalization::AsGiven => (1.0, Divisor::new(&[])),
            Normalization::SumToOne => {
                let (first, rest) = (factors[0], &factors[1..]);
                let sum = rest.iter().fold(first, |sum, &factor| sum + factor);
                (sum, Divisor::new(&factors))
            }
        };
        if divisor == 0.0 || !divisor.is_finite() || !wide_divisor.is_finite_nonzero() {
            return Err(WeightError::Sum { sum: divisor });
        }
        Ok(Self {
            values,
            factors,
            divisor,
            wide_divisor,
            normalization,
        })
    }

    /// The weights as given, in ingredient order.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The weights that are multiplied with, in ingredient order: as given or, where
    /// products with such small ones would lose bits and a divisor makes up for it, all
    /// times one power of two.
    pub fn factors(&self) -> &[f64] {
        &self.factors
    }

    /// Sum of the factors in ingredient order, or 1 if weights are taken as given.
    pub fn divisor(&self) -> f64 {
        self.divisor
    }

    /// Whether the combination is divided by the sum of the weights.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// The coefficient of each ingredient in the combination.
    pub fn coefficients(&self) -> Vec<f64> {
        let factors = self.factors.iter();
        factors.map(|factor| factor / self.divisor).collect()
    }

    /// Whether the combination is a mean: normalised, with no negative weight.
    pub fn is_convex(&self) -> bool {
        self.normalization == Normalization::SumToOne
            && self.values.iter().all(|&value| value >= 0.0)
    }

    /// The number by which multiplying is dividing by the divisor, and faster, if there is
    /// one.
    pub(super) fn exact_reciprocal(&self) -> Option<f64> {
        exact_reciprocal(self.divisor)
    }

    pub(super) fn wide_divisor(&self) -> &Divisor {
        &self.wide_divisor
    }
}

/// Weights times a power of two by which none of their products with an F32 underflows;
/// exact, because it makes them larger and the largest stays far from overflow.
fn away_from_underflow(weights: &[f64]) -> Vec<f64> {
    // 2^-500 times the smallest F32, 2^-149, has all its bits.
    const SMALL: f64 = f64::from_bits((1023 - 500) << 52);
    const STEP: f64 = f64::from_bits((1023 + 512) << 52);
    let mut scaled = weights.to_vec();
    let mut largest = weights
        .iter()
        .fold(0.0_f64, |largest, weight| largest.max(weight.abs()));
    while largest > 0.0 && largest < SMALL {
        scaled.iter_mut().for_each(|weight| *weight *= STEP);
        largest *= STEP;
    }
    scaled
}

/// Of a power of two the reciprocal is exact, so a product and a quotient round the same
/// number.
fn exact_reciprocal(divisor: f64) -> Option<f64> {
    let reciprocal = divisor.recip();
    (is_power_of_two(divisor) && reciprocal.is_normal()).then_some(reciprocal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Stream;

    #[test]
    fn what_is_refused() {
        let refuse = |values: &[f64], normalization| {
            Weights::new(values.to_vec(), normalization).unwrap_err()
        };
        assert_eq!(refuse(&[], Normalization::SumToOne), WeightError::Empty);
        assert!(matches!(
            refuse(&[1.0, f64::NAN], Normalization::AsGiven),
            WeightError::NotFinite { position: 2, .. }
        ));
        assert!(matches!(
            refuse(&[f64::INFINITY], Normalization::SumToOne),
            WeightError::NotFinite { position: 1, .. }
        ));
        assert!(matches!(
            refuse(&[1.0, -1.0], Normalization::SumToOne),
            WeightError::Sum { .. }
        ));
        assert!(matches!(
            refuse(&[0.0, -0.0], Normalization::SumToOne),
            WeightError::Sum { .. }
        ));
        assert!(matches!(
            refuse(&[f64::MAX, f64::MAX], Normalization::SumToOne),
            WeightError::Sum { .. }
        ));
    }

    #[test]
    fn what_is_accepted() {
        let weights = Weights::new(vec![0.0, 2.0, -1.0], Normalization::SumToOne).unwrap();
        assert_eq!((weights.divisor(), weights.is_convex()), (1.0, false));
        let weights = Weights::new(vec![1.0, -1.0], Normalization::AsGiven).unwrap();
        assert_eq!(weights.divisor(), 1.0);
        assert_eq!(Weights::uniform(4).unwrap().coefficients(), [0.25; 4]);
    }

    #[test]
    fn tiny_weights_are_scaled_exactly_where_a_divisor_makes_up_for_it() {
        let tiny = vec![1e-320, 3e-320, -5e-324];
        let weights = Weights::new(tiny.clone(), Normalization::SumToOne).unwrap();
        assert_eq!(weights.values(), tiny);
        for (factor, value) in weights.factors().iter().zip(&tiny) {
            let scale = 2_f64.powi(512);
            assert_eq!(factor / scale / scale, *value);
        }
        let coefficients = weights.coefficients();
        assert!((coefficients[1] - 0.75).abs() < 0.001, "{coefficients:?}");
        let weights = Weights::new(tiny.clone(), Normalization::AsGiven).unwrap();
        assert_eq!(weights.factors(), tiny);
        let weights = Weights::new(vec![1e-100, 0.3], Normalization::SumToOne).unwrap();
        assert_eq!(weights.factors(), weights.values());
    }

    #[test]
    fn powers_of_two_have_an_exact_reciprocal() {
        let check = |divisor, expected| assert_eq!(exact_reciprocal(divisor), expected);
        check(1.0, Some(1.0));
        check(4.0, Some(0.25));
        check(-0.5, Some(-2.0));
        for divisor in [0.0, 3.0, 4.000_000_000_000_001, f64::MIN_POSITIVE / 2.0] {
            check(divisor, None);
        }
        // Its reciprocal would be subnormal, of which the processor may think differently.
        check(2_f64.powi(1023), None);
        for value in [1.0 / 3.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, -0.0] {
            assert_eq!((value * 0.25).to_bits(), (value / 4.0).to_bits(), "{value}");
        }
    }

    #[test]
    fn a_reciprocal_that_is_used_rounds_as_a_division_does() {
        let mut random = Stream::named(0, "test", "reciprocal");
        let mut n_used = 0;
        for exponent in (-1074..1024).chain([0, 1, 2]) {
            for factor in [1.0, -1.0, 1.5] {
                // Twice, so that the smallest ones are not rounded away.
                let divisor =
                    factor * 2_f64.powi(exponent / 2) * 2_f64.powi(exponent - exponent / 2);
                let Some(reciprocal) = exact_reciprocal(divisor) else {
                    assert!(factor == 1.5 || !(-1022..=1022).contains(&exponent));
                    continue;
                };
                n_used += 1;
                for _ in 0..100 {
                    let value = f64::from_bits(random.bits());
                    let (product, quotient) = (value * reciprocal, value / divisor);
                    let is_same = product.to_bits() == quotient.to_bits();
                    assert!(is_same || value.is_nan(), "{value:e} / {divisor:e}");
                }
            }
        }
        assert_eq!(n_used, 2 * (2045 + 3));
    }
}
