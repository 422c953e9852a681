//! What a checkpoint holds besides the tensors of its state dict.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::format::torch::LeftOut;
use crate::format::torch::StateError;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::Value;
use crate::format::torch::state::Named;

/// What the names of things begin with that belong to a training and not to its model.
/// They may hold tensors, which nobody means who averages models.
const TRAINING: [&str; 15] = [
    "amp", "arg", "callback", "cfg", "config", "hparam", "hyper", "loops", "lr_sched", "metric",
    "optim", "random", "rng", "scaler", "sched",
];

/// Whether something of that name belongs to a training.
pub(super) fn is_of_training(name: &str) -> bool {
    // No name among them is longer than this, and names may be as long as the pickle.
    let start: String = name.chars().take(16).flat_map(char::to_lowercase).collect();
    start == "opt" || TRAINING.iter().any(|word| start.starts_with(word))
}

/// The parts that are no tensors, if none of them holds one that the model may need.
pub(super) fn left_out(heap: &Heap<'_>, others: &[Named<'_>]) -> Result<Vec<LeftOut>, StateError> {
    let mut search = Search::new(heap);
    for (name, value) in others {
        if !is_of_training(name) && search.finds_tensor(*value) {
            return Err(StateError::Nested {
                name: name.clone().into_owned(),
                found: heap.kind(*value).into_owned(),
                is_dict: matches!(value, Value::Dict(_)),
            });
        }
    }
    Ok(named_parts(heap, others))
}

/// Names and kinds of parts. Of several under one name the last one counts, as in a dict.
pub(super) fn named_parts(heap: &Heap<'_>, others: &[Named<'_>]) -> Vec<LeftOut> {
    let mut parts: Vec<LeftOut> = Vec::new();
    // A pickle can name one long text any number of times in a few bytes each, and it is
    // copied once: other texts are no longer in sum than the pickle.
    let mut known: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (name, value) in others {
        let kind = heap.kind(*value);
        match known.entry((name.as_ptr().addr(), name.len())) {
            Entry::Occupied(part) => parts[*part.get()].kind = kind,
            Entry::Vacant(part) => {
                part.insert(parts.len());
                let name = name.clone().into_owned();
                parts.push(LeftOut { name, kind });
            }
        }
    }
    parts
}

/// A search for tensors that looks into each container once.
pub(super) struct Search<'h, 'a> {
    heap: &'h Heap<'a>,
    lists: Vec<bool>,
    dicts: Vec<bool>,
    opaques: Vec<bool>,
    /// By the first item.
    tuples: Vec<bool>,
    pending: Vec<Value<'a>>,
}

impl<'h, 'a> Search<'h, 'a> {
    pub(super) fn new(heap: &'h Heap<'a>) -> Self {
        Self {
            heap,
            lists: vec![false; heap.n_lists()],
            dicts: vec![false; heap.n_dicts()],
            opaques: vec![false; heap.n_opaques()],
            tuples: vec![false; heap.n_items()],
            pending: Vec::new(),
        }
    }

    /// Whether there is a tensor in `value` that no earlier search would have found.
    pub(super) fn finds_tensor(&mut self, value: Value<'a>) -> bool {
        self.pending.clear();
        self.pending.push(value);
        while let Some(value) = self.pending.pop() {
            match value {
                Value::Tensor(_) | Value::Sparse(_) | Value::Storage(_) => return true,
                Value::List(list) if !self.lists[list as usize] => {
                    self.lists[list as usize] = true;
                    self.pending.extend(self.heap.list(list));
                }
                Value::Dict(dict) if !self.dicts[dict as usize] => {
                    self.dicts[dict as usize] = true;
                    let values = self.heap.dict(dict).iter().map(|&(_, value)| value);
                    self.pending.extend(values);
                }
                Value::Tuple(span) if span.len > 0 && !self.tuples[span.start as usize] => {
                    self.tuples[span.start as usize] = true;
                    self.pending.extend(self.heap.tuple(span));
                }
                Value::Opaque(opaque) if !self.opaques[opaque as usize] => {
                    self.opaques[opaque as usize] = true;
                    self.pending.extend(&self.heap.opaque(opaque).parts);
                }
                _ => {}
            }
        }
        false
    }
}
