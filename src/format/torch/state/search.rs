//! What a checkpoint holds besides the tensors of its state dict.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::format::torch::LeftOut;
use crate::format::torch::StateError;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::Value;
use crate::format::torch::state::Named;
use crate::format::torch::state::join::can_join;

/// Beginnings of words in the names of things that belong to a training and not to its
/// model. They may hold tensors, which nobody means who averages models.
const TRAINING: [&str; 16] = [
    "amp",
    "arg",
    "callback",
    "cfg",
    "config",
    "criterion",
    "hparam",
    "hyper",
    "loops",
    "loss",
    "metric",
    "optim",
    "random",
    "rng",
    "scaler",
    "sched",
];
/// Beginnings of the modules whose objects do.
const TRAINING_MODULES: [&str; 9] = [
    "argparse",
    "omegaconf",
    "torch.amp",
    "torch.cuda.amp",
    "torch.nn.modules.loss",
    "torch.optim",
    "torch.utils.data",
    "torchmetrics",
    "types",
];

/// Whether something of that name belongs to a training.
pub(super) fn is_of_training(name: &str) -> bool {
    // Names may be as long as the pickle, and those of training are not.
    let start: String = name.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut words = start.split(|character: char| !character.is_alphanumeric());
    words.any(|word| word == "opt" || TRAINING.iter().any(|known| word.starts_with(known)))
}

/// Whether a value does by what it is: an optimiser, its state, what reads data.
fn is_by_kind(heap: &Heap<'_>, value: Value<'_>) -> bool {
    match value {
        Value::Opaque(number) => {
            let module = heap.opaque(number).module;
            let mut known = TRAINING_MODULES.iter();
            known.any(|known| {
                let rest = module.strip_prefix(known);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        }
        Value::Dict(dict) => {
            let has = |key| heap.get(dict, key).is_some();
            has("state") && has("param_groups")
        }
        _ => false,
    }
}

/// The parts that are no tensors, if none of them holds one that the model may need.
/// `all` is the dict whose names can all be joined in place of that.
pub(super) fn left_out(
    heap: &Heap<'_>,
    others: &[Named<'_>],
    all: Option<u32>,
) -> Result<Vec<LeftOut>, StateError> {
    let mut search = Search::new(heap);
    for (name, value) in others {
        let is_left = is_of_training(name) || is_by_kind(heap, *value);
        if !is_left && search.finds_tensor(*value) {
            return Err(StateError::Nested {
                name: name.clone().into_owned(),
                found: heap.kind(*value).into_owned(),
                can_join: all.is_some_and(|all| can_join(heap, all)),
            });
        }
    }
    Ok(named_parts(heap, others))
}

/// Parts of which is said what they are by name.
const MOST_KINDS: usize = 64;

/// Names and kinds of parts. Of several under one name the last one counts, as in a dict.
pub(super) fn named_parts(heap: &Heap<'_>, others: &[Named<'_>]) -> Vec<LeftOut> {
    let mut parts: Vec<LeftOut> = Vec::new();
    // A pickle can name one long text any number of times in a few bytes each, and it is
    // copied once: other texts are no longer in sum than the pickle.
    let mut known: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (name, value) in others {
        // The names of objects take memory, and few are shown.
        let kind = match parts.len() < MOST_KINDS {
            true => heap.kind(*value),
            false => value.kind().into(),
        };
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
