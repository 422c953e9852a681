//! Which dict of a checkpoint is its state dict.

use std::collections::BTreeSet;

use crate::format::torch::LeftOut;
use crate::format::torch::Names;
use crate::format::torch::StateError;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::Value;
use crate::format::torch::machine::Pickle;
use crate::format::torch::state::is_tensor;
use crate::format::torch::state::join::can_join;
use crate::format::torch::state::join::is_tree;
use crate::format::torch::state::search::Search;
use crate::format::torch::state::search::named_parts;

/// Keys under which training scripts keep the state dict of the model.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Most dicts that are looked into for one within another.
const MOST_WRAPPED: usize = 8;
/// The key that stands for all that a checkpoint holds.
const ALL: &str = ".";

/// The dict that is meant.
pub(super) struct Chosen {
    pub(super) dict: u32,
    /// Whether the names of dicts within it are joined.
    pub(super) is_joined: bool,
    /// The dict whose names are all joined under the key `.`, if that is another way to
    /// read the checkpoint.
    pub(super) all: Option<u32>,
    /// What stands beside it in the dicts that led to it.
    pub(super) beside: Vec<LeftOut>,
}

/// The dict that is meant.
pub(super) fn choose(pickle: &Pickle<'_>, key: Option<&str>) -> Result<Chosen, StateError> {
    let heap = &pickle.heap;
    let mut way = Way::default();
    let all = as_dict(heap, pickle.root, None)?;
    let mut dict = all;
    if key == Some(ALL) {
        return Ok(Chosen {
            dict,
            is_joined: true,
            all: None,
            beside: Vec::new(),
        });
    }
    if let Some(key) = key {
        let value = look_up(heap, dict, key, &mut way)?;
        dict = as_dict(heap, value, Some(key))?;
    }
    dict = unwrap(heap, dict, &mut way)?;

    let holds_tensor = |dict| {
        let mut values = heap.dict(dict).iter();
        values.any(|&(_, value)| is_tensor(heap, value))
    };
    let is_joined = !holds_tensor(dict);
    if is_joined && !is_tree(heap, dict) {
        return Err(no_tensor(heap, (all, dict), &way));
    }
    Ok(Chosen {
        dict,
        is_joined,
        all: (!is_joined).then_some(all),
        beside: way.beside(heap),
    })
}

/// The dicts that led to another, each with the key that was followed.
#[derive(Default)]
struct Way<'a>(Vec<(u32, &'a str)>);

impl Way<'_> {
    /// A key of the last dict as one that leads there from the first.
    fn key(&self, last: &str) -> String {
        let keys = self.0.iter().map(|&(_, key)| key);
        keys.chain([last]).collect::<Vec<_>>().join(".")
    }

    /// The same of several keys.
    fn keys(&self, last: &[&str]) -> Names {
        // One long text may be the name of many dicts: only what is shown is copied.
        let shown: Vec<String> = last.iter().take(8).map(|key| self.key(key)).collect();
        let more = last.iter().skip(8).copied();
        shown.iter().map(String::as_str).chain(more).collect()
    }

    /// What stands beside the keys that were followed.
    fn beside(&self, heap: &Heap<'_>) -> Vec<LeftOut> {
        let steps = self.0.iter().map(|&(dict, followed)| {
            let entries = heap.dict(dict).iter();
            let others = entries.filter_map(|&(key, value)| match key {
                Value::Text(name) if name != followed => Some((name.into(), value)),
                _ => None,
            });
            named_parts(heap, &others.collect::<Vec<_>>())
        });
        steps.flatten().collect()
    }
}

fn as_dict(heap: &Heap<'_>, value: Value<'_>, key: Option<&str>) -> Result<u32, StateError> {
    let key = key.map(str::to_owned);
    match value {
        Value::Dict(dict) => Ok(dict),
        Value::Opaque(_) => Err(StateError::Object {
            key,
            found: heap.kind(value).into_owned(),
        }),
        other => Err(StateError::NotADict {
            key,
            found: heap.kind(other).into_owned(),
        }),
    }
}

