//! Checkpoints whose weights are elsewhere: names and no elements.

use crate::checkpoint::Ingredients;
use crate::checkpoint::Parameter;
use crate::merge::MergeError;
use crate::tensor::Arithmetic;

/// Refuses ingredients without a single element, and weights of shape `[0]`, which
/// DeepSpeed's ZeRO-3 leaves in place of those that several processes share.
pub(super) fn refuse_hollow(ingredients: &Ingredients) -> Result<(), MergeError> {
    // What is read alone may be looked at, whatever it holds.
    if ingredients.count() < 2 {
        return Ok(());
    }
    let parameters = ingredients.parameters();
    let is_empty = |parameter: &&Parameter| parameter.shape.numel() == 0;
    let are_all_empty = parameters.iter().all(|parameter| is_empty(&parameter));
    let is_hollow = |parameter: &&Parameter| {
        let is_weight = parameter.name == "weight" || parameter.name.ends_with(".weight");
        let is_float = ingredients.value(parameter, 0).dtype.arithmetic() == Arithmetic::Average;
        are_all_empty || (is_weight && is_float && parameter.shape.dims() == [0])
    };
    let mut hollow = parameters.iter().filter(is_hollow);
    let Some(first) = hollow.next() else {
        return Ok(());
    };
    Err(MergeError::Hollow {
        path: ingredients.checkpoints()[0].path().to_owned(),
        tensor: first.name.clone(),
        more: hollow.count(),
        total: parameters.len(),
    })
}
