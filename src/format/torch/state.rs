//! From a pickle's values to a state dict: which dict is meant, and what its tensors are.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use crate::format::torch::Names;
use crate::format::torch::StateError;
use crate::format::torch::TorchError;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::TensorRef;
use crate::format::torch::heap::Value;
use crate::format::torch::machine::Pickle;
use crate::format::torch::machine::unpickle;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Keys under which training scripts keep the state dict of the model.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Most dicts that are looked into for one within another.
const MOST_WRAPPED: usize = 8;

/// A dict of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDict {
    /// The tensors, sorted by name.
    pub tensors: Vec<View>,
    /// What the dict holds besides tensors.
    pub left_out: Vec<LeftOut>,
    /// The memory that tensors look into: of all tensors of the file, these and others.
    pub storages: Vec<Storage>,
}

/// A part of a state dict that is no tensor and holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: &'static str,
}

/// A piece of memory that was written as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// What it is called in the file.
    pub key: String,
    /// Its length in elements.
    pub numel: u64,
    /// Width of an element.
    pub element_bytes: u64,
}

impl Storage {
    /// Its length in bytes, if that can be counted.
    pub fn bytes(&self) -> Option<u64> {
        self.numel.checked_mul(self.element_bytes)
    }
}

/// A tensor: elements of a storage, in a certain order. All of them lie within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Shape,
    /// Elements of the storage from one index of a dimension to the next.
    pub strides: Vec<u64>,
    /// Its storage, as an index into [`StateDict::storages`].
    pub storage: usize,
    /// Bytes of the storage before its first element.
    pub begin: u64,
}

impl View {
    /// Whether its elements follow each other without a gap, the last dimension fastest.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        let pairs = self.shape.dims().iter().zip(&self.strides).rev();
        self.shape.numel() == 0
            || pairs.filter(|&(&dim, _)| dim != 1).all(|(&dim, &stride)| {
                let follows = stride == expected;
                expected *= dim;
                follows
            })
    }
}

/// The state dict in a pickle: the dict under `key`, else the root; and as long as that
/// holds a dict under `state_dict`, `model_state_dict` or `model`, that one.
///
/// `limit` is the number of bytes that a pickle may have. What follows the pickle is not
/// looked at.
///
/// # Errors
/// [`TorchError::Pickle`] and [`TorchError::State`].
pub fn parse_state_dict(
    pickle: &[u8],
    key: Option<&str>,
    limit: u64,
) -> Result<StateDict, TorchError> {
    let pickle = unpickle(pickle, limit)?;
    Ok(state_dict(&pickle, key)?)
}

pub(super) fn state_dict(pickle: &Pickle<'_>, key: Option<&str>) -> Result<StateDict, StateError> {
    let heap = &pickle.heap;
    let dict = choose(pickle, key)?;
    let mut tensors = Vec::new();
    let mut others = Vec::new();
    for &(name, value) in heap.dict(dict) {
        match (name, value) {
            (Value::Text(name), Value::Tensor(tensor)) => tensors.push((name, tensor)),
            (Value::Text(name), other) => others.push((name, other)),
            (other, Value::Tensor(_)) => {
                return Err(StateError::Name {
                    found: other.kind(),
                });
            }
            (..) => {}
        }
    }
    if tensors.is_empty() {
        let candidates = candidates(heap, dict);
        return Err(StateError::NoTensor { candidates });
    }
    let left_out = left_out(heap, others)?;
    refuse_duplicates(&mut tensors)?;
    let storages = heap.storages().iter();
    let storages = storages.map(|storage| Storage {
        key: storage.key.to_owned(),
        numel: storage.numel,
        element_bytes: storage.storage_type.element_bytes(),
    });
    let storages: Vec<Storage> = storages.collect();
    let views = tensors.iter().map(|&(name, tensor)| {
        let tensor = heap.tensor(tensor);
        view(heap, name, tensor, &storages[tensor.storage as usize])
    });
    Ok(StateDict {
        tensors: views.collect::<Result<_, _>>()?,
        left_out,
        storages,
    })
}

