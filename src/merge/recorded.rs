//! Checkpoints held against the names and digests that a certificate has of ingredients.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::merge::certificate::Certificate;
use crate::merge::difference::Difference;
use crate::tensor::Digest;

/// Ingredients that are not those that a certificate names, by their digests.
pub(super) fn other_ingredients(
    certificate: &Certificate,
    ingredients: &Ingredients,
    found: &[Digest],
) -> Vec<Difference> {
    let recorded = certificate.soup.ingredients.iter();
    let all = recorded.zip(ingredients.checkpoints()).zip(found);
    all.enumerate()
        .filter(|(_, ((recorded, _), found))| recorded.digest != **found)
        .map(
            |(position, ((recorded, checkpoint), &found))| Difference::Ingredient {
                position,
                name: recorded.name.clone(),
                path: checkpoint.path().to_owned(),
                recorded: recorded.digest,
                found,
            },
        )
        .collect()
}

/// The checkpoints in the order of these names, if each has another of them; else as they
/// are.
pub(super) fn in_recorded_order<'a>(
    mut checkpoints: Vec<Checkpoint>,
    recorded: impl Iterator<Item = &'a String> + Clone,
) -> Vec<Checkpoint> {
    let position = |checkpoint: &Checkpoint| {
        let name = checkpoint.display_name();
        let mut named = recorded
            .clone()
            .enumerate()
            .filter(|(_, found)| **found == name);
        named
            .next()
            .filter(|_| named.next().is_none())
            .map(|(position, _)| position)
    };
    let mut positions: Vec<_> = checkpoints.iter().filter_map(position).collect();
    positions.sort_unstable();
    positions.dedup();
    if positions.len() == checkpoints.len() {
        checkpoints.sort_by_key(|checkpoint| position(checkpoint));
    }
    checkpoints
}
