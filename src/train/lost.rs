//! What pruning took away of a network: the weights before and after walk in, what ALLR
//! scales its learning rates by walks out.

use crate::graph::Graph;
use crate::graph::Role;
use crate::train::Weights;
use crate::train::engine::Masks;
use crate::train::masks::masks_of_zeros;
use crate::train::schedule::lost_share;

/// Weights of linear and convolution layers before and after a pruning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lost {
    /// Weights that were retained before.
    pub before: u64,
    /// Weights that are retained now.
    pub after: u64,
    /// [`lost_share`] of the two, if anything was pruned.
    pub share: Option<f64>,
}

/// Compares the weights `before` a pruning with those `after` it, of which `masks` are
/// retained.
pub fn lost(graph: &Graph, before: &Weights, after: &Weights, masks: &Masks) -> Lost {
    let retained = |masks: &Masks| -> u64 {
        let parameters = graph.parameters.iter().zip(masks);
        parameters
            .filter(|(parameter, _)| parameter.role == Role::Weight)
            .map(|(parameter, mask)| {
                let numel = parameter.shape.numel();
                mask.as_ref().map_or(numel, |mask| mask.retained() as u64)
            })
            .sum()
    };
    let (left, kept) = (retained(&masks_of_zeros(graph, before)), retained(masks));
    let tensors = graph.parameters.iter().zip(&before.values);
    let tensors = tensors
        .zip(after.values.iter().zip(masks))
        .filter(|((parameter, _), _)| parameter.role == Role::Weight);
    let pruned: Vec<(&[f32], Vec<f32>)> = tensors
        .map(|((_, before), (after, mask))| {
            let mut after = after.clone();
            if let Some(mask) = mask {
                mask.apply(&mut after);
            }
            (before.as_slice(), after)
        })
        .collect();
    let pairs = pruned
        .iter()
        .map(|(before, after)| (*before, after.as_slice()));
    Lost {
        before: left,
        after: kept,
        share: (kept < left).then(|| lost_share(pairs, 1.0 - kept as f64 / left as f64)),
    }
}
