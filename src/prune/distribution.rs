//! How a number of weights is spread over tensors: counts walk in, counts walk out.

use crate::prune::Amount;
use crate::prune::PruneError;

/// What is known of a tensor before its weights are ranked.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Its name.
    pub(super) name: String,
    /// Its dimensions.
    pub(super) dims: Box<[u64]>,
    /// Its elements, or channels.
    pub(super) numel: u64,
    /// Those that are not pruned yet.
    pub(super) remaining: u64,
}

/// How many of all layers together are pruned.
pub(super) fn total(amount: Amount, layers: &[Layer]) -> Result<u64, PruneError> {
    let numel = layers.iter().map(|layer| layer.numel).sum();
    let remaining = layers.iter().map(|layer| layer.remaining).sum();
    amount.count(None, numel, remaining)
}

/// How many of each layer are pruned, the same fraction of each.
pub(super) fn uniform(amount: Amount, layers: &[Layer]) -> Result<Vec<u64>, PruneError> {
    layers
        .iter()
        .map(|layer| amount.count(Some(&layer.name), layer.numel, layer.remaining))
        .collect()
}

/// How many of each layer are pruned where what it retains is proportional to the sum of
/// its dimensions.
///
/// A density proportional to `(sum of dims) / (product of dims)` times the product of
/// the dimensions. What a layer cannot retain, because it has no more, the others do:
/// such a layer keeps all that it has, and the scale is solved again. Shares are
/// rounded down, and what is left over goes to the largest remainders, the lower layer
/// first, so that the count is met.
///
/// Source: arXiv:1911.11134.
pub(super) fn erk(amount: Amount, layers: &[Layer]) -> Result<Vec<u64>, PruneError> {
    let remaining: u64 = layers.iter().map(|layer| layer.remaining).sum();
    let mut retained = u128::from(remaining - total(amount, layers)?);
    let weight = |layer: &Layer| layer.dims.iter().map(|&dim| u128::from(dim)).sum::<u128>();
    let mut free: Vec<usize> = (0..layers.len()).collect();
    let mut shares: Vec<u64> = layers.iter().map(|layer| layer.remaining).collect();
    let weights = loop {
        let weights: u128 = free.iter().map(|&index| weight(&layers[index])).sum();
        let is_full = |index: &usize| {
            let layer = &layers[*index];
            retained * weight(layer) >= u128::from(layer.remaining) * weights
        };
        let (full, rest): (Vec<usize>, Vec<usize>) = free.iter().copied().partition(is_full);
        if full.is_empty() {
            break weights;
        }
        let kept: u64 = full.iter().map(|&index| layers[index].remaining).sum();
        retained -= u128::from(kept);
        free = rest;
    };
    // Shares of what is left; all are below what their layers have.
    let mut remainders = Vec::with_capacity(free.len());
    let mut left = retained;
    for &index in &free {
        let product = retained * weight(&layers[index]);
        let share = product / weights;
        shares[index] = share as u64;
        left -= share;
        remainders.push((product % weights, index));
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for &(_, index) in remainders.iter().take(left as usize) {
        shares[index] += 1;
    }
    let pruned = layers.iter().zip(shares);
    Ok(pruned
        .map(|(layer, share)| layer.remaining - share)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(dims: &[&[u64]]) -> Vec<Layer> {
        let layer = |(index, dims): (usize, &&[u64])| {
            let numel = dims.iter().product();
            Layer {
                name: format!("layer{index}"),
                dims: (*dims).into(),
                numel,
                remaining: numel,
            }
        };
        dims.iter().enumerate().map(layer).collect()
    }

    fn retained(layers: &[Layer], pruned: &[u64]) -> Vec<u64> {
        let pairs = layers.iter().zip(pruned);
        pairs
            .map(|(layer, pruned)| layer.remaining - pruned)
            .collect()
    }

    #[test]
    fn erk_is_proportional_to_the_sum_of_dimensions() {
        // LeNet-300-100: sums 1084, 400, 110 of 1594; products 235200, 30000, 1000.
        // At 95 % 13310 are retained: 9051.47, 3340.03 and 918.51 by shares.
        let layers = layers(&[&[300, 784], &[100, 300], &[10, 100]]);
        let pruned = erk(Amount::Sparsity(0.95), &layers).unwrap();
        assert_eq!(retained(&layers, &pruned), [9051, 3340, 919]);
    }

    #[test]
    fn a_layer_that_would_pass_all_it_has_keeps_all() {
        // At 90 % 26620 are retained; the last layer's share of 1837 passes its 1000.
        let mut layers = layers(&[&[300, 784], &[100, 300], &[10, 100]]);
        let pruned = erk(Amount::Sparsity(0.9), &layers).unwrap();
        // 25620 * 1084 / 1484 = 18714.3, 25620 * 400 / 1484 = 6905.7.
        assert_eq!(retained(&layers, &pruned), [18714, 6906, 1000]);
        // With less left in the first layer, it keeps that, and the second gets the rest.
        layers[0].remaining = 10_000;
        let pruned = erk(Amount::Sparsity(0.9), &layers).unwrap();
        assert_eq!(retained(&layers, &pruned), [10_000, 15_620, 1000]);
        let pruned = erk(Amount::Sparsity(0.0), &layers[1..]).unwrap();
        assert_eq!(pruned, [0, 0]);
    }

    #[test]
    fn uniform_rounds_each_layer() {
        let layers = layers(&[&[3, 5], &[5, 5], &[1, 1]]);
        let pruned = uniform(Amount::Sparsity(0.5), &layers).unwrap();
        // 7.5 to even, 12.5 to even, 0.5 to even.
        assert_eq!(pruned, [8, 12, 0]);
        assert_eq!(total(Amount::Sparsity(0.5), &layers).unwrap(), 20);
    }
}
