//! What the few functions and classes that are known make of their arguments.

use crate::format::torch::PickleError;
use crate::format::torch::global::Global;
use crate::format::torch::global::Rebuild;
use crate::format::torch::global::StorageType;
use crate::format::torch::heap::Span;
use crate::format::torch::heap::StorageRef;
use crate::format::torch::heap::TensorRef;
use crate::format::torch::heap::Value;
use crate::format::torch::machine::LONGEST_NAME;
use crate::format::torch::machine::Machine;
use crate::tensor::Dtype;

/// Most dimensions of a tensor.
///
/// Source: `dim_bitset_size` of torch's `ATen/WrapDimUtilsMulti.h`.
const MOST_DIMS: u32 = 64;

impl<'a> Machine<'a> {
    /// A function and its arguments become what the function stands for.
    pub(super) fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (span, function) = match (arguments, function) {
            (Value::Tuple(span), Value::Global(function)) => (span, function),
            (Value::Tuple(_), other) => return Err(self.unexpected("a function", other)),
            (other, _) => return Err(self.unexpected("arguments", other)),
        };
        let value = match (function, self.heap.tuple(span)) {
            (Global::Dict, &[]) => self.heap.new_dict()?,
            (Global::Dict, &[dict @ Value::Dict(_)]) => dict,
            (Global::Dict, &[Value::List(pairs)]) => self.dict_of_pairs(pairs)?,
            (Global::Size, &[]) => arguments,
            (Global::Size, &[sizes @ Value::Tuple(_)]) => sizes,
            (Global::Device, &[Value::Text(_), ..]) => Value::Device,
            (Global::Rebuild(Rebuild::Parameter), &[tensor @ Value::Tensor(_), _, _, ..]) => tensor,
            (Global::Rebuild(function), _) => self.tensor(function, span)?,
            _ => {
                return Err(PickleError::Call {
                    function: Value::Global(function).kind(),
                    offset: self.offset,
                });
            }
        };
        self.push(value)
    }

    /// An `OrderedDict` as Python 2 pickled it: from a list of pairs.
    fn dict_of_pairs(&mut self, pairs: u32) -> Result<Value<'a>, PickleError> {
        let dict = self.heap.new_dict()?;
        let Value::Dict(number) = dict else {
            return Ok(dict);
        };
        for at in 0..self.heap.list(pairs).len() {
            let pair = self.heap.list(pairs)[at];
            let items = match pair {
                Value::List(list) => self.heap.list(list),
                Value::Tuple(span) => self.heap.tuple(span),
                _ => &[],
            };
            let &[key, value] = items else {
                return Err(self.unexpected("a pair", pair));
            };
            self.heap.insert(number, key, value)?;
        }
        Ok(dict)
    }

    fn tensor(&mut self, function: Rebuild, span: Span) -> Result<Value<'a>, PickleError> {
        let wrong = PickleError::Call {
            function: function.name(),
            offset: self.offset,
        };
        let arguments = self.heap.tuple(span);
        let &[
            Value::Storage(storage),
            Value::Int(offset),
            sizes,
            strides,
            ref rest @ ..,
        ] = arguments
        else {
            return Err(wrong);
        };
        let (dtype, metadata) = match (function, rest) {
            (Rebuild::Tensor, []) | (Rebuild::TensorV2, [_, _]) => (None, None),
            (Rebuild::TensorV2, [_, _, metadata]) => (None, Some(*metadata)),
            (Rebuild::TensorV3, [_, _, Value::Global(Global::Dtype(dtype)), rest @ ..]) => {
                (Some(*dtype), rest.first().copied())
            }
            _ => return Err(wrong),
        };
        let has_metadata = match metadata {
            None | Some(Value::None) => false,
            Some(Value::Dict(dict)) => !self.heap.dict(dict).is_empty(),
            Some(_) => true,
        };
        if has_metadata {
            return Err(PickleError::Conjugate);
        }
        let (Ok(offset), Value::Tuple(sizes), Value::Tuple(strides)) =
            (u64::try_from(offset), sizes, strides)
        else {
            return Err(wrong);
        };
        let is_extent = |span| {
            let mut items = self.heap.tuple(span).iter();
            items.all(|item| matches!(item, Value::Int(0..)))
        };
        let dtype = dtype.or_else(|| self.typed(storage));
        match dtype.filter(|_| sizes.len == strides.len && sizes.len <= MOST_DIMS) {
            Some(dtype) if is_extent(sizes) && is_extent(strides) => {
                self.heap.new_tensor(TensorRef {
                    storage,
                    dtype,
                    offset,
                    sizes,
                    strides,
                })
            }
            _ => Err(wrong),
        }
    }

    /// The element type of a typed storage.
    fn typed(&self, storage: u32) -> Option<Dtype> {
        match self.heap.storage(storage).storage_type {
            StorageType::Of(dtype) => Some(dtype),
            StorageType::Untyped => None,
        }
    }

    /// Attributes of a dict or tensor, such as `_metadata` of a state dict: dropped.
    pub(super) fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        let value = self.pop()?;
        match value {
            Value::Dict(_) | Value::Tensor(_) => self.push(value),
            other => Err(self.unexpected("a dict", other)),
        }
    }

    /// `('storage', class, key, location, length)`, in legacy files with a view after it.
    pub(super) fn persistent_id(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let Value::Tuple(span) = id else {
            return Err(self.unexpected("a storage's name", id));
        };
        let wrong = PickleError::Storage {
            offset: self.offset,
        };
        let (tag, storage_type, key, numel) = match *self.heap.tuple(span) {
            [
                tag,
                Value::Global(Global::Storage(of)),
                Value::Text(key),
                _,
                Value::Int(numel),
            ]
            | [
                tag,
                Value::Global(Global::Storage(of)),
                Value::Text(key),
                _,
                Value::Int(numel),
                Value::None,
            ] => (tag, of, key, numel),
            _ => return Err(wrong),
        };
        match u64::try_from(numel) {
            Ok(numel) if tag == Value::Text("storage") && key.len() <= LONGEST_NAME => {
                let storage = self.heap.storage_of(StorageRef {
                    key,
                    storage_type,
                    numel,
                })?;
                self.push(storage)
            }
            _ => Err(wrong),
        }
    }
}
