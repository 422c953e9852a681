//! Where the tensors of a soup lie: in which file, and where in it.

use crate::checkpoint::Ingredients;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::natural_cmp;
use crate::format::safetensors::split;
use crate::merge::MergeError;
use crate::merge::options::MergeOptions;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::Slot;

/// Gives every slot its place and returns the layout of each file.
pub(super) fn place(
    tensors: &mut [PlannedTensor],
    ingredients: &Ingredients,
    options: &MergeOptions,
) -> Result<Vec<Layout>, MergeError> {
    let mut slots: Vec<(Entry, &mut Slot)> = tensors
        .iter_mut()
        .flat_map(|tensor| {
            let shape = &ingredients.parameters()[tensor.parameter].shape;
            let slots = std::iter::once(&mut tensor.slot).chain(&mut tensor.mask_slot);
            slots.map(|slot| {
                let (name, dtype) = (slot.name.clone(), slot.dtype);
                (
                    Entry {
                        name,
                        dtype,
                        shape: shape.clone(),
                    },
                    slot,
                )
            })
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
    Ok(layouts)
}