/// The dict that is meant.
fn choose(pickle: &Pickle<'_>, key: Option<&str>) -> Result<u32, StateError> {
    let heap = &pickle.heap;
    let as_dict = |value: Value<'_>, key: Option<&str>| match value {
        Value::Dict(dict) => Ok(dict),
        other => Err(StateError::NotADict {
            key: key.map(str::to_owned),
            found: other.kind(),
        }),
    };
    let mut dict = as_dict(pickle.root, None)?;
    if let Some(key) = key {
        dict = as_dict(look_up(heap, dict, key)?, Some(key))?;
    }
    for _ in 0..MOST_WRAPPED {
        let wrapped = WRAPPERS
            .into_iter()
            .filter_map(|key| match heap.get(dict, key) {
                Some(Value::Dict(inner)) => Some((key, inner)),
                _ => None,
            });
        let wrapped: Vec<(&str, u32)> = wrapped.collect();
        match wrapped.as_slice() {
            [] => return Ok(dict),
            &[(_, inner)] => dict = inner,
            several => {
                return Err(StateError::Several {
                    found: several.iter().map(|&(key, _)| key).collect(),
                });
            }
        }
    }
    Ok(dict)
}

/// What is under a key, or under the parts of one, between dots, one within the other.
fn look_up<'a>(heap: &Heap<'a>, dict: u32, key: &str) -> Result<Value<'a>, StateError> {
    let (mut dict, mut rest) = (dict, key);
    loop {
        if let Some(value) = heap.get(dict, rest) {
            return Ok(value);
        }
        let inner = rest.split_once('.').and_then(|(first, rest)| {
            let Some(Value::Dict(inner)) = heap.get(dict, first) else {
                return None;
            };
            Some((inner, rest))
        });
        let Some(inner) = inner else {
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
        (dict, rest) = inner;
    }
}

/// Keys of the dicts in a dict that hold tensors by name.
fn candidates(heap: &Heap<'_>, dict: u32) -> Names {
    let is_tensor = |value: Value<'_>| matches!(value, Value::Tensor(_));
    // One dict may stand under many keys, and is looked into once.
    let mut seen = BTreeSet::new();
    let found = heap.dict(dict).iter().filter_map(|&(name, value)| {
        let (Value::Text(name), Value::Dict(inner)) = (name, value) else {
            return None;
        };
        let holds_tensors =
            seen.insert(inner) && heap.dict(inner).iter().any(|&(_, value)| is_tensor(value));
        holds_tensors.then_some(name)
    });
    found.collect()
}

/// The parts that are no tensors, if none of them holds one.
fn left_out(heap: &Heap<'_>, others: Vec<(&str, Value<'_>)>) -> Result<Vec<LeftOut>, StateError> {
    let mut search = Search::new(heap);
    let mut parts: Vec<LeftOut> = Vec::new();
    // A pickle can name one long text any number of times in a few bytes each, and it is
    // copied once: other texts are no longer in sum than the pickle.
    let mut known: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (name, value) in others {
        let kind = value.kind();
        if search.finds_tensor(value) {
            let name = name.to_owned();
            return Err(StateError::Nested { name, found: kind });
        }
        match known.entry((name.as_ptr().addr(), name.len())) {
            Entry::Occupied(part) => parts[*part.get()].kind = kind,
            Entry::Vacant(part) => {
                part.insert(parts.len());
                let name = name.to_owned();
                parts.push(LeftOut { name, kind });
            }
        }
    }
    Ok(parts)
}

/// A search for tensors that looks into each container once.
struct Search<'h, 'a> {
    heap: &'h Heap<'a>,
    lists: Vec<bool>,
    dicts: Vec<bool>,
    /// By the first item.
    tuples: Vec<bool>,
    pending: Vec<Value<'a>>,
}

impl<'h, 'a> Search<'h, 'a> {
    fn new(heap: &'h Heap<'a>) -> Self {
        Self {
            heap,
            lists: vec![false; heap.n_lists()],
            dicts: vec![false; heap.n_dicts()],
            tuples: vec![false; heap.n_items()],
            pending: Vec::new(),
        }
    }

