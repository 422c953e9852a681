//! Memory of gradients: buffers whose gradients are not needed at the same time share it.

use super::Buffer;
use super::BufferIdx;
use super::Step;
use crate::train::native::lanes::Layout;

/// Gives every gradient a slot, from the step that first writes it in the backward pass
/// to the step that reads it.
pub(super) fn share(
    buffers: &[Buffer],
    steps: &[Step],
    logits: BufferIdx,
) -> (Vec<Layout>, Vec<Option<usize>>) {
    let mut slots: Vec<Layout> = Vec::new();
    let mut slot_of: Vec<Option<usize>> = vec![None; buffers.len()];
    let mut free: Vec<usize> = Vec::new();
    let mut occupy = |buffer: BufferIdx, free: &mut Vec<usize>| {
        if slot_of[buffer].is_none() && buffers[buffer].has_gradient {
            let layout = buffers[buffer].layout;
            let reused = free.iter().position(|&slot| slots[slot] == layout);
            let slot = reused.map(|place| free.swap_remove(place));
            slot_of[buffer] = Some(slot.unwrap_or_else(|| {
                slots.push(layout);
                slots.len() - 1
            }));
        }
        slot_of[buffer]
    };
    occupy(logits, &mut free);
    for step in steps.iter().rev() {
        let own = occupy(step.target, &mut free);
        for source in step.addend.into_iter().chain([step.source]) {
            occupy(source, &mut free);
        }
        free.extend(own);
    }
    (slots, slot_of)
}
