//! Where the tensors of a soup lie: in which file, and where in it.

use crate::checkpoint::Ingredients;
use crate::format::compact::part_entries;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::natural_cmp;
use crate::format::safetensors::split;
use crate::merge::MergeError;
use crate::merge::options::MergeOptions;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::Slot;
use crate::tensor::Shape;

/// Gives every slot its place, puts the tensors into the order of their places and
/// returns the layout of each file.
pub(super) fn place(
    tensors: &mut [PlannedTensor],
    ingredients: &Ingredients,
    options: &MergeOptions,
) -> Result<Vec<Layout>, MergeError> {
    let mut slots: Vec<(Entry, &mut Slot)> = tensors
        .iter_mut()
        .flat_map(|tensor| {
            let shape = &ingredients.parameters()[tensor.parameter].shape;
            stored(tensor, shape)
        })
        .collect();
    slots.sort_by(|(a, _), (b, _)| natural_cmp(a, b));
    let (entries, slots): (Vec<Entry>, Vec<&mut Slot>) = slots.into_iter().unzip();
    let layouts = split(entries, options.shard_bytes)
        .into_iter()
        .map(Layout::new)
        .collect::<Result<Vec<_>, _>>()?;
    let places = layouts.iter().enumerate().flat_map(|(shard, layout)| {
        layout
            .tensors()
            .iter()
            .map(move |tensor| (shard, tensor.begin))
    });
    for (slot, (shard, offset)) in slots.into_iter().zip(places) {
        (slot.shard, slot.offset) = (shard, offset);
    }
    tensors.sort_by_key(|tensor| (tensor.slot.shard, tensor.slot.offset, tensor.parameter));
    Ok(layouts)
}

/// The tensors that are stored of a parameter, with the slots that take their places.
fn stored<'t>(tensor: &'t mut PlannedTensor, shape: &Shape) -> Vec<(Entry, &'t mut Slot)> {
    let entry = |slot: &Slot| Entry {
        name: slot.name.clone(),
        dtype: slot.dtype,
        shape: shape.clone(),
    };
    let whole = entry(&tensor.slot);
    let Some(compact) = &mut tensor.compact else {
        let flags = tensor.mask_slot.as_mut();
        let flags = flags.map(|slot| (entry(slot), slot));
        return std::iter::once((whole, &mut tensor.slot))
            .chain(flags)
            .collect();
    };
    // Until masks have been counted, as if all were retained.
    let most = compact.kind.most_retained(shape);
    let retained = compact.ranks.last().copied().unwrap_or(most);
    let parts = part_entries(compact.kind, &whole, retained)
        .expect("only tensors that the layout takes are stored so");
    let slots = [&mut tensor.slot, &mut compact.bitmask].into_iter();
    let others = compact.shape.iter_mut().chain(&mut compact.row_offsets);
    parts.into_iter().zip(slots.chain(others)).collect()
}
