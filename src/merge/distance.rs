//! How far apart ingredients lie, over the retained coordinates of their weights.

use serde::Serialize;

use crate::kernel::Gram;
use crate::kernel::Weights;

/// Below this cosine between two ingredients, they are no retrainings of one
/// pruned network: ingredients of one parent lie above 0.5, independently
/// initialised networks near 0.
const IMPLAUSIBLE_COSINE: f64 = 0.1;

/// Distances and angles between ingredients, buffers of batch norm excluded.
///
/// Computed from inner products, so a distance below about 1e-8 of the norms is
/// lost in their rounding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distances {
    /// L2 norm of each ingredient.
    pub norms: Vec<f64>,
    /// Every pair (i, k), i < k.
    pub pairs: Vec<PairDistance>,
    /// L2 distance of each ingredient from the combination, before it is rounded.
    pub to_barycentre: Vec<f64>,
}

/// Distance of two ingredients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairDistance {
    /// Position of the first, from 0.
    pub first: usize,
    /// Position of the second, from 0.
    pub second: usize,
    /// L2 distance.
    pub l2: f64,
    /// Angle in degrees, in [0, 180]; 0 if either norm is 0.
    pub angle_degrees: f64,
}

impl Distances {
    pub(super) fn new(gram: &Gram, weights: &Weights) -> Self {
        let n_ingredients = gram.n_ingredients();
        let norm = |i: usize| gram.get(i, i).sqrt();
        let l2 = |i: usize, k: usize| {
            (gram.get(i, i) + gram.get(k, k) - 2.0 * gram.get(i, k))
                .max(0.0)
                .sqrt()
        };
        let pairs = (1..n_ingredients)
            .flat_map(|second| (0..second).map(move |first| (first, second)))
            .map(|(first, second)| PairDistance {
                first,
                second,
                l2: l2(first, second),
                angle_degrees: cosine(gram, first, second).acos().to_degrees(),
            })
            .collect();
        let coefficients = weights.coefficients();
        let with_soup = |i: usize| {
            (0..n_ingredients)
                .map(|k| coefficients[k] * gram.get(i, k))
                .sum::<f64>()
        };
        let soup_norm: f64 = (0..n_ingredients)
            .map(|i| coefficients[i] * with_soup(i))
            .sum();
        let to_barycentre = (0..n_ingredients)
            .map(|i| {
                (gram.get(i, i) - 2.0 * with_soup(i) + soup_norm)
                    .max(0.0)
                    .sqrt()
            })
            .collect();
        Self {
            norms: (0..n_ingredients).map(norm).collect(),
            pairs,
            to_barycentre,
        }
    }

    /// The pair that is the furthest apart in angle, if that is implausible for
    /// ingredients of one parent.
    pub fn implausible(&self) -> Option<PairDistance> {
        let furthest = self
            .pairs
            .iter()
            .copied()
            .max_by(|a, b| a.angle_degrees.total_cmp(&b.angle_degrees))?;
        (furthest.angle_degrees.to_radians().cos() < IMPLAUSIBLE_COSINE).then_some(furthest)
    }
}

fn cosine(gram: &Gram, i: usize, k: usize) -> f64 {
    let norms = gram.get(i, i).sqrt() * gram.get(k, k).sqrt();
    if norms == 0.0 {
        1.0
    } else {
        (gram.get(i, k) / norms).clamp(-1.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Backend;
    use crate::kernel::Input;
    use crate::kernel::reference::Reference;
    use crate::tensor::Dtype;

    fn distances(ingredients: &[&[f32]]) -> Distances {
        let bytes: Vec<Vec<u8>> = ingredients
            .iter()
            .map(|values| {
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            })
            .collect();
        let inputs: Vec<Input<'_>> = bytes
            .iter()
            .map(|bytes| Input {
                bytes,
                dtype: Dtype::F32,
            })
            .collect();
        let weights = Weights::uniform(inputs.len()).unwrap();
        let mut gram = Gram::zero(inputs.len());
        let mut out = vec![0; bytes[0].len()];
        Reference
            .combine(
                &mut (),
                &mut out,
                Dtype::F32,
                &inputs,
                &weights,
                None,
                Some(&mut gram),
            )
            .unwrap();
        Distances::new(&gram, &weights)
    }

    #[test]
    fn a_right_triangle() {
        let found = distances(&[&[3.0, 0.0], &[0.0, 4.0]]);
        assert_eq!(found.norms, [3.0, 4.0]);
        assert!(
            (found.pairs[0].l2 - 5.0).abs() < 1e-12
                && (found.pairs[0].angle_degrees - 90.0).abs() < 1e-12
        );
        assert!(
            found
                .to_barycentre
                .iter()
                .all(|distance| (distance - 2.5).abs() < 1e-12)
        );
        assert!(found.implausible().is_some());
    }

    #[test]
    fn copies_do_not_differ() {
        let found = distances(&[&[0.1, 0.7], &[0.1, 0.7], &[0.1, 0.7]]);
        assert!(
            found
                .pairs
                .iter()
                .all(|pair| pair.l2 == 0.0 && pair.angle_degrees < 1e-5)
        );
        assert_eq!(found.implausible(), None);
    }

    #[test]
    fn zeros_have_no_angle() {
        let found = distances(&[&[0.0], &[1.0]]);
        assert_eq!(
            (found.pairs[0].l2, found.pairs[0].angle_degrees),
            (1.0, 0.0)
        );
    }
}
