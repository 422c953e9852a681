//! How far apart ingredients lie, over the retained coordinates of their weights.

use serde::Serialize;

use crate::kernel::Gram;
use crate::kernel::Weights;

/// Below this cosine between two ingredients, they are no retrainings of one
/// pruned network: ingredients of one parent lie above 0.5, independently
/// initialised networks near 0.
const IMPLAUSIBLE_COSINE: f64 = 0.1;

/// Ingredients with nothing in common: more than this share of the weights that differ
/// at all lies in matrices whose cosine is implausible. A share, because one large
/// tensor that is frozen, such as a fixed transform, can hold up the angle of the whole.
const IMPLAUSIBLE_SHARE: f64 = 0.5;

/// What is counted of distances while tensors are read.
#[derive(Clone, Debug)]
pub struct DistanceTally {
    /// Inner products over all weights.
    total: Gram,
    /// For each pair, weights of matrices that differ at all, and those of them in
    /// matrices whose cosine is implausible.
    pairs: Vec<(u64, u64)>,
}

impl DistanceTally {
    pub(super) fn new(n_ingredients: usize) -> Self {
        let n_pairs = n_ingredients * n_ingredients.saturating_sub(1) / 2;
        Self {
            total: Gram::zero(n_ingredients),
            pairs: vec![(0, 0); n_pairs],
        }
    }

    /// Adds a whole tensor, of whose weights `retained` are retained.
    pub(super) fn add(&mut self, gram: &Gram, rank: usize, retained: u64) {
        self.total.add(gram);
        if rank < 2 {
            return;
        }
        for ((first, second), (differing, unrelated)) in
            pairs(gram.n_ingredients()).zip(&mut self.pairs)
        {
            if squared_distance(gram, first, second) > 0.0 {
                *differing += retained;
                if cosine(gram, first, second) < IMPLAUSIBLE_COSINE {
                    *unrelated += retained;
                }
            }
        }
    }
}

/// All pairs (i, k), i < k.
fn pairs(n_ingredients: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..n_ingredients).flat_map(|second| (0..second).map(move |first| (first, second)))
}

fn squared_distance(gram: &Gram, i: usize, k: usize) -> f64 {
    (gram.get(i, i) + gram.get(k, k) - 2.0 * gram.get(i, k)).max(0.0)
}

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
    /// Of the weights in matrices that differ at all, the share that lies in matrices
    /// whose cosine is below 0.1, in [0, 1]: near 0 for ingredients of one parent, near
    /// 1 for networks trained from different seeds.
    pub unrelated_share: f64,
}

impl Distances {
    pub(super) fn new(tally: &DistanceTally, weights: &Weights) -> Self {
        let gram = &tally.total;
        let n_ingredients = gram.n_ingredients();
        let norm = |i: usize| gram.get(i, i).sqrt();
        let found = pairs(n_ingredients).zip(&tally.pairs);
        let pairs = found
            .map(|((first, second), &(differing, unrelated))| PairDistance {
                first,
                second,
                l2: squared_distance(gram, first, second).sqrt(),
                angle_degrees: cosine(gram, first, second).acos().to_degrees(),
                unrelated_share: unrelated as f64 / differing.max(1) as f64,
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

    /// The pair that has the least in common, if that is too little for ingredients of
    /// one parent.
    pub fn implausible(&self) -> Option<PairDistance> {
        let pairs = self.pairs.iter().copied();
        let least = pairs.max_by(|a, b| a.unrelated_share.total_cmp(&b.unrelated_share))?;
        (least.unrelated_share > IMPLAUSIBLE_SHARE).then_some(least)
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
        let mut tally = DistanceTally::new(inputs.len());
        tally.add(&gram, 2, 1);
        Distances::new(&tally, &weights)
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

    #[test]
    fn a_frozen_tensor_does_not_hide_that_the_others_have_nothing_in_common() {
        let weights = Weights::uniform(2).unwrap();
        let gram = |rows: [[f32; 2]; 2]| {
            let bytes = rows.map(|row| row.map(f32::to_le_bytes).as_flattened().to_vec());
            let inputs = [&bytes[0], &bytes[1]].map(|bytes| Input {
                bytes,
                dtype: Dtype::F32,
            });
            let mut gram = Gram::zero(2);
            let out = &mut [0; 8];
            Reference
                .combine(
                    &mut (),
                    out,
                    Dtype::F32,
                    &inputs,
                    &weights,
                    None,
                    Some(&mut gram),
                )
                .unwrap();
            gram
        };
        let mut tally = DistanceTally::new(2);
        tally.add(&gram([[100.0, 100.0]; 2]), 2, 1000);
        tally.add(&gram([[1.0, 0.0], [0.0, 1.0]]), 2, 10);
        let found = Distances::new(&tally, &weights);
        assert!(found.pairs[0].angle_degrees < 1.0);
        assert_eq!(found.implausible().unwrap().unrelated_share, 1.0);
        tally.add(&gram([[1.0, 0.0], [1.0, 0.1]]), 2, 30);
        assert_eq!(Distances::new(&tally, &weights).implausible(), None);
    }
}
