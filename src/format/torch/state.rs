//! From a pickle's values to a state dict: which dict is meant, and what its tensors are.

mod choose;
mod join;
mod search;
mod view;

use std::borrow::Cow;
use std::fmt;

use crate::format::torch::Names;
use crate::format::torch::StateError;
use crate::format::torch::TorchError;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::Value;
use crate::format::torch::heap::What;
use crate::format::torch::machine::Pickle;
use crate::format::torch::machine::unpickle;
use crate::format::torch::state::choose::choose;
use crate::format::torch::state::join::join;
use crate::format::torch::state::search::left_out;
use crate::format::torch::state::search::named_parts;
use crate::format::torch::state::view::sparse_view;
use crate::format::torch::state::view::view;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// A dict of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDict {
    /// The tensors, sorted by name.
    pub tensors: Vec<View>,
    /// The tensors that store some of their elements, sorted by name.
    pub sparse: Vec<SparseView>,
    /// What the dict holds besides tensors, and what stands beside it.
    pub left_out: Vec<LeftOut>,
    /// The memory that tensors look into: of all tensors of the file, these and others.
    pub storages: Vec<Storage>,
}

/// A part of a checkpoint that is no tensor of its state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Cow<'static, str>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", Printable(&self.name), Printable(&self.kind))
    }
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

/// A tensor that stores some of its elements. The others are zeros, and pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseView {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Shape,
    /// The elements that are stored, in one dimension.
    pub values: View,
    /// Where they are.
    pub places: Places,
}

/// Where the stored elements of a sparse tensor are. That these places are within the
/// tensor, in order and none of them twice, is not checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// COO: the indices, `(dimensions, elements)`, I64.
    Coordinates(View),
    /// CSR: where the elements of each row begin, one more than there are rows, and the
    /// column of each element; I64 or I32.
    Rows(View, View),
}

impl SparseView {
    /// The tensors that it is made of.
    pub fn parts(&self) -> impl Iterator<Item = &View> {
        let (first, second) = match &self.places {
            Places::Coordinates(indices) => (indices, None),
            Places::Rows(rows, columns) => (rows, Some(columns)),
        };
        [&self.values, first].into_iter().chain(second)
    }
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
/// Names of dicts of tensors within that dict are joined with dots where nothing else can
/// be meant, and where `key` is `.`, which stands for all that the pickle holds.
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

/// Values by name, as they stand in the dict that is meant.
#[derive(Default)]
struct Found<'a> {
    /// Tensors, also those that are not read.
    tensors: Vec<Named<'a>>,
    others: Vec<Named<'a>>,
}

type Named<'a> = (Cow<'a, str>, Value<'a>);

/// Whether a value is a tensor, of whatever kind.
fn is_tensor(heap: &Heap<'_>, value: Value<'_>) -> bool {
    match value {
        Value::Tensor(_) | Value::Sparse(_) => true,
        Value::Opaque(number) => matches!(heap.opaque(number).what, What::Tensor(_)),
        _ => false,
    }
}

pub(super) fn state_dict(pickle: &Pickle<'_>, key: Option<&str>) -> Result<StateDict, StateError> {
    let heap = &pickle.heap;
    let chosen = choose(pickle, key)?;
    let mut found = match chosen.is_joined {
        true => join(heap, chosen.dict)?,
        false => direct(heap, chosen.dict)?,
    };
    if found.tensors.is_empty() {
        return Err(StateError::NoTensor {
            candidates: Names::default(),
            can_join: false,
            parts: named_parts(heap, &found.others),
        });
    }
    refuse_unread(heap, &found.tensors)?;
    let mut parts = left_out(heap, &found.others, chosen.all)?;
    parts.extend(attributes(heap, &found.tensors));
    parts.extend(chosen.beside);
    refuse_duplicates(&mut found.tensors)?;

    let storages = heap.storages().iter();
    let storages = storages.map(|storage| Storage {
        key: storage.key.to_owned(),
        numel: storage.numel,
        element_bytes: storage.storage_type.element_bytes(),
    });
    let mut whole = StateDict {
        tensors: Vec::new(),
        sparse: Vec::new(),
        left_out: parts,
        storages: storages.collect(),
    };
    for (name, value) in &found.tensors {
        match *value {
            Value::Tensor(tensor) => {
                let view = view(heap, name, tensor, &whole.storages)?;
                whole.tensors.push(view);
            }
            Value::Sparse(tensor) => {
                let view = sparse_view(heap, name, tensor, &whole.storages)?;
                whole.sparse.push(view);
            }
            _ => {}
        }
    }
    Ok(whole)
}

/// The values of a dict under their own names.
fn direct<'a>(heap: &Heap<'a>, dict: u32) -> Result<Found<'a>, StateError> {
    let mut found = Found::default();
    for &(key, value) in heap.dict(dict) {
        match key {
            Value::Text(name) if is_tensor(heap, value) => found.tensors.push((name.into(), value)),
            Value::Text(name) => found.others.push((name.into(), value)),
            other if is_tensor(heap, value) => {
                let found = heap.kind(other).into_owned();
                return Err(StateError::Name { found });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Refuses tensors of a kind that is not read.
fn refuse_unread(heap: &Heap<'_>, tensors: &[Named<'_>]) -> Result<(), StateError> {
    for (name, value) in tensors {
        let Value::Opaque(number) = *value else {
            continue;
        };
        if let What::Tensor(why) = heap.opaque(number).what {
            return Err(StateError::Unread {
                tensor: name.clone().into_owned(),
                found: heap.kind(*value).into_owned(),
                why,
            });
        }
    }
    Ok(())
}

/// What there is to say of the attributes of tensors, in one part.
fn attributes(heap: &Heap<'_>, tensors: &[Named<'_>]) -> Option<LeftOut> {
    let has_attributes = |value: Value<'_>| match value {
        Value::Tensor(number) => heap.tensor(number).has_attributes,
        Value::Sparse(number) => heap.sparse(number).has_attributes,
        _ => false,
    };
    let mut with = tensors.iter().filter(|(_, value)| has_attributes(*value));
    let (name, _) = with.next()?;
    Some(LeftOut {
        name: name.clone().into_owned(),
        kind: match with.count() {
            0 => "attributes".into(),
            more => format!("attributes, and those of {more} more tensors").into(),
        },
    })
}

/// Sorts tensors by name and refuses two of one name.
fn refuse_duplicates(tensors: &mut [Named<'_>]) -> Result<(), StateError> {
    let twice = |(name, _): &Named<'_>| StateError::TensorTwice {
        tensor: name.clone().into_owned(),
    };
    // A pickle can name one long text any number of times in a few bytes each. Told apart
    // by its place, it is not compared with itself; other texts are no longer in sum than
    // the pickle, or than names that were joined may be.
    tensors.sort_unstable_by_key(|(name, _)| (name.as_ptr().addr(), name.len()));
    let same_text = |pair: &&[Named<'_>]| {
        let [(a, _), (b, _)] = *pair else {
            return false;
        };
        std::ptr::eq(a.as_ref(), b.as_ref()) && !a.is_empty()
    };
    if let Some(pair) = tensors.windows(2).find(same_text) {
        return Err(twice(&pair[0]));
    }
    tensors.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    match tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(twice(&pair[0])),
        None => Ok(()),
    }
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