/// The dict in which others lie under the usual keys.
fn unwrap<'a>(heap: &Heap<'a>, dict: u32, way: &mut Way<'a>) -> Result<u32, StateError> {
    let mut dict = dict;
    for _ in 0..MOST_WRAPPED {
        let wrapped = WRAPPERS
            .into_iter()
            .filter_map(|key| match heap.get(dict, key) {
                Some(Value::Dict(inner)) => Some((key, inner)),
                _ => None,
            });
        let wrapped: Vec<(&'static str, u32)> = wrapped.collect();
        match wrapped.as_slice() {
            [] => return Ok(dict),
            &[(key, inner)] => {
                way.0.push((dict, key));
                dict = inner;
            }
            several => {
                let keys: Vec<&str> = several.iter().map(|&(key, _)| key).collect();
                return Err(StateError::Several {
                    found: way.keys(&keys),
                });
            }
        }
    }
    Ok(dict)
}

/// What is under a key, or under the parts of one, between dots, one within the other.
fn look_up<'k, 'a: 'k>(
    heap: &Heap<'a>,
    dict: u32,
    key: &'k str,
    way: &mut Way<'k>,
) -> Result<Value<'a>, StateError> {
    let (mut dict, mut rest) = (dict, key);
    loop {
        if let Some(value) = heap.get(dict, rest) {
            way.0.push((dict, rest));
            return Ok(value);
        }
        let inner = rest.split_once('.').and_then(|(first, rest)| {
            let Some(Value::Dict(inner)) = heap.get(dict, first) else {
                return None;
            };
            Some((first, inner, rest))
        });
        let Some((first, inner, following)) = inner else {
            let entries = heap.dict(dict).iter();
            let texts = entries.filter_map(|&(name, _)| match name {
                Value::Text(name) => Some(name),
                _ => None,
            });
            return Err(StateError::NoKey {
                key: rest.to_owned(),
                found: texts.collect(),
            });
        };
        way.0.push((dict, first));
        (dict, rest) = (inner, following);
    }
}

/// Why a dict is no state dict: others may be, or it holds a model as an object. `all` is
/// the dict that the way to it began with.
fn no_tensor(heap: &Heap<'_>, (all, dict): (u32, u32), way: &Way<'_>) -> StateError {
    let candidates = candidates(heap, dict);
    if candidates.is_empty()
        && let Some((key, value)) = hidden_in(heap, dict)
    {
        let (name, found) = (way.key(key), heap.kind(value).into_owned());
        return match value {
            Value::Opaque(_) => StateError::Object {
                key: Some(name),
                found,
            },
            _ => StateError::Nested {
                name,
                found,
                can_join: can_join(heap, all),
            },
        };
    }
    let entries = heap.dict(dict).iter();
    let parts = entries.filter_map(|&(key, value)| match key {
        Value::Text(name) => Some((name.into(), value)),
        _ => None,
    });
    StateError::NoTensor {
        can_join: !candidates.is_empty() && can_join(heap, all),
        candidates: way.keys(&candidates),
        parts: named_parts(heap, &parts.collect::<Vec<_>>()),
    }
}

/// Keys that lead to a dict of tensors.
fn candidates<'a>(heap: &Heap<'a>, dict: u32) -> Vec<&'a str> {
    // One dict may stand under many keys, and is looked into once. What lies deeper is
    // looked for in the first few alone, since several may share it.
    const MOST_DEEP: usize = 32;
    let mut seen = BTreeSet::new();
    let holds_tensor = |dict| {
        let mut values = heap.dict(dict).iter();
        values.any(|&(_, value)| is_tensor(heap, value))
    };
    let found = heap.dict(dict).iter().filter_map(|&(name, value)| {
        let (Value::Text(name), Value::Dict(inner)) = (name, value) else {
            return None;
        };
        if !seen.insert(inner) {
            return None;
        }
        let is_deep = || {
            let inner = unwrap(heap, inner, &mut Way::default());
            inner.is_ok_and(|inner| holds_tensor(inner) || is_tree(heap, inner))
        };
        let is_found = holds_tensor(inner) || (seen.len() <= MOST_DEEP && is_deep());
        is_found.then_some(name)
    });
    found.collect()
}

/// The first value in a dict that holds tensors otherwise than by name, such as a whole
/// model, and its key.
fn hidden_in<'a>(heap: &Heap<'a>, dict: u32) -> Option<(&'a str, Value<'a>)> {
    let mut search = Search::new(heap);
    heap.dict(dict).iter().find_map(|&(key, value)| {
        let Value::Text(key) = key else {
            return None;
        };
        search.finds_tensor(value).then_some((key, value))
    })
}
