//! Dicts of tensors within dicts: their names, joined with dots.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::format::torch::StateError;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::Value;
use crate::format::torch::state::Found;
use crate::format::torch::state::is_tensor;
use crate::format::torch::state::refuse_unread;
use crate::format::torch::state::search::is_of_training;
use crate::format::torch::state::search::left_out;

/// Most dicts within each other.
const DEEPEST: usize = 8;
/// Longest name that a layer may have: texts may be as long as the pickle, and one of
/// them be the name of many things.
const LONGEST_LAYER: usize = 256;
/// Memory that a joined name takes beside its letters.
const NAME_BYTES: u64 = 64;

/// Words that stand for a whole network, or for another copy of one. Two of them in one
/// checkpoint are as a rule not to be averaged together.
const WHOLE: [&str; 14] = [
    "average", "averaged", "avg", "ema", "model", "module", "net", "network", "optim", "student",
    "swa", "target", "teacher", "weights",
];

/// Whether a dict holds dicts of tensors and nothing else, and these look like layers: the
/// names in them have no dots, and theirs are none of a whole network.
pub(super) fn is_tree(heap: &Heap<'_>, dict: u32) -> bool {
    let is_layer = |key: Value<'_>| match key {
        Value::Text(name) if name.len() <= LONGEST_LAYER => {
            let name = name.to_lowercase();
            let mut words = name.split(|character: char| !character.is_alphanumeric());
            name.contains('.') || !words.any(|word| WHOLE.contains(&word))
        }
        _ => false,
    };
    let mut seen = BTreeSet::from([dict]);
    let entries = heap.dict(dict);
    !entries.is_empty()
        && entries.iter().all(|&(key, value)| match value {
            Value::Dict(inner) => is_layer(key) && is_branch(heap, inner, &mut seen, 1),
            _ => false,
        })
}

/// Whether a dict holds tensors under names without dots, or such dicts. Each is looked
/// into once: one that stands in two places is not a layer.
fn is_branch(heap: &Heap<'_>, dict: u32, seen: &mut BTreeSet<u32>, depth: usize) -> bool {
    let entries = heap.dict(dict);
    let is_new = seen.insert(dict);
    is_new
        && depth < DEEPEST
        && !entries.is_empty()
        && entries.iter().all(|&(key, value)| {
            let is_plain = match key {
                Value::Text(name) => {
                    (1..=LONGEST_LAYER).contains(&name.len()) && !name.contains('.')
                }
                _ => false,
            };
            is_plain
                && match value {
                    Value::Dict(inner) => is_branch(heap, inner, seen, depth + 1),
                    other => is_tensor(heap, other),
                }
        })
}

/// Whether [`join`] would find tensors and nothing to refuse.
pub(super) fn can_join(heap: &Heap<'_>, dict: u32) -> bool {
    join(heap, dict).is_ok_and(|found| {
        !found.tensors.is_empty()
            && refuse_unread(heap, &found.tensors).is_ok()
            && left_out(heap, &found.others, None).is_ok()
    })
}

/// All values of a dict and of the dicts in it, the keys that lead to each joined with
/// dots. What belongs to a training is not looked into.
pub(super) fn join<'a>(heap: &Heap<'a>, dict: u32) -> Result<Found<'a>, StateError> {
    let mut joining = Joining {
        heap,
        found: Found::default(),
        limit: heap.limit() / 8,
        used: 0,
    };
    joining.walk(None, dict, 0)?;
    Ok(joining.found)
}

struct Joining<'h, 'a> {
    heap: &'h Heap<'a>,
    found: Found<'a>,
    /// Most bytes of names.
    limit: u64,
    used: u64,
}

impl<'a> Joining<'_, 'a> {
    fn walk(&mut self, above: Option<&str>, dict: u32, depth: usize) -> Result<(), StateError> {
        let heap = self.heap;
        for &(key, value) in heap.dict(dict) {
            let key: Cow<'a, str> = match key {
                Value::Text(name) => name.into(),
                Value::Int(number) => number.to_string().into(),
                other if is_tensor(heap, value) || matches!(value, Value::Dict(_)) => {
                    let found = heap.kind(other).into_owned();
                    return Err(StateError::Name { found });
                }
                _ => continue,
            };
            let name = match above {
                None => key,
                Some(above) => {
                    self.used += (above.len() + key.len()) as u64;
                    self.require_room()?;
                    [above, ".", &*key].concat().into()
                }
            };
            self.used += NAME_BYTES;
            self.require_room()?;
            match value {
                Value::Dict(inner) if depth + 1 < DEEPEST && !is_of_training(&name) => {
                    self.walk(Some(&name), inner, depth + 1)?;
                }
                value if is_tensor(heap, value) => self.found.tensors.push((name, value)),
                value => self.found.others.push((name, value)),
            }
        }
        Ok(())
    }

    fn require_room(&self) -> Result<(), StateError> {
        let limit = self.limit;
        match self.used > limit {
            true => Err(StateError::Joined { limit }),
            false => Ok(()),
        }
    }
}