    /// Whether there is a tensor in `value` that no earlier search would have found.
    fn finds_tensor(&mut self, value: Value<'a>) -> bool {
        self.pending.clear();
        self.pending.push(value);
        while let Some(value) = self.pending.pop() {
            match value {
                Value::Tensor(_) | Value::Storage(_) => return true,
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
                _ => {}
            }
        }
        false
    }
}

/// Sorts tensors by name and refuses two of one name.
fn refuse_duplicates(tensors: &mut [(&str, u32)]) -> Result<(), StateError> {
    let twice = |(name, _): (&str, u32)| StateError::TensorTwice {
        tensor: name.to_owned(),
    };
    // A pickle can name one long text any number of times in a few bytes each. Told apart
    // by its place, it is not compared with itself; other texts are no longer in sum than
    // the pickle.
    tensors.sort_unstable_by_key(|(name, _)| (name.as_ptr().addr(), name.len()));
    let same_text = |pair: &&[(&str, u32)]| {
        let [(a, _), (b, _)] = **pair else {
            return false;
        };
        std::ptr::eq(a, b) && !a.is_empty()
    };
    if let Some(pair) = tensors.windows(2).find(same_text) {
        return Err(twice(pair[0]));
    }
    tensors.sort_unstable_by_key(|&(name, _)| name);
    match tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(twice(pair[0])),
        None => Ok(()),
    }
}

fn view(
    heap: &Heap<'_>,
    name: &str,
    tensor: TensorRef,
    storage: &Storage,
) -> Result<View, StateError> {
    let extents = |span| {
        let items = heap.tuple(span).iter();
        let extents = items.filter_map(|item| match item {
            Value::Int(extent) => u64::try_from(*extent).ok(),
            _ => None,
        });
        extents.collect::<Vec<u64>>()
    };
    let (sizes, strides) = (extents(tensor.sizes), extents(tensor.strides));
    let element_bytes = tensor.dtype.bits() / 8;
    let too_large = || StateError::TooLarge {
        tensor: name.to_owned(),
    };
    let shape = Shape::new(sizes).ok_or_else(too_large)?;
    let bytes = storage.bytes().ok_or_else(too_large)?;
    let begin = tensor.offset.checked_mul(element_bytes);
    let begin = begin.ok_or_else(too_large)?;
    if shape.numel() > 0 {
        let last = shape
            .dims()
            .iter()
            .zip(&strides)
            .try_fold(tensor.offset, |last, (dim, stride)| {
                last.checked_add((dim - 1).checked_mul(*stride)?)
            });
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(element_bytes));
        if end.is_none_or(|end| end > bytes) {
            return Err(StateError::Bounds {
                tensor: name.to_owned(),
                bytes,
            });
        }
        let stored = bytes / element_bytes;
        if shape.numel() > stored {
            return Err(StateError::Expanded {
                tensor: name.to_owned(),
                numel: shape.numel(),
                stored,
            });
        }
    }
    Ok(View {
        name: name.to_owned(),
        dtype: tensor.dtype,
        // Nothing is read of an empty tensor, wherever it begins.
        begin: if shape.numel() == 0 { 0 } else { begin },
        shape,
        strides,
        storage: tensor.storage as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_kept_once_however_often_it_is_used() {
        const LEN: u32 = 1 << 20;
        const TIMES: usize = 10_000;
        let name = b"a".repeat(LEN as usize);
        let tensor =
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
                       X\x01\0\0\0\x30X\x03\0\0\0cpuK\x01tQK\0(K\x01t(K\x01t\x89}tR";
        let pickle = [
            b"\x80\x02}(X\x01\0\0\0w".as_slice(),
            tensor,
            b"X",
            &LEN.to_le_bytes(),
            &name,
            b"q\0K\x01",
            &b"h\0N".repeat(TIMES),
            b"u.",
        ]
        .concat();
        let state_dict = parse_state_dict(&pickle, None, 1 << 24).unwrap();
        assert_eq!(state_dict.tensors.len(), 1);
        let [part] = state_dict.left_out.as_slice() else {
            panic!("{} parts", state_dict.left_out.len());
        };
        assert_eq!(part.name.as_bytes(), name);
        // The last one counts, as in a dict.
        assert_eq!(part.kind, "None");
    }
}
